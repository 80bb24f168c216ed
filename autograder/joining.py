"""Two gradings of one submission -> one scorecard: which rows may stand side by side, by their digests."""

from dataclasses import replace

from .scorecard import WAITING, Measurements, Scorecard

_MOST_OUTPUT = 200_000  # characters of what joined gradings printed


def same_work(old: Scorecard, new: Scorecard) -> bool:
    """Whether what the new grading does not cover may be taken from the old one: the same submission, graded by the same
    grader, and none of these modules' suites has changed since.
    """
    known = all((old.digests.package, old.digests.submission, old.digests.modules))  # none where the grading failed
    if not known or old.lesson != new.lesson or _but_suites(old) != _but_suites(new):
        return False
    return all(
        _same_suite(old, new, module)
        for module in {row.module for row in old.outcomes} | set(old.modules)
        if module not in new.modules
    )


def changed_suites(old: Scorecard, new: Scorecard) -> tuple[str, ...]:
    """The modules whose suites are other ones in the new grading."""
    return tuple(module for module in new.digests.modules if not _same_suite(old, new, module))


def _but_suites(card):
    return replace(card.digests, modules={})


def _same_suite(old, new, module):
    return old.digests.modules.get(module) == new.digests.modules.get(module)


def merge(first: Scorecard, second: Scorecard) -> Scorecard:
    """One scorecard of two gradings of the same work: what waits for a GPU or a person in one is taken from the other.

    Raises:
        ValueError: they are not of the same lesson, student, submission, suites and version of the grader.
    """
    for what in ("lesson", "student"):
        if getattr(first, what) != getattr(second, what):
            raise ValueError(
                f"the scorecards are of different {what}s: {getattr(first, what)} and {getattr(second, what)}"
            )
    changed = changed_suites(first, second) + changed_suites(second, first)
    differs = {
        "submission": first.digests.submission != second.digests.submission,
        "version of the autograder": first.digests.package != second.digests.package,
        "choice of --prerequisites": first.digests.prerequisites != second.digests.prerequisites,
        f"suite of {', '.join(dict.fromkeys(changed))}": bool(changed),
    }
    for what, different in differs.items():
        if different:
            raise ValueError(
                f"they are not of the same {what}: grade on both machines with the same {what.partition(' of ')[0]}"
            )
    return _merged(first, second)


def join(old: Scorecard, new: Scorecard, when: str) -> Scorecard:
    """One scorecard of an earlier grading and one of now, of the same work: rows that were graded now replace earlier ones.

    What waits for a GPU or a person now keeps its earlier verdict, unless its suite has changed. A note says what was kept,
    and when that was.
    """
    now = {(row.module, row.test): row for row in new.outcomes}
    kept = [
        row
        for row in old.outcomes
        if _same_suite(old, new, row.module) and _stays(row, now.get((row.module, row.test)), new)
    ]
    if not kept:
        return new
    joined = _merged(new, replace(old, outcomes=tuple(kept)))
    here, there = (", ".join(dict.fromkeys(row.module for row in rows)) for rows in (new.outcomes, kept))
    count = len(new.outcomes)
    some = f"1 test of {here} is" if count == 1 else f"{count} tests of {here} are"
    now_graded = some if {row.module for row in new.outcomes} - set(new.modules) else f"the tests of {here} are"
    note = f"joined on {when}: {now_graded} of this grading, {len(kept)} of {there} of an earlier one"
    return replace(joined, notes=tuple(dict.fromkeys((*new.notes, *old.notes, note))))


def _stays(row, again, new):
    """Whether an earlier row stays beside the new card's: `again` is that test's new row."""
    if again is not None:
        return again.status in WAITING and row.status not in WAITING
    return row.module not in new.modules


def _merged(first, second):
    """The first card, with what it lacks or leaves pending taken from the second."""
    others = {(row.module, row.test): row for row in second.outcomes}
    rows = [_decided(row, others.pop((row.module, row.test), row)) for row in first.outcomes]
    taken = [row for row in (*rows, *others.values()) if row not in first.outcomes]
    covered = {*first.modules, *second.modules}
    return replace(
        first,
        outcomes=(*rows, *others.values()),
        evidence=tuple(dict.fromkeys((*first.evidence, *second.evidence))),
        environment=_environment(first, second),
        measurements=_together(first.measurements, second.measurements),
        modules=tuple(dict.fromkeys((*first.modules, *second.modules))),
        ungraded=tuple(name for name in first.ungraded if name not in covered) if second.ungraded else (),
        seeds={**first.seeds, **_other_seeds(first, second, taken)},
        student_output=_both(first.student_output, second.student_output),
    )


def _decided(row, other):
    return other if row.status in WAITING else row


def _environment(first, second):
    """The first one's, with the second's beside it."""
    earlier = {
        key: value for card in (second, first) for key, value in card.environment.items() if key == "merged_with"
    }
    return {**first.environment, "merged_with": {**earlier, **second.environment}}


def _together(first, second):
    return Measurements(
        seconds=_sum(first.seconds, second.seconds),
        student_cpu_seconds=_sum(first.student_cpu_seconds, second.student_cpu_seconds),
        student_peak_mb=max(filter(None, (first.student_peak_mb, second.student_peak_mb)), default=None),
    )


def _sum(*values):
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if known else None


def _other_seeds(first, second, taken):
    seeds = {f"{row.module}.{row.test}": second.seed_of(row) for row in taken}
    return {name: seed for name, seed in seeds.items() if seed != first.seed}


def _both(first, second):
    if not first or not second or first == second:
        return first or second
    return f"{first}\n{second}"[:_MOST_OUTPUT]
