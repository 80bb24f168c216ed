"""One student's paths -> files with harmless names, and a word on everything else.

What no submission needs (a venv, caches, hidden folders) is passed over before anything is counted. What all names have in
common at their beginning is taken off.
"""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from . import kinds, reader
from .entries import Entry, listed, shown_name
from .opening import MAX_TOTAL, Refused, entries_of

MAX_FILES = 200  # .py files
MAX_ANSWERS = 20  # files of answers in words
MAX_FILE = reader.MAX_FILE  # bytes of one .py file
MAX_DEPTH = 8  # parts of a name
MAX_NAME = 200  # bytes of a part
_MOST_NOTES = 20

_WHY = {
    reader.LINK: "not a regular file",
    reader.ENCRYPTED: "it is encrypted: pack it without a password",
    reader.DAMAGED: "it is damaged in the archive: pack it again",
    reader.UNKNOWN: "the archive compresses it in an unusual way: pack it as an ordinary .zip",
}


@dataclass
class Gathered:
    """What a submission holds, under names without their common beginning.

    Attributes:
        files: Python, by name, also under names such as x.py.txt. left: other names -> why they are left out.
        others: names of regular files that are not Python -> what they are, if it is known. notes: for the instructor.
        answers: files of answers in words, by name. prefix: the folders that all names had in common. unread: names of what the machine kept from being read.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    prefix: str = ""
    unread: list[str] = field(default_factory=list)


def gather(paths: Sequence[tuple[Path, str]], shown: str) -> Gathered:
    """All that is at the paths, which sentences call `shown`.

    Raises:
        Refused: it cannot be read, or is larger than any honest submission.
    """
    pile = _Pile(shown)
    for entry in entries_of(paths, shown):
        pile.add(entry)
    return pile.gathered()


# ---------------------------------------------------------------------------------------------- one entry after another


class _Pile:
    """Collects entries and refuses what no honest submission needs."""

    def __init__(self, shown):
        self._shown = shown
        self._total = 0
        self._needless: dict[str, None] = {}
        self._again: dict[str, None] = {}
        self._left: list[tuple[str, str]] = []
        self._gathered = Gathered()

    def leave_out(self, name, why):
        self._left.append((name, why))

    def add(self, entry: Entry) -> None:
        if kinds.has_system_part(entry.name) or entry.kind == reader.FOLDER:
            return
        if entry.kind == reader.NEEDLESS:
            self._needless[PurePosixPath(entry.name).name] = None
            return
        name, why = _harmless(entry.name)
        why = why or _WHY.get(entry.kind) or entry.why
        if why:
            self.leave_out(name, why)
            if entry.ours and not PurePosixPath(name).name.startswith("."):
                self._gathered.unread.append(name)
        elif PurePosixPath(name).name.startswith("."):
            self._hidden(name)
        elif entry.kind == reader.UNREAD or entry.content is None:
            self._gathered.others[name] = kinds.what_is(name)
        elif kinds.holds_answers(name):
            self._answers(name, entry)
        else:
            self._python(name, entry)

    def _answers(self, name, entry):
        if max(entry.size, len(entry.content)) > reader.MAX_ANSWERS:
            self.leave_out(name, f"it has more than {reader.MAX_ANSWERS} bytes")
        elif len(self._gathered.answers) < MAX_ANSWERS:
            self._gathered.answers[name] = entry.content
        else:
            self._gathered.others[name] = kinds.what_is(name)

    def _hidden(self, name):
        path = PurePosixPath(name)
        if path.suffix == ".icloud":  # ".attention.py.icloud" stands for attention.py
            why = "it is a placeholder that iCloud left for the file: download the file, then submit it"
            self.leave_out(str(path.with_name(path.stem[1:])), why)
        elif kinds.python_like(name):
            self.leave_out(name, "its name begins with a dot")

    def _python(self, name, entry):
        files, exact = self._gathered.files, name.lower().endswith(".py")
        if any(name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in files):
            return self.leave_out(name, "a file and a folder have the same name")
        if entry.size > MAX_FILE or len(entry.content) > MAX_FILE:
            if not exact:
                return self.leave_out(name, f"it has more than {MAX_FILE} bytes")
            raise Refused(f"{self._shown}: {shown_name(name)} has {entry.size} bytes; at most {MAX_FILE} are accepted")
        if name in files:
            self._again[name] = None
            self._total -= len(files[name])
        self._total += len(entry.content)
        if self._total > MAX_TOTAL or len(files) >= MAX_FILES:
            raise Refused(
                f"{self._shown}: too much Python at {shown_name(name)}: at most {MAX_FILES} files and {MAX_TOTAL} bytes "
                "in all are accepted"
            )
        files[name] = entry.content
        return None

    def gathered(self) -> Gathered:
        """All of it, when nothing more comes."""
        found = self._gathered
        self._leave_out_deep(found)
        names = [*found.files, *found.others, *found.answers, *(name for name, _ in self._left)]
        found.prefix = _common_folder(names)
        off = len(found.prefix)
        found.files = {name[off:]: content for name, content in found.files.items()}
        found.others = {name[off:]: what for name, what in found.others.items()}
        found.answers = {name[off:]: content for name, content in found.answers.items()}
        found.left = {name[off:]: why for name, why in self._left}
        if self._again:
            found.notes.append(f"found more than once; the last one counts: {listed(list(self._again))}")
        found.notes += [f"left out {shown_name(name)}: {why}" for name, why in list(found.left.items())[:_MOST_NOTES]]
        if len(found.left) > _MOST_NOTES:
            found.notes.append(f"left out {len(found.left) - _MOST_NOTES} more files")
        if self._needless:
            it = "they are" if len(self._needless) > 1 else "it is"
            found.notes.append(
                f"leave {listed(list(self._needless), 5)} out of the submission: {it} not needed and is ignored"
            )
        return found

    def _leave_out_deep(self, found):
        off = _common_folder(list(found.files)).count("/")
        for name in [name for name in found.files if name.count("/") - off >= MAX_DEPTH]:
            del found.files[name]
            self.leave_out(name, f"it is more than {MAX_DEPTH - 1} folders deep: move it up")


def _harmless(name: str) -> tuple[str, str]:
    """A name as it is used from here on, and why it cannot be."""
    parts = [part for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/") if part not in ("", ".")]
    clean = "/".join(parts)
    if not parts or name.startswith(("/", "\\")) or ".." in parts or any(part[1:2] == ":" for part in parts):
        return name, "its path leads out of the submission"
    if any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in parts) or len(name) > reader.MAX_NAME // 4:
        return clean, "its name is too long"
    if not all(part.isprintable() for part in parts):  # what is not UTF-8 is not printable either
        return clean, "its name cannot be printed"
    return clean, ""


def _common_folder(names: list[str]) -> str:
    """ "a/b/", where all names begin so."""
    folders = [name.split("/")[:-1] for name in names]
    common = os.path.commonprefix(folders) if folders else []
    return "".join(f"{part}/" for part in common)
