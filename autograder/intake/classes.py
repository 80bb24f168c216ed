"""A folder of submissions -> one Source a student, and a reason for each entry that belongs to none.

Every entry of the folder is a student's, or is named, or is a file of the system (kinds.py); none is lost. What cannot be
read is a student's too: they get a card that says what was found. The rule for what belongs to no student is in
docs/instructor.md, and in `of_no_student`.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import SubmissionError
from . import kinds, reader
from .entries import Source, shown_name
from .sites import Named, handed_in_again, parsed, parsed_together
from .students import harmless, student_name, told_apart

_INSTRUCTORS = frozenset(
    """readme license grades grade gradebook scores marks results roster students class rubric feedback solution solutions
    instructions index todo makefile requirements""".split()
)
_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".numbers", ".json", ".yml", ".yaml", ".toml", ".xml", ".db",
           ".sqlite", ".log", ".lock", ".ini", ".cfg", ".sh")  # fmt: skip


@dataclass(frozen=True)
class ClassFolder:
    """What is in a folder of submissions.

    Attributes:
        sources: one for each student, by the names of the entries. named: (entry, why it is nobody's submission).
    """

    sources: tuple[Source, ...]
    named: tuple[tuple[str, str], ...]


def read_class(folder: Path, modules: Iterable[str] = ()) -> ClassFolder:
    """What is in the folder.

    Args:
        modules: the lesson's; a loose file that is called like one of them names no student.

    Raises:
        SubmissionError: it is not a folder of submissions.
    """
    folder = Path(folder)
    try:
        names = sorted(name for name in os.listdir(folder) if not kinds.is_of_the_system(name))
    except OSError as error:
        raise SubmissionError(f"{folder} is not a folder: --each expects a folder of submissions") from error
    reasons = {name: of_no_student(folder / name, tuple(modules)) for name in names}
    sources = _sources(folder, [name for name in names if not reasons[name]])
    named = tuple((shown_name(name), why) for name, why in reasons.items() if why)
    if not sources:
        there = f"; it contains {named[0][0]}, but {named[0][1]}" if named else ""
        raise SubmissionError(f"{folder} contains no submission: --each expects folders, zips or tars in it{there}")
    return ClassFolder(tuple(sources), named)


def source_of(path: Path) -> Source:
    """The one submission at `path`.

    Raises:
        SubmissionError: there is nothing.
    """
    path = Path(path)
    if os.path.islink(path) or not os.path.lexists(path):
        raise SubmissionError(f"{path} is not a submission: pass a folder, a .zip, a .tar or a .py file")
    site = parsed(path.name)
    if site is None:
        return Source(student_name(path), ((path, path.name),))
    return _source_of_site([(path, site)])


def of_no_student(path: Path, modules: Iterable[str]) -> str:
    """Why an entry is nobody's submission; empty if it may be somebody's."""
    name = path.name
    if name.startswith("."):
        return "its name begins with a dot"
    if reader.unneeded(f"{name}/"):
        return "it is a folder of tools, not a submission"
    if os.path.isdir(path) and not os.path.islink(path):
        return "it contains scorecards, not submissions" if _has_scorecards(path) else ""
    if parsed(name) is None and kinds.holds_answers(name):
        return "it holds a student's answers and not the student's name: put it into a folder with that name"
    stem, suffix = os.path.splitext(name.casefold())
    if name in {f"{module}.py" for module in modules}:
        return "it has a module's name, not a student's: put it into a folder with the student's name"
    if parsed(name) is None and (stem in _INSTRUCTORS or suffix in _TABLES):
        return "by its name it is the instructor's"
    return ""


def _has_scorecards(path):
    """Whether it is what `grade --each` writes: folders with a scorecard each, and nothing else."""
    try:
        inside = [item for item in path.iterdir() if not kinds.is_of_the_system(item.name)]
        return bool(inside) and all((item / "scorecard.json").is_file() for item in inside)
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------- whose is what


def _sources(folder, names):
    """One for each student; what a site gives in several files or folders belongs together."""
    groups: dict[tuple, list[tuple[Path, Named | None]]] = {}
    by_sites = parsed_together(names)
    for name in names:
        site = by_sites.get(name)
        key = (site.site, site.student, site.mark) if site else (name,)
        groups.setdefault(key, []).append((folder / name, site))
    sources = [
        Source(student_name(group[0][0]), ((group[0][0], group[0][0].name),)) if group[0][1] is None
        else _source_of_site(group)
        for group in groups.values()
    ]  # fmt: skip
    marks = [group[0][1].mark if group[0][1] else "" for group in groups.values()]
    told = told_apart([source.student for source in sources], marks)
    return [_called(source, student) for source, student in zip(sources, told, strict=True)]


def _called(source, student):
    if student == source.student:
        return source
    note = f"another submission also has the name {source.student}: this one, {shown_name(source.paths[0][0].name)}, is called {student}"
    return Source(student, source.paths, (*source.notes, note), source.passed_over)


def _source_of_site(group):
    """What a site names: the last attempt, and of a file that was handed in again the highest number."""
    notes, passed_over = [], []
    last = max(site.turn for _, site in group)
    files: dict[str, list[tuple[int, Path, str]]] = {}
    for path, site in group:
        if site.turn != last:
            passed_over.append(path)
            continue
        name, turn = handed_in_again(site.file) if site.file else (path.name, 0)
        files.setdefault(name, []).append((turn, path, site.file))
    if passed_over:
        notes.append(f"there are several attempts: the last one counts, {last}")
        notes += [f"of an earlier attempt, not counted: {shown_name(path.name)}" for path in passed_over]
    notes += [
        f"the attempt is dated in the future: {shown_name(path.name)}" for path, site in group if site.is_in_the_future
    ]
    paths = []
    for name, versions in files.items():
        *older, (turn, path, file) = sorted(versions)
        paths.append((path, name))
        passed_over += [other for _, other, _ in older]
        if older:
            notes.append(f"{shown_name(name)} was handed in {len(versions)} times: {shown_name(file)} counts")
        elif turn:
            notes.append(f"{shown_name(file)} is taken as {shown_name(name)}")
    if any(site.late for _, site in group):
        notes.append("handed in late, as the name says")
    return Source(harmless(group[0][1].student), tuple(paths), tuple(notes), tuple(passed_over))
