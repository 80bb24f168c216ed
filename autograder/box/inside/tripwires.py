"""Notes at run time who calls what a lesson forbids. Laid by the zygote in a worker before the student's code is there.

Each forbidden function is replaced by one that notes the call and goes on, under every name that torch has for it. Honest
code that never calls it must notice nothing: one function has one replacement, with its name, signature and source, and an
operator of torch stays the object that it is, overloads and all. The student's process can undo that, in source that an
instructor can read: a note is evidence, its absence is none.
"""

import functools
import importlib
import sys
import types
from collections.abc import Sequence

from torch._ops import OpOverloadPacket


def lay(names: Sequence[str], submission: str) -> list[str]:
    """Wires the functions and classes; returns the list that fills with "name (file.py:line)"."""
    notes: list[str] = []
    for name in names:
        note = functools.partial(_note, notes, name, submission)
        replaced: dict = {}
        for owner, attribute in list(_doors(name)):
            _wire(owner, attribute, note, replaced)
    return notes


def _doors(name):
    """(object, attribute) of each way to the function: for one of torch's operators the raw ones too."""
    module, _, attribute = name.rpartition(".")
    owners = [module]
    if module == "torch.nn.functional":
        owners += ["torch._C._nn", "torch.ops.aten"]
    for path in filter(None, owners):
        owner = _resolve(path)
        if owner is not None and hasattr(owner, attribute):
            yield owner, attribute


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
    if isinstance(original, OpOverloadPacket):
        _wire_operator(original, note)
    elif isinstance(original, type):
        _wire_class(original, note)
    elif callable(original):
        if id(original) not in replaced:
            replaced[id(original)] = _noted(original, note)  # which keeps the original, so its id stays its own
        setattr(owner, attribute, replaced[id(original)])


def _noted(original, note):
    def noted(*args, **kwargs):
        note()
        return original(*args, **kwargs)

    if isinstance(original, types.FunctionType):
        # torch.jit.script compiles the source of what is wrapped, and looks up its names in the wrapper's globals.
        noted = types.FunctionType(noted.__code__, original.__globals__, closure=noted.__closure__)
    _tell_torchscript(original, noted)
    return functools.wraps(original)(noted)


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
            note()
            return super().__call__(*args, **kwargs)

    _become(packet, Noted)
    for name in packet:  # the overloads that were made already
        _noted_overload(getattr(packet, name), note)


def _noted_overload(overload, note):
    class Noted(type(overload)):  # type: ignore[misc]  # likewise
        def __call__(self, /, *args, **kwargs):
            note()
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
        note()
        original(self, *args, **kwargs)

    cls.__init__ = noted


def _note(notes, name, submission):
    """Only a call that comes from the student's files counts: a test's helper may use what it likes."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(submission):
            place = f"{name} ({file[len(submission) :].lstrip('/')}:{frame.f_lineno})"
            if place not in notes and len(notes) < 50:
                notes.append(place)
            return
        frame = frame.f_back
