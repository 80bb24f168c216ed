"""A folder, a zip or a tar -> the checked files of one student.

Only regular `.py` files come in, as bytes in memory, under their relative names: no link is followed, no archive is
unpacked onto a disk, nothing is parsed or run. A single folder at the top, as archives of a folder have it, is taken off.
"""

import io
import os
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import SubmissionError
from .lesson import digest_of

MAX_FILES = 200  # .py files
MAX_ENTRIES = 5000  # anything in an archive or folder
MAX_FILE = 2 << 20  # bytes of one .py file
MAX_TOTAL = 8 << 20  # bytes of all .py files
MAX_DEPTH = 8
MAX_NAME = 200  # bytes
_SKIPPED_FOLDERS = {"__pycache__", "__MACOSX", "node_modules", "site-packages"}


@dataclass(frozen=True)
class Submission:
    """One student's work.

    Attributes:
        student: the name of the folder or archive. source: where it was.
        files: relative path -> content of each .py file.
        notes: what was left out, for the instructor.
        problem: why nothing could be taken in; then every test fails with this.
    """

    student: str
    source: str
    files: dict[str, bytes]
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def digest(self) -> str:
        return digest_of(self.files)

    def write(self, folder: Path) -> None:
        """Writes the files below `folder`, for a debugger or another tool."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def take_in(path: Path, modules: tuple[str, ...] = ()) -> Submission:
    """Reads the submission at `path`.

    Args:
        path: a folder, .zip, .tar, .tar.gz or .tgz, or one .py file.
        modules: the lesson's; with them a single folder in the archive is found however it is called.

    Raises:
        SubmissionError: it cannot be read, or is larger than any honest submission.
    """
    path = Path(path)
    if path.is_symlink() or not path.exists():
        raise SubmissionError(f"{path} is no submission: give a folder, a zip or a tar")
    intake = _Intake(str(path))
    if path.is_dir():
        intake.folder(path)
    elif zipfile.is_zipfile(path):
        intake.zip(path)
    elif path.suffix == ".py":
        intake.add(path.name, path.stat().st_size, path.read_bytes)
    else:
        intake.tar(path)
    files = _without_top_folder(intake.files, modules)
    return Submission(student_name(path), str(path), files, tuple(intake.notes))


def take_in_each(folder: Path) -> list[Path]:
    """The submissions in a folder of them: each folder and archive in it, by name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise SubmissionError(f"{folder} is no folder: --each wants a folder of submissions")
    archives = (".zip", ".tar", ".gz", ".tgz")
    found = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and not path.is_symlink() and (path.is_dir() or path.suffix in archives)
    ]
    if not found:
        raise SubmissionError(f"{folder} holds no submission: --each wants folders, zips or tars in it")
    return found


def student_name(path: Path) -> str:
    """A student's name: that of the folder or archive, without what a file system or a table could stumble over."""
    name = Path(path).resolve().name
    for suffix in (".zip", ".tar.gz", ".tgz", ".tar", ".py"):
        name = name.removesuffix(suffix)
    clean = "".join(char if char.isalnum() or char in "-_.@ " else "_" for char in name).strip(". ")
    return clean or "submission"


def _without_top_folder(files, modules):
    """Takes off the folder that holds all modules, where the top holds none of them."""
    wanted = {f"{module}.py" for module in modules}
    if any(name in wanted if wanted else "/" not in name for name in files):
        return files
    parents = {str(PurePosixPath(name).parent) for name in files if PurePosixPath(name).name in wanted or not wanted}
    homes = sorted(parents, key=lambda parent: (parent.count("/"), parent))
    if not homes or homes[0] == ".":
        return files
    prefix = homes[0] + "/"
    return {name.removeprefix(prefix): content for name, content in files.items() if name.startswith(prefix)}


