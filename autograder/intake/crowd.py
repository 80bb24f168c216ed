"""One student's submission, or a folder of many: told apart before anything is graded, so that no class gets one's grade.

Several students' work is where two folders or archives, side by side, both hold the same module and neither is a copy of
the starter. It is one student's all the same

- where a module is beside them, at the top,
- where their names say that they are parts or versions of one work: part1 and part2, hw and hw (1), old and new, the
  lesson's or a module's name.

Only names and checksums count here; an archive is opened by the reader of the intake. An archive
that cannot be read here may hold anything. No link is followed, nothing but regular files is opened, and what cannot be read
is passed over: one student's files decide nothing about another's.
"""

import re
import zlib
from itertools import islice
from pathlib import Path, PurePosixPath

from ..errors import UsageError
from ..lesson import Lesson
from . import kinds
from .classes import of_no_student
from .folders import open_unfollowed
from .opening import Refused
from .packed import ARCHIVES, MOST_ENTRIES, Archives, hidden, in_archive, listed

_DEEPEST = 100
_MOST_SOURCE = 2 << 20  # bytes of a module that are read
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
    if not found or _canvas_names(path) or Archives(lesson).is_any_in(path):
        return
    folder, students = _students(path, lesson, carefully=True)
    parts = [name for name in found if name]
    if students and folder != path:
        raise UsageError(f"the submissions are in {folder}: give that folder to --each")
    if not parts:
        module = next(iter(found[""]))
        raise UsageError(f"{path} is one submission, {module}.py is at its top: grade it without --each")
    modules = [module for name in parts for module in found[name]]
    if all(_is_part(name, lesson) for name in parts) and len(modules) == len(set(modules)):
        raise UsageError(f"{path} is one submission ({', '.join(parts)}): grade it without --each")


def _others_beside(path, name, lesson):
    """Whether, beside the one folder that holds all modules, somebody else's work may stand: then it is not the class."""
    others = [item for item in listed(path) if item.name != name and not of_no_student(item, lesson.modules)]
    return any(not kinds.is_of_the_system(item.name) and _holds_something(item) for item in others)


def _holds_something(item):
    try:
        if item.is_symlink() or not item.is_dir():
            return item.is_symlink() or not item.is_file() or item.stat().st_size > 0
        return bool(listed(item))
    except OSError:
        return True


def _students(path, lesson, carefully=False):
    """(Folder, the names of the different students whose work is in it); no names where it is one's.

    Args:
        carefully: the one folder that holds all modules is not taken for all where other students' entries may be beside it.
    """
    loose = _canvas_names(path)
    if len(loose) > 1:
        return path, loose
    files, archives = _files(path, lesson), Archives(lesson)
    folder, found, starter = path, _found(files), _starter(lesson)
    if not archives.all_in(path) and not archives.packed(path, found):
        folder, files = _below_one_folder(path, files, lesson if carefully else None)
        found = _found(files)
    if "" in found:
        return folder, []
    if carefully and folder != path and len(found) == 1 and _others_beside(folder, next(iter(found)), lesson):
        return folder, [*found]
    holders: dict[str, list[str]] = {}
    for part, modules in found.items():
        for module, checksum in modules.items():
            if checksum not in starter.get(module, ()):
                holders.setdefault(module, []).append(part)
    for part in (*archives.all_in(folder), *archives.packed(folder, found)):  # any module may be in them
        for module in lesson.modules:
            holders.setdefault(module, []).append(part)
    crowds = [_persons(parts, lesson) for parts in holders.values()]
    return folder, next((sorted(crowd) for crowd in crowds if len(crowd) > 1), [])


def _persons(parts, lesson):
    """Of names side by side, those that are not parts or versions of one work."""
    return {_COPY.sub("", _without_suffix(part)) for part in parts if not _is_part(part, lesson)}


def _without_suffix(name):
    while Path(name).suffix.lower() in ARCHIVES:
        name = Path(name).stem
    return name


def _is_part(name, lesson):
    stem = _without_suffix(name)
    known = [word for word in (lesson.name, lesson.name.partition("-")[2], *lesson.modules) if word in stem]
    for word in sorted(known, key=len, reverse=True):
        stem = stem.replace(word, "")
    return _WORDS.fullmatch(stem) is not None and (bool(known) or any(map(str.isalpha, stem)))  # 1001 is somebody


def _canvas_names(path):
    """Students whose loose files are there, named as Canvas names them: doejane_12345_67890_attention.py."""
    names = [item.name for item in listed(path) if item.is_file()]
    return sorted({match["who"] for match in map(_CANVAS.fullmatch, names) if match})


# ---------------------------------------------------------------------------------------------- what is where


def _found(files) -> Found:
    found: Found = {}
    for parts, checksum in files.items():
        found.setdefault(parts[0] if len(parts) > 1 else "", {})[parts[-1].removesuffix(".py")] = checksum
    return found


def _below_one_folder(path, files, careful_lesson):
    """Where the work begins: a folder that holds all of it, as archives of a folder have it, is looked through."""
    while files and len({parts[0] for parts in files}) == 1 and all(len(parts) > 1 for parts in files):
        if careful_lesson and _others_beside(path, next(iter(files))[0], careful_lesson):
            break
        path, files = path / next(iter(files))[0], {parts[1:]: checksum for parts, checksum in files.items()}
    return path, files


def _files(path, lesson) -> dict[tuple[str, ...], int]:
    """The parts of the path of each file with a module's name -> its checksum."""
    wanted, files = {f"{module}.py" for module in lesson.modules}, {}
    try:
        for name, checksum in _in_folder(path, wanted) if path.is_dir() else islice(in_archive(path), MOST_ENTRIES):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if parts and parts[-1] in wanted and not any(map(hidden, parts)):
                files[parts] = checksum
    except (Refused, OSError):  # the intake says what is wrong with it
        pass
    return files


def _in_folder(top, wanted):
    """Of each entry of the folder its own files, so that none can take the others' turn."""
    for item in listed(top):
        for path in islice(_below(item, 0), MOST_ENTRIES):
            if path.name in wanted:
                try:
                    with open_unfollowed(path) as stream:
                        checksum = zlib.crc32(stream.read(_MOST_SOURCE))
                except OSError:  # a link, a pipe, closed: the intake says so to its student
                    continue
                yield path.relative_to(top).as_posix(), checksum


def _below(item, depth):
    """The file, or all in the folder; links are not followed."""
    todo = [(item, depth)]
    while todo:
        path, depth = todo.pop()
        yield path
        if depth < _DEEPEST and not hidden(path.name) and not path.is_symlink():
            todo += [(inner, depth + 1) for inner in reversed(listed(path))]


def _starter(lesson):
    """Module -> checksums of its starter, with both kinds of line ends."""
    try:
        files = lesson.starter_files()
    except UsageError:  # a lesson without one
        return {}
    texts = {name.removesuffix(".py"): content.replace(b"\r\n", b"\n") for name, content in files.items()}
    return {name: {zlib.crc32(text), zlib.crc32(text.replace(b"\n", b"\r\n"))} for name, text in texts.items()}
