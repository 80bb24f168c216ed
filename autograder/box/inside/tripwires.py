"""Notes at run time who calls what a lesson forbids. Laid by the zygote in a worker before the student's code is there.

Each forbidden function is replaced by one that notes the call and goes on, under every name that torch has for it, and so
are its relatives (scan.py). An import of a forbidden package is noted, too. Honest code that never calls it must notice
nothing: one function has one replacement, with its name, signature and source, and an operator of torch stays the object
that it is, overloads and all. The student's process can undo that, in source that an instructor can read: a note is
evidence, its absence is none.
"""

import functools
import importlib
import importlib.abc
import sys
import types
from collections.abc import Iterator, Sequence

import torch
from torch._ops import HigherOrderOperator, OpOverloadPacket

from .scan import last_parts

_MOST_NOTES = 50
_OF_THE_TEST = ("<probe>", "<inside>")
_OPERATORS = ("torch", "torch._VF", "torch._C._nn", "torch.ops.aten", "torch.ops.higher_order")


def lay(names: Sequence[str], submission: str) -> list[str]:
    """Wires the functions and classes; returns the list that fills with "name (file.py:line)"."""
    notes: list[str] = []
    parts = last_parts(list(names))
    replaced: dict = {}
    for name in names:
        note = functools.partial(_note, notes, name, submission)
        doors = [*_doors(name), *(door for part, of in parts.items() if of == name for door in _operators(part))]
        for owner, attribute in doors:
            _wire(owner, attribute, note, replaced)
    if names:
        _guard_variable_functions(replaced)
        _guard_raw_operators(notes, parts, submission)
        sys.meta_path.insert(0, _Imports(notes, tuple(names), parts, submission))
    return notes


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
    torch._C._VariableFunctions = torch._VF.vf = _Guarded(table, replaced)  # type: ignore[assignment,misc]


def _guard_raw_operators(notes, parts, submission):
    """torch.ops is made with these: only who asks for an operator in the student's files is told of."""
    for door in ("_jit_get_operation", "_get_operation_overload"):
        original = getattr(torch._C, door, None)
        if original is not None:
            setattr(torch._C, door, _told(original, notes, parts, submission))


def _told(original, notes, parts, submission):
    @functools.wraps(original)
    def told(operator, *args):
        name = parts.get(str(operator).rpartition("::")[2])
        frame = sys._getframe(1)
        if name is not None and frame.f_code.co_filename.startswith(submission):
            _keep(notes, name, _line(frame, submission))
        return original(operator, *args)

    return told


class _Imports(importlib.abc.MetaPathFinder):
    """Finds nothing; notes which of the student's files imports a forbidden module for the first time."""

    def __init__(self, notes, names, parts, submission):
        self._notes, self._names, self._parts, self._submission = notes, names, parts, submission

    def find_spec(self, fullname, path, target=None):
        name = self._forbidden(fullname)
        frame = sys._getframe(1) if name else None
        while frame is not None and _imports(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename.startswith(self._submission):
            _keep(self._notes, name, _line(frame, self._submission))

    def _forbidden(self, fullname):
        if fullname.startswith("torch.") and fullname.rpartition(".")[2] in self._parts:
            return self._parts[fullname.rpartition(".")[2]]
        return next((name for name in self._names if fullname == name or fullname.startswith(f"{name}.")), None)


def _imports(file):
    return file.startswith("<frozen importlib") or file == importlib.__file__


# ---------------------------------------------------------------------------------------------- whose call it was


def _note(notes, name, submission, called):
    """Notes a call that comes from the student's files, or from a name in them that is the function: a test's helper may
    use what it likes."""
    place = _place(submission, called)
    if place:
        _keep(notes, name, place)


def _keep(notes, name, place):
    note = f"{name} ({place})"
    if note not in notes and len(notes) < _MOST_NOTES:
        notes.append(note)


def _place(submission, called):
    frame: types.FrameType | None = sys._getframe(3)
    made, of_the_test = "", False
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(submission):
            return _line(frame, submission)
        of_the_test = of_the_test or file in _OF_THE_TEST
        if not of_the_test and file.startswith("<") and not file.startswith("<frozen"):
            made = "code that was made at run time"
        frame = frame.f_back
    return made or _holder(submission, called) or ("" if of_the_test else "called from outside the submission's files")


def _line(frame, submission):
    return f"{_short(frame.f_code.co_filename, submission)}:{frame.f_lineno}"


def _short(file, submission):
    return file[len(submission) :].lstrip("/")


def _holder(submission, called):
    """The student's file in which a name is what was called: `attend = F.scaled_dot_product_attention`."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None) or ""
        if isinstance(file, str) and file.startswith(submission) and _holds(vars(module), called):
            return _short(file, submission)
    return ""


def _holds(names, called):
    for value in list(names.values()):
        if value is called or (isinstance(value, functools.partial) and value.func is called):
            return True
        if isinstance(value, type) and any(_itself(inner) is called for inner in vars(value).values()):
            return True
    return False


def _itself(value):
    return value.__func__ if isinstance(value, staticmethod) else value
