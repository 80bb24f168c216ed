"""Makes torch.compile and its kin leave code as it is: in the box there is no compiler, no time for one, and no need.

`@torch.compile` on a student's function is honest work. Where it really ran it would import a thousand modules for each
test (seconds of CPU) and write and start programs, which the box forbids. So what is to be compiled runs as it was written,
and gives the same values. Laid in the zygote, before any submission is there.

torch asks for its compiler where nothing is compiled, too: the first step of an optimizer, the first operation on the meta
device and the first checkpoint import it, in order to tell it to keep away. That is half a second in each process of a test,
so it is told beforehand.
"""

import gc
import importlib.util
import sys
import types

import torch

_COMPILER = "torch._dynamo"


def lay() -> None:
    """Replaces what compiles, and what says that something is not to be compiled: both give their function back."""
    torch.compile = compile
    torch.compiler.compile = compile
    torch.compiler.disable = disable
    torch.compiler.allow_in_graph = torch.compiler.assume_constant_result = _as_it_is
    torch.compiler.reset = torch.compiler.cudagraph_mark_step_begin = _nothing
    _tell_torch_itself()
    if _COMPILER not in sys.modules:
        torch._dynamo = sys.modules[_COMPILER] = _NotNeededYet(_COMPILER)


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


def _nothing(*_, **__):
    pass


def _tell_torch_itself():
    """torch marks functions of its own as not to be compiled, and asks its compiler how when one is first called."""
    if getattr(torch, "_disable_dynamo", disable) is disable:  # this torch has none, or it was told before
        return
    marked_code = torch._disable_dynamo(_nothing).__code__  # what all that were marked so far have in common
    for marked in gc.get_referrers(marked_code):
        if type(marked) is types.FunctionType:
            function = vars(marked)["__wrapped__"]
            function.__dynamo_disable = function
    torch._disable_dynamo = torch._compile._disable_dynamo = disable


class _NotNeededYet(types.ModuleType):
    """Stands for torch's compiler: what torch itself wants of it is here, and all else imports the compiler after all."""

    disable = staticmethod(disable)
    assume_constant_result = allow_in_graph = staticmethod(_as_it_is)
    graph_break = reset = mark_dynamic = mark_static = staticmethod(_nothing)
    trace_rules = types.SimpleNamespace(clear_lru_cache=_nothing)  # which each init_process_group does

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = importlib.util.find_spec(name)
        places = self.__spec__.submodule_search_locations if self.__spec__ else None
        self.__path__ = list(places or [])  # so that its settings can be imported without it

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "config":
            return importlib.import_module(f"{self.__name__}.config")
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
            torch._dynamo = importlib.import_module(self.__name__)
        return getattr(sys.modules[self.__name__], name)
