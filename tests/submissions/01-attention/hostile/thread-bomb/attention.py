import threading
import time

from attack import *

threading.stack_size(1 << 16)


@at_call
def bomb():
    for count in range(1000):
        try:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        except RuntimeError as error:
            print("refused:", error, "after", count)
            return
    print("REACHED: a thousand threads")
