"""Grades hostile samples one after another, as a class is graded, and looks at what each has reached and left behind.

    grade.py FOLDER LESSON [SAMPLE...]

Run by launch.py as the kind of process that is tested. For each sample a line of JSON is added to FOLDER/records: its
outcomes, and `problems`, of which there must be none. After each sample an honest submission is graded by the same grader.
"""

import json
import re
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from course import asked, files_of, honest, laid, limits  # noqa: E402
from watch import CANARY, Watch, WatchedSandbox  # noqa: E402

from autograder import grade  # noqa: E402
from autograder.author.samples import HOSTILE, load_samples  # noqa: E402
from autograder.batch import Job, run  # noqa: E402
from autograder.lesson import load  # noqa: E402
from autograder.options import Asked  # noqa: E402


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[3:]
    lesson = load(sys.argv[2], copied_course(folder / "course", sys.argv[2]))
    samples = [sample for sample in load_samples(lesson, (HOSTILE,)) if not names or sample.name in names]
    hidden = honest(lesson).modules[0]
    watch = Watch(folder, {"hidden_test": lesson.hidden_test(hidden), "solution": lesson.solution / f"{hidden}.py"})
    grade.open_box = WatchedSandbox

    neighbour = Job(laid(folder / "honest", lesson.solution_files()), honest(lesson))
    jobs = [neighbour]
    for sample in samples:
        jobs += [Job(folder / sample.name, Asked(sample.modules, asked(sample))), neighbour]
    cards = run(lesson, jobs)
    unfair_at_first = unfair(next(cards)[1])
    with open(folder / "records", "w", buffering=1) as records:
        for sample in samples:
            started = time.monotonic()
            laid(folder / sample.name, files_of(sample, watch.targets()))  # jobs are taken in one by one
            watch.begin()
            card = next(cards)[1]
            problems = unfair_at_first + problems_of(card) + watch.problems()
            problems += [f"after it, {problem}" for problem in unfair(next(cards)[1])]
            record = {
                "sample": sample.name, "problems": problems, "output": card.student_output[:3000], "asked": asked(sample),
                "outcomes": {row.test: [row.status, row.message] for row in card.outcomes},
                "evidence": sorted({note.name for note in card.evidence}),
                "seconds": round(time.monotonic() - started, 2),
            }  # fmt: skip
            records.write(json.dumps(record) + "\n")
    cards.close()


def copied_course(root: Path, name: str) -> Path:
    """The files of the lesson and of those that it uses, with short limits, and a canary in each that is hidden from students."""
    lesson = load(name, ROOT)
    for each in (name, *(used.name for used in lesson.prerequisites())):
        for part in (f"assignments/{each}", f"solutions/{each}", f"tests/lessons/{each}"):
            shutil.copytree(ROOT / part, root / part)
    for shared in (ROOT / "tests" / "lessons").glob("*.py"):
        shutil.copy(shared, root / "tests" / "lessons")
    for hidden in (*(root / "solutions").rglob("*.py"), *(root / "tests").rglob("test_*.py")):
        hidden.write_text(f"{hidden.read_text()}\n# {CANARY}\n")
    settings = root / "assignments" / name / "lesson.toml"
    # Evidence of forbidden calls is collected, and costs nothing.
    kept = re.sub(r"(?m)^(call_timeout_s|deadline_s|cost) *=.*\n", "", settings.read_text())
    settings.write_text(limits(name) + kept)
    (root / "tests" / "submissions").symlink_to(ROOT / "tests" / "submissions")
    return root


def unfair(card) -> list[str]:
    """What the honest submission did not get."""
    lost = [row for row in card.outcomes if row.points != row.max_points]
    return [f"the honest submission: {row.test} {row.status}: {row.message}" for row in lost]


def problems_of(card) -> list[str]:
    """What a sample reached, by its own words, and what must not be in a scorecard."""
    text = card.to_json()
    found = [line for line in card.student_output.splitlines() if line.startswith("REACHED")]
    found += [f"{row.test} is a grader error: {row.detail[-500:]}" for row in card.grader_errors]
    if CANARY in text:
        found.append("a secret is in the scorecard")
    if len(text) > 500_000:
        found.append(f"the scorecard has {len(text)} characters")
    for shown in [row.message for row in card.outcomes] + [f"{note.name} {note.where}" for note in card.evidence]:
        if len(shown) > 1000 or not shown.isprintable():
            found.append(f"not clean: {len(shown)} characters, {shown[:200]!r}")
        if re.search(r"\d\.\d{3}(?!\d* s)", shown):
            found.append(f"a message shows a value: {shown[:200]!r}")
    return found


if __name__ == "__main__":
    main()
