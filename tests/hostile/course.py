"""Which lessons have hostile samples, what is asked of these, and which files are laid for them.

A lesson takes part with a folder tests/submissions/<lesson>/hostile/ and a table in lessons.toml. Samples find beside them
`attack` (tools.py with the lesson's wrong answers, if attacks/<lesson>.py has some), `targets`, and the solution's modules
as `right_<module>`, for attacks that need right values.
"""

import tomllib
from functools import cache
from pathlib import Path

from autograder.author.samples import Sample
from autograder.lesson import Lesson, load
from autograder.options import Asked

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TABLE: dict[str, dict] = tomllib.loads((HERE / "lessons.toml").read_text())


@cache
def lesson_of(name: str) -> Lesson:
    return load(name, ROOT)


def asked(sample: Sample) -> tuple[str, ...]:
    """The tests that the sample is graded with."""
    table = TABLE[sample.lesson.name]
    return sample.expect.asks or sum((tuple(table[module]) for module in sample.modules), ())


def limits(lesson: str) -> str:
    """Lines of lesson.toml: short, so that what hangs costs little time."""
    return f"call_timeout_s = 1.5\ndeadline_s = {TABLE[lesson].get('deadline_s', 6)}\n"


def honest(lesson: Lesson) -> Asked:
    tests = TABLE[lesson.name]["honest"]
    return Asked(lesson.modules_with(tests), tuple(tests))


def files_of(sample: Sample, targets: dict) -> dict[str, bytes]:
    """A sample's submission with what it imports."""
    return sample.submission().files | beside(sample.lesson.name, targets)


def beside(lesson: str, targets: dict) -> dict[str, bytes]:
    lines = "".join(f"{name} = {value!r}\n" for name, value in targets.items())
    wrong = HERE / "attacks" / f"{lesson}.py"
    return {
        "tools.py": (HERE / "tools.py").read_bytes(),
        "attack.py": wrong.read_bytes() if wrong.exists() else b"from tools import *\n",
        "targets.py": lines.encode(),
        **{f"right_{name}": content for name, content in lesson_of(lesson).solution_files().items()},
    }


def laid(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
