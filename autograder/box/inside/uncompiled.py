"""Makes torch.compile and its kin leave code as it is: in the box there is no compiler, no time for one, and no need.

`@torch.compile` on a student's function is honest work. Where it really ran it would import a thousand modules for each
test (seconds of CPU) and write and start programs, which the box forbids. So what is to be compiled runs as it was written,
and gives the same values. Laid in the zygote, before any submission is there.
"""

import torch


def lay() -> None:
    """Replaces what compiles, and what says that something is not to be compiled: both give their function back."""
    torch.compile = compile
    torch.compiler.compile = compile
    torch.compiler.disable = disable
    torch.compiler.allow_in_graph = torch.compiler.assume_constant_result = _as_it_is
    torch.compiler.reset = torch.compiler.cudagraph_mark_step_begin = _nothing


def compile(model=None, *, fullgraph=False, dynamic=None, backend=None, mode=None, options=None, **others):
    """Gives back the function or module that is to be compiled, whatever the options; without one, a decorator.

    A module's `.compile()` calls this function, too.
    """
    return _as_it_is if model is None else _as_it_is(model)


def disable(fn=None, recursive=True, **others):
    return _as_it_is if fn is None else _as_it_is(fn)


def _as_it_is(function):
    if not callable(function):
        raise TypeError(f"torch.compile takes a function or a module, not {type(function).__name__}")
    return function


def _nothing():
    pass
