"""Compares a value with what was expected, and names the mistake that was made.

A failed check raises CheckFailed, whose text is for the student: it says what kind of thing is wrong and never prints an
expected value. Its `detail` shows the first values that differ: for instructors, and in handouts, whose public tests hide
nothing. This file is copied into every handout: it imports torch and the standard library only.
"""

import math
from collections.abc import Callable

import torch

from .errors import AuthorError, CheckFailed

FACTOR = 8  # how many roundings of one term count as the same value


class Check:
    """The fixture `check`: a function that remembers on which device the tensors must have been.

    Args:
        device: type of device that the student's tensors must come from ("cpu", "cuda").
    """

    def __init__(self, device: str = "cpu"):
        self._device = device

    def __repr__(self):
        return "<check>"  # in a traceback of pytest

    def __call__(
        self,
        value,
        expected,
        *,
        dtype: torch.dtype | None = None,
        terms: int = 64,
        within: float | None = None,
        scale: float | None = None,
        mistakes: dict[str, object] | None = None,
    ) -> None:
        """Passes if `value` is `expected`, up to rounding.

        |value - expected| may be 8 · terms · eps · (|expected| + rms(expected)) at each place, eps being that of value's
        dtype. Integers, booleans, strings and None must be equal; lists, tuples and dicts are compared item by item.

        Args:
            value: what the student's code returned.
            expected: what it should be; in float64 where that is possible.
            dtype: what value must have, when expected is more precise; for a Python float, how precise it must be.
            terms: how many terms were summed, roughly.
            within: an absolute error that the contract states, instead of the rule above.
            scale: the size of what was summed, instead of rms(expected), where results are small by cancellation.
            mistakes: sentence for the student -> the value that this mistake gives, or a function that gives it.

        Raises:
            CheckFailed: with the first of `mistakes` that agrees with value and not with expected.
        """
        tolerance = _Tolerance(terms, within, scale)
        problem = _difference(value, expected, dtype, tolerance, self._device)
        if problem is None:
            return
        places = _places(value, expected, dtype, tolerance)
        for sentence, wrong in (mistakes or {}).items():
            wrong = _computed(wrong)
            if wrong is _NOTHING or (
                _agrees(wrong, expected, None, tolerance) and not _same_dtype(value, wrong, problem)
            ):
                continue
            if _agrees(value, wrong, dtype, tolerance):
                raise CheckFailed(sentence, mistake=sentence, detail="\n".join([problem, *places]))
        raise CheckFailed(problem, detail="\n".join(places))


_NOTHING = object()


def _computed(wrong):
    """A mistake's value; a formula that does not fit this input stands for no value."""
    if not isinstance(wrong, Callable) or isinstance(wrong, torch.Tensor):
        return wrong
    try:
        return wrong()
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, ZeroDivisionError):
        return _NOTHING


def _same_dtype(value, wrong, problem):
    """Whether the dtype alone is the problem, and the mistake is to have this one."""
    return problem.startswith("the dtype") and isinstance(wrong, torch.Tensor) and value.dtype == wrong.dtype


def _agrees(value, other, dtype, tolerance):
    """Whether two values are the same up to rounding, wherever they were and however precise they are."""
    if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        if dtype is None and value.dtype != other.dtype and value.is_floating_point() and other.is_floating_point():
            dtype = value.dtype
        coarse = min((value.dtype, other.dtype), key=_precision)
        tolerance = tolerance.at_least(coarse)
    return _difference(value, other, dtype, tolerance, None) is None


def _precision(dtype):
    return -torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


