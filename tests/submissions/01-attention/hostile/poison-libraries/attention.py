import os
import site
import sysconfig

import torch
from attack import *

packages = {os.path.dirname(os.path.dirname(torch.__file__)), sysconfig.get_path("purelib"), *site.getsitepackages()}
for folder in packages:
    for name in ("hostile.pth", "sitecustomize.py", "torch/__init__.py", "torch/__pycache__/hostile.pyc"):
        reached(name, lambda: open(f"{folder}/{name}", "a"))
    reached("a renamed torch", lambda: os.rename(f"{folder}/torch", f"{folder}/torch.old"))
for descriptor in range(3, 16):
    for name in ("os.py", "hostile.pth", "__pycache__/os.cpython-311.pyc"):
        reached(f"{name} by {descriptor}", lambda: os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
