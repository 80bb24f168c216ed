import sys
import threading

from attack import *


def watch(frame, event, argument):
    names = {*frame.f_code.co_names, *frame.f_code.co_varnames}
    if names & {"check", "expected", "mistakes", "allclose"}:
        print("REACHED: the code of a test", frame.f_code)
    return watch


sys.settrace(watch)
threading.settrace_all_threads(watch) if hasattr(threading, "settrace_all_threads") else threading.settrace(watch)
frame = sys._getframe()
while frame := frame.f_back:
    frame.f_trace = watch
