"""Whose fault a failed test was. It counts only after the lesson's solution has passed it: same seed, same machine.

The solution is the witness. It is heard in slots of its own, and what it said is remembered as long as the seed stays the
same: a class that shares one pays for one run of the suite. What a submission failed by a fact of its own is its failure
whatever the witness says elsewhere: a file is missing or cannot be read, a function is still the starter's. A module that
cannot be imported needs no more than the import of the solution's.

A test that the solution fails is out of the total for everybody: whoever passes it gains nothing, and whoever has no file
for it loses nothing. So the witness is asked about all tests of a submission that passes some and not others; with all of
them or none the share is the same with the broken test and without it. (In a class it is asked all the same, so that all
totals are out of the same points.)
"""

from collections.abc import Callable, Iterable

from .cases import BY_IMPORT, BY_TEST, UNUSABLE, Row
from .scorecard import GRADER_ERROR, NOT_REACHED, PASSED, PENDING_GPU, Outcome

_ATTEMPTS = 2  # a machine that was too busy for the solution once must not cost a class its grades

Key = tuple[str, str]  # module, test function


class Witness:
    """What the lesson's solution gets.

    Args:
        run: (seed, modules, names of tests or None for all) -> the solution's outcomes.
        imports: module -> "" if the solution's can be imported here, or else why not.
    """

    def __init__(self, run: Callable[[int, list, set | None], Iterable[Outcome]], imports: Callable[[str], str]):
        self._run, self._imports = run, imports
        self._seed: int | None = None
        self._verdicts: dict[Key, Outcome] = {}
        self._heard: set[tuple] = set()  # (module, tests) that were heard whole
        self._import_problems: dict[str, str] = {}

    def hear(self, seed: int, keys: Iterable[Key]) -> None:
        """Asks for the verdicts on these tests, as far as they are not known."""
        self._about(seed)
        unknown = {key for key in keys if key not in self._verdicts}
        if unknown:
            self._ask(seed, sorted({module for module, _ in unknown}), {test for _, test in unknown})

    def hear_all(self, seed: int, modules: Iterable[str], tests: Iterable[str] | None = None) -> None:
        """Asks for every verdict that can be needed: where student code could reach the witness, before any runs."""
        self._about(seed)
        tests = None if tests is None else tuple(sorted(tests))
        new = [module for module in modules if not {(module, tests), (module, None)} & self._heard]
        if new:
            self._ask(seed, new, None if tests is None else set(tests))
            self._heard |= {(module, tests) for module in new}
        for module in new:
            self._import_problem(module)

    def _about(self, seed):
        if seed != self._seed:
            self._seed, self._verdicts, self._heard = seed, {}, set()

    def _ask(self, seed, modules, tests):
        for _ in range(_ATTEMPTS):
            self._verdicts |= {(row.module, row.test): row for row in self._run(seed, modules, tests)}
            asked = [key for key in self._verdicts if key[0] in modules and (tests is None or key[1] in tests)]
            failed = [key for key in asked if self._verdicts[key].status not in (PASSED, PENDING_GPU)]
            if not failed:
                return
            modules, tests = sorted({module for module, _ in failed}), {test for _, test in failed}

    def against(self, row: Row) -> str | None:
        """Why the row's verdict cannot stand, or None if it can. What the row needs must have been heard."""
        settled_by, said = row.verdict().settled_by, self._verdicts.get(row.key)
        if settled_by == BY_IMPORT and self._import_problem(row.module):
            return self._import_problem(row.module)
        if said is None:
            return "the solution was not asked: its run ended before this test" if settled_by == BY_TEST else None
        return None if said.status in (PASSED, PENDING_GPU) else _because(said)

    def _import_problem(self, module):
        if module not in self._import_problems:
            self._import_problems[module] = self._imports(module)
        return self._import_problems[module]

    # -------------------------------------------------------------------------------- from one process to another

    @property
    def memory(self) -> tuple:
        """All that it knows, as plain data."""
        return self._seed, self._verdicts, self._heard, self._import_problems

    def recall(self, memory: tuple) -> None:
        """What another witness of the same lesson has heard."""
        seed, verdicts, heard, problems = memory
        self._about(seed)
        self._verdicts |= verdicts
        self._heard |= heard
        self._import_problems |= problems


def _because(said):
    """What to mend comes first, and the traceback after it."""
    first = "the lesson's solution does not pass this test on these inputs"
    what, _, more = said.detail.partition("\n")
    if said.status == GRADER_ERROR:
        parts = [what, first, more]
    elif said.message.startswith(UNUSABLE):  # the test itself raised
        parts = [f"{first}: {what}", more]
    else:
        parts = [f"{first}: {said.message}", said.detail]
    return "\n".join(filter(None, parts))


def settle(rows: Iterable[Row], witness: Witness, seed: int, everything: bool | None = None) -> list[Outcome]:
    """The rows' outcomes, in which each failure is either the student's or, if the witness fails too, ours.

    Args:
        everything: whether the witness is asked about all tests; None: where some are passed and others are not.
    """
    rows = list(rows)
    passed = [case.status == PASSED for case in (row.verdict() for row in rows) if case.status != PENDING_GPU]
    everything = any(passed) and not all(passed) if everything is None else everything
    witness.hear(seed, [row.key for row in rows if everything or row.verdict().settled_by == BY_TEST])
    ours: set[Key] = set()
    return [_settled(row, witness, ours) for row in rows]


def _settled(row, witness, ours):
    case = row.verdict()
    if case.status == NOT_REACHED and case.because in ours:
        why = f"not reached, because of a test that is a grader error itself: {case.because[1]}"
    else:
        why = witness.against(row)
    if why is None:
        return row.charged_to_the_student().outcome()
    ours.add(row.key)
    return row.ours(why)
