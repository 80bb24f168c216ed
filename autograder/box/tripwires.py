"""Notes at run time who calls what a lesson forbids. Laid by the zygote in a worker before the student's code is there.

Each forbidden function is replaced by one that notes the call and goes on, under every name that torch has for it. The
student's process can undo that, in source that an instructor can read: a note is evidence, its absence is none.
"""

import functools
import importlib
import sys


def lay(names: list[str], submission: str) -> list[str]:
    """Wires the functions and classes; returns the list that fills with "name (file.py:line)"."""
    notes: list[str] = []
    for name in names:
        for owner, attribute in _doors(name):
            _wire(owner, attribute, functools.partial(_note, notes, name, submission))
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


def _wire(owner, attribute, note):
    original = getattr(owner, attribute)
    if isinstance(original, type):
        _wire_class(original, note)
    elif callable(original):

        @functools.wraps(original, updated=())
        def noted(*args, **kwargs):
            note()
            return original(*args, **kwargs)

        setattr(owner, attribute, noted)


def _wire_class(cls, note):
    original = cls.__init__

    @functools.wraps(original)
    def noted(self, *args, **kwargs):
        note()
        original(self, *args, **kwargs)

    cls.__init__ = noted


def _note(notes, name, submission):
    """Only a call that comes from the student's files counts: a test's helper may use what it likes."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(submission):
            place = f"{name} ({file[len(submission) :].lstrip('/')}:{frame.f_lineno})"
            if place not in notes and len(notes) < 50:
                notes.append(place)
            return
        frame = frame.f_back
