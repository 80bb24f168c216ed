"""What an entry is, by its name and its first bytes. Every list of names and formats is here, for all doors."""

import codecs
import re
from pathlib import PurePosixPath

from . import reader

# ---------------------------------------------------------------------------------------------- nobody's files

_OF_THE_SYSTEM = frozenset(
    """.ds_store thumbs.db ehthumbs.db desktop.ini __macosx .localized .directory .spotlight-v100 .trashes .fseventsd
    .temporaryitems .appledouble $recycle.bin @eadir submission_metadata.yml submission_metadata.json""".split()
) | {"icon\r", "system volume information"}


def is_of_the_system(name: str) -> bool:
    """Files that an operating system or a course's site leaves behind: passed over without a word."""
    return name.casefold() in _OF_THE_SYSTEM or name.startswith(("._", "~$", ".~lock.", ".nfs"))


def has_system_part(name: str) -> bool:
    """Whether a path leads through such a file or folder."""
    return any(is_of_the_system(part) for part in name.replace("\\", "/").split("/"))


def python_like(name: str) -> bool:
    """Whether a file holds Python by its name, however that is spelled: x.py, x.PY, x.py.txt."""
    return reader.worth_reading(name) == reader.MAX_FILE


def holds_answers(name: str) -> bool:
    """Whether a file is answers.md by its name, or by an accident of naming."""
    return reader.worth_reading(name) == reader.MAX_ANSWERS


# ---------------------------------------------------------------------------------------------- archives

_ARCHIVE_HEADS = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_LONG_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", *reader.ARCHIVES)


def is_archive(name: str, head: bytes) -> bool:
    """Whether a file is opened: by its content if its suffix allows it, so that a zip called .tar is one too."""
    if is_archive_name(name):
        return True
    begins = head.startswith(_ARCHIVE_HEADS) or head[257:262] == b"ustar"
    return begins and (python_like(name) or "." not in name)


def is_archive_name(name: str) -> bool:
    return name.casefold().rstrip().endswith(reader.ARCHIVES)


_DOCUMENTS = """.py .ipynb .7z .rar .pdf .docx .doc .odt .rtf .pages .html .htm .txt .md .zst .exe .dmg .iso .pyc .png
    .jpg .jpeg .heic .gdoc .webloc .url .lnk .icloud""".split()


def without_suffix(name: str) -> str:
    """A file's name without the suffixes of archives and documents: "ada" of "ada.tar.gz" and of "ada.py.zip"."""
    for suffixes in (_LONG_SUFFIXES, _DOCUMENTS):
        lower = name.casefold()
        found = next((suffix for suffix in suffixes if lower.endswith(suffix) and len(lower) > len(suffix)), "")
        if found and len(lower) == len(name):
            name = name[: -len(found)]
    return name


# ---------------------------------------------------------------------------------------------- what it is instead

_HEADS = {
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"MSCF": "a CAB archive",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an Office document",
    b"{\\rtf": "a rich-text document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"bplist00": "a placeholder that iCloud left for a file",
    b"version https://git-lfs": "a Git LFS pointer and not the file itself",
}
_SUFFIXES = {
    "a 7z archive": ".7z",
    "a RAR archive": ".rar .cbr",
    "an archive of an unsupported kind": ".zst .lz .lzma .z .ace .arj .cab .dmg .iso .deb .rpm",
    "a part of an archive in several parts": ".001 .002 .z01 .z02 .r00",
    "a notebook": ".ipynb",
    "a PDF": ".pdf",
    "a Word document": ".docx .doc",
    "a document": ".odt .rtf .pages .pptx .ppt .key",
    "a table": ".xlsx .xls .numbers .ods",
    "a web page": ".html .htm .mhtml .webarchive",
    "a link to a document elsewhere": ".gdoc .gsheet .webloc .url .lnk .desktop",
    "a placeholder that iCloud left for a file": ".icloud",
    "a download that was not finished": ".crdownload .part .partial",
    "compiled Python": ".pyc .pyo .pyd .so",
    "a picture": ".png .jpg .jpeg .gif .heic .bmp .svg .webp",
    "a text file": ".txt .md .rst .log",
}
_BY_SUFFIX = {suffix: what for what, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}


def what_is(name: str, head: bytes = b"") -> str:
    """ "a PDF", "a 7z archive" …: what a file that is not taken in is; empty if nobody knows."""
    for begin, what in _HEADS.items():
        if head.startswith(begin):
            return what
    if re.match(rb"\s*(<!doctype html|<html|<\?xml[^>]*>\s*<!doctype html)", head[:400].lower()):
        return "a web page"
    if head[:1] == b"{" and b'"cells"' in head[:400]:
        return "a notebook"
    return _BY_SUFFIX.get(PurePosixPath(name).suffix.casefold(), "")


def trouble_with_text(content: bytes) -> str:
    """Why a .py file cannot hold Python, and what to do; empty if it may."""
    if not content.strip(b" \t\r\n\0"):
        return (
            "it is empty: save it and submit it again"
            if not content.strip()
            else "it contains only zero bytes: submit it again"
        )
    wide = _wide_encoding(content)
    if wide:
        return f"it is saved as {wide}: save it as UTF-8"
    what = what_is("", content[:4096])
    if what == "a notebook":
        return "it is a notebook: put its code into a .py file"
    if what:
        return f"it is {what}: submit the Python file itself"
    if content.startswith(_ARCHIVE_HEADS):
        return "it is an archive that cannot be opened: submit the Python file itself"
    return trouble_with_encoding(content)


def trouble_with_encoding(content: bytes) -> str:
    """Why a file is not read as UTF-8, and what to do; empty if it is.

    Python reads a file as a comment in its first lines says. In UTF-7 and its like what a person, a mail and our scan see as
    a comment is code then: no file needs another encoding than UTF-8.
    """
    wide = _wide_encoding(content)
    if wide:
        return f"it is saved as {wide}: save it as UTF-8"
    declared = _declared_encoding(content.removeprefix(codecs.BOM_UTF8))
    if declared and not _is_utf8(declared, content):
        return f"its encoding is {declared}, as its first lines say: save it as UTF-8, without the comment that names another"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"its encoding is not UTF-8 (line {line}): save it as UTF-8"
    return ""


_CODING = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_NO_CODE = re.compile(rb"[ \t\f]*(#.*)?")


def _declared_encoding(content):
    """What a comment in the first two lines says, found as Python's compiler does; "" if none does."""
    for line in re.split(rb"\r\n|\r|\n", content, maxsplit=2)[:2]:
        match = _CODING.match(line)
        if match:
            return match[1].decode("ascii", "replace")[:40]
        if not _NO_CODE.fullmatch(line):
            return ""
    return ""


def _is_utf8(declared, content):
    """Also ASCII, if that is what it is. No codec is looked up by a stranger's name."""
    name = declared.lower().replace("_", "-")
    if name in ("ascii", "us-ascii"):
        return content.isascii()
    return name in ("utf-8", "utf8", "u8", "utf", "cp65001") or name.startswith("utf-8-")  # such as utf-8-unix


def _wide_encoding(content):
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if content.startswith(mark):
            return name
    start = content[:4096]
    for width, name in ((4, "UTF-32"), (2, "UTF-16")):  # without a mark: in most text every other byte is zero
        columns = [start[place::width] for place in range(width)]
        empty = sum(len(column) > 3 and column.count(0) > 0.8 * len(column) for column in columns)
        if empty == width - 1:
            return name
    return ""
