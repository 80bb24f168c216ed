import os
import tempfile

from attack import *

for top in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/run", "/dev", "/", targets.results_folder, targets.box_folder):
    if os.path.exists(top):
        reached(f"a file in {top}", lambda: open(f"{top}/hostile", "w"))
        reached(f"a folder in {top}", lambda: os.mkdir(f"{top}/hostile-folder"))
        reached(f"a link in {top}", lambda: os.symlink("x", f"{top}/hostile-link"))
        reached(f"a pipe in {top}", lambda: os.mkfifo(f"{top}/hostile-pipe"))
        reached(f"a file without a name in {top}", lambda: os.open(top, os.O_TMPFILE | os.O_WRONLY))
        reached(f"a temporary file in {top}", lambda: tempfile.mkstemp(dir=top))
        reached(f"moving a file to {top}", lambda: (open("x", "w"), os.rename("x", f"{top}/hostile-moved")))
