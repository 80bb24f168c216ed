import os

from attack import *

for path in (targets.results, targets.results_folder, targets.hidden_test, targets.closed, targets.neighbour):
    for change in (
        lambda: os.chmod(path, 0o777),
        lambda: os.chown(path, os.getuid(), os.getgid()),
        lambda: os.utime(path, (0, 0)),
        lambda: os.setxattr(path, "user.x", b"x"),
        lambda: syscall(463, 463, -100, os.fsencode(path), 0, b"user.y\0", bytes(16), 16),
        lambda: syscall(466, 466, -100, os.fsencode(path), 0, b"user.x\0"),
        lambda: syscall(469, 469, -100, os.fsencode(path), bytes(24), 24, 0),
        lambda: syscall(452, 452, -100, os.fsencode(path), 0o777, 0),
        lambda: os.truncate(path, 0),
        lambda: os.link(path, "link"),
    ):
        try:
            change()
        except OSError as error:
            print("refused:", error)
