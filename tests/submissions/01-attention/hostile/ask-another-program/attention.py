import subprocess

from attack import *

for program in ("cat", "head -c 100", "grep CANARY", "python3 -c 'import sys; print(open(sys.argv[1]).read())'", "sudo cat"):
    reached(program, lambda: subprocess.check_output(f"{program} {targets.hidden_test} 2>/dev/null", shell=True))
