"""Compares a value with what was expected, and names the mistake that was made.

A failed check raises CheckFailed, whose text is for the student: it says what kind of thing is wrong and never prints an
expected value. Its `detail` shows the first values that differ: for instructors, and in handouts, whose public tests hide
nothing. This file is copied into every handout: it imports torch and the standard library only.
"""

import math
from collections.abc import Sequence

import torch

from .errors import AuthorError, CheckFailed

FACTOR = 8  # how many roundings of one term count as the same value
FLOAT_RELATIVE = 1e-5  # of a Python float, where nothing else is said: it may have been worked out in float32


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
        otherwise: str | None = None,
        what: str = "",
        names: Sequence[str] = (),
    ) -> None:
        """Passes if `value` is `expected`, up to rounding.

        |value - expected| may be 8 · terms · eps · (|expected| + rms(expected)) at each place, eps being that of value's
        dtype. A Python float may be off by 1e-5 of its size, since float32 is an honest way to work it out. Integers,
        booleans, strings and None must be equal; lists, tuples and dicts are compared item by item.

        Args:
            value: what the student's code returned.
            expected: what it should be; in float64 where that is possible.
            dtype: what value must have, when expected is more precise; for a Python float, how precise it must be
                (torch.float64 asks for an exact one).
            terms: how many terms were summed, roughly.
            within: an absolute error that the contract states, instead of the rule above.
            scale: the size of what was summed, instead of rms(expected), where results are small by cancellation.
            mistakes: sentence for the student -> the value that this mistake gives, or a function that gives it. It is
                never computed from value: that would agree with any wrong one. One that cannot be computed or compared
                is not the mistake that was made.
            otherwise: sentence for every other difference, where only one mistake is possible: an input that came back
                changed, two results of the student's that should be one.
            what: what is compared, in the student's words ("the mask"): the message begins with it.
            names: of expected's items ("output", "weights"), instead of "item 0"; not used where it has none.

        Raises:
            CheckFailed: with the first of `mistakes` that agrees with value and not with expected, or `otherwise`.
        """
        if names and isinstance(expected, (list, tuple)) and len(names) != len(expected):
            raise AuthorError(f"check(names=…) names {len(names)} items, and {len(expected)} are expected")
        tolerance = _Tolerance(terms, within, scale)
        problem = _difference(value, expected, dtype, tolerance, self._device)
        if problem is None:
            return
        places = _places(value, expected, dtype, tolerance)
        said = problem.said(what, names)
        shown = places if isinstance(expected, _PLAIN) else [said, *places]  # two plain values need no more words
        for sentence, wrong in (mistakes or {}).items():
            if _is_mistake(wrong, value, expected, dtype, tolerance, problem):
                raise CheckFailed(sentence, mistake=sentence, detail="\n".join(shown))
        if otherwise is not None:
            raise CheckFailed(otherwise, mistake=otherwise, detail="\n".join(shown))
        raise CheckFailed(said, detail="\n".join(places))


