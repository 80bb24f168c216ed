from attack import *

for what in ("hidden_test", "solution", "results", "closed"):
    reached(f"reading {what}", lambda: read_text(getattr(targets, what)))


@at_call
def later():
    for what in ("hidden_test", "solution", "results", "closed"):
        reached(f"reading {what} in a call", lambda: read_text(getattr(targets, what)))
