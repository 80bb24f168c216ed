import os

from attack import *

os.fork = lambda: 0
os._exit = lambda code: None
