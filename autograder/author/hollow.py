"""A submission whose functions return zeros of the right shape: what shapes, dtypes and names alone earn.

The solution's text gets an appendix that wraps what a test can call. A wrapped function runs the solution's on copies, so
that nothing it was given changes, and returns the result with every number replaced by zero; where the solution would
raise, it returns None. Constructors are the solution's, since a layer without its weights could not be asked for anything,
but what they work out, a module's buffers, is zero as well.

Or one whose functions refuse whatever they are given, in words that suit every test of a refusal: what those tests give to
who accepts nothing.
"""

ZEROS = "zeros"
REFUSING, REFUSING_METHODS, UNWRITTEN_METHODS = (
    "refusing",  # constructors, too
    "refusing methods",
    "unwritten methods",  # to compare with: what the constructors earn
)
AS_NUMPY, AS_TEXT, AS_NOTHING = (
    "numpy",
    "text",
    "nothing",
)  # results of another kind: what do our own helpers make of them?

_APPENDIX = """

# ---- appended by autograder/author/hollow.py

import copy as _copy, functools as _functools, inspect as _inspect, torch as _torch

_inside_a_call = [False]


def _changed(value, kind):
    if kind == "text":
        return "a text"
    if kind == "nothing":
        return None
    if isinstance(value, _torch.Tensor):
        return value.detach().cpu().float().numpy() if kind == "numpy" else _torch.zeros_like(value.detach())
    if kind == "zeros" and isinstance(value, (bool, int, float)):
        return type(value)(0)
    if kind == "zeros" and isinstance(value, (str, bytes)):
        return type(value)()
    if isinstance(value, (list, tuple)):
        items = [_changed(item, kind) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if kind == "zeros" and isinstance(value, range):
        return range(0)
    if kind == "zeros" and isinstance(value, _torch.nn.Module):
        return _without_numbers(value)
    if isinstance(value, dict):
        return {key: _changed(item, kind) for key, item in value.items()}
    return value


def _copied(values):
    try:
        return _copy.deepcopy(values)
    except Exception:  # what cannot be copied, a generator or a tensor with a history, is passed on
        return values


def _hollow(function, kind):
    @_functools.wraps(function)
    def call(*args, **kwargs):
        if _inside_a_call[0]:
            return function(*args, **kwargs)
        _inside_a_call[0] = True
        try:
            own, given = (_copied((args, kwargs)) if kind == "zeros" else (args, kwargs))
            result = function(*own, **given)
            if type(result).__module__ == function.__module__ and hasattr(result, "__dict__"):
                if args and result is own[0]:
                    return args[0]  # a method that returns its object
                vars(result).update(_changed(dict(vars(result)), kind))  # an object that it made
                return result
            return iter(_changed(list(result), kind)) if _inspect.isgenerator(result) else _changed(result, kind)
        except Exception:
            if kind != "zeros":
                raise
        finally:
            _inside_a_call[0] = False

    return call


def _without_numbers(module):
    # with buffers of zeros
    for buffer in module.buffers():
        buffer.zero_()
    return module


def _without_buffers(init):
    @_functools.wraps(init)
    def call(self, *args, **kwargs):
        init(self, *args, **kwargs)
        _without_numbers(self)

    return call


def _hollow_all(scope, kind):
    for name, thing in list(scope.items()):
        if name.startswith("_") or getattr(thing, "__module__", None) != scope["__name__"]:
            continue
        if _inspect.isfunction(thing):
            scope[name] = _hollow(thing, kind)
        elif isinstance(thing, type) and not issubclass(thing, _torch.autograd.Function):
            for attribute, method in list(vars(thing).items()):
                if _inspect.isfunction(method) and not attribute.startswith("_"):
                    setattr(thing, attribute, _hollow(method, kind))
                elif isinstance(method, (classmethod, staticmethod)):
                    setattr(thing, attribute, type(method)(_hollow(method.__func__, kind)))
            if issubclass(thing, _torch.nn.Module) and kind == "zeros" and "__init__" in vars(thing):
                thing.__init__ = _without_buffers(thing.__init__)


_hollow_all(globals(), {kind!r})
"""


_REFUSING = """

# ---- appended by autograder/author/hollow.py

import inspect as _inspect, sys as _sys

_arguments = set()
_OF_PACKAGES = {"torch", "numpy", "scipy", "transformers", *_sys.stdlib_module_names}


class _Refusal(ValueError, TypeError, RuntimeError, IndexError, KeyError):
    def __str__(self):
        return "must be positive and not empty: " + ", ".join(sorted(_arguments))


def _refuse(*args, **kwargs):
    raise NotImplementedError("not implemented yet") if {kind!r} == "unwritten methods" else _Refusal()


def _replaced(attribute, method):
    called = attribute == "__init__" and {kind!r} == "refusing"
    return _inspect.isfunction(method) and (called or not attribute.startswith("_"))


def _is_handed_on(thing, scope):
    # from another lesson's module
    module = getattr(thing, "__module__", None) or "torch"
    return module != scope["__name__"] and module.partition(".")[0] not in _OF_PACKAGES


def _refuse_all(scope):
    for name, thing in list(scope.items()):
        if {kind!r} == "refusing" and _is_handed_on(thing, scope):
            scope[name] = _refuse
        if name.startswith("_") or getattr(thing, "__module__", None) != scope["__name__"]:
            continue
        if _inspect.isfunction(thing):
            _arguments.update(_inspect.signature(thing).parameters)
            scope[name] = _refuse
        elif isinstance(thing, type):
            for attribute, held in list(vars(thing).items()):
                bound = isinstance(held, (classmethod, staticmethod))
                method = held.__func__ if bound else held
                if _replaced(attribute, method):
                    _arguments.update(_inspect.signature(method).parameters)
                    setattr(thing, attribute, staticmethod(_refuse) if bound else _refuse)


_refuse_all(globals())
"""


def hollow(solution: str, kind: str = ZEROS) -> str:
    """The text of a module of the solution whose functions return zeros, or results of another kind, or refuse everything."""
    appendix = _REFUSING if kind in (REFUSING, REFUSING_METHODS, UNWRITTEN_METHODS) else _APPENDIX
    return solution + appendix.replace("{kind!r}", repr(kind))
