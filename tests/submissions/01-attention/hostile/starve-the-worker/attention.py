import resource

from attack import *

for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_DATA, resource.RLIMIT_STACK):
    resource.setrlimit(limit, (1, 1))
