from attack import *

ways = [SystemExit(0), KeyboardInterrupt(), GeneratorExit()]


@at_call
def leave():
    ways.insert(0, ways.pop())
    raise ways[0]
