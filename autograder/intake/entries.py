"""What folders and archives are read into: entries, which know their name and kind, and their bytes if these matter."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import clean

LEFT = b"O"  # beside reader.py's kinds: left out, for the reason that it carries


@dataclass(frozen=True)
class Entry:
    """Something in a submission.

    Attributes:
        name: relative, as it was found. kind: LEFT or one of reader.py's. size: in bytes, as it was announced.
        content: of a file that was read, at most a byte more than its limit.
        path: of an archive in a folder, which is opened later. why: it is left out.
        ours: whether the machine kept it from being read: it was there, and is gone, closed, or on a disk that fails.
    """

    name: str
    kind: bytes
    size: int = 0
    content: bytes | None = None
    path: Path | None = None
    why: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Reading:
    """The entries of a folder or archive, and in a word why these are not all ("" if they are)."""

    entries: tuple[Entry, ...]
    trouble: str = ""


def shown_name(name: str) -> str:
    """A stranger's file name for a sentence: printable, on one line, of a bearable length."""
    line = "".join(char if char.isprintable() else "?" for char in clean(str(name)))  # no odd spaces either
    return line if len(line) <= 120 else f"{line[:60]}…{line[-58:]}"


def listed(names: list[str], most: int = 3) -> str:
    """ "a.py", "a.py and b.py", "a.py, b.py, c.py and 4 more"."""
    names = [shown_name(name) for name in names]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


@dataclass(frozen=True)
class Source:
    """Where one student's work is.

    Attributes:
        student: a harmless name, told apart from the others of its class.
        paths: files and folders, each with the name that it has in the submission.
        notes: what was decided by names alone. passed_over: paths of the same student that do not count; the notes say why.
    """

    student: str
    paths: tuple[tuple[Path, str], ...]
    notes: tuple[str, ...] = ()
    passed_over: tuple[Path, ...] = ()
