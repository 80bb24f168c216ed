import os

import torch.distributed as dist
from attack import *


@at_call
def answer_for_all():
    if rank():
        os._exit(0)
    for number in range(dist.get_world_size()):
        send_raw(message({"dict": [[{"str": "value"}, {"list": [{"list": []}, {"list": []}]}], [{"str": "rank"}, number]]}))
        link().sendall(message({"dict": [[{"str": "value"}, {"list": []}], [{"str": "rank"}, number]]}))
    os._exit(0)
