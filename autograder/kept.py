"""The folder that results are kept in: OUT/<student>/scorecard.json, and nothing in it is lost without a word.

A second grading into the same folder meets the card of the first:

- Of the same work (joining.same_work): the two are joined, whatever each of them covers. So after a change of one module's
  suite that module alone is graded again; as rows of the earlier card are replaced by others then, it is kept as
  earlier-<n>.json.
- Of other work (another submission, another version of the autograder, suites that changed and are not graded again), and
  whole: it becomes scorecard.json, and the earlier card earlier-<n>.json.
- Of other work, and partial: it goes to partial.json, and scorecard.json stays as it is. Further parts of that work join it
  there; once the lesson is whole they become scorecard.json.
- Of another lesson: refused before anything is graded. Each lesson has a folder of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from .errors import UsageError
from .files import can_write, cannot_be_written, write, write_all
from .intake.entries import Source
from .joining import changed_suites, join, merge, same_work
from .scorecard import UNCOUNTED, FormatError, Scorecard

CARD, PARTIAL = "scorecard.json", "partial.json"


def read(path: Path) -> Scorecard:
    """Raises UsageError where the file is not a scorecard, or one of another format, with its name."""
    try:
        return Scorecard.from_json(path.read_text("utf-8"))
    except FormatError as error:
        raise UsageError(f"{path} {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{path} is not a scorecard: {type(error).__name__}: {what}") from error


def below(paths: Iterable[Path]) -> list[Path]:
    """The scorecards: files as they are named, and in folders every scorecard.json.

    Raises:
        UsageError: there are none.
    """
    paths = list(paths)
    found = [card for path in paths for card in (_in(path) if path.is_dir() else [path])]
    if not found:
        raise UsageError(f"no {CARD} below {', '.join(map(str, paths))}")
    return found


def read_all(paths: Iterable[Path]) -> tuple[list[Scorecard], list[str]]:
    """The scorecards, and a sentence for each file that is none.

    Raises:
        UsageError: none of them is one.
    """
    cards, problems = [], []
    for path in paths:
        try:
            cards.append(read(path))
        except UsageError as error:
            problems.append(str(error))
    if not cards:
        raise UsageError("; ".join(problems))
    return cards, problems


def _in(folder):
    return sorted(path for path in folder.rglob(CARD) if path.is_file())


def ready(out: Path, students: Iterable[str], lesson: str) -> None:
    """Makes sure, before anything is graded, that cards of this lesson can be kept in `out`.

    Raises:
        UsageError: they cannot: the folder cannot be written, or holds another lesson's cards of these students.
    """
    can_write(out)
    for student in students:
        card, folder = out / student / CARD, out / student
        if card.is_dir() or (folder.exists() and not folder.is_dir()):
            raise UsageError(f"{card} cannot be written: {folder if folder.is_file() else card} is in the way")
        earlier = _earlier(card)
        if earlier is not None and earlier.lesson != lesson:
            raise UsageError(
                f"{card} is of {earlier.lesson}: keep {lesson} in a folder of its own, such as --out {out / lesson}"
            )


def refuse_to_write_into(sources: Iterable[Source], out: Path) -> None:
    """A card among what was handed in could be a file of the student's, or be taken for one of ours.

    Raises:
        UsageError: a card would be written into a submission.
    """
    for source in sources:
        folder = (out / source.student).resolve()
        for path in [path.resolve() for path, _ in source.paths]:
            if folder == path or path in folder.parents:
                raise UsageError(f"--out {out} would write into the submission {path}: name another folder")


def keep(card: Scorecard, out: Path) -> str:
    """Writes the card into `out`; returns a sentence where an earlier card was met, else "".

    Raises:
        UsageError: it cannot be written.
    """
    folder = out / card.student
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    try:
        return _keep(card, folder, now)
    except OSError as error:
        raise UsageError(cannot_be_written(folder / CARD, error)) from error


def rewrite(cards: dict[Path, Scorecard]) -> None:
    """Puts cards in the place of the same works', with what people decided since: all of them, or none. Answers that they had
    graded before stay readable, in earlier-<n>.json.

    Raises:
        UsageError: one cannot be written.
    """
    asides: list[Path | None] = []
    try:
        for path, card in cards.items():
            decided = [row for row in read(path).outcomes if row.is_written and row.status not in UNCOUNTED]
            if path.name == CARD and not set(decided) <= set(card.outcomes):
                asides.append(_set_aside(path.parent))
        write_all({path: card.to_json().encode() for path, card in cards.items()})
    except UsageError:
        for aside in filter(None, asides):  # nothing replaces those cards
            aside.unlink(missing_ok=True)
        raise


def _keep(card, folder, now):
    earlier, part = _earlier(folder / CARD), _earlier(folder / PARTIAL)
    if earlier is not None and same_work(earlier, card):
        aside = _set_aside(folder) if changed_suites(earlier, card) else None
        card = join(earlier, card, now)
        said = _write(card, folder, aside, now)
        joined = [f"{folder / CARD}: {note}" for note in card.notes if note.startswith(f"joined on {now}")]
        return "\n".join(filter(None, (said, *joined[-1:])))
    goes_on = part is not None and same_work(part, card)
    card = join(part, card, now) if goes_on else card
    if card.partial and (folder / CARD).exists():
        write(folder / PARTIAL, card.to_json())
        return (
            f"{folder / CARD} belongs to another submission, suite or version of the autograder and was left as it is: "
            f"{card.partial}, is in {PARTIAL}"
        )
    said = _write(card, folder, _set_aside(folder), now)
    if goes_on:
        (folder / PARTIAL).unlink()
    return said


def _write(card, folder, aside, now):
    """Writes the card, with a note of an earlier one that was set aside; returns the note with its folder, or ""."""
    note = () if aside is None else (
        f"{CARD} of {now} replaces one of another submission, suite or version of the autograder, kept as {aside.name}",
    )  # fmt: skip
    try:
        write(folder / CARD, replace(card, notes=(*card.notes, *note)).to_json())
    except UsageError:
        if aside is not None:  # nothing replaces it
            aside.unlink(missing_ok=True)
        raise
    return "".join(f"{folder}/{text}" for text in note)


def _earlier(path):
    """The card there; None if there is none, or what is there is not a card."""
    try:
        return read(path)
    except UsageError:
        return None


def _set_aside(folder):
    """The copy of the card that will be replaced, None if there is none: a kill in between finds it twice, never gone."""
    if not (folder / CARD).exists():
        return None
    free = next(n for n in range(1, 1_000_000) if not (folder / f"earlier-{n}.json").exists())
    aside = folder / f"earlier-{free}.json"
    write(aside, (folder / CARD).read_bytes())
    return aside


# ---------------------------------------------------------------------------------------------- merging


@dataclass
class Merging:
    """The cards of two folders, joined student by student; what is to be said; and what is wrong, for exit code 2."""

    cards: list[Scorecard] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def merged(first: Path, second: Path) -> Merging:
    """Two scorecards, or two folders of them. Nothing is written: a folder is joined as a whole before its first file is.

    A student who is in one folder only keeps that card, and so does one whose two cards are not of the same work (the
    first folder's); both are named.

    Raises:
        UsageError: a file and a folder were given, one of two files is not a scorecard, or two files do not go together.
    """
    if first.is_dir() != second.is_dir():
        raise UsageError(f"{first} and {second}: give two scorecards, or two folders")
    if not first.is_dir():
        return Merging([_merge(read(first), read(second), f"{first} and {second}")])
    merging = Merging()
    ours, theirs = (_by_student(folder, merging) for folder in (first, second))
    for student in sorted({*ours, *theirs}):
        if student in ours and student in theirs:
            try:
                merging.cards.append(_merge(ours[student], theirs[student], f"{student}'s scorecards"))
                continue
            except UsageError as error:
                merging.problems.append(f"{error}; the one of {first} was taken")
        else:
            merging.said.append(f"{student} is only in {first if student in ours else second}: that card was taken")
        merging.cards.append(ours.get(student) or theirs[student])
    if not merging.cards:
        raise UsageError("; ".join(merging.problems))
    lessons = sorted({card.lesson for card in merging.cards})
    if len(lessons) > 1:
        raise UsageError(f"{first} and {second} hold scorecards of {', '.join(lessons)}: merge one lesson at a time")
    return merging


def _by_student(folder, merging):
    cards: dict[str, Scorecard] = {}
    for path in below([folder]):
        try:
            card = read(path)
        except UsageError as error:
            merging.problems.append(str(error))
            continue
        if card.student in cards:
            raise UsageError(f"{folder} holds two scorecards of {card.student!r}: merge a folder with one of each")
        cards[card.student] = card
    return cards


def _merge(first, second, what):
    try:
        return merge(first, second)
    except ValueError as error:
        raise UsageError(f"{what} cannot be merged: {error}") from error
