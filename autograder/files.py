"""Files that are whole or not there, and zips whose equal contents are equal bytes."""

import contextlib
import io
import os
import zipfile
from pathlib import Path

from .errors import UsageError


def write(path: Path, content: bytes | str) -> None:
    """Writes beside the file and renames, so that nobody reads half of it; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def zipped(contents: dict[str, bytes]) -> bytes:
    """A zip of name -> content: sorted, one date, no compression, whose results differ from machine to machine."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name)  # 1980-01-01
            entry.create_system = 3  # Unix, wherever it was built: its permissions follow
            entry.external_attr = (0o100755 if contents[name].startswith(b"#!") else 0o100644) << 16
            archive.writestr(entry, contents[name])
    return stream.getvalue()


def can_write(folder: Path) -> None:
    """Tries it, and leaves nothing behind: what takes an hour must not fail in its last second.

    Raises:
        UsageError: files cannot be made in this folder.
    """
    made: list[Path] = []
    probe = folder / f".can-write.{os.getpid()}"
    try:
        made += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}: name another folder") from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
