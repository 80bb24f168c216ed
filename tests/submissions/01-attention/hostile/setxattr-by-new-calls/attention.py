import ctypes
import os

from attack import *

text = ctypes.create_string_buffer(b"mine")
arguments = (ctypes.c_uint64 * 2)(ctypes.addressof(text), 4)
attributes = (ctypes.c_uint64 * 3)(0x80)  # do not dump
for path in map(os.fsencode, (targets.results, targets.results_folder, targets.hidden_test)):
    reached("setxattrat", lambda: syscall(463, 463, -100, path, 0, b"user.hostile\0", arguments, 16))
    reached("file_setattr", lambda: syscall(469, 469, -100, path, attributes, 24, 0))
