"""Accidents of naming: what a file called "Copy of Attention (1).py.txt" was called before computers helped.

The rule (docs/student.md): upper case, spaces and hyphens, the marks of a copy or a download, what a course's site puts in
front, and a suffix behind ".py" are accidents. Everything else ("attention_final.py") may be meant, and is not guessed.
"""

import re
import unicodedata
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import PurePosixPath

from .sites import parsed

_BEHIND = re.compile(r"\s*\.(py|txt|download)\s*$")
_COPY_IN_FRONT = re.compile(r"^(copy|kopie|copie|copia|cópia|kopia)\s*(\(\d+\)\s*)?(of|von|de|di)\s+")
_COPY_BEHIND = re.compile(r"(\s*\(\d{1,3}\)|-\d{1,2}|[\s_-]+(copy|kopie|copie|copia|cópia|kopia)([\s_-]*\d{1,3})?)$")
_LESSER = re.compile(r"\(\d+\)|\s\d{1,2}$|\b(copy|kopie|copie|copia|old|backup|bak|draft|previous|starter|handout)\b")


_LONGEST = 255  # characters: longer names are nobody's accident
_MOST_ACCIDENTS = 10  # in one name: "Copy of attention (1) (2).py.txt.txt" has five


@lru_cache(maxsize=4096)
def meant(name: str) -> str:
    """The module's file that a name most plausibly stands for: "attention.py"; empty if it is not Python."""
    if len(name) > _LONGEST:
        return ""
    site = parsed(name)
    name = unicodedata.normalize("NFKC", site.file if site and site.file else name).casefold().rstrip(" .").lstrip()
    seen = False
    for _ in range(_MOST_ACCIDENTS):  # .py.txt, .py.py, .py (1).txt
        match = _BEHIND.search(name)
        if match and (match[1] != "txt" or re.search(r"\.py\b", name[: match.start()])):
            seen = seen or match[1] == "py"
            name = name[: match.start()]
        elif re.search(r"\.py\b", name):
            name = _COPY_BEHIND.sub("", name)
    if not seen or name.endswith((".txt", ".download")):
        return ""
    return f"{_plain(name)}.py"


def _plain(stem):
    for _ in range(_MOST_ACCIDENTS):
        stem = _COPY_BEHIND.sub("", _COPY_IN_FRONT.sub("", stem)).strip(" .")
    return re.sub(r"[\s-]+", "_", stem)


def standing(path: str) -> tuple:
    """For ordering files of one name: not marked as a copy or old, in few folders, first by name. Dates decide nothing."""
    folders = path.split("/")[:-1]
    marked = any(_LESSER.search(part.casefold().replace("_", " ")) for part in folders)
    return marked, len(folders), path.casefold(), path


def words_of(name: str) -> list[str]:
    """["my", "attention", "v2"] of "My-attention_v2.py"."""
    stem = PurePosixPath(name).name.casefold().split(".")[0]
    return [word for word in re.split(r"[^a-z0-9]+", stem) if word]


def nearly(name: str, module: str) -> bool:
    """Whether a file is called like a module but for a slip of the keyboard: attentoin.py."""
    stem = meant(PurePosixPath(name).name).removesuffix(".py")
    matcher = SequenceMatcher(None, stem, module)
    return min(matcher.real_quick_ratio(), matcher.quick_ratio()) >= 0.85 and matcher.ratio() >= 0.85
