import os

from attack import *

for number, what in enumerate(("hidden_test", "solution", "closed", "neighbour")):
    path = getattr(targets, what)
    os.symlink(path, f"link{number}")
    reached(f"a symbolic link to {what}", lambda: read_text(f"link{number}"))
    reached(f"a hard link to {what}", lambda: os.link(path, f"hard{number}"))
    reached(f"/proc/self/root to {what}", lambda: read_text(f"/proc/self/root{path}"))
    reached(f"/proc/self/cwd to {what}", lambda: read_text(f"/proc/self/cwd/../../../../../../..{path}"))
    reached(f"a renamed {what}", lambda: os.rename(path, f"renamed{number}"))
