"""How sites name what they give to instructors: Canvas, Moodle, Blackboard, Brightspace. Names are all that is read.

    Canvas       doejane_12345_67890_attention.py    roe_LATE_12345_67890_attention-1.py   (-1: handed in again)
    Moodle       Ada Lovelace_1234567_assignsubmission_file_/   or the same in front of a file's name
    Blackboard   Lesson 1_ada_attempt_2026-03-01-12-30-00_attention.py, and a receipt that ends in .txt
    Brightspace  12345-67890 - Ada Lovelace - Mar 1, 2026 1230 PM/   or the same in front of " - attention.py"

Gradescope's folders (submission_123456789/) are names like any other.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Named:
    """What a site's name says.

    Attributes:
        student: their name. mark: the number that the site knows them by. file: what they called the file ("" of a folder).
        turn: in which attempt, where the name says it; a later one sorts after an earlier one. late: the site says so.
    """

    student: str
    mark: str
    file: str
    turn: str = ""
    late: bool = False


_CANVAS = re.compile(r"(?P<student>[^_]+)_(?P<late>LATE_)?(?P<mark>\d{3,})_\d{3,}_(?P<file>.+)", re.DOTALL)
_MOODLE = re.compile(
    r"(?P<student>.+?)_(?P<mark>\d+)_assignsubmission_(?:file|onlinetext)(?:_(?P<file>.*))?", re.DOTALL
)
_BLACKBOARD = re.compile(
    r".+_(?P<student>[^_]+)_attempt_(?P<turn>\d{4}(?:-\d\d){5})(?:_(?P<file>.+)|(?P<receipt>\.txt))", re.DOTALL
)
_BRIGHTSPACE = re.compile(
    r"(?P<mark>\d+-\d+) ?- (?P<student>.+?) ?- \w{3,9}\.? \d{1,2}, \d{4} \d{1,4} ?[AP]M(?: ?- (?P<file>.+))?",
    re.DOTALL,
)


def parsed(name: str) -> Named | None:
    """What a site's name says; None if it is not one."""
    for pattern in (_MOODLE, _BLACKBOARD, _BRIGHTSPACE, _CANVAS):
        match = pattern.fullmatch(name)
        if match:
            found = match.groupdict()
            return Named(
                student=found["student"].strip(),
                mark=found.get("mark") or "",
                file=(found.get("file") or found.get("receipt") or "").strip(),
                turn=found.get("turn") or "",
                late=bool(found.get("late")),
            )
    return None


_AGAIN = re.compile(r"(?P<name>.+)-(?P<turn>\d{1,3})(?P<suffix>(?:\.[A-Za-z][A-Za-z0-9]{0,6}){1,2})")


def handed_in_again(file: str) -> tuple[str, int]:
    """The name and the number that Canvas puts behind it: ("attention.py", 1) of "attention-1.py"; 0 if there is none."""
    match = _AGAIN.fullmatch(file)
    return (match["name"] + match["suffix"], int(match["turn"])) if match else (file, 0)
