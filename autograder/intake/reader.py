"""Runs in a process of its own: an archive on standard input -> frames on standard output. Standard library only.

    python -I -S -B reader.py

A frame is a head (kind, length of the name, size of the file, length of the content), the name, and the content. The last
frame is END, or FAILED with the reason as its name. The grader trusts none of it (archives.py).

`worth_reading`, `unneeded` and the limits are also what the grader's own walk of a folder uses.
"""

import os
import re
import signal
import struct
import sys

HEAD = struct.Struct("<cIQI")
READ, UNREAD, FOLDER, LINK, ENCRYPTED, DAMAGED, UNKNOWN, NEEDLESS = (bytes([letter]) for letter in b"RUFLEDKN")
END, FAILED = b".", b"!"
MAX_ENTRIES = 5000  # of any kind, without what is needless
MAX_NEEDLESS = 200_000  # entries of a venv that was sent along are passed over, but not without end
MAX_FILE = 2 << 20  # bytes of one .py file
MAX_ANSWERS = 256 << 10  # bytes of answers in words
MAX_ARCHIVE = 32 << 20  # bytes of an archive inside an archive
MAX_CONTENT = 96 << 20  # bytes of all that is sent
MAX_NAME = 4000  # bytes
MEMORY, CPU_S = 512 << 20, 20
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".gz", ".bz2", ".xz")
_ANSWERS = re.compile(r"answers([ _-]*(\(?\d{1,3}\)?|copy))?\.(md|markdown|txt)(\.txt)?")  # with accidents of naming
UNFINISHED = (".crdownload", ".part", ".partial", ".icloud")
NEEDLESS_FOLDERS = frozenset(
    "__pycache__ __MACOSX __pypackages__ node_modules site-packages dist-packages venv virtualenv".split()
)


def worth_reading(name: str) -> int:
    """How many bytes of a file are read, by its name: Python in any spelling, answers in words, archives, nothing else."""
    name = name.lower().rstrip()
    if name.endswith(UNFINISHED):
        return 0
    if name.endswith(ARCHIVES):
        return MAX_ARCHIVE
    most = MAX_ANSWERS if _ANSWERS.fullmatch(re.split(r"[/\\]", name)[-1]) else 0
    return MAX_FILE if re.search(r"\.py(?![a-z0-9_])", name) else most


def unneeded(name: str) -> str:
    """The part of a path that ends in a folder which no submission needs; empty if there is none."""
    parts = name.replace("\\", "/").split("/")
    for place, part in enumerate(parts[:-1]):
        if part in NEEDLESS_FOLDERS or (part.startswith(".") and part not in (".", "..")):
            return "/".join(parts[: place + 1])
    return ""


class _Stop(Exception):
    """The archive cannot be read on; its text is the reason, one word."""


class _Sender:
    def __init__(self, stream):
        self._stream = stream
        self._entries = self._passed = self._bytes = 0
        self._needless = set()

    def wants(self, name):
        """Whether an entry is sent; of what is needless only the folder is, once."""
        folder = unneeded(name)
        if not folder:
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise _Stop("many")
            return True
        self._passed += 1
        if self._passed > MAX_NEEDLESS:
            raise _Stop("many")
        if folder not in self._needless and len(self._needless) < 1000:
            self._needless.add(folder)
            self.frame(NEEDLESS, folder)
        return False

    def frame(self, kind, name="", size=0, content=b""):
        self._bytes += len(content)
        if self._bytes > MAX_CONTENT:
            raise _Stop("much")
        try:
            text = name.encode("utf-8", "surrogateescape")[:MAX_NAME]
        except UnicodeEncodeError:
            text = name.encode("utf-8", "replace")[:MAX_NAME]
        size = min(max(size, 0), 2**64 - 1)
        self._stream.write(HEAD.pack(kind, len(text), size, len(content)) + text)
        self._stream.write(content)


def main():
    _confine()
    sender = _Sender(sys.stdout.buffer)
    try:
        with open(0, "rb") as archive:
            _read(archive, sender)
        sender.frame(END)
    except _Stop as stop:
        sender.frame(FAILED, str(stop))
    except MemoryError:
        sender.frame(FAILED, "memory")
    except BrokenPipeError:
        os._exit(1)
    except Exception:  # zlib.error, LZMAError, RecursionError, struct.error, OverflowError: all say one thing
        sender.frame(FAILED, "damaged")
    sys.stdout.flush()
    os._exit(0)


