"""One student's work, and the doors through which it comes in; how is in intake/__init__.py.

Whatever a submission's files do, `take_in` answers with a Submission: its files, or the sentence that says why not.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from . import answers
from .answers import Answers
from .digests import digest_of
from .errors import LessonError
from .intake.choose import Wanted, choose, is_the_starter
from .intake.classes import ClassFolder, read_class, source_of
from .intake.entries import Source, listed, shown_name
from .intake.gather import Gathered, Refused, gather
from .intake.kinds import holds_answers
from .intake.missing import misplaced_notebooks, unused_work, why_missing
from .intake.naming import standing
from .lesson import Lesson, lesson_names, load


@dataclass(frozen=True)
class Submission:
    """One student's work.

    Attributes:
        student: their name, harmless as a folder's. source: where it was; a line for each path.
        files: relative path -> content of each .py file.
        notes: what was left out, and what was chosen, for the instructor.
        problem: why nothing could be taken in; then every test fails with this.
        missing: module -> what the student reads because it is not among the files.
        unread: what the machine kept from being read, and where: then nothing is graded.
        answers: in words; None where nobody asks for them: lessons without such questions, notebooks, authors' samples.
    """

    student: str
    source: str
    files: dict[str, bytes]
    notes: tuple[str, ...] = ()
    problem: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    unread: str = ""
    answers: Answers | None = None

    @property
    def digest(self) -> str:
        """Of all that is graded; an answers.md that is as it was handed out is not."""
        written = self.answers.texts if self.answers else {}
        return digest_of(self.files | {f"{answers.FILE}: {name}": text.encode() for name, text in written.items()})

    def write(self, folder: Path) -> None:
        """Writes the files below `folder`, for a debugger or another tool."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def take_in(
    source: Source | Path, lesson: Lesson | Sequence[str] = (), *, shown: str = "", notebooks: str = "notebooks/"
) -> Submission:
    """Reads one student's work.

    Args:
        source: a folder, an archive, a .py file; or what `take_in_each` gives.
        lesson: or the names of its modules; without them files stay where they are.
        shown: what sentences call the submission, instead of the name of its file.
        notebooks: the folder in it where notebooks belong, which are not graded here: a note names those elsewhere.

    Raises:
        SubmissionError: there is nothing at the path.
    """
    if not isinstance(source, Source):
        source = source_of(source)
    wanted = wanted_by(lesson) if isinstance(lesson, Lesson) else Wanted(tuple(lesson))
    where = "\n".join(str(path) for path, _ in source.paths)
    shown = shown or shown_name(source.paths[0][1])
    try:
        found = gather(source.paths, shown)
    except Refused as refused:
        unread = _unread(str(refused), where) if refused.ours else ""
        unanswered = Answers(why=str(refused)) if _asks(lesson) else None
        return Submission(source.student, where, {}, source.notes, str(refused), unread=unread, answers=unanswered)
    chosen = choose(found, wanted)
    missing = why_missing(found, wanted, chosen)
    notes = (*source.notes, *found.notes, *chosen.notes, *unused_work(found, wanted, chosen))
    notes = (*notes, *(misplaced_notebooks(found, notebooks) if chosen.files else ()))
    written, said = _answers(found, lesson) if _asks(lesson) else (None, ())
    problem = "" if chosen.files or missing else f"{shown} contains no Python file"
    unread = _unread(f"{listed(found.unread)} cannot be read", where) if found.unread else ""
    return Submission(source.student, where, chosen.files, (*notes, *said), problem, missing, unread, written)


def _asks(lesson: Lesson | Sequence[str]) -> TypeGuard[Lesson]:
    return isinstance(lesson, Lesson) and bool(lesson.written)


def _answers(found: Gathered, lesson: Lesson) -> tuple[Answers, tuple[str, ...]]:
    """The answers of a submission, and notes. Of several files one that is not as it was handed out counts, then one that
    has the right name, then the first by naming.standing."""
    empty = answers.template(lesson)
    exact = {path for path in found.answers if path.rpartition("/")[2] == answers.FILE}
    paths = sorted(
        found.answers,
        key=lambda path: (is_the_starter(found.answers[path], empty), path not in exact, *standing(path)),
    )
    if not paths:
        return Answers(why=_why_no_answers(found)), ()
    first, *others = paths
    rivals = [path for path in others if found.answers[path] != found.answers[first]]
    notes = [f"found {shown_name(first)}, which counts as {answers.FILE}"] if first not in exact else []
    notes += [f"{shown_name(first)} counts, not {listed(rivals)}"] if rivals else []
    return answers.read(lesson, found.answers[first]), tuple(notes)


def _why_no_answers(found: Gathered) -> str:
    """What a student reads who has no answers.md."""
    start = f"{answers.FILE} is missing from the submission"
    for path, why in found.left.items():
        if holds_answers(path):
            return f"{start}; found {shown_name(path)}, but {why}"
    for path, what in found.others.items():
        if path.rpartition("/")[2].casefold().startswith("answers."):
            return f"{start}; found {shown_name(path)}{what and f', {what}'}: save your answers as {answers.FILE}"
    return start


def _unread(what, where):
    return f"{what}: was it deleted, moved or closed since the grading began? Grade it again: {where}"


def take_in_again(source: str, lesson: Lesson) -> Submission:
    """Reads what a scorecard's `submission` names, to grade it again. Raises SubmissionError: it is gone."""
    if os.path.lexists(source):
        return take_in(Path(source), lesson)
    paths = [source_of(Path(line)).paths[0] for line in source.splitlines()]
    return take_in(Source("", tuple(paths)), lesson)


def take_in_each(folder: Path, lesson: Lesson | Sequence[str] = ()) -> ClassFolder:
    """The sources in a folder of submissions, and what in it is nobody's.

    Raises:
        SubmissionError: it is not a folder of submissions.
    """
    return read_class(folder, lesson.modules if isinstance(lesson, Lesson) else lesson)


def wanted_by(lesson: Lesson) -> Wanted:
    """What a lesson asks for: its modules, what they looked like at the start, and the modules of other lessons."""
    return Wanted(lesson.modules, starters_of(lesson), _elsewhere(lesson))


def starters_of(lesson: Lesson) -> dict[str, bytes]:
    """ "module.py" -> what students started from; empty for a lesson that is being written, or in a zip of before."""
    try:
        return lesson.starter_files()
    except LessonError:
        return {}


def _elsewhere(lesson):
    found: dict[str, str] = {}
    for name in lesson_names(lesson.root):
        try:
            found |= {module: name for module in load(name, lesson.root).modules}
        except LessonError:  # another lesson's lesson.toml is not this one's affair
            continue
    return {module: name for module, name in found.items() if module not in lesson.modules}
