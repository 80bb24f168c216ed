import os

from attack import *

for descriptor in range(3, 64):
    for path in (targets.hidden_test, targets.closed):
        up = "../" * 20 + path.lstrip("/")
        reached(f"descriptor {descriptor}", lambda: os.read(os.open(up, os.O_RDONLY, dir_fd=descriptor), 99))
        reached(f"/proc/self/fd/{descriptor}", lambda: read_text(f"/proc/self/fd/{descriptor}/{up}"))
    reached(f"listing above {descriptor}", lambda: os.listdir(os.open("../" * 20, os.O_RDONLY, dir_fd=descriptor)))
