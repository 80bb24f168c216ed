"""How two values differ, up to rounding: a sentence without expected values, and the first places with both values.

For check.py. This file is copied into every handout: it imports torch and the standard library only.
"""

import math
from collections.abc import Sequence

import torch

from .errors import AuthorError

FACTOR = 8  # how many roundings of one term count as the same value
FLOAT_RELATIVE = 1e-5  # of a Python float, where nothing else is said: it may have been worked out in float32


class Tolerance:
    """How far apart two numbers may be and still be the same number."""

    def __init__(self, terms, within, scale, floor=0.0, relative=None):
        self.terms, self.within, self.scale, self.floor, self.share = terms, within, scale, floor, relative

    def at_least(self, dtype):
        eps = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
        return Tolerance(self.terms, self.within, self.scale, eps, self.share)

    def of_floats(self):
        """The same for Python floats: a share of the number's own size; an error that the contract states stays."""
        share = FLOAT_RELATIVE if self.share is None else self.share
        return Tolerance(1, self.within, 0.0 if self.scale is None else self.scale, relative=share)

    def of(self, expected: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The allowed error at each place; expected is float64 and finite."""
        if self.within is not None:
            return torch.full_like(expected.abs(), self.within)
        size = (
            self.scale if self.scale is not None else expected.abs().square().mean().sqrt() if expected.numel() else 0.0
        )
        eps = max(torch.finfo(dtype).eps, self.floor)
        share = FACTOR * self.terms * eps if self.share is None else max(self.share, FACTOR * eps)
        return share * (expected.abs() + size)


# ---------------------------------------------------------------------------------------------- differences


class Problem:
    """What is wrong, in a sentence without expected values, and in which item of which item it was found."""

    def __init__(self, text: str, path: tuple = ()):
        self.text, self.path = text, path  # of the path: positions in lists, texts of keys, None for the only item

    def inside(self, step) -> "Problem":
        return Problem(self.text, (step, *self.path))

    def said(self, what: str = "", names: Sequence[str] = ()) -> str:
        """ "weights: every value is wrong", "item 0 of item 2: the shape is …"."""
        path = list(self.path)
        if names and path:
            path[0] = names[path[0] or 0] if not isinstance(path[0], str) else path[0]
        steps = [step if isinstance(step, str) else f"item {step}" for step in path if step is not None]
        place = " of ".join([*reversed(steps), *filter(None, [what])])
        return f"{place}: {self.text}" if place else self.text


def difference(value, expected, dtype, tolerance, device) -> Problem | None:
    """What is wrong with value, or None."""
    if isinstance(expected, torch.Tensor):
        text = _tensor_difference(value, expected, dtype, tolerance, device)
    elif isinstance(expected, (list, tuple)):
        return _sequence_difference(value, expected, dtype, tolerance, device)
    elif isinstance(expected, dict):
        return _dict_difference(value, expected, dtype, tolerance, device)
    elif isinstance(expected, float):
        text = _float_difference(value, expected, dtype, tolerance)
    elif expected is None or isinstance(expected, (bool, int, str, bytes, torch.dtype)):
        text = _plain_difference(value, expected)
    elif hasattr(expected, "type_name"):  # an Opaque of the codec: two results of the student's are compared
        raise TypeError(f"nothing can be compared with {kind_of(expected)}")  # so it need not be the author's fault
    else:
        raise AuthorError(f"check() cannot expect {kind_of(expected)}: give tensors or plain data")
    return Problem(text) if text else None


def _plain_difference(value, expected):
    if type(value) is not type(expected):
        return f"the result is {kind_of(value)}; it should be {kind_of(expected)}"
    return None if value == expected else f"the {_noun(value)} has the wrong value"


def _noun(value):
    return {"str": "text"}.get(type(value).__name__, type(value).__name__)


def _float_difference(value, expected, dtype, tolerance):
    if type(value) is not float:
        return f"the result is {kind_of(value)}; it should be a float"
    pair = torch.tensor([value, expected], dtype=torch.float64)
    if dtype is None:
        dtype, tolerance = torch.float64, tolerance.of_floats()
    return _closeness(pair[:1], pair[1:], dtype, tolerance)


def _sequence_difference(value, expected, dtype, tolerance, device):
    if not isinstance(value, (list, tuple)):
        return Problem(f"the result is {kind_of(value)}; it should be {kind_of(expected)} of {len(expected)}")
    if len(value) != len(expected):
        few = len(value) <= 8 or len(expected) <= 8
        exact = f"there are {len(value)} items; there should be {len(expected)}"
        return Problem(exact if few else "there is the wrong number of items")
    for place, (item, wanted) in enumerate(zip(value, expected, strict=True)):
        problem = difference(item, wanted, dtype, tolerance, device)
        if problem is not None:
            return problem.inside(place if len(expected) > 1 else None)
    return None


def _dict_difference(value, expected, dtype, tolerance, device):
    if not isinstance(value, dict):
        return Problem(f"the result is {kind_of(value)}; it should be a dict")
    if set(value) != set(expected):
        return Problem("the dict has the wrong keys")
    for key, wanted in expected.items():
        problem = difference(value[key], wanted, dtype, tolerance, device)
        if problem is not None:
            return problem.inside(repr(key))
    return None


def _tensor_difference(value, expected, dtype, tolerance, device):
    dtype = dtype or expected.dtype
    if not isinstance(value, torch.Tensor):
        return f"the result is {kind_of(value)}; it should be a tensor of shape {tuple(expected.shape)}"
    if value.shape != expected.shape:
        return f"the shape is {tuple(value.shape)}; it should be {tuple(expected.shape)}"
    if value.dtype != dtype:
        return f"the dtype is {_name(value.dtype)}; it should be {_name(dtype)}"
    came_from = getattr(value, "came_from", device)
    if device is not None and came_from != device:
        return f"the result is on {came_from}; it should be on {device}"
    if not dtype.is_floating_point and not dtype.is_complex:
        return _share_wrong(_unequal(value, expected, dtype))
    return _closeness(_precise(value), _precise(expected), dtype, tolerance)


def _precise(tensor):
    return tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _closeness(value, expected, dtype, tolerance):
    """value and expected in the most precise dtype, of one shape."""
    finite = expected.isfinite()
    if value.isnan().logical_and(~expected.isnan()).any():
        return "there is a NaN in the result"
    if value.isinf().logical_and(finite).any():
        return "there is an infinity in the result where a finite number should be"
    wrong = _wrong(value, expected, dtype, tolerance)
    if wrong[~finite].any():
        return "some entries should be infinite but are finite"
    return _share_wrong(wrong)


def _unequal(value, expected, dtype):
    return value.cpu() != expected.cpu().to(dtype)


def _wrong(value, expected, dtype, tolerance):
    """Where value is not expected, up to rounding; both in float64."""
    same, finite = (value == expected) | (value.isnan() & expected.isnan()), expected.isfinite()
    same[finite] |= (value[finite] - expected[finite]).abs() <= tolerance.of(expected[finite], dtype)
    return ~same


def _share_wrong(wrong):
    bad, count = int(wrong.sum()), wrong.numel()
    if not bad:
        return None
    if count == 1:
        return "the value is wrong"
    share = math.ceil(100 * bad / count)
    return "every value is wrong" if bad == count else f"{share} % of the values are wrong"


def kind_of(value) -> str:
    """What kind of thing a value is, in the student's words."""
    if value is None:
        return "None"
    name = getattr(value, "type_name", None) or type(value).__name__
    if name == "Tensor":
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _name(dtype):
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------------------------------------- the values that differ

_MOST_PLACES = 3
_MOST_TEXT = 120  # characters of a value
PLAIN = (type(None), bool, int, float, str, bytes)


def places_of(value, expected, dtype, tolerance, at="") -> list[str]:
    """The first places where value is not expected, with both values; none where the message says it all."""
    if isinstance(expected, torch.Tensor):
        return _tensor_places(value, expected, dtype or expected.dtype, tolerance, at)
    if isinstance(expected, (list, tuple)) and isinstance(value, (list, tuple)):
        return _length(value, expected, at) + _item_places(
            value, expected, range(min(len(value), len(expected))), dtype, tolerance, at
        )
    if isinstance(expected, dict) and isinstance(value, dict):
        return _keys(value, expected, at) or _item_places(value, expected, expected, dtype, tolerance, at)
    if isinstance(value, PLAIN) and isinstance(expected, PLAIN):
        return [_both(value, expected, at)]
    return []


def _tensor_places(value, expected, dtype, tolerance, at):
    if not isinstance(value, torch.Tensor) or value.shape != expected.shape:
        return []
    if dtype.is_floating_point or dtype.is_complex:
        wrong = _wrong(_precise(value), _precise(expected), dtype, tolerance)
    else:
        wrong = _unequal(value, expected, dtype)
    return [
        _both(value[tuple(place)].item(), expected[tuple(place)].item(), at + str(place or ""))
        for place in wrong.nonzero()[:_MOST_PLACES].tolist()
    ]


def _length(value, expected, at):
    if len(value) == len(expected):
        return []
    return [f"{at or 'it'} has {len(value)} items; it should have {len(expected)}"]


def _keys(value, expected, at):
    """The keys that are missing or too many."""
    missing, extra = ([key for key in one if key not in other] for one, other in ((expected, value), (value, expected)))
    return [
        f"{at or 'it'} {has} {', '.join(_text(key) for key in keys[:_MOST_PLACES])}"
        for has, keys in (("lacks the keys", missing), ("has the extra keys", extra))
        if keys
    ]


def _item_places(value, expected, keys, dtype, tolerance, at):
    """Those of the first item that differs."""
    for key in keys:
        if difference(value[key], expected[key], dtype, tolerance, None) is not None:
            return places_of(value[key], expected[key], dtype, tolerance, f"{at}[{key!r}]")
    return []


def _both(value, expected, at):
    """Both values, in as many digits as it takes to tell them apart."""
    texts = _text(value), _text(expected)
    if texts[0] == texts[1] and isinstance(value, (float, complex)) and isinstance(expected, (float, complex)):
        digits = next((n for n in range(7, 18) if _text(value, n) != _text(expected, n)), 17)
        texts = _text(value, digits), _text(expected, digits)
    elif isinstance(value, (str, bytes)) and type(value) is type(expected):
        start = max(0, _first_difference(value, expected) - _MOST_TEXT // 2)
        texts = ("… " if start else "") + _text(value[start:]), ("… " if start else "") + _text(expected[start:])
    return f"{at or 'it'} is {texts[0]}; it should be {texts[1]}"


def _first_difference(one, other):
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _text(value, digits=6):
    if isinstance(value, (float, complex)):
        return f"{value:.{digits}g}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return repr(value[:_MOST_TEXT] if isinstance(value, (str, bytes)) else value)
