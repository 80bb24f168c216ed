"""What a test may pass to the student's code: plain data and tensors, which cross the border as box/codec.py writes them.

What cannot cross would arrive there as an empty stand-in, and the student's code would be blamed for stumbling over it.
So it is refused here, with the argument's place and what to do. This file is copied into every handout.
"""

import torch

from .box.codec import DTYPES, MAX_TENSORS, MAX_TUPLE_KEYS, Opaque
from .differences import kind_of
from .errors import AuthorError, BadReply

_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
_PLAIN = {type(None), bool, float, bytes, bytearray, torch.dtype}
_IN_A_PROBE = "make it in a probe (student.run), out of values that are passed"

# What to do instead, by the name of the type or of one of its bases.
ADVICE = {
    "Generator": "pass a seed, and make it in the probe: torch.Generator().manual_seed(seed)",
    "Module": f"pass its arguments or its state_dict(), and {_IN_A_PROBE}",
    "Enum": "pass its name or its value",
    "function": f"write it inside the probe or in the lesson's inside.py, or {_IN_A_PROBE}",
    "builtin_function_or_method": "use it inside a probe (student.run)",
    "method": "use it inside a probe (student.run)",
    "partial": "use it inside a probe (student.run)",
    "type": "pass its name, and look it up in a probe (student.run)",
    "module": "import it inside a probe (student.run)",
    "generator": "pass list(…) of it",
    "range": "pass list(…) of it",
    "dict_keys": "pass list(…) of it",
    "dict_values": "pass list(…) of it",
    "set": "pass sorted(…) of it, and make the set in a probe",
    "frozenset": "pass sorted(…) of it, and make the set in a probe",
    "slice": "pass its bounds, and make it in a probe",
    "complex": "pass a tensor, or its two parts",
    "ndarray": "pass torch.from_numpy(…) of it",
    "generic": "pass .item() of it",  # numpy's scalars
    "PurePath": "pass str(…) of it, and what is in the file as text or bytes",
    "device": "pass str(…) of it; tensors are put on the device of student.on(device=…)",
    "Random": f"pass a seed, and {_IN_A_PROBE}",
}


def require_plain(call: str, args: tuple, kwargs: dict) -> None:
    """Refuses the first argument that cannot cross.

    Args:
        call: how it is called, for the message: `student.call('toy.f')`.

    Raises:
        AuthorError: it is nothing that may cross. BadReply: it is what the student's code returned.
    """
    look = _Look(call)
    try:
        for place, value in [*enumerate(args, 1), *kwargs.items()]:
            look.at(value, (place,))
    except RecursionError:
        raise AuthorError(f"{call}: an argument holds itself") from None


class _Look:
    """Looks at the arguments of one call. A path is an argument's place or name, then what leads to the value in it."""

    def __init__(self, call: str):
        self._call = call
        self._tensors = 0

    def at(self, value, path):
        if _is_plain(value):
            return
        if isinstance(value, torch.Tensor):
            self._at_a_tensor(value, path)
        elif isinstance(value, (list, tuple)):
            for place, item in enumerate(value):
                if not _is_plain(item):
                    self.at(item, (*path, place))
        elif isinstance(value, dict):
            self._at_a_dict(value, path)
        elif isinstance(value, int):
            self._refuse(path, "is an int beyond 64 bits: pass it as a text")
        elif isinstance(value, str):
            self._refuse(path, "has a lone surrogate: make it in a probe, with chr()")
        elif isinstance(value, Opaque):
            kind = kind_of(value)
            raise BadReply(f"your code returned {kind}: it should be tensors or plain values, which can be passed on")
        else:
            names = [base.__name__ for base in type(value).__mro__]
            advice = next((ADVICE[name] for name in names if name in ADVICE), f"pass plain values, and {_IN_A_PROBE}")
            self._refuse(path, f"is {kind_of(value)}: {advice}")

    def _at_a_tensor(self, tensor, path):
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            self._refuse(path, f"is one of more than {MAX_TENSORS} tensors: stack them")
        plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested
        if tensor.device.type == "meta":
            self._refuse(path, f"is a tensor on the device meta: {_IN_A_PROBE}")
        if not plain or tensor.dim() > 16 or str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            self._refuse(path, f"is a tensor of an unusual kind ({tensor.dtype}, {tensor.layout}): {_IN_A_PROBE}")

    def _at_a_dict(self, value, path):
        for key, item in value.items():
            if isinstance(key, torch.Tensor):
                self._refuse(path, "has a key that is a tensor: keys are plain data")
            if not _is_plain(key):
                self.at(key, (*path, "a key"))
            if not _is_plain(item):
                self.at(item, (*path, repr(key)))
        if sum(isinstance(key, tuple) for key in value) > MAX_TUPLE_KEYS:
            self._refuse(path, f"has more than {MAX_TUPLE_KEYS} keys that are tuples: pass a list of pairs")

    def _refuse(self, path, why):
        argument = f"argument {path[0]}" if isinstance(path[0], int) else f"the argument {path[0]}="
        steps = [f"item {step}" if isinstance(step, int) else step for step in path[:0:-1]]
        place = " of ".join([*steps, argument])
        what, _, advice = why.partition(": ")
        raise AuthorError(f"{self._call}: {place} {what}, which cannot be passed to the student's process: {advice}")


def _is_plain(value):
    kind = type(value)
    if kind is int:
        return _FIRST <= value <= _LAST
    if kind is str:
        return value.isascii() or value.encode("utf-8", "replace").decode() == value
    if kind in _PLAIN or isinstance(value, (float, bytes, bytearray)):
        return True
    if isinstance(value, int):
        return _FIRST <= value <= _LAST
    return isinstance(value, str) and _is_plain(str(value))
