"""How sites name what they give to instructors: Canvas, Moodle, Blackboard, Brightspace. Names are all that is read.

    Canvas       doejane_12345_67890_attention.py    roe_LATE_12345_67890_attention-1.py   (-1: handed in again)
    Moodle       Ada Lovelace_1234567_assignsubmission_file_/   or the same in front of a file's name
    Blackboard   Lesson 1_ada_attempt_2026-03-01-12-30-00_attention.py, and a receipt that ends in .txt
    Brightspace  12345-67890 - Ada Lovelace - Mar 1, 2026 1230 PM/   or the same in front of " - attention.py"

Gradescope's folders (submission_123456789/) are names like any other.

What a site puts stands in front, and behind it the student's own name of the file, which may look like another student's. So
the first place counts where a site's part can end, and in a folder the site that fits most of its names.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Named:
    """What a site's name says.

    Attributes:
        student: their name. mark: the number that the site knows them by; of Blackboard, which has none, the assignment.
        file: what they called the file ("" of a folder).
        turn: in which attempt, where the name says it; a later one sorts after an earlier one. late: the site says so.
        site: which one it is.
    """

    student: str
    mark: str
    file: str
    turn: str = ""
    late: bool = False
    site: str = ""

    @property
    def is_in_the_future(self) -> bool:
        """Whether the attempt has a date that nobody can have handed it in at, wherever they are."""
        latest = datetime.now(UTC) + timedelta(days=1)
        return bool(self.turn) and self.turn > latest.strftime("%Y-%m-%d-%H-%M-%S")


_CANVAS = re.compile(r"(?P<student>[^_]+)_(?P<late>LATE_)?(?P<mark>\d{3,})_\d{3,}_(?P<file>.+)", re.DOTALL)
_MOODLE = re.compile(
    r"(?P<student>.+?)_(?P<mark>\d+)_assignsubmission_(?:file|onlinetext)(?:_(?P<file>.*))?", re.DOTALL
)
_BLACKBOARD = re.compile(
    r"(?P<mark>.+?)_(?P<student>[^_]+)_attempt_(?P<turn>\d{4}(?:-\d\d){5})(?:_(?P<file>.+)|(?P<receipt>\.txt))",
    re.DOTALL,
)
_BRIGHTSPACE = re.compile(
    r"(?P<mark>\d+-\d+) ?- (?P<student>.+?) ?- \w{3,9}\.? \d{1,2}, \d{4} \d{1,4} ?[AP]M(?: ?- (?P<file>.+))?",
    re.DOTALL,
)


# Where two fit a whole folder, the one with more words of its own.
_SITES = {"Moodle": _MOODLE, "Brightspace": _BRIGHTSPACE, "Blackboard": _BLACKBOARD, "Canvas": _CANVAS}


def parsed(name: str) -> Named | None:
    """What a site's name says; None if it is not one."""
    matches = [(site, match) for site, pattern in _SITES.items() if (match := pattern.fullmatch(name))]
    return _named(*min(matches, key=lambda found: _end_of_the_sites_part(found[1]))) if matches else None


def parsed_together(names: Iterable[str]) -> dict[str, Named]:
    """What the names of one folder say, of those that are a site's: all are the same site's where they can be."""
    matches: dict[str, dict[str, re.Match]] = {
        name: {site: fit for site, p in _SITES.items() if (fit := p.fullmatch(name))} for name in names
    }
    fitting = Counter(site for found in matches.values() for site in found)
    site = max(_SITES, key=lambda site: fitting[site])
    found = {name: _named(site, fits[site]) if site in fits else parsed(name) for name, fits in matches.items() if fits}
    return _with_whole_names({name: named for name, named in found.items() if named})


def _end_of_the_sites_part(match):
    found = match.groupdict()
    return match.start("file") if found.get("file") is not None else match.end()


def _named(site, match):
    found = match.groupdict()
    return Named(
        student=found["student"].strip(),
        mark=found.get("mark") or "",
        file=(found.get("file") or found.get("receipt") or "").strip(),
        turn=found.get("turn") or "",
        late=bool(found.get("late")),
        site=site,
    )


def _with_whole_names(found):
    """On Blackboard a name may hold the "_" that parts it from the assignment, which is the same for all."""
    assignments = {named.mark for named in found.values() if named.site == "Blackboard"}
    one = min(assignments, key=len, default="")
    if len(assignments) < 2 or not all(f"{each}_".startswith(f"{one}_") for each in assignments):
        return found
    return {
        name: replace(named, student="_".join([*filter(None, [named.mark[len(one) + 1 :]]), named.student]), mark=one)
        if named.site == "Blackboard"
        else named
        for name, named in found.items()
    }


_AGAIN = re.compile(r"(?P<name>.+)-(?P<turn>\d{1,3})(?P<suffix>(?:\.[A-Za-z][A-Za-z0-9]{0,6}){1,2})")


def handed_in_again(file: str) -> tuple[str, int]:
    """The name and the number that Canvas puts behind it: ("attention.py", 1) of "attention-1.py"; 0 if there is none."""
    match = _AGAIN.fullmatch(file)
    return (match["name"] + match["suffix"], int(match["turn"])) if match else (file, 0)
