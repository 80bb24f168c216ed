"""The names of students, which become folders, columns and rows: whole, and harmless on every system.

What stays: letters and marks of every script, digits, and - _ . + @ ' ’ and spaces, in Unicode's composed form (NFC).
Anything else becomes "_". No name begins with a dot, ends in a dot or a space, is reserved on Windows, or has more than
MOST_BYTES in UTF-8; a longer one is cut and gets a mark made of the whole.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .kinds import without_suffix

MOST_BYTES = 100
_KEPT = set("-_.+@ '’")
_JOINERS = "\u200c\u200d"  # between letters they are part of the spelling of Persian and Indic names
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def student_name(path: Path) -> str:
    """A student's name: that of the folder or file, without the suffix."""
    return harmless(without_suffix(os.path.basename(os.path.abspath(path))))


def harmless(name: str) -> str:
    """`name` as it may be called everywhere."""
    name = unicodedata.normalize("NFC", name)
    clean = "".join(_kept(name, place) for place in range(len(name)))
    clean = _trimmed(clean) or "submission"
    if _RESERVED.fullmatch(clean):
        clean = f"_{clean}"
    return clean if len(clean.encode()) <= MOST_BYTES else _cut(clean, name)


def name_of_a_card(student: str) -> str:
    """A harmless name that no other student has, of one who is known by a name of any kind: "alice." is not "alice"."""
    name = harmless(student)
    if name == student:
        return name
    mark = "-" + hashlib.sha256(student.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    while len(f"{name}{mark}".encode()) > MOST_BYTES:
        name = name[:-1]
    return f"{name}{mark}"


def _kept(name, place):
    char = name[place]
    if char in _KEPT or unicodedata.category(char)[0] in "LM" or unicodedata.category(char) in ("Nd", "Nl"):
        return char
    around = name[place - 1 : place] + name[place + 1 : place + 2]
    if char in _JOINERS and len(around) == 2 and all(unicodedata.category(other)[0] in "LM" for other in around):
        return char
    return "_"


def _trimmed(name):
    return name.lstrip(". ").rstrip(". ")


def _cut(clean, whole):
    mark = "-" + hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    short = clean.encode()[: MOST_BYTES - len(mark)].decode("utf-8", "ignore")
    while short and unicodedata.category(clean[len(short)])[0] == "M":  # a letter keeps its marks, or goes with them
        clean, short = short, short[:-1]
    return _trimmed(short) + mark


def told_apart(names: Sequence[str], marks: Sequence[str]) -> list[str]:
    """The names, so that no two are alike, not even where upper and lower case are one.

    Of names that collide each gets its mark (a number that a course's site gave the student), where there is one; those that
    collide still get "-1", "-2", "-3": nobody keeps a name that somebody else has too, whoever comes first. It depends on
    the names and their order alone.
    """
    alike = Counter(map(_key, names))
    marked = [
        harmless(f"{name} {mark}") if mark and alike[_key(name)] > 1 else name
        for name, mark in zip(names, marks, strict=True)
    ]
    taken = set(map(_key, (*names, *marked)))
    still = Counter(map(_key, marked))
    told = []
    for name, mark in zip(marked, marks, strict=True):
        key = _key(name)
        if still[key] > 1 or (alike[key] > 1 and not mark):
            name = next(other for other in _numbered(name) if _key(other) not in taken)
            taken.add(_key(name))
        told.append(name)
    return told


def _numbered(name):
    for number in range(1, 100_000):
        short = name
        while len(f"{short}-{number}".encode()) > MOST_BYTES:
            short = short[:-1]
        yield f"{short}-{number}"


def _key(name):
    """As a Mac or Windows compares names."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
