import os
import shutil

from attack import *

program = "import os, time; held = b'x' * (40 << 20); os.write({}, b'x'); time.sleep(9)"
swarm(12, lambda done: os.execv(shutil.which("python3"), ["python3", "-IS", "-c", program.format(done)]))
print("REACHED: 480 MB in other programs", flush=True)