class _Intake:
    """Collects files one by one and refuses what no honest submission needs."""

    def __init__(self, source):
        self._source = source
        self._entries = self._total = 0
        self.files: dict[str, bytes] = {}
        self.notes: list[str] = []

    # ------------------------------------------------------------------------------------------ sources

    def folder(self, top):
        for parent, folders, names in os.walk(top, followlinks=False):
            folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith("."))
            for name in sorted(names):
                path = Path(parent, name)
                relative = path.relative_to(top).as_posix()
                try:
                    status = os.lstat(path)
                except OSError as error:
                    self.note(relative, error.strerror)
                    continue
                if not stat.S_ISREG(status.st_mode):
                    self.note(relative, "not a regular file")
                    continue
                self.add(relative, status.st_size, lambda path=path: _read_unfollowed(path))

    def zip(self, path):
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    kind = stat.S_IFMT(entry.external_attr >> 16)
                    if entry.is_dir():
                        self.count()
                    elif kind not in (0, stat.S_IFREG):
                        self.note(entry.filename, "not a regular file")
                    elif entry.flag_bits & 1:
                        self.note(entry.filename, "encrypted")
                    else:
                        self.add(entry.filename, entry.file_size, lambda entry=entry: _read_capped(archive.open(entry)))
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            raise SubmissionError(f"{self._source} is a broken zip: {error}") from error

    def tar(self, path):
        try:
            with tarfile.open(path) as archive:
                for entry in archive:
                    if entry.isdir():
                        self.count()
                    elif not entry.isreg():
                        self.note(entry.name, "not a regular file")
                    else:
                        self.add(entry.name, entry.size, lambda entry=entry: _read_capped(archive.extractfile(entry)))
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise SubmissionError(f"{self._source} is neither a folder, a zip nor a tar: {error}") from error

    # ------------------------------------------------------------------------------------------ one entry

    def add(self, name, size, read):
        """Takes a regular file in, if it is a .py file with a harmless name."""
        self.count()
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0].startswith("/") or ":" in parts[0] or ".." in parts or len(parts) > MAX_DEPTH:
            return self.note(name, "its name leads out of the submission")
        if not name.endswith(".py") or any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in parts):
            return None
        if any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in parts):
            return self.note(name, "its name is too long")
        if any("/".join(parts[:depth]) in self.files for depth in range(1, len(parts))) or any(
            taken.startswith("/".join(parts) + "/") for taken in self.files
        ):
            return self.note(name, "a file and a folder have one name")
        if not all(part.isprintable() for part in parts) or not _is_utf8(name):
            return self.note(name, "its name cannot be printed")
        if size > MAX_FILE:
            raise SubmissionError(
                f"{self._source}: {_printable(name)} has {size} bytes, at most {MAX_FILE} are taken in"
            )
        content = read()
        self._total += len(content)
        if len(content) > MAX_FILE or self._total > MAX_TOTAL or len(self.files) >= MAX_FILES:
            raise SubmissionError(
                f"{self._source}: too much Python at {_printable(name)}: at most {MAX_FILES} files, {MAX_FILE} bytes each, "
                f"{MAX_TOTAL} bytes in all are taken in"
            )
        self.files["/".join(part for part in parts if part != ".")] = content
        return None

    def count(self):
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise SubmissionError(f"{self._source} has more than {MAX_ENTRIES} entries: it is no submission")

    def note(self, name, why):
        self.count()
        if len(self.notes) < 20:
            self.notes.append(f"left out {_printable(name)}: {why}")


def _read_unfollowed(path):
    """A regular file's bytes; what was swapped for a link or a FIFO meanwhile is not followed and does not block."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as stream:
        return stream.read(MAX_FILE + 1)


def _read_capped(stream):
    """At most one byte more than is allowed, whatever the archive claims about the size."""
    with stream if stream is not None else io.BytesIO() as opened:
        return opened.read(MAX_FILE + 1)


def _is_utf8(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name):
    return "".join(char if char.isprintable() else "?" for char in str(name))[:120].encode("utf-8", "replace").decode()
