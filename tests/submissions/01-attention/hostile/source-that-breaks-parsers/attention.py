from attack import *
from bomb import *
