import signal

from attack import *

for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)


@at_call
def hang():
    while True:
        pass
