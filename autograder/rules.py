"""What a lesson asks students to write themselves: found in source and at run time, as evidence.

No observer can prove which function computed a right tensor (docs/security.md). So a use that is found is evidence in the
scorecard, and the lesson says what it costs: nothing, the question in whose tests it was called, or the module. A use in a
helper file is told of the modules that import the file. A file that could not be scanned is told too: that is
no use, and costs nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .box.session import NO_TEST, Session
from .errors import StudentFault, shown
from .lesson import Forbidden
from .scorecard import AT_RUN_TIME, FAILED, GRADER_ERROR, IN_SOURCE, NOT_SCANNED, Evidence, Outcome
from .student import Student

_INSIDE = Path(__file__).parent / "box" / "inside"
_FROM_HERE = "from .reading import Names, Tangled, join, parsed\n"  # the two files travel as one text
_SCAN = (_INSIDE / "reading.py").read_text("utf-8") + (_INSIDE / "scan.py").read_text("utf-8").replace(_FROM_HERE, "")
_SCAN_S = 20.0  # of processor time, for one look at files
_ALL_S = 60.0  # of processor time, for all looks at one submission
_LONGEST_PLACE = 120  # characters


def scan(session: Session, files: dict[str, bytes], forbidden: Forbidden, modules: Sequence[str]) -> list[Evidence]:
    """Uses of forbidden names in the source of the files, and the files that were not scanned.

    Parsed in the box, by a process in which no student code has run: source can crash a parser, but it cannot deceive one.

    Args:
        modules: of the lesson. They are looked at first, so that no other file can take their time.
    """
    own = [f"{module}.py" for module in modules if f"{module}.py" in files]
    found = _Scanner(session, files, forbidden.names).scanned(own + sorted(set(files) - set(own)))
    uses = [
        Evidence(module, name, f"{file}:{line}", IN_SOURCE)
        for file, lines in sorted(found.uses.items())
        for module in _charged_with(file, own, found.imports)
        for line, name in lines
    ]
    unread = [
        Evidence(module_of(file), "not scanned", f"{file}: {why}", NOT_SCANNED) for file, why in found.unread.items()
    ]
    return uses + unread


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def _charged_with(file, own, imports):
    """The modules that a use in a file is told of: a module itself, or those that import the file; else the file alone."""
    if file in own:
        return [module_of(file)]
    return [module_of(module) for module in own if file in _helpers_of(module, own, imports)] or [module_of(file)]


def _helpers_of(module, own, imports):
    """The files that a module imports, and these import; what another module of the lesson uses is that one's affair."""
    found: set[str] = set()
    new = {module}
    while new:
        new = {each for file in new for each in imports.get(file, ())} - found - set(own)
        found |= new
    return found


# ---------------------------------------------------------------------------------------------- looking at source


@dataclass
class _Found:
    """uses: file -> (line, name); imports: file -> files; unread: file -> why it was not scanned."""

    uses: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    imports: dict[str, list[str]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def add(self, other: "_Found") -> None:
        self.uses |= other.uses
        self.imports |= other.imports
        self.unread |= other.unread


class _Scanner:
    """Asks a process in the box; one that a file ends costs that file alone."""

    def __init__(self, session: Session, files: Mapping[str, bytes], names: Sequence[str]):
        self._session, self._files, self._names = session, files, list(names)
        self._spent = 0.0

    def scanned(self, names: Sequence[str]) -> _Found:
        """All files together, as a name may lead from one to another; else each alone, and then what can be read."""
        try:
            return self._look(names)
        except StudentFault as fault:
            if len(names) == 1:
                return _Found(unread={names[0]: _why(fault)})
        alone = _Found()
        for name in names:
            alone.add(
                self.scanned([name]) if self._spent < _ALL_S else _Found(unread={name: "no time was left for it"})
            )
        readable = [name for name in names if name not in alone.unread]
        try:
            together = self._look(readable) if self._spent < _ALL_S else _Found()
        except StudentFault:
            together = _Found()
        alone.add(together)
        return alone

    def _look(self, names):
        if not names:
            return _Found()

        def probe(names, contents, forbidden):
            files = zip(bytes(names.tolist()).decode().split("\n"), contents, strict=True)
            contents = {name: bytes(content.tolist()) for name, content in files}
            return inside.look(contents, forbidden)  # type: ignore[name-defined]  # it runs beside scan.py

        # As tensors: plain data may have a tenth of the size.
        contents = [_as_tensor(self._files[name]) for name in names]
        processes = self._session.processes(NO_TEST, 0)
        student = Student(processes, _SCAN, timeout=_SCAN_S)
        before = student.cpu_s()
        try:
            said = student.run(probe, _as_tensor("\n".join(names).encode()), contents, self._names)
        finally:
            processes.close()
            self._spent += student.cpu_s() - before
        return self._found(sorted(names), said)

    def _found(self, names, said):
        uses = {
            names[place]: sorted((line, self._names[which]) for which, lines in found.items() for line in lines)
            for place, found in said["uses"].items()
        }
        imports = {names[place]: [names[other] for other in others] for place, others in said["imports"].items()}
        return _Found(uses, imports, {names[place]: why for place, why in said["unread"].items()})


def _as_tensor(content):
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _why(fault):
    return shown(f"scanning it failed: {fault}", _LONGEST_PLACE)


# ---------------------------------------------------------------------------------------------- at run time


def at_run_time(notes: Mapping[tuple[str, str], Iterable[str]], forbidden: Forbidden) -> list[Evidence]:
    """Evidence from what the tripwires noted: (module, test) -> notes "name (file.py:line)".

    Notes come from the student's process: one of what the lesson does not forbid is none of ours.
    """
    found = []
    for (module, test), lines in notes.items():
        for line in lines:
            name, _, where = line.partition(" (")
            if name in forbidden.names:
                found.append(Evidence(module, name, shown(where.removesuffix(")"), _LONGEST_PLACE), AT_RUN_TIME, test))
    return found


# ---------------------------------------------------------------------------------------------- what it costs


def charge(outcomes: Sequence[Outcome], evidence: Sequence[Evidence], forbidden: Forbidden) -> tuple[Outcome, ...]:
    """The outcomes after what the lesson charges for the evidence."""
    if forbidden.cost == "nothing":
        return tuple(outcomes)
    question_of = {(row.module, row.test): row.question for row in outcomes}
    guilty: dict[str | tuple[str, str | None], str] = {}  # module, or (module, question) -> name that was used
    for found in evidence:
        if not found.is_a_use:
            continue
        place: str | tuple[str, str | None] = found.module
        if forbidden.cost == "question":
            if found.how != AT_RUN_TIME:
                continue
            place = (found.module, question_of.get((found.module, found.test)))
        guilty.setdefault(place, found.name)
    return tuple(_charged(row, guilty.get(row.module) or guilty.get((row.module, row.question))) for row in outcomes)


def _charged(row, name):
    if name is None or row.status == GRADER_ERROR:
        return row
    message = f"the code uses {name}, which this lesson asks you to write yourself"
    return replace(row, status=FAILED, points=0.0, message=message, mistake=message)