_NO_MATCH = (
    ArithmeticError,
    AttributeError,
    AuthorError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _is_mistake(wrong, value, expected, dtype, tolerance, problem):
    """Whether value is what a mistake gives, and expected is not. A value of no kind that we know is none of them."""
    try:
        wrong = wrong() if callable(wrong) and not isinstance(wrong, torch.Tensor) else wrong
        if _agrees(wrong, expected, None, tolerance) and not _same_dtype(value, wrong, problem):
            return False
        return _agrees(value, wrong, dtype, tolerance)
    except _NO_MATCH:
        return False


def _same_dtype(value, wrong, problem):
    """Whether the dtype alone is the problem, and the mistake is to have this one."""
    return problem.text.startswith("the dtype") and isinstance(wrong, torch.Tensor) and value.dtype == wrong.dtype


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
    """How far apart two numbers may be and still be the same number."""

    def __init__(self, terms, within, scale, floor=0.0):
        self.terms, self.within, self.scale, self.floor = terms, within, scale, floor

    def at_least(self, dtype):
        eps = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
        return _Tolerance(self.terms, self.within, self.scale, eps)

    def relative(self, share):
        """The same, where `share` of a number's size is allowed; an error that the contract states (within) stays."""
        return _Tolerance(1, self.within, 0.0 if self.scale is None else self.scale, share / FACTOR)

    def of(self, expected: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The allowed error at each place; expected is float64 and finite."""
        if self.within is not None:
            return torch.full_like(expected.abs(), self.within)
        size = (
            self.scale if self.scale is not None else expected.abs().square().mean().sqrt() if expected.numel() else 0.0
        )
        return FACTOR * self.terms * max(torch.finfo(dtype).eps, self.floor) * (expected.abs() + size)


# ---------------------------------------------------------------------------------------------- differences


class _Problem:
    """What is wrong, in a sentence without expected values, and in which item of which item it was found."""

    def __init__(self, text: str, path: tuple = ()):
        self.text, self.path = text, path  # of the path: positions in lists, texts of keys, None for the only item

    def inside(self, step) -> "_Problem":
        return _Problem(self.text, (step, *self.path))

    def said(self, what: str = "", names: Sequence[str] = ()) -> str:
        """ "weights: every value is wrong", "item 0 of item 2: the shape is …"."""
        path = list(self.path)
        if names and path:
            path[0] = names[path[0] or 0] if not isinstance(path[0], str) else path[0]
        steps = [step if isinstance(step, str) else f"item {step}" for step in path if step is not None]
        place = " of ".join([*reversed(steps), *filter(None, [what])])
        return f"{place}: {self.text}" if place else self.text


def _difference(value, expected, dtype, tolerance, device) -> _Problem | None:
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
    else:
        raise AuthorError(f"check() cannot expect {kind_of(expected)}: give tensors or plain data")
    return _Problem(text) if text else None


def _plain_difference(value, expected):
    if type(value) is not type(expected):
        return f"the result is {kind_of(value)}, it should be {kind_of(expected)}"
    return None if value == expected else f"the {_noun(value)} has the wrong value"


def _noun(value):
    return {"str": "text"}.get(type(value).__name__, type(value).__name__)


def _float_difference(value, expected, dtype, tolerance):
    if type(value) is not float:
        return f"the result is {kind_of(value)}, it should be a float"
    pair = torch.tensor([value, expected], dtype=torch.float64)
    if dtype is None:
        dtype, tolerance = torch.float64, tolerance.relative(FLOAT_RELATIVE)
    return _closeness(pair[:1], pair[1:], dtype, tolerance)


def _sequence_difference(value, expected, dtype, tolerance, device):
    if not isinstance(value, (list, tuple)):
        return _Problem(f"the result is {kind_of(value)}, it should be {kind_of(expected)} of {len(expected)}")
    if len(value) != len(expected):
        few = len(value) <= 8 or len(expected) <= 8
        exact = f"there are {len(value)} items, there should be {len(expected)}"
        return _Problem(exact if few else "there is the wrong number of items")
    for place, (item, wanted) in enumerate(zip(value, expected, strict=True)):
        problem = _difference(item, wanted, dtype, tolerance, device)
        if problem is not None:
            return problem.inside(place if len(expected) > 1 else None)
    return None


def _dict_difference(value, expected, dtype, tolerance, device):
    if not isinstance(value, dict):
        return _Problem(f"the result is {kind_of(value)}, it should be a dict")
    if set(value) != set(expected):
        return _Problem("the dict has the wrong keys")
    for key, wanted in expected.items():
        problem = _difference(value[key], wanted, dtype, tolerance, device)
        if problem is not None:
            return problem.inside(repr(key))
    return None


def _tensor_difference(value, expected, dtype, tolerance, device):
    dtype = dtype or expected.dtype
    if not isinstance(value, torch.Tensor):
        return f"the result is {kind_of(value)}, it should be a tensor of shape {tuple(expected.shape)}"
    if value.shape != expected.shape:
        return f"the shape is {tuple(value.shape)}, it should be {tuple(expected.shape)}"
    if value.dtype != dtype:
        return f"the dtype is {_name(value.dtype)}, it should be {_name(dtype)}"
    if device is not None and getattr(value, "came_from", device) != device:
        return f"the result is on {value.came_from}, it should be on {device}"
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
_PLAIN = (type(None), bool, int, float, str, bytes)


def _places(value, expected, dtype, tolerance, at="") -> list[str]:
    """The first places where value is not expected, with both values; none where the message says it all."""
    if isinstance(expected, torch.Tensor):
        return _tensor_places(value, expected, dtype or expected.dtype, tolerance, at)
    if isinstance(expected, (list, tuple)) and isinstance(value, (list, tuple)):
        return _length(value, expected, at) + _item_places(
            value, expected, range(min(len(value), len(expected))), dtype, tolerance, at
        )
    if isinstance(expected, dict) and isinstance(value, dict):
        return _keys(value, expected, at) or _item_places(value, expected, expected, dtype, tolerance, at)
    if isinstance(value, _PLAIN) and isinstance(expected, _PLAIN):
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
    return [f"{at or 'it'} has {len(value)} items, it should have {len(expected)}"]


def _keys(value, expected, at):
    """The keys that are missing or too many."""
    missing, extra = ([key for key in one if key not in other] for one, other in ((expected, value), (value, expected)))
    return [
        f"{at or 'it'} {has} {', '.join(_text(key) for key in keys[:_MOST_PLACES])}"
        for has, keys in (("lacks the keys", missing), ("has the keys, and should not:", extra))
        if keys
    ]


def _item_places(value, expected, keys, dtype, tolerance, at):
    """Those of the first item that differs."""
    for key in keys:
        if _difference(value[key], expected[key], dtype, tolerance, None) is not None:
            return _places(value[key], expected[key], dtype, tolerance, f"{at}[{key!r}]")
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
    return f"{at or 'it'} is {texts[0]}, it should be {texts[1]}"


def _first_difference(one, other):
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _text(value, digits=6):
    if isinstance(value, (float, complex)):
        return f"{value:.{digits}g}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return repr(value[:_MOST_TEXT] if isinstance(value, (str, bytes)) else value)
