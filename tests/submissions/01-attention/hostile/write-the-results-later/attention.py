import os
import time

from attack import *

if not os.fork():
    for _ in range(200):
        time.sleep(0.05)
        reached("writing later", lambda: open(targets.results, "w").write('{"score": 100}'))
