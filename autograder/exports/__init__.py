"""Scorecards -> text: a format is a module of this folder with `render(cards) -> str`; table.py shows them on a terminal.

To add one, write the module and name its file in FORMATS. `render` is a pure function: it reads and writes no file, and
the same cards give the same text. The cards are of one lesson, one a student. Every figure comes from `card.scored`: whole
cents of the scorecard's total, scaled where the lesson says scale_to, so that what an export shows adds up to the cent.
"""

import codecs
import json
from collections.abc import Callable, Sequence
from importlib import import_module

from ..errors import UsageError, nearest
from ..scorecard import UNCOUNTED, Outcome, Scorecard

FORMATS = {  # module of this folder -> the file that its text usually goes to
    "gradescope": "results.json",
    "otter": "otter_results.json",
    "csv": "scores.csv",
}
_MOST_USES = 10  # of what is forbidden, shown of one submission


def render(name: str, cards: Sequence[Scorecard]) -> str:
    """The cards in the format called `name`; encode it as UTF-8 and write its line endings as they are.

    Raises:
        UsageError: there is no such format, or the cards do not belong in one file.
    """
    if name not in FORMATS:
        raise UsageError(f"there is no export {name!r}: choose one of {', '.join(FORMATS)}{nearest(name, FORMATS)}")
    return import_module(f".{name}", __package__).render(cards)


def encoded(name: str, cards: Sequence[Scorecard]) -> bytes:
    """`render` as the bytes of a file: UTF-8, and for a spreadsheet with the mark by which Excel knows it."""
    mark = codecs.BOM_UTF8 if name == "csv" else b""
    return mark + _utf8(render(name, cards))


def _utf8(text):
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8").encode()  # a file's name, read in another locale
    except UnicodeError:
        return text.encode("utf-8", "replace")


# ---------------------------------------------------------------------------------------------- what formats share


def as_json(cards: Sequence[Scorecard], results: Callable[[Scorecard], dict]) -> str:
    """One card: its results. Any other number: an object, student -> their results."""
    students = {student: results(card) for student, card in by_student(cards).items()}
    body = students if len(students) != 1 else next(iter(students.values()))
    return json.dumps(body, indent=2, allow_nan=False) + "\n"


def by_student(cards: Sequence[Scorecard]) -> dict[str, Scorecard]:
    """student -> card, in the order of the cards: one of two cards must not vanish without a word.

    Raises:
        UsageError: two cards are of one student, of different lessons, of different suites, or graded in different parts:
            their totals do not compare.
    """
    _same_for_all(cards, "suite", _suite, _shown_suite)
    _same_for_all(cards, "part", lambda card: card.partial, lambda part: part or "the whole lesson")
    students: dict[str, Scorecard] = {}
    for card in cards:
        if card.lesson != cards[0].lesson:
            raise UsageError(f"scorecards of {cards[0].lesson} and {card.lesson}: export one lesson at a time")
        if card.student in students:
            raise UsageError(f"two scorecards of {card.student!r} for {card.lesson}: give one of them")
        students[card.student] = card
    return students


def _suite(card):
    """What totals must have in common to be compared."""
    digests = card.digests
    return tuple(sorted(digests.modules.items())), digests.package, digests.prerequisites, card.scale_to


def _shown_suite(suite):
    modules, package, prerequisites, scale_to = suite
    parts = ", ".join(f"{name} {digest}" for name, digest in modules)
    own = " with the student's own prerequisites" if prerequisites == "own" else ""
    scaled = f", scaled to {scale_to:g}" if scale_to else ""
    return f"the suite {parts} (autograder {package}){own}{scaled}"


def _same_for_all(cards, what, key, shown):
    """Refuses cards of which some are of another suite or part; cards that do not say (older ones, errors) go with all."""
    groups: dict[str, list[str]] = {}
    for card in cards:
        if card.digests.modules:
            groups.setdefault(key(card), []).append(card.student)
    if len(groups) > 1:
        most, *_, few = sorted(groups, key=lambda group: -len(groups[group]))
        some = ", ".join(groups[few][:5]) + (", …" if len(groups[few]) > 5 else "")
        raise UsageError(
            f"the scorecards are of more than one {what}: {some} of {shown(few)}, others of {shown(most)}; "
            "grade all alike, or export them on their own"
        )


def by_question(card: Scorecard) -> dict[str, list[Outcome]]:
    """Question -> its outcomes as they are scored, in the order of the tests; two modules may call their questions alike."""
    questions: dict[str, list[Outcome]] = {}
    for outcome in card.scored:
        module, question = outcome.module, outcome.question
        name = f"{module}: {question}" if question not in ("", module) else module
        questions.setdefault(name, []).append(outcome)
    return questions


def counted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes that are in the total; the others wait for a GPU or a person, or are grader errors."""
    return [outcome for outcome in outcomes if outcome.status not in UNCOUNTED]


def forbidden(card: Scorecard) -> list[str]:
    """What was used of that which the lesson forbids, and where: "name (file.py:line)", each once."""
    uses = list(dict.fromkeys(f"{use.name} ({use.where})" for use in card.evidence if use.is_a_use))
    return [*uses[:_MOST_USES], f"and {len(uses) - _MOST_USES} more"] if len(uses) > _MOST_USES else uses


def not_scanned(card: Scorecard) -> list[str]:
    """The files in which nobody looked for it, and why: "not scanned (file.py: why)". No fault of the student's, and no use."""
    return [f"{found.name} ({found.where})" for found in card.evidence if not found.is_a_use][:_MOST_USES]
