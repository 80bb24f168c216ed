"""Which file is which module, and what is beside them. The rules are stated in docs/student.md.

1. A file called <module>.py counts, in whatever folder. If there is none, one whose name differs by an accident only.
2. Of several the one that can be read and is not the unchanged starter counts.
3. Of several such the first by naming.standing: a rule on names, never a date. Accidents are not chosen among, unless their
   contents are the same.

Each choice between different contents is a note that names them all.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from . import kinds
from .entries import listed, shown_name
from .gather import Gathered
from .naming import meant, standing


@dataclass(frozen=True)
class Wanted:
    """What a lesson asks for.

    Attributes:
        modules: their names. starters: "module.py" -> what students started from. elsewhere: module -> its other lesson.
    """

    modules: tuple[str, ...] = ()
    starters: Mapping[str, bytes] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Chosen:
    """The files that are graded, under the names that imports need.

    Attributes:
        unusable: module -> (file, why it cannot be used). rivals: module -> files between which nothing decides.
    """

    files: dict[str, bytes]
    notes: list[str] = field(default_factory=list)
    unusable: dict[str, tuple[str, str]] = field(default_factory=dict)
    rivals: dict[str, list[str]] = field(default_factory=dict)


def choose(found: Gathered, wanted: Wanted) -> Chosen:
    """The lesson's modules at the top, with all that was beside them."""
    chosen = Chosen({})
    homes: dict[str, str] = {}  # module's file -> where it was found
    for module in wanted.modules:
        path = _Choice(f"{module}.py", found, wanted, chosen).path()
        if path is not None:
            homes[f"{module}.py"] = path
    python = {path: content for path, content in found.files.items() if path.endswith(".py")}
    chosen.files = _laid_out(python, found.files, homes, chosen.notes)
    for module in chosen.unusable:
        chosen.files.pop(f"{module}.py", None)
    _refuse_other_encodings(chosen)
    unused = [path for path in found.files if path not in python and path not in homes.values()]
    if unused:
        chosen.notes.append(f"not used, because the name does not end in .py: {listed(unused)}")
    return chosen


def _refuse_other_encodings(chosen):
    """What is beside the modules and not UTF-8 says so to whoever imports it; to others it does not matter."""
    for path, content in chosen.files.items():
        why = kinds.trouble_with_encoding(content)
        if why:
            sentence = f"{shown_name(path)} cannot be used: {why}"
            chosen.notes.append(sentence)
            chosen.files[path] = f"raise SyntaxError({sentence!a})\n".encode()


class _Choice:
    """Of one module's file."""

    def __init__(self, name, found: Gathered, wanted: Wanted, chosen: Chosen):
        self._name, self._module, self._files, self._chosen = name, name.removesuffix(".py"), found.files, chosen
        self._starter = wanted.starters.get(name)

    def path(self) -> str | None:
        """Where the module is, or None; notes say what was decided."""
        exact = [path for path in self._files if PurePosixPath(path).name == self._name]
        accidents = [
            path for path in self._files if path not in exact and meant(PurePosixPath(path).name) == self._name
        ]
        usable = [path for path in exact if not kinds.trouble_with_text(self._files[path])]
        worked = [path for path in usable if not self._is_the_starter(path)]
        if worked:
            return self._first_of(worked, exact)
        others = self._usable_accidents(accidents, with_starters=not usable)
        if self._alike(others):
            return self._renamed(min(others, key=standing), usable)
        if usable:
            return self._first_of(usable, exact)
        if others:
            self._chosen.rivals[self._module] = sorted(others, key=standing)
        elif exact or accidents:
            path = min(exact or accidents, key=standing)
            self._chosen.unusable[self._module] = (path, kinds.trouble_with_text(self._files[path]))
        return None

    def _is_the_starter(self, path):
        return is_the_starter(self._files[path], self._starter)

    def _usable_accidents(self, accidents, with_starters):
        usable = [path for path in accidents if not kinds.trouble_with_text(self._files[path])]
        worked = [path for path in usable if not self._is_the_starter(path)]
        return worked or (usable if with_starters else [])

    def _alike(self, paths):
        return len({self._files[path] for path in paths}) == 1

    def _renamed(self, path, starters):
        instead = f", because {listed(starters)} is the unchanged starter" if starters else ""
        self._chosen.notes.append(f"found {shown_name(path)}, which counts as {self._name}{instead}: rename it")
        return path

    def _first_of(self, paths, exact):
        best = min(paths, key=standing)
        if len({self._files[path] for path in exact}) > 1:
            others = [path for path in sorted(exact, key=standing) if path != best]
            self._chosen.notes.append(
                f"found {self._name} in {len(exact)} places: {shown_name(best)} counts, {self._why_not(others, paths)}"
            )
        return best

    def _why_not(self, others, paths):
        if all(path not in paths for path in others):
            why = {kinds.trouble_with_text(self._files[path]).partition(":")[0] for path in others} - {""}
            return f"not {listed(others)} ({why.pop() if why else 'the unchanged starter'})"
        return f"not {listed(others)} (by its folder's name: docs/student.md)"


