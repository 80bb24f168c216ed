"""Files that are whole or not there, folders that are gone, and zips whose equal contents are equal bytes."""

import contextlib
import io
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

from .errors import UsageError


def write(path: Path, content: bytes | str, mode: int = 0o666) -> None:
    """Writes a file, so that nobody ever reads half of it or finds half of it after a kill; makes the folder.

    Args:
        mode: who may do what with it, less the umask.

    Raises:
        UsageError: it cannot be written, because a disk is full or otherwise; what was there before is there still.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    made = _missing(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(beside, path, content.encode() if isinstance(content, str) else content, mode)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        _remove_if_empty(made)
        raise UsageError(cannot_be_written(path, error)) from error


def write_all(contents: dict[Path, bytes]) -> None:
    """Writes files that belong together: each beside its place, and only then all into their places.

    Raises:
        UsageError: one cannot be written; where there is no room for one, all that was there before is there still.
    """
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    path = Path()
    try:
        for path, content in contents.items():
            beside[path].write_bytes(content)
        for path, new in beside.items():
            new.replace(path)
    except OSError as error:
        for new in beside.values():
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
        raise UsageError(cannot_be_written(path, error)) from error


def _write_whole(beside, path, content, mode):
    """In a file that has no name until it is whole, where the system has such; else beside, and renamed."""
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, mode)
    except (OSError, AttributeError):  # no Linux, or a file system without them; or a reason that the next try tells
        with open(
            os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), mode), "wb"
        ) as file:
            file.write(content)
        beside.replace(path)
        return
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                _link(descriptor, path)
                return
        _link(descriptor, beside)
        beside.replace(path)


def _link(descriptor, path):
    """Gives an open file without a name one. With a folder's descriptor Python follows the link of /proc, which is all it is for."""
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)


def cannot_be_written(path: Path | str, error: OSError) -> str:
    """The sentence for it."""
    return f"{path} cannot be written: {error.strerror or error}"


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
    made = _missing(folder)
    probe = folder / f".can-write.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{cannot_be_written(folder, error)}: name another folder") from error
    finally:
        _remove_if_empty(made)


def _missing(folder):
    """The folders that have to be made for this one to be there, the innermost first."""
    try:
        return [path for path in (folder, *folder.parents) if not path.exists()]
    except OSError:  # nobody can say: making them will fail, and say why
        return []


def _remove_if_empty(folders):
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()


def remove_tree(folder: Path) -> None:
    """Removes a folder that a hostile program arranged: no permissions, deep nesting, links (never followed)."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):  # the tools know how to open what is closed, and recurse without end
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, str(folder)], capture_output=True, check=False)
