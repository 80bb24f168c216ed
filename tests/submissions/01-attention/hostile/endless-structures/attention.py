from attack import *


class Endless(list):
    def __iter__(self):
        while True:
            yield 0


own = []
own.append(own)
deep = []
for _ in range(10_000):
    deep = [deep]
things = [own, deep, {i: i for i in range(1_000_000)}, Endless([1]), 10**5000, "x" * 5_000_000, object()]


@answer
def structure(q, k, v):
    things.append(things.pop(0))
    return things[q.dim() % len(things)]
