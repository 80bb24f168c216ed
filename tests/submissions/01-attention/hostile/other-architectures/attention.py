import ctypes
import mmap
import os
import platform

from attack import *


def native(code):
    kind = dict(flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page = mmap.mmap(-1, 4096, **kind)
    page.write(bytes.fromhex(code))
    return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


doors = {
    "int 0x80: socket": "b867010000 bb01000000 b901000000 31d2 cd80 c3",
    "x32: socket": "b829000040 bf01000000 be01000000 31d2 0f05 c3",
}
for name, code in doors.items() if platform.machine() == "x86_64" else ():
    if not (child := os.fork()):
        descriptor = native(code)
        print(f"REACHED: {name}: {descriptor}" if descriptor >= 0 else f"refused: {name}", flush=True)
        os._exit(0)
    print(name, "ended with", os.waitpid(child, 0)[1])
