import ctypes
import os
import shutil
import subprocess

from attack import *

open("attack.c", "w").write("#include <unistd.h>\nint reach(const char *p) { return access(p, 4); }\n")
if compiler := shutil.which("gcc") or shutil.which("cc"):
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "attack.so", "attack.c"], capture_output=True)
    if os.path.exists("attack.so"):
        print("native code says", ctypes.CDLL("./attack.so").reach(targets.closed.encode()))
reached("running its own program", lambda: subprocess.check_output(["./attack.so"]))
