"""What a lesson asks students to write themselves: found in source and at run time, as evidence.

No observer can prove which function computed a right tensor (docs/security.md). So a use that is found is evidence in the
scorecard, and the lesson says what it costs: nothing, the question in whose tests it was called, or the module.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .box.session import NO_TEST, Session
from .errors import StudentFault
from .lesson import Forbidden
from .scorecard import FAILED, GRADER_ERROR, Evidence, Outcome
from .student import Student

_SCAN = (Path(__file__).parent / "box" / "inside" / "scan.py").read_text("utf-8")
_SCAN_S = 10.0


def scan(session: Session, files: dict[str, bytes], forbidden: Forbidden) -> list[Evidence]:
    """Uses of forbidden names in the source of the files.

    Parsed in the box, by a process in which no student code has run: source can crash a parser, but it cannot deceive one.
    """

    def probe(files, names):
        return inside.find(files, names)  # type: ignore[name-defined]  # it runs beside scan.py

    processes = session.processes(NO_TEST, 0)
    try:
        rows = Student(processes, _SCAN, timeout=_SCAN_S).run(probe, _texts(files), list(forbidden.names))
    except StudentFault as fault:
        return [Evidence(module="", name="source that cannot be scanned", where=str(fault), how="source")]
    finally:
        processes.close()
    return [Evidence(module_of(file), name, f"{file}:{line}", "source") for file, line, name in rows]


def _texts(files):
    """The sources as texts, as far as they fit through the wire: what is left out is larger than any honest file."""
    return {name: content.decode("utf-8", "replace") for name, content in files.items() if len(content) < 200_000}


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def at_run_time(notes: Mapping[tuple[str, str], Iterable[str]]) -> list[Evidence]:
    """Evidence from what the tripwires noted: (module, test) -> notes "name (file.py:line)"."""
    found = []
    for (module, test), lines in notes.items():
        for line in lines:
            name, _, where = line.partition(" (")
            found.append(Evidence(module, name, where.rstrip(")"), "run", test))
    return found


def charge(outcomes: Sequence[Outcome], evidence: Sequence[Evidence], forbidden: Forbidden) -> tuple[Outcome, ...]:
    """The outcomes after what the lesson charges for the evidence."""
    if forbidden.cost == "nothing":
        return tuple(outcomes)
    question_of = {(row.module, row.test): row.question for row in outcomes}
    guilty: dict[str | tuple[str, str | None], str] = {}  # module, or (module, question) -> name that was used
    for found in evidence:
        place: str | tuple[str, str | None] = found.module
        if forbidden.cost == "question":
            if found.how != "run":
                continue
            place = (found.module, question_of.get((found.module, found.test)))
        guilty.setdefault(place, found.name)
    return tuple(_charged(row, guilty.get(row.module) or guilty.get((row.module, row.question))) for row in outcomes)


def _charged(row, name):
    if name is None or row.status == GRADER_ERROR:
        return row
    message = f"the code uses {name}, which this lesson asks you to write yourself"
    return replace(row, status=FAILED, points=0.0, message=message, mistake=message)
