"""One student's paths -> entries: folders are walked, archives are opened, those inside them too, one level deep.

Nothing is judged here but what cannot be read at all.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..errors import GraderFault
from . import kinds, reader
from .archives import Budget, read_archive
from .entries import LEFT, Entry, Reading
from .folders import cannot_be_read, is_ours, open_unfollowed, read_file, read_folder, unread

MAX_TOTAL = 8 << 20  # bytes of all .py files
MAX_ARCHIVES = 10  # inside a folder or archive

_TROUBLE = {
    "damaged": "is cut off or damaged: pack it again and submit it again",
    "foreign": "is not a .zip or .tar archive: pack your .py files as a .zip",
    "many": f"has too many entries: at most {reader.MAX_ENTRIES} are accepted; pack only your .py files",
    "much": f"contains too much: at most {reader.MAX_CONTENT} bytes of it are read; pack only your .py files",
    "python": f"contains too much: at most {MAX_TOTAL} bytes of Python are accepted; pack only your .py files",
    "large": f"is too large: at most {reader.MAX_ARCHIVE} bytes of an archive inside another are read; pack only your .py files",
    "memory": "needs too much memory to unpack: it is damaged, or not a submission; pack only your .py files",
    "limits": "takes too much time or memory to unpack: it is damaged, or not a submission; pack only your .py files",
    "unreadable": "cannot be read: the grader is not allowed to open it",
}


class Refused(Exception):
    """Nothing of the submission can be taken in; the text is a sentence for the student.

    Attributes:
        ours: whether the machine is the reason.
    """

    def __init__(self, sentence: str, ours: bool = False):
        super().__init__(sentence)
        self.ours = ours


def entries_of(paths: Sequence[tuple[Path, str]], shown: str) -> list[Entry]:
    """All that is at the paths, which sentences call `shown`.

    Raises:
        Refused: it cannot be read.
    """
    return _without_venvs(list(_opened(_entries(paths, shown), shown)))


def _without_venvs(entries: list[Entry]) -> list[Entry]:
    """An environment has any name, but always a pyvenv.cfg."""
    homes = {name[: -len("pyvenv.cfg")] for name in (entry.name for entry in entries) if name.endswith("/pyvenv.cfg")}
    if not homes:
        return entries
    outermost, inside, home = [], set(), None
    for name in sorted(homes | {entry.name for entry in entries}):  # what is in a folder follows it
        if home is not None and name.startswith(home):
            inside.add(name)
        elif name in homes:
            home = name
            outermost.append(name)
            inside.add(name)
    kept = [entry for entry in entries if entry.name not in inside]
    return kept + [Entry(home.rstrip("/"), reader.NEEDLESS) for home in outermost]


# ---------------------------------------------------------------------------------------------- reading


def _entries(paths, shown) -> list[Entry]:
    if len(paths) > 1:
        return [entry for path, name in paths for entry in _one_of_several(path, name)]
    ((path, name),) = paths
    if os.path.islink(path):
        raise Refused(f"{shown} is a link, which is not followed: submit the files themselves")
    if not os.path.isdir(path):
        return _entries_of_file(path, name, shown)
    reading = read_folder(path)
    _refuse_if(reading.trouble, shown)
    alone = [entry for entry in reading.entries if _counts(entry)]
    if len(alone) == 1 and alone[0].kind in (reader.READ, reader.UNREAD) and alone[0].content is None:
        inner = PurePosixPath(alone[0].name).name  # a folder around a file, which may be an archive, is that file
        return _entries_of_file(path / alone[0].name, inner, inner)
    return list(reading.entries)


def _counts(entry):
    return entry.kind not in (reader.FOLDER, reader.NEEDLESS) and not kinds.has_system_part(entry.name)


def _one_of_several(path, name):
    if os.path.islink(path):
        return [Entry(name, reader.LINK)]
    if os.path.isdir(path):
        reading = read_folder(path)
        if reading.trouble == "unreadable":
            return [_unreadable(name)]
        return [replace(entry, name=f"{name}/{entry.name}") for entry in reading.entries]
    try:
        return [read_file(path, name, os.lstat(path).st_size)]
    except OSError as error:
        return [unread(name, error)]


def _entries_of_file(path, name, shown) -> list[Entry]:
    """Of a single file: what an archive holds, or the file itself, of which the rows say what it is."""
    try:
        with open_unfollowed(path) as stream:
            head = stream.read(4096)
            stream.seek(0)
            if kinds.is_archive(name, head) or kinds.is_archive(path.name, head):
                return _entries_of_archive(stream, name, head, shown)
        return [read_file(path, name, path.stat().st_size)]
    except OSError as error:
        raise Refused(f"{shown} is left out: {cannot_be_read(error)}", is_ours(error)) from error


def _entries_of_archive(stream, name, head, shown):
    if not head:
        raise Refused(f"{shown} is empty (0 bytes): submit it again")
    reading = read_archive(stream)
    if reading.trouble == "foreign" and kinds.what_is("", head):
        raise Refused(f"{shown} is {kinds.what_is('', head)}: submit a .zip of your .py files")
    _refuse_if(reading.trouble, shown)
    return [_named(entry, name) for entry in reading.entries]


def _named(entry, archive):
    """What was compressed alone is called as its archive without the suffix."""
    if entry.name:
        return entry
    name = archive.rstrip().rpartition(".")[0]
    return replace(entry, name=name, kind=reader.READ if kinds.python_like(name) else reader.UNREAD)


def _refuse_if(trouble, shown):
    if trouble:
        raise Refused(f"{shown} {_TROUBLE[trouble]}", trouble == "unreadable")


def _unreadable(name):
    return Entry(name, LEFT, why=f"it {_TROUBLE['unreadable']}", ours=True)


# ---------------------------------------------------------------------------------------------- archives inside


def _opened(entries: Iterable[Entry], shown: str) -> Iterator[Entry]:
    """The entries, with what archives among them hold in their place: together no more than one could."""
    left, budget = MAX_ARCHIVES, Budget(reader.MAX_ENTRIES, is_inner=True)
    for entry in entries:
        head = _head(entry)
        if (
            head is None
            or kinds.has_system_part(entry.name)
            or not kinds.is_archive(PurePosixPath(entry.name).name, head)
        ):
            yield entry
            continue
        left -= 1
        reading = _read_inner(entry, budget) if left >= 0 else Reading((), "too many")
        if reading.trouble == "python":
            _refuse_if("python", shown)
        if not reading.trouble:
            yield from (_inside(inner, entry.name) for inner in reading.entries)
        elif reading.trouble == "unreadable":
            yield _unreadable(entry.name)
        elif kinds.python_like(entry.name):
            yield entry  # its text will be found wanting
        else:
            yield Entry(entry.name, LEFT, why=_why_not_opened(reading.trouble, entry, head))


def _head(entry):
    """The first bytes of what may be an archive; None of what was not read."""
    if entry.kind != reader.READ:
        return None
    if entry.path is None:
        return entry.content[:4096]
    try:
        with open_unfollowed(entry.path) as stream:
            return stream.read(4096)
    except OSError:
        return b""


def _read_inner(entry, budget):
    if entry.path is None and len(entry.content) > reader.MAX_ARCHIVE:
        return Reading((), "large")
    try:
        with open_unfollowed(entry.path) if entry.path is not None else _in_a_file(entry.content) as stream:
            return read_archive(stream, budget)
    except OSError:
        return Reading((), "unreadable")


def _in_a_file(content):
    """A real file, without a name, for the reader's standard input."""
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        file.write(content)
        file.seek(0)
    except OSError as error:
        raise GraderFault(f"no temporary file can be written: {error}") from error
    return file


def _inside(inner, archive):
    inner = _named(inner, PurePosixPath(archive).name)
    name = f"{archive}/{inner.name}"
    if inner.kind == reader.READ and kinds.is_archive(PurePosixPath(inner.name).name, inner.content[:4096]):
        return Entry(name, LEFT, why="archives are opened one level deep: unpack this one")
    return replace(inner, name=name)


def _why_not_opened(trouble, entry, head):
    if trouble == "too many":
        return f"at most {MAX_ARCHIVES} archives are opened: unpack it"
    if not (head or entry.size):
        return "it is empty (0 bytes): submit it again"
    what = kinds.what_is("", head)
    return f"it is {what} and not an archive" if trouble == "foreign" and what else f"it {_TROUBLE[trouble]}"