def is_the_starter(content: bytes, starter: bytes | None) -> bool:
    """Whether nothing was written yet."""
    return starter is not None and _normal(content) == _normal(starter)


def _normal(content: bytes) -> bytes:
    """Without what editors and downloads change by themselves."""
    lines = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    return b"\n".join(line.rstrip() for line in lines).strip()


# ---------------------------------------------------------------------------------------------- what is beside them


def _laid_out(python, files, homes, notes) -> dict[str, bytes]:
    """The modules at the top. From one folder: what is in it; from several: everything, and their neighbours at the top."""
    folders = _by_weight(_folder(path) for path in homes.values())
    if not folders:
        return dict(python)
    if len(folders) == 1:
        home = folders[0]
        laid = {path.removeprefix(home): content for path, content in python.items() if path.startswith(home)}
        away = [path for path in python if not path.startswith(home) and PurePosixPath(path).name not in homes]
        if away:
            notes.append(f"not used, because the modules are in {shown_name(home)}: {listed(away)}")
        taken = {path.removeprefix(home) for path in homes.values()}
    else:
        laid = dict(python)
        notes.append(f"the modules are in several folders: {listed(sorted(homes.values()), 5)}")
        for folder in folders:
            _lay_at_the_top(folder, python, homes, laid, notes)
        taken = {path for path in python if PurePosixPath(path).name in homes and not _imported(_folder(path), python)}
    for path in taken:  # a module is there once, under its own name
        laid.pop(path, None)
    return laid | {name: files[path] for name, path in homes.items()}


def _imported(folder, python):
    """Whether some file says `from part1.attention import …`, and needs the module where it was."""
    package = re.escape(folder.rstrip("/").replace("/", ".")).encode()
    return bool(package) and any(re.search(rb"\b(from|import)\s+" + package + rb"\b", text) for text in python.values())


def _lay_at_the_top(folder, python, homes, laid, notes):
    """A folder's files where the modules at the top find them."""
    for path in [path for path in python if folder and path.startswith(folder)]:
        name = path.removeprefix(folder)
        if name in homes or _blocked(name, laid):
            continue
        if laid.setdefault(name, python[path]) != python[path]:
            notes.append(f"{shown_name(path)} is not used: another {shown_name(name)} was taken first")


def _blocked(name, laid):
    """Whether a file of this name cannot be beside the others."""
    return any(name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in laid)


def _folder(path):
    return path[: len(path) - len(PurePosixPath(path).name)]


def _by_weight(folders: Iterable[str]) -> list[str]:
    """The top first, then the folder of the most modules."""
    counts = Counter(folders)
    return sorted(counts, key=lambda folder: (folder != "", -counts[folder], standing(f"{folder}x")))
