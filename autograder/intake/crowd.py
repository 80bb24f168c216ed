"""One student's submission, or a folder of many: told apart before anything is graded, so that no class gets one's grade.

Several students' work is where two folders or archives, side by side, both hold the same module and neither is a copy of
the starter. It is one student's all the same

- where a module is beside them, at the top,
- where their names say that they are parts or versions of one work: part1 and part2, hw and hw (1), old and new, the
  lesson's or a module's name.

Only names and checksums count here; an archive is opened by the reader of the intake. An archive
that cannot be read here may hold anything.
"""

import os
import re
import zlib
from itertools import islice
from pathlib import Path, PurePosixPath

from ..errors import SubmissionError, UsageError
from ..lesson import Lesson
from .opening import Refused, entries_of

_MOST_ENTRIES = 20_000
_MOST_SOURCE = 2 << 20  # bytes of a module that are read
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".7z", ".rar")
_ONE_WORK = r"""parts? attempts? versions? v tries try drafts? finals? old new backups? bak cop(y|ies) src source starters? stubs?
    originals? templates? solutions? handouts? hw homeworks? labs? assignments? lessons? weeks? code work py python modules? files? data
    notebooks? tests? grading docs?"""
_WORDS = re.compile(rf"({'|'.join(_ONE_WORK.split())}|[\W\d_])*", re.IGNORECASE)
_COPY = re.compile(r"([\s_-]*(\(\d+\)|copy|backup|old|new|final|v\d+|-\d+))*$", re.IGNORECASE)
_CANVAS = re.compile(r"(?P<who>[^_/]+)(_LATE)?_\d+_\d+_.+")

Found = dict[str, dict[str, int]]  # the first part of a path, "" for the top -> module -> checksum of its file


def refuse_a_class(path: Path, lesson: Lesson) -> None:
    """For `grade` without --each.

    Raises:
        UsageError: `path` holds several students' work.
    """
    folder, students = _students(path, lesson)
    if students:
        some = ", ".join(students[:3]) + (", …" if len(students) > 3 else "")
        raise UsageError(f"{folder} holds the work of several students ({some}): grade them with --each")


def refuse_one_student(path: Path, lesson: Lesson) -> None:
    """For `grade --each`.

    Raises:
        UsageError: `path` is the folder of one submission, or of a folder of them.
    """
    found = _found(_files(path, lesson)) if path.is_dir() else {}
    if not found or _archives_in(path, lesson) or _canvas_names(path):
        return
    folder, students = _students(path, lesson)
    parts = [name for name in found if name]
    if students and folder != path:
        raise UsageError(f"the submissions are in {folder}: give that folder to --each")
    if not parts:
        module = next(iter(found[""]))
        raise UsageError(f"{path} is one submission, {module}.py is at its top: grade it without --each")
    modules = [module for name in parts for module in found[name]]
    if all(_is_part(name, lesson) for name in parts) and len(modules) == len(set(modules)):
        raise UsageError(f"{path} is one submission ({', '.join(parts)}): grade it without --each")


def _students(path, lesson):
    """(Folder, the names of the different students whose work is in it); no names where it is one's."""
    loose = _canvas_names(path)
    if len(loose) > 1:
        return path, loose
    files = _files(path, lesson)
    folder, found, starter = path, _found(files), _starter(lesson)
    if not _archives_in(path, lesson) and not _packed(path, found, lesson):
        folder, files = _below_one_folder(path, files)
        found = _found(files)
    if "" in found:
        return folder, []
    holders: dict[str, list[str]] = {}
    for part, modules in found.items():
        for module, checksum in modules.items():
            if checksum not in starter.get(module, ()):
                holders.setdefault(module, []).append(part)
    for part in (
        *_archives_in(folder, lesson),
        *_packed(folder, found, lesson),
    ):  # any module may be in them: the intake reads them
        for module in lesson.modules:
            holders.setdefault(module, []).append(part)
    crowds = [_persons(parts, lesson) for parts in holders.values()]
    return folder, next((sorted(crowd) for crowd in crowds if len(crowd) > 1), [])


def _persons(parts, lesson):
    """Of names side by side, those that are not parts or versions of one work."""
    return {_COPY.sub("", _without_suffix(part)) for part in parts if not _is_part(part, lesson)}


