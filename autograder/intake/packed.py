"""The archives beside folders of work, as far as they must be opened to tell one student's work from a class's (crowd.py).

They are opened before anything is graded, and a class has many: after MAX_ARCHIVES of them or MOST_S seconds of processor
time any other may hold a module.
"""

import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from ..errors import SubmissionError
from ..lesson import Lesson
from .archives import cpu_of_readers
from .opening import MAX_ARCHIVES, entries_of

MOST_S = 60
MOST_ENTRIES = 20_000
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".7z", ".rar")


class Archives:
    """The archives of a folder in which a module may be: those that hold one, and those that cannot be read here."""

    def __init__(self, lesson: Lesson):
        self._wanted = {f"{module}.py" for module in lesson.modules}
        self._known: dict[Path, bool] = {}
        self._ends = cpu_of_readers() + MOST_S

    def is_any_in(self, path: Path) -> bool:
        return any(map(self._may_hold_a_module, archives_in(path)))

    def all_in(self, path: Path) -> list[str]:
        return [item.name for item in archives_in(path) if self._may_hold_a_module(item)]

    def packed(self, path: Path, found: Mapping) -> list[str]:
        """The folders that hold no module but an archive, as Moodle's do."""
        folders = [item for item in listed(path) if item.name not in found and not hidden(item.name)]
        return [item.name for item in folders if not item.is_symlink() and self.is_any_in(item)]

    def _may_hold_a_module(self, archive: Path) -> bool:
        if archive not in self._known:
            if len(self._known) >= MAX_ARCHIVES or cpu_of_readers() > self._ends:
                return True
            self._known[archive] = self._look_into(archive)
        return self._known[archive]

    def _look_into(self, archive):
        try:
            names = (PurePosixPath(name).name for name, _ in islice(in_archive(archive), MOST_ENTRIES))
            return any(name in self._wanted for name in names)
        except Exception:  # broken, encrypted, of a kind that is not read here
            return True


def archives_in(path: Path) -> list[Path]:
    """Those right in a folder."""
    return [item for item in listed(path) if item.suffix.lower() in ARCHIVES and item.is_file()]


def listed(path: Path) -> list[Path]:
    """What is in a folder, by name; nothing where it is none or is closed."""
    try:
        return sorted(path.iterdir()) if path.is_dir() else []
    except OSError:
        return []


def in_archive(path: Path) -> Iterator[tuple[str, int]]:
    """The files in it and their checksums. The reader of the intake opens it, so that nothing in it can end this process."""
    for entry in entries_of([(path, path.name)], path.name):
        if entry.name == path.name:
            raise SubmissionError(f"{path} is not an archive that can be opened")
        if entry.content is not None:
            yield entry.name, zlib.crc32(entry.content)


def hidden(part: str) -> bool:
    """Whether nobody's modules are in a folder of this name."""
    return part.startswith((".", "__", "/")) or part in ("site-packages", "venv")
