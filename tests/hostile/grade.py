"""Grades hostile samples one after another, as a class is graded, and looks at what each has reached and left behind.

    grade.py FOLDER [SAMPLE...]

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

from watch import CANARY, Watch, WatchedSandbox  # noqa: E402

from autograder import grade  # noqa: E402
from autograder.author.samples import HOSTILE, load_samples  # noqa: E402
from autograder.batch import Job, run  # noqa: E402
from autograder.lesson import load  # noqa: E402
from autograder.options import Asked  # noqa: E402

LESSON = "01-attention"
TESTS = {
    "attention": (
        "test_causal_mask_shows_a_position_itself_and_the_past_only",
        "test_scaled_dot_product_is_a_weighted_mean_of_the_values",
        "test_scaled_dot_product_refuses_a_temperature_that_is_not_positive",
        "test_causal_attention_attends_to_the_past",
    ),
    "flash_attention": ("test_the_forward_never_holds_the_matrix_of_scores",),
}
HONEST = Asked(("attention",), TESTS["attention"][:2])
LIMITS = "call_timeout_s = 1.5\ndeadline_s = 6\n"


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    lesson = load(LESSON, copied_course(folder / "course"))
    samples = [sample for sample in load_samples(lesson, (HOSTILE,)) if not names or sample.name in names]
    watch = Watch(
        folder, {"hidden_test": lesson.hidden_test("attention"), "solution": lesson.solution / "attention.py"}
    )
    grade.open_box = WatchedSandbox

    honest = Job(laid(folder / "honest", lesson.solution_files()), HONEST)
    jobs = [honest]
    for sample in samples:
        jobs += [Job(folder / sample.name, Asked(sample.modules, asked(sample))), honest]
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


def copied_course(root: Path) -> Path:
    """The lesson's own files with short limits, and a canary in each that is hidden from students."""
    for part in (f"assignments/{LESSON}", f"solutions/{LESSON}", f"tests/lessons/{LESSON}"):
        shutil.copytree(ROOT / part, root / part)
    for shared in (ROOT / "tests" / "lessons").glob("*.py"):
        shutil.copy(shared, root / "tests" / "lessons")
    for hidden in (*(root / "solutions").rglob("*.py"), *(root / "tests").rglob("test_*.py")):
        hidden.write_text(f"{hidden.read_text()}\n# {CANARY}\n")
    settings = root / "assignments" / LESSON / "lesson.toml"
    # Evidence of forbidden calls is collected, and costs nothing.
    kept = re.sub(r"(?m)^(call_timeout_s|deadline_s|cost) *=.*\n", "", settings.read_text())
    settings.write_text(LIMITS + kept)
    (root / "tests" / "submissions").symlink_to(ROOT / "tests" / "submissions")
    return root


def asked(sample) -> tuple[str, ...]:
    return sum((TESTS[module] for module in sample.modules), ())


def files_of(sample, targets: dict) -> dict[str, bytes]:
    lines = "".join(f"{name} = {value!r}\n" for name, value in targets.items())
    return sample.submission().files | {"attack.py": (HERE / "attack.py").read_bytes(), "targets.py": lines.encode()}


def laid(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


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
