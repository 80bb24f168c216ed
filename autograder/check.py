"""Compares a value with what was expected, and names the mistake that was made.

A failed check raises CheckFailed, whose text is for the student: it says what kind of thing is wrong and never prints an
expected value. Its `detail` shows the first values that differ: for instructors, and in handouts, whose public tests hide
nothing. This file is copied into every handout, with differences.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .differences import PLAIN, Tolerance, difference, kind_of, places_of
from .errors import AuthorError, CheckFailed, nearest

_ANY = object()


@dataclass(frozen=True)
class When:
    """The value of a mistake that was made only where `condition` is True; without a value, the condition tells it alone."""

    condition: bool
    value: object = _ANY


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
        relative: float | None = None,
        scale: float | None = None,
        mistakes: dict[str, object] | None = None,
        otherwise: str | None = None,
        what: str = "",
        names: Sequence[str] = (),
        **unknown: object,
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
            relative: the share of |expected| + rms(expected) that may be wrong, instead of 8 · terms · eps, where the
                contract leaves open more than rounding. Of a Python float it is a share of |expected|.
            scale: the size of what was summed, instead of rms(expected), where results are small by cancellation.
            mistakes: sentence for the student -> the value that this mistake gives, or a function that gives it. It is
                never computed from value: that would agree with any wrong one. One that cannot be computed or compared
                is not the mistake that was made. check.when(condition, value) is a mistake under a condition.
            otherwise: sentence for every other difference, where only one mistake is possible: an input that came back
                changed, two results of the student's that should be one.
            what: what is compared, in the student's words ("the mask"): the message begins with it.
            names: of expected's items ("output", "weights"), instead of "item 0"; not used where it has none.

        Raises:
            CheckFailed: with the first of `mistakes` that agrees with value and not with expected, or `otherwise`.
        """
        for option in unknown:
            raise AuthorError(f"check() has no option {option}={nearest(option, _OPTIONS)}")
        if names and isinstance(expected, (list, tuple)) and len(names) != len(expected):
            raise AuthorError(f"check(names=…) names {len(names)} items, and {len(expected)} are expected")
        if relative is not None and within is not None:
            raise AuthorError("check() takes relative= or within=, not both")
        _require_numbers(terms=terms, within=within, relative=relative, scale=scale)
        _require_sentences(mistakes, otherwise)
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise AuthorError(f"check(dtype={dtype!r}): dtype is one of torch, such as torch.float32")
        tolerance = Tolerance(terms, within, scale, relative=relative)
        problem = difference(value, expected, dtype, tolerance, self._device)
        if problem is None:
            return
        places = places_of(value, expected, dtype, tolerance)
        said = problem.said(what, names)
        shown = places if isinstance(expected, PLAIN) else [said, *places]  # two plain values need no more words
        for sentence, wrong in (mistakes or {}).items():
            if _is_mistake(wrong, value, expected, dtype, tolerance, problem):
                raise CheckFailed(sentence, mistake=sentence, detail="\n".join(shown))
        if otherwise is not None:
            raise CheckFailed(otherwise, mistake=otherwise, detail="\n".join(shown))
        raise CheckFailed(said, detail="\n".join(places))

    def that(self, fact: bool, otherwise: str) -> None:
        """Passes if `fact` is True; nothing else is, so that no reply which merely counts as true passes.

        Raises:
            CheckFailed: with `otherwise`, which says what is wrong then.
        """
        if not isinstance(otherwise, str):
            raise AuthorError(f"check.that({fact!r}, {otherwise!r}): the second argument says what is wrong, in a text")
        if fact is not True:
            raise CheckFailed(otherwise, mistake=otherwise)

    @staticmethod
    def when(condition: bool, value=_ANY) -> When:
        """One of `mistakes` that was made only where `condition` is True, which may be a fact about the student's value.

        Args:
            condition: so narrow that no other wrong value fulfils it: there is a NaN, only the dtype is wrong. Where it
                cannot be worked out for every value, the mistake is a function: `lambda: check.when(…)`.
            value: what this mistake gives, or a function that gives it; without it, the condition alone tells the mistake.
        """
        return When(condition, value)


_OPTIONS = ("dtype", "terms", "within", "relative", "scale", "mistakes", "otherwise", "what", "names")


def _require_numbers(**numbers):
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, (int, float)) or not 0 <= value < math.inf):
            raise AuthorError(f"check({name}={value!r}): {name} is a number that is not negative")


def _require_sentences(mistakes, otherwise):
    if mistakes is not None and not isinstance(mistakes, dict):
        raise AuthorError(
            f"check(mistakes=…) is {kind_of(mistakes)}: give a dict of a sentence and the value of the mistake"
        )
    for sentence in [*(mistakes or ()), *([] if otherwise is None else [otherwise])]:
        if not isinstance(sentence, str) or not sentence:
            raise AuthorError(f"check() takes sentences as mistakes, not {sentence!r}")


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
        wrong = _worked_out(wrong)
        if isinstance(wrong, When):
            if wrong.condition is not True or wrong.value is _ANY:
                return wrong.condition is True
            wrong = _worked_out(wrong.value)
        if _agrees(wrong, expected, None, tolerance) and not _same_dtype(value, wrong, problem):
            return False
        return _agrees(value, wrong, dtype, tolerance)
    except _NO_MATCH:
        return False


def _worked_out(wrong):
    return wrong() if callable(wrong) and not isinstance(wrong, torch.Tensor) else wrong


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
    return difference(value, other, dtype, tolerance, None) is None


def _precision(dtype):
    return -torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