def _without_suffix(name):
    while Path(name).suffix.lower() in _ARCHIVES:
        name = Path(name).stem
    return name


def _is_part(name, lesson):
    stem = _without_suffix(name)
    known = [word for word in (lesson.name, lesson.name.partition("-")[2], *lesson.modules) if word in stem]
    for word in sorted(known, key=len, reverse=True):
        stem = stem.replace(word, "")
    return _WORDS.fullmatch(stem) is not None and (bool(known) or any(map(str.isalpha, stem)))  # 1001 is somebody


def _archives_in(path, lesson):
    """The archives right in a folder in which a module may be: those that hold one, and those that cannot be read here."""
    if not path.is_dir():
        return []
    archives = [item for item in sorted(path.iterdir()) if item.suffix.lower() in _ARCHIVES and item.is_file()]
    return [item.name for item in archives if _may_hold_a_module(item, lesson)]


def _may_hold_a_module(archive, lesson):
    wanted = {f"{module}.py" for module in lesson.modules}
    try:
        return any(PurePosixPath(name).name in wanted for name, _ in islice(_in_archive(archive), _MOST_ENTRIES))
    except Exception:  # broken, encrypted, of a kind that is not read here
        return True


def _packed(path, found, lesson):
    """The folders that hold no module but an archive, as Moodle's do."""
    folders = [item for item in sorted(path.iterdir()) if item.is_dir()] if path.is_dir() else []
    return [
        item.name
        for item in folders
        if item.name not in found and not _hidden(item.name) and _archives_in(item, lesson)
    ]


def _canvas_names(path):
    """Students whose loose files are there, named as Canvas names them: doejane_12345_67890_attention.py."""
    names = [item.name for item in path.iterdir() if item.is_file()] if path.is_dir() else []
    return sorted({match["who"] for match in map(_CANVAS.fullmatch, names) if match})


# ---------------------------------------------------------------------------------------------- what is where


def _found(files) -> Found:
    found: Found = {}
    for parts, checksum in files.items():
        found.setdefault(parts[0] if len(parts) > 1 else "", {})[parts[-1].removesuffix(".py")] = checksum
    return found


def _below_one_folder(path, files):
    """Where the work begins: a folder that holds all of it, as archives of a folder have it, is looked through."""
    while files and len({parts[0] for parts in files}) == 1 and all(len(parts) > 1 for parts in files):
        path, files = path / next(iter(files))[0], {parts[1:]: checksum for parts, checksum in files.items()}
    return path, files


def _files(path, lesson) -> dict[tuple[str, ...], int]:
    """The parts of the path of each file with a module's name -> its checksum."""
    wanted, files = {f"{module}.py" for module in lesson.modules}, {}
    try:
        for name, checksum in islice(_in_folder(path, wanted) if path.is_dir() else _in_archive(path), _MOST_ENTRIES):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if parts and parts[-1] in wanted and not any(map(_hidden, parts)):
                files[parts] = checksum
    except (Refused, OSError):  # the intake says what is wrong with it
        pass
    return files


def _hidden(part):
    return part.startswith((".", "__", "/")) or part in ("site-packages", "venv")


def _in_folder(top, wanted):
    for parent, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in sorted(wanted.intersection(names)):
            with open(Path(parent, name), "rb") as stream:
                yield Path(parent, name).relative_to(top).as_posix(), zlib.crc32(stream.read(_MOST_SOURCE))


def _in_archive(path):
    """The reader of the intake opens it, so that nothing in it can end this process."""
    for entry in entries_of([(path, path.name)], path.name):
        if entry.name == path.name:
            raise SubmissionError(f"{path} is not an archive that can be opened")
        if entry.content is not None:
            yield entry.name, zlib.crc32(entry.content)


def _starter(lesson):
    """Module -> checksums of its starter, with both kinds of line ends."""
    try:
        files = lesson.starter_files()
    except UsageError:  # a lesson without one
        return {}
    texts = {name.removesuffix(".py"): content.replace(b"\r\n", b"\n") for name, content in files.items()}
    return {name: {zlib.crc32(text), zlib.crc32(text.replace(b"\n", b"\r\n"))} for name, text in texts.items()}