def _confine():
    """Limits, where the system has them; and no life after the grader's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the grader, which ends this process
    try:
        import resource
    except ImportError:  # Windows: the grader's clock remains
        return
    limits = {"RLIMIT_AS": MEMORY, "RLIMIT_CPU": CPU_S, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    for name, limit in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (limit, limit))
        except (OSError, ValueError, AttributeError):  # macOS knows no limit of address space
            pass
    parent = os.getppid()
    signal.signal(signal.SIGALRM, lambda *_: os.getppid() == parent or os._exit(1))
    signal.setitimer(signal.ITIMER_REAL, 1, 1)


# ---------------------------------------------------------------------------------------------- by content


def _read(file, sender):
    """By what the bytes are: a tar may hold a zip at its end, and a zip may be called .tar."""
    import tarfile
    import zipfile

    file.seek(0)
    head = file.read(6)
    if head.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        return _zip(zipfile, file, sender)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return _compressed(tarfile, file, sender, head)
    file.seek(257)
    if file.read(5) == b"ustar":
        return _tar(tarfile, file, sender)
    file.seek(0)
    if zipfile.is_zipfile(file):  # with something in front, as what unpacks itself has
        return _zip(zipfile, file, sender)
    file.seek(0)
    try:
        return _tar(tarfile, file, sender)  # of before 1988
    except tarfile.ReadError:
        raise _Stop("foreign") from None


def _zip(zipfile, file, sender):
    import stat

    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = _zip_name(entry)
            if not sender.wants(name):
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
            if name.endswith(("/", "\\")):
                sender.frame(FOLDER, name)
            elif kind not in (0, stat.S_IFREG):
                sender.frame(LINK, name)
            elif entry.flag_bits & 1:
                sender.frame(ENCRYPTED, name)
            elif not worth_reading(name):
                sender.frame(UNREAD, name, entry.file_size)
            else:
                _zip_file(archive, entry, name, sender)


def _zip_name(entry):
    """macOS writes UTF-8 without saying so."""
    if entry.flag_bits & 0x800:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode()
    except UnicodeError:
        return entry.filename


def _zip_file(archive, entry, name, sender):
    """One file: what is wrong with it costs none of the others."""
    try:
        with archive.open(entry) as stream:
            content = stream.read(worth_reading(name) + 1)
    except MemoryError:
        raise
    except NotImplementedError:
        sender.frame(UNKNOWN, name)
    except Exception:  # a checksum, zlib.error, LZMAError, EOFError, a local header of another name …
        sender.frame(DAMAGED, name)
    else:
        sender.frame(READ, name, max(len(content), entry.file_size), content)


def _tar(tarfile, file, sender, mode="r:"):
    file.seek(0)
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for entry in archive:
            name = entry.name
            if not sender.wants(name):
                continue
            if entry.isdir():
                sender.frame(FOLDER, name)
            elif not entry.isreg():
                sender.frame(LINK, name)
            elif not worth_reading(name):
                sender.frame(UNREAD, name, entry.size)
            else:
                content = archive.extractfile(entry).read(worth_reading(name) + 1)
                if len(content) < min(entry.size, worth_reading(name) + 1):
                    raise _Stop("damaged")  # it was cut
                sender.frame(READ, name, entry.size, content)


def _compressed(tarfile, file, sender, head):
    """A tar, or one file of which nothing but the bytes is known."""
    from importlib import import_module

    kind = "gz" if head.startswith(b"\x1f\x8b") else "bz2" if head.startswith(b"BZh") else "xz"
    opener = import_module({"gz": "gzip", "bz2": "bz2", "xz": "lzma"}[kind])
    file.seek(0)
    with opener.open(file) as stream:
        start = stream.read(MAX_FILE + 1)
        if start[257:262] != b"ustar" and not _is_old_tar(tarfile, start):
            return sender.frame(READ, "", len(start), start)
    return _tar(tarfile, file, sender, f"r:{kind}")


def _is_old_tar(tarfile, start):
    try:
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(start) >= 1024 and not any(start[:1024])  # an empty one
    return True


if __name__ == "__main__":
    main()
