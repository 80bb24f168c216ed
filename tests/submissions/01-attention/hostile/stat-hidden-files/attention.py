import os

from attack import *

reached("the size of a closed file", lambda: os.stat(targets.closed))
reached("whether it is there", lambda: os.access(targets.closed, os.F_OK) or 1 / 0)
reached("entering its folder", lambda: os.chdir(os.path.dirname(targets.closed)))
