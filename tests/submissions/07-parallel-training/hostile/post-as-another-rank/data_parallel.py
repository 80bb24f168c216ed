from attack import *

FORGED = [
    {"ranks": [1 - 0]}, {"ranks": []}, {"ranks": [0, 0]}, {"ranks": [0, 1, 7]}, {"ranks": [-1, 0]}, {"rank": 1, "ranks": [1]},
    {"post": "all_reduce", "reduction": "\x1b[31msum"}, {"post": "send", "peer": 5}, {"post": "send", "peer": 0}, {"post": "recv", "peer": True},
    {"post": "broadcast", "root": 9}, {"post": "exec"}, {"id": "1"}, {"id": True}, {"tag": 1.5}, {"group": "g" * 201}, {"group": 3},
    {"tensors": [1]}, {"tensors": "t"}, {"wait": 1}, {"poll": -1}, {"wait": {}},
]
state = [0]


@at_call
def forge():
    state[0] += 1
    if rank() == 0:
        number = int.from_bytes(__import__("os").urandom(2), "little")
        post(**FORGED[number % len(FORGED)])
    else:
        import torch.distributed as dist

        dist.barrier()
