"""The box holds: no attack gets a verdict that it did not earn, reads what is hidden, or outlives its grading.

The samples of tests/submissions/<lesson>/hostile/ are graded in the three modes of launch.py by tests/hostile/grade.py, which also
looks at what each has reached and left behind, and grades an honest submission of the same lesson after it (course.py).
`make test` runs some of them as root (or as who you are), `make test-hostile` all of them in all modes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from conftest import all_lessons, all_samples

from autograder.author.samples import HOSTILE, find_samples

HOSTILE_FOLDER = Path(__file__).parent
sys.path.insert(0, str(HOSTILE_FOLDER))

from course import TABLE, beside, files_of, laid, lesson_of  # noqa: E402

SAMPLES = {sample.name: sample for name in TABLE for sample in all_samples(lesson_of(name), (HOSTILE,))}
MODES = ("root", "docker", "plain")
CANNOT = 77  # launch.py's way to say that this machine does not allow a mode
AT_A_LIMIT = re.compile(r"used more than|did not answer within|did nothing for|process ended")

ROWS = {
    f"{letter}{number}"
    for letter, last in zip("ABCDEFGH", (12, 10, 11, 10, 8, 8, 3, 10), strict=True)
    for number in range(1, last + 1)
}
ELSEWHERE = {
    "A10": "needs many runs: each draws a fresh seed (tests/autograder/test_witness.py), feedback shows no values",
    "D10": "archives are refused before anything runs (tests/autograder/test_submission.py)",
    "F8": "needs a GPU: what a slot leaves there is not examined (docs/security.md)",
    "H8": "quantization: tested by the suite of the lesson that has it",
}
QUICK = """open-hidden-files other-submissions exit-in-a-call forge-a-verdict patch-the-wire seed-of-the-inputs lying-tensor
    kill-the-grader world-connectable-sockets memory-in-forks deep-folders hopping-daemon rows-of-nothing
    errors-without-a-type ids-that-equal-everything save-nothing-and-remember patch-the-model-to-load
    checkpoint-with-a-payload""".split()


# ---------------------------------------------------------------------------------------------- the samples


def test_every_sample_can_be_read():
    found = [sample for lesson in all_lessons() for sample in find_samples(lesson, (HOSTILE,))]

    assert sorted(sample.load().name for sample in found) == sorted(SAMPLES), (
        "two have one name, or lessons.toml lacks a lesson"
    )


@pytest.mark.parametrize("name", TABLE)
def test_every_test_of_the_table_exists(name):
    lesson = lesson_of(name)

    for key, tests in TABLE[name].items():
        if key != "deadline_s":
            lesson.modules_with(tests, None if key == "honest" else [key])


def test_every_row_of_the_catalogue_has_a_sample_or_a_reason():
    assert ROWS - {sample.expect.row for sample in SAMPLES.values()} == set(ELSEWHERE)
    assert {sample.expect.row for sample in SAMPLES.values()} <= ROWS
    assert len(SAMPLES) >= 60


@pytest.mark.parametrize("name", QUICK)
def test_an_attack_fails(name):
    mode = "root" if os.geteuid() == 0 else "plain"

    assert verdict_problems(mode, tuple(QUICK), name) == []


@pytest.mark.hostile
@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("mode", MODES)
def test_an_attack_fails_in_each_mode(mode, name):
    assert verdict_problems(mode, tuple(SAMPLES), name) == []


def verdict_problems(mode: str, names: tuple[str, ...], name: str) -> list[str]:
    """What of a sample's record is not as its expect.toml says."""
    lesson = SAMPLES[name].lesson.name
    records, last_words = graded(mode, lesson, tuple(each for each in names if SAMPLES[each].lesson.name == lesson))
    if name not in records:
        return [f"the grader did not finish it: {last_words}"]
    record, expect = records[name], SAMPLES[name].expect
    found = [one for one in record["problems"] if not (mode in expect.granted_to and one.startswith("REACHED"))]
    found += [f"{test} was not run" for test in record["asked"] if test not in record["outcomes"]]
    passed = {test for test, (status, _) in record["outcomes"].items() if status == "passed"}
    if expect.row in ("H1", "H2") and not record["evidence"]:
        found.append("nobody noted what torch did")
    if expect.verdict == "values":
        return found + [
            f"{test} should pass: the values are right" for test in record["outcomes"] if test not in passed
        ]
    found += [f"{test} passed" for test in passed]
    limited = any(AT_A_LIMIT.search(text) for _, text in record["outcomes"].values())
    if expect.verdict == "killed" and not limited:
        found.append("it did not end at a limit")
    return found


