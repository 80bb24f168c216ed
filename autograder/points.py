"""Points in whole cents, which add up: what rows are worth is apportioned once, and everything that is shown starts there."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction


def added(points: Iterable[float]) -> float:
    """The sum of amounts in cents, in cents: 30 times 0.1 is 3.0."""
    return round(math.fsum(points), 2)


def number(points: float) -> str:
    """Points as people read them: 3, 0.5, 12.34."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def in_cents(outcomes: Sequence, scale_to: float | None) -> Sequence:
    """The outcomes, worth whole cents that are the total's: the exact values, rounded down, and the cents that are then
    missing go to those that lost most (largest remainder), so that none is a cent or more from its exact value.

    Which of equals get a cent depends on their names, not on their order: two cards of one suite agree.
    """
    if not all(math.isfinite(row.max_points) for row in outcomes):
        return outcomes
    points = [Fraction(str(row.max_points)) for row in outcomes]  # 0.1 as it is written
    factor = Fraction(str(scale_to)) / sum(points) if scale_to and sum(points) else 1
    exact = [100 * factor * worth for worth in points]
    cents = [math.floor(value) for value in exact]
    missing = math.floor(sum(exact) + Fraction(1, 2)) - sum(cents)
    lost = sorted(range(len(cents)), key=lambda i: (cents[i] - exact[i], outcomes[i].module, outcomes[i].test))
    for index in lost[:missing]:
        cents[index] += 1
    return [_worth(row, worth) for row, worth in zip(outcomes, cents, strict=True)]


def _worth(row, cents):
    """The row, worth so many cents; it has earned all of them or none, or the same share as before."""
    share = row.points / row.max_points if row.max_points else 0.0
    earned = round(share * cents) / 100 if math.isfinite(share) else row.points
    return replace(row, points=earned, max_points=cents / 100)
