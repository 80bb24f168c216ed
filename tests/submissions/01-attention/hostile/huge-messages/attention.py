from attack import *


class Endless(Exception):
    def __str__(self):
        return str(self)


many = Exception
for _ in range(900):
    many = type("Many" * 99, (many,), {})
errors = [ValueError("temperature " * 1_000_000), Endless(), many("x" * 10_000_000), ExceptionGroup("g" * 9999, [OSError()] * 999)]


@at_call
def fail():
    errors.append(errors.pop(0))
    raise errors[0]
