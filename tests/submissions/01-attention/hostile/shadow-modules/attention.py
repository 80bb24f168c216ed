from attack import *