@cache
def graded(mode: str, lesson: str, names: tuple[str, ...]) -> tuple[dict, str]:
    """name -> record of grade.py for samples of one lesson, and what the grading process said at its end."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.chmod(0o755)
    try:
        command = [sys.executable, "-B", str(HOSTILE_FOLDER / "launch.py"), mode, str(folder)]
        command += [sys.executable, "-B", str(HOSTILE_FOLDER / "grade.py"), str(folder), lesson, *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        if done.returncode == CANNOT:
            pytest.skip(done.stderr.strip())
        path = folder / "records"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        line["sample"]: line for line in lines if "sample" in line
    }, f"exit {done.returncode}, {done.stderr[-2000:]}"


# ---------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize(
    "mode", ["plain", *(pytest.param(mode, marks=(pytest.mark.hostile, pytest.mark.slow)) for mode in MODES[:2])]
)
def test_what_bombs_beside_it_costs_a_submission_nothing(mode, tmp_path):
    tmp_path.chmod(0o755)
    script = [sys.executable, "-B", str(HOSTILE_FOLDER / "neighbours.py")]
    command = [sys.executable, "-B", str(HOSTILE_FOLDER / "launch.py"), mode, str(tmp_path), *script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip())

    found = json.loads(done.stdout)

    assert found["answers"] == [{"value": 3}] * len(found["answers"])
    assert found["bombs"], "no bomb went off"


# ---------------------------------------------------------------------------------------------- the control


CONTROLLED = sorted(path.stem for path in (HOSTILE_FOLDER / "naive").glob("*.py"))  # lessons with an ordinary suite


@cache
def in_one_process(lesson: str, names: tuple[str, ...]) -> dict[str, int]:
    """How many of the tests in naive/<lesson>.py do not fail, for each of the samples, the solution, and no attack."""
    nowhere = dict.fromkeys(("results", "hidden_test", "closed"), "/nowhere")
    course = lesson_of(lesson)
    solution = course.solution_files()
    used = {file: content for each in course.prerequisites() for file, content in each.solution_files().items()}
    with tempfile.TemporaryDirectory() as top:
        files = {name: files_of(SAMPLES[name], nowhere) for name in names}
        files["(the solution)"] = solution
        files["(no attack)"] = dict.fromkeys(solution, b"from attack import *\n") | beside(lesson, nowhere)
        suite = (HOSTILE_FOLDER / "naive" / f"{lesson}.py").read_bytes()
        for name, contents in files.items():
            laid(Path(top, name), used | contents | {"test_naive.py": suite})
        command = [sys.executable, "-B", str(HOSTILE_FOLDER / "naive_runs.py"), top]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout)


def beating(lesson: str) -> tuple[str, ...]:
    """The lesson's samples that beat an ordinary suite."""
    found = [name for name, sample in SAMPLES.items() if sample.expect.beats_in_process]
    return tuple(name for name in found if SAMPLES[name].lesson.name == lesson)


def quickly_beating(lesson: str) -> tuple[str, ...]:
    return tuple(name for name in beating(lesson) if name in QUICK)


BEATING = [(lesson, name) for lesson in CONTROLLED for name in beating(lesson)]


@pytest.mark.parametrize("lesson", CONTROLLED)
def test_an_ordinary_suite_in_one_process_passes_the_solution_and_fails_wrong_answers(lesson):
    found = in_one_process(lesson, quickly_beating(lesson))

    assert found["(the solution)"] == 3
    assert found["(no attack)"] == 0


@pytest.mark.parametrize(("lesson", "name"), [pair for pair in BEATING if pair[1] in QUICK])
def test_an_ordinary_suite_in_one_process_is_beaten(lesson, name):
    assert in_one_process(lesson, quickly_beating(lesson))[name] > 0


@pytest.mark.hostile
@pytest.mark.slow
@pytest.mark.parametrize(("lesson", "name"), BEATING)
def test_an_ordinary_suite_in_one_process_is_beaten_by_each(lesson, name):
    assert in_one_process(lesson, beating(lesson))[name] > 0
