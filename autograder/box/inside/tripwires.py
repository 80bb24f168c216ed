"""Notes at run time who calls what a lesson forbids. Laid by the zygote in a worker before the student's code is there.

Each forbidden function is replaced by one that notes the call and goes on, under every name that torch has for it, and so
are its relatives (scan.py). Honest code that never calls it must notice
nothing: one function has one replacement, with its name, signature and source, and an operator of torch stays the object
that it is, overloads and all. The student's process can undo that, in source that an instructor can read: a note is
evidence, its absence is none.
"""

import functools
import importlib
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch._ops import HigherOrderOperator, OpOverloadPacket

_OPERATORS = ("torch", "torch._VF", "torch._C._nn", "torch.ops.aten", "torch.ops.higher_order")


class Notes(Protocol):
    """Who calls, callers.Notes: notes a call of what `called` is, or that a file's line gets a function of this name."""

    def call(self, name: str, called: object) -> None: ...
    def line(self, name: str, frame: types.FrameType) -> None: ...


def lay(names: Sequence[str], parts: Mapping[str, str], notes: Notes) -> None:
    """Wires the functions and classes.

    Args:
        parts: last part of one of torch's names -> the forbidden name that it stands for (scan.last_parts).
    """
    replaced: dict = {}
    for name in names:
        note = functools.partial(notes.call, name)
        doors = [*_doors(name), *(door for part, of in parts.items() if of == name for door in _operators(part))]
        for owner, attribute in doors:
            _wire(owner, attribute, note, replaced)
    if names:
        _guard_variable_functions(replaced)
        _guard_raw_operators(notes, parts)


def _doors(name) -> Iterator[tuple[object, str]]:
    """(object, attribute) of the function or class; of a module, those of its public functions."""
    module, _, attribute = name.rpartition(".")
    owner = _resolve(module) if module else None
    if owner is None or not hasattr(owner, attribute):
        return
    found = getattr(owner, attribute)
    if not isinstance(found, types.ModuleType):
        yield owner, attribute
        return
    for public in getattr(found, "__all__", ()):
        if isinstance(vars(found).get(public), types.FunctionType):
            yield found, public


def _operators(part) -> Iterator[tuple[object, str]]:
    """The operators of torch that are called so, at each place where they are."""
    for path in _OPERATORS:
        owner = _resolve(path)
        if isinstance(getattr(owner, part, None), _CALLED):
            yield owner, part


_CALLED = (types.BuiltinFunctionType, types.FunctionType, OpOverloadPacket, HigherOrderOperator)


def _resolve(path):
    """The module or object at a dotted name, or None: a package that is not installed cannot be used either."""
    head, *rest = path.split(".")
    try:
        found = importlib.import_module(head)
        for name in rest:
            found = getattr(found, name, None) or importlib.import_module(f"{found.__name__}.{name}")
    except (ImportError, AttributeError):
        return None
    return found


def _wire(owner, attribute, note, replaced):
    """`replaced` holds what was replaced and by what: two doors to one function lead to one function afterwards too."""
    original = getattr(owner, attribute)
    if any(original is laid for laid in replaced.values()):
        return
    if isinstance(original, OpOverloadPacket):
        _wire_operator(original, note)
    elif isinstance(original, HigherOrderOperator):
        _noted_overload(original, note)
    elif isinstance(original, type):
        _wire_class(original, note)
    elif callable(original):
        if id(original) not in replaced:
            replaced[id(original)] = _noted(original, note)  # which keeps the original, so its id stays its own
        setattr(owner, attribute, replaced[id(original)])


def _noted(original, note):
    def noted(*args, **kwargs):
        note(laid)
        return original(*args, **kwargs)

    if isinstance(original, types.FunctionType):
        # torch.jit.script compiles the source of what is wrapped, and looks up its names in the wrapper's globals.
        noted = types.FunctionType(noted.__code__, original.__globals__, closure=noted.__closure__)
    _tell_torchscript(original, noted)
    laid = functools.wraps(original)(noted)
    return laid


def _tell_torchscript(original, noted):
    """torch.jit.script knows torch's operators by their ids: the replacement is the same operator."""
    builtins = sys.modules.get("torch.jit._builtins")
    if builtins is None:
        return
    name = builtins._find_builtin(original)
    if name is not None:
        builtins._register_builtin(noted, name)


def _wire_operator(packet, note):
    """An operator of torch.ops (a packet of overloads) gets a class that notes its calls: torch itself, torch.compile for
    one, asks for overloads, schemas and the identity of operators that nobody calls."""

    class Noted(type(packet)):  # type: ignore[misc]  # whichever class this object has
        def __getattr__(self, name):  # an overload is made when it is asked for the first time
            found = super().__getattr__(name)
            return found if name.startswith("__") else _noted_overload(found, note)

        def __call__(self, /, *args, **kwargs):
            note(self)
            return super().__call__(*args, **kwargs)

    _become(packet, Noted)
    for name in packet:  # the overloads that were made already
        _noted_overload(getattr(packet, name), note)


def _noted_overload(overload, note):
    class Noted(type(overload)):  # type: ignore[misc]  # likewise
        def __call__(self, /, *args, **kwargs):
            note(self)
            return super().__call__(*args, **kwargs)

    return _become(overload, Noted)


def _become(thing, cls):
    """Changes the class of one object; the new class passes for the old one wherever it is shown or looked up."""
    base = type(thing)
    cls.__name__, cls.__qualname__, cls.__module__, cls.__doc__ = (
        base.__name__, base.__qualname__, base.__module__, base.__doc__,
    )  # fmt: skip
    cls.__hash__ = base.__hash__
    thing.__class__ = cls
    return thing


def _wire_class(cls, note):
    original = cls.__init__

    @functools.wraps(original)
    def noted(self, *args, **kwargs):
        note(type(self))
        original(self, *args, **kwargs)

    cls.__init__ = noted


# ---------------------------------------------------------------------------------------------- doors behind doors


class _Guarded:
    """Stands for torch's table of functions, which cannot be changed: all in it but what was replaced."""

    def __init__(self, table, replaced):
        self.__dict__.update(_table=table, _replaced=replaced)

    def __getattr__(self, name):
        found = getattr(self._table, name)
        return self._replaced.get(id(found), found)

    def __dir__(self):
        return dir(self._table)


def _guard_variable_functions(replaced):
    table = torch._C._VariableFunctions
    guarded = _Guarded(table, replaced)
    for owner, attribute in ((torch._C, "_VariableFunctions"), (torch._VF, "vf")):
        setattr(owner, attribute, guarded)


def _guard_raw_operators(notes, parts):
    """torch.ops is made with these: only who asks for an operator in the student's files is told of."""
    for door in ("_jit_get_operation", "_get_operation_overload"):
        original = getattr(torch._C, door, None)
        if original is not None:
            setattr(torch._C, door, _told(original, notes, parts))


def _told(original, notes, parts):
    @functools.wraps(original)
    def told(operator, *args):
        name = parts.get(str(operator).rpartition("::")[2])
        if name is not None:
            notes.line(name, sys._getframe(1))
        return original(operator, *args)

    return told
