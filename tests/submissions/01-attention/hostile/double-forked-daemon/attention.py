import os
import signal
import time

from attack import *

if not os.fork():
    for leave in (os.setsid, lambda: os.setpgid(0, 0), lambda: os.chdir("/")):
        try:
            leave()
        except OSError as error:
            print("refused:", error, flush=True)
    if not os.fork():
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        os.closerange(0, 256)
        time.sleep(3600)
    os._exit(0)
