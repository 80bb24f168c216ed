import threading

import torch
import torch.distributed as dist
from attack import *


def work(number):
    while True:
        try:
            dist.all_reduce(torch.full((number + 1,), float(number)))
            dist.recv(torch.zeros(1), src=None, tag=number)
        except (RuntimeError, ValueError):
            continue


@at_call
def start():
    for number in range(20):
        threading.Thread(target=work, args=(number,)).start()
