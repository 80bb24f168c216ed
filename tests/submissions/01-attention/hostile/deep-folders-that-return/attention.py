import os
import threading

from attack import *


def move():
    while True:
        for one, other in (("a", "b/d/d/a"), ("b/d/d/a", "a")):
            try:
                os.rename(one, other)
            except OSError:
                pass


for top in "ab":
    os.makedirs(top + "/d" * 80)
threading.Thread(target=move, daemon=True).start()
