import os
import time

from attack import *

for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
open("file", "w").close()
time.sleep(0.5)
