import torch
from attack import *

reached("12 GB", lambda: torch.ones(3 << 30).sum())
held = []
while len(held) < 400:
    held.append(bytearray(b"x" * (32 << 20)))
print("REACHED: 12 GB in pieces")