class _Tolerance:
    """How far two numbers may lie apart and still be the same number."""

    def __init__(self, terms, within, scale, floor=0.0):
        self.terms, self.within, self.scale, self.floor = terms, within, scale, floor

    def at_least(self, dtype):
        eps = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
        return _Tolerance(self.terms, self.within, self.scale, eps)

    def of(self, expected: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The allowed error at each place; expected is float64 and finite."""
        if self.within is not None:
            return torch.full_like(expected, self.within)
        size = self.scale if self.scale is not None else expected.square().mean().sqrt() if expected.numel() else 0.0
        return FACTOR * self.terms * max(torch.finfo(dtype).eps, self.floor) * (expected.abs() + size)


# ---------------------------------------------------------------------------------------------- differences


def _difference(value, expected, dtype, tolerance, device) -> str | None:
    """What is wrong with value, in a sentence without expected values, or None."""
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(value, expected, dtype, tolerance, device)
    if isinstance(expected, (list, tuple)):
        return _sequence_difference(value, expected, dtype, tolerance, device)
    if isinstance(expected, dict):
        return _dict_difference(value, expected, dtype, tolerance, device)
    if isinstance(expected, float):
        return _float_difference(value, expected, dtype, tolerance)
    if expected is None or isinstance(expected, (bool, int, str, bytes, torch.dtype)):
        return _plain_difference(value, expected)
    raise AuthorError(f"check() cannot expect a {type(expected).__name__}: give tensors or plain data")


def _plain_difference(value, expected):
    if type(value) is not type(expected):
        return f"the result is {_kind(value)}, it should be {_kind(expected)}"
    return None if value == expected else f"the result is {_kind(value)} of another value"


def _float_difference(value, expected, dtype, tolerance):
    if type(value) is not float:
        return f"the result is {_kind(value)}, it should be a float"
    pair = torch.tensor([value, expected], dtype=torch.float64)
    return _closeness(pair[:1], pair[1:], dtype or torch.float64, tolerance)


def _sequence_difference(value, expected, dtype, tolerance, device):
    if not isinstance(value, (list, tuple)):
        return f"the result is {_kind(value)}, it should be {_kind(expected)} of {len(expected)}"
    if len(value) != len(expected):
        return (
            f"the result has {len(value)} items, it should have {len(expected)}"
            if len(value) <= 8 or len(expected) <= 8
            else "the result has another number of items than it should have"
        )
    for place, (item, wanted) in enumerate(zip(value, expected, strict=True)):
        problem = _difference(item, wanted, dtype, tolerance, device)
        if problem is not None:
            return f"item {place}: {problem}" if len(expected) > 1 else problem
    return None


def _dict_difference(value, expected, dtype, tolerance, device):
    if not isinstance(value, dict):
        return f"the result is {_kind(value)}, it should be a dict"
    if set(value) != set(expected):
        return "the result has other keys than it should have"
    for key, wanted in expected.items():
        problem = _difference(value[key], wanted, dtype, tolerance, device)
        if problem is not None:
            return f"{key!r}: {problem}"
    return None


def _tensor_difference(value, expected, dtype, tolerance, device):
    dtype = dtype or expected.dtype
    if not isinstance(value, torch.Tensor):
        return f"the result is {_kind(value)}, it should be a tensor of shape {tuple(expected.shape)}"
    if value.shape != expected.shape:
        return f"the shape is {tuple(value.shape)}, it should be {tuple(expected.shape)}"
    if value.dtype != dtype:
        return f"the dtype is {_name(value.dtype)}, it should be {_name(dtype)}"
    if device is not None and getattr(value, "came_from", device) != device:
        return f"the result is on {value.came_from}, it should be on {device}"
    if not dtype.is_floating_point and not dtype.is_complex:
        return _share_wrong(_unequal(value, expected, dtype))
    return _closeness(value.detach().cpu().double(), expected.detach().cpu().double(), dtype, tolerance)


def _closeness(value, expected, dtype, tolerance):
    """value and expected in float64, of one shape."""
    finite = expected.isfinite()
    if value.isnan().logical_and(~expected.isnan()).any():
        return "there is a NaN in the result"
    if value.isinf().logical_and(finite).any():
        return "there is an infinity in the result where a finite number should be"
    wrong = _wrong(value, expected, dtype, tolerance)
    if wrong[~finite].any():
        return "a place that should be infinite is not"
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


def _kind(value):
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


def _places(value, expected, dtype, tolerance, at="") -> list[str]:
    """The first places where value is not expected, with both values; none where the kind of value is what is wrong."""
    if isinstance(expected, torch.Tensor):
        return _tensor_places(value, expected, dtype or expected.dtype, tolerance, at)
    if isinstance(expected, (list, tuple, dict)):
        return _item_places(value, expected, dtype, tolerance, at)
    if type(value) is not type(expected):
        return []
    return [f"{at or 'it'} is {_text(value)}, it should be {_text(expected)}"]


def _tensor_places(value, expected, dtype, tolerance, at):
    if not isinstance(value, torch.Tensor) or value.shape != expected.shape:
        return []
    if dtype.is_floating_point or dtype.is_complex:
        wrong = _wrong(value.detach().cpu().double(), expected.detach().cpu().double(), dtype, tolerance)
    else:
        wrong = _unequal(value, expected, dtype)
    return [
        f"{(at + str(place or '')) or 'it'} is {_text(value[tuple(place)].item())}, it should be {_text(expected[tuple(place)].item())}"
        for place in wrong.nonzero()[:_MOST_PLACES].tolist()
    ]


def _item_places(value, expected, dtype, tolerance, at):
    """Those of the first item that differs."""
    if isinstance(expected, dict):
        keys = list(expected) if isinstance(value, dict) and set(value) == set(expected) else []
    else:
        keys = range(len(expected)) if isinstance(value, (list, tuple)) and len(value) == len(expected) else []
    for key in keys:
        if _difference(value[key], expected[key], dtype, tolerance, None) is not None:
            return _places(value[key], expected[key], dtype, tolerance, f"{at}[{key!r}]")
    return []


def _text(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return repr(value[:_MOST_TEXT] if isinstance(value, (str, bytes)) else value)
