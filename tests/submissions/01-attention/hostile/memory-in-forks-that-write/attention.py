import gc

from attack import *


def write_to_all_that_is_inherited(done):
    """Each page is written with what it holds: a fork then has one of its own."""
    gc.unfreeze()
    for address in {id(each) & -4096 for each in gc.get_objects()}:
        ctypes.memmove(address, address, 1)


swarm(40, write_to_all_that_is_inherited)
print("REACHED: pages of forty forks", flush=True)
