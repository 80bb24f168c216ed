"""Archives for tests, made in memory."""

import io
import tarfile
import zipfile
from pathlib import Path


def zipped(entries, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """entries: name -> content, or pairs; a ZipInfo may be a name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, content, compress_type=method)
    return stream.getvalue()


def tarred(entries, mode: str = "w:gz", form: int = tarfile.PAX_FORMAT) -> bytes:
    """entries: name -> content, or pairs; a TarInfo may be a name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def encrypted(archive: bytes) -> bytes:
    """A zip whose entries all claim a password."""
    data = bytearray(archive)
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = data.find(signature)
        while place >= 0:
            data[place + offset] |= 1
            place = data.find(signature, place + 1)
    return bytes(data)


def laid(folder: Path, files: dict[str, bytes]) -> Path:
    """The files below the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
