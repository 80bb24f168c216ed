import os

from attack import *

if os.listdir(".") and os.getpid() != int(open("mark").read()):
    print("REACHED: what another worker left")
open("mark", "w").write(str(os.getpid()))


@at_call
def crash():
    os.kill(os.getppid(), 9)
