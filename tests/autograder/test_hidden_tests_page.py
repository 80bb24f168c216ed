"""docs/hidden-tests.md is true: its examples are run, its lesson is graded, its numbers are those of the code."""

import dataclasses
import doctest
import inspect
import re
import shutil
import sys

import pytest
import torch
from conftest import ROOT, write_lesson
from test_shared import shared

from autograder.arguments import require_plain
from autograder.author.samples import load_samples
from autograder.batch import Job, run
from autograder.box import caps, codec
from autograder.box.ranks.post import Message
from autograder.check import Check
from autograder.errors import AuthorError, CheckFailed
from autograder.grade import Grader
from autograder.in_process import InProcess
from autograder.lesson import load
from autograder.options import Asked
from autograder.scorecard import PASSED
from autograder.student import DEFAULT_TIMEOUT, MOST_RANKS, Student
from autograder.submission import Submission

PAGE = (ROOT / "docs" / "hidden-tests.md").read_text("utf-8")
FILE = re.compile(r"^```\w+\n# (\S+/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = re.findall(r"^```pycon\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


# ---------------------------------------------------------------------------------------------- its lesson


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    root = tmp_path_factory.mktemp("course")
    for path, content in FILE.findall(PAGE):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    (root / "assignments" / "11-draws").mkdir(parents=True)
    (root / "assignments" / "11-draws" / "lesson.toml").write_text('title = "Draws"\nmodules = ["draws"]\n')
    for name in ("shared.py", "inside.py"):
        shutil.copy(ROOT / "tests" / "lessons" / name, root / "tests" / "lessons")
    return load("11-draws", root)


def test_the_lesson_of_the_page_is_graded(lesson):
    samples = load_samples(lesson)
    jobs = [Job(Submission("solution", "", lesson.solution_files()))]
    jobs += [Job(sample.submission(), sample.asked) for sample in samples]

    solution, *others = [card for _, card in run(lesson, jobs, processes=1)]

    assert [(row.message, row.detail) for row in solution.outcomes if row.status != PASSED] == []
    assert solution.max_score == 7
    assert [sample.problems(card) for sample, card in zip(samples, others, strict=True)] == [[], []]


# ---------------------------------------------------------------------------------------------- its examples


class Printing:
    """`check`, which prints what comes of it."""

    when = staticmethod(Check.when)

    def __call__(self, *args, **options):
        self._say(Check(), *args, **options)

    def that(self, *args):
        self._say(Check().that, *args)

    @staticmethod
    def _say(check, *args, **options):
        try:
            check(*args, **options)
        except CheckFailed as failed:
            print("fails:", failed)
        else:
            print("passes")


def test_the_examples_give_what_they_say(lesson, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    student = Student(InProcess(lesson.solution), lesson.inside)
    known = {"torch": torch, "check": Printing(), "student": student}
    known |= {name: getattr(shared, name) for name in ("law", "chance", "wrong_share")}
    told = []
    runner = doctest.DocTestRunner()

    for number, block in enumerate(EXAMPLES):
        test = doctest.DocTestParser().get_doctest(block, known, f"block {number}", "hidden-tests.md", 0)
        runner.run(test, out=told.append, clear_globs=False)
        known |= test.globs
    sys.modules.pop("draws", None)

    assert "".join(told) == ""
    assert runner.tries > 30


def test_every_option_of_check_has_an_example():
    options = [
        name
        for name, parameter in inspect.signature(Check.__call__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    examples = "\n".join(re.findall(r"^>>> (.*)$", "\n".join(EXAMPLES), re.MULTILINE))

    assert len(options) >= 9
    assert [name for name in options if not re.search(rf"check\([^#]*\b{name}=", examples)] == []
    assert [name for name in ("check.that(", "check.when(") if name not in examples] == []


# ---------------------------------------------------------------------------------------------- its numbers


def test_what_crosses_the_wire_is_what_the_page_says():
    text = section("What crosses the wire")
    kinds = re.search(r"shape, dtype: (.*?) \|", text)[1].split(", ")

    assert kinds == list(codec.DTYPES)
    assert f"up to {codec.MAX_DEPTH} deep" in text
    assert f"{caps.REPLY.plain:,} bytes of plain data" in text
    assert f"{caps.REPLY.tensors:,} tensors, {caps.REPLY.elements:,} elements, {caps.REPLY.side:,} in one" in text
    assert f"up to {codec.MAX_TENSORS:,} tensors" in text
    assert f"{codec.MAX_MESSAGE >> 20} MiB, of which {codec.MAX_HEADER >> 20} MiB" in " ".join(text.split())


LOST = [
    {1, 2},
    torch.Generator(),
    torch.nn.Linear(1, 1),
    len,
    1j,
    torch.ones(2).to_sparse(),
    torch.ones(2, device="meta"),
]


@pytest.mark.parametrize("value", [*LOST, 1 << 64], ids=lambda value: type(value).__name__)
def test_what_is_not_plain_arrives_as_a_name(value):
    message = bytearray(b"".join(bytes(buffer) for buffer in codec.encode(value)))

    assert type(codec.decode(message)) is codec.Opaque
    with pytest.raises(AuthorError, match="argument 2 is .* cannot be passed"):
        require_plain("student.run(probe)", (1, value), {})


def test_the_options_of_student_are_those_of_the_page():
    options = re.findall(r"^\| `(\w+)=(\S+)` \|", section("student.on"), re.MULTILINE)

    assert dict(options) == {"timeout": str(DEFAULT_TIMEOUT), "device": '"cpu"', "ranks": "0"}
    assert f"up to {MOST_RANKS}" in section("student.on")
    with pytest.raises(AuthorError, match="it takes device, ranks, timeout"):
        Student(None).on(rank=2)


def test_the_fields_of_a_message_are_those_of_the_page():
    table = section("Ranks and what they send").partition("\n| | |\n")[2]
    fields = [
        name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    ]

    assert fields == [field.name for field in dataclasses.fields(Message)]


def test_the_rate_of_false_alarms_is_that_of_the_page():
    text = " ".join(section("Random functions").split())
    students, cases, draws = (
        int(n.replace(",", "")) for n in re.search(r"(\d+) students with (\d+) such cases make ([\d,]+)", text).groups()
    )
    classes = int(re.search(r"one wrong point in ([\d,]+) classes", text)[1].replace(",", ""))

    assert "1e-9 if nothing is said" in text
    assert shared.FALSE_ALARM == 1e-9
    assert students * cases == draws
    assert draws * shared.FALSE_ALARM * classes < 1


def test_three_times_the_draws_are_enough():
    rng = torch.Generator().manual_seed(1)
    probs, wrong = shared.law(8, 5, 4, 2, 1), shared.law(1, 1, 1, 1, 1)
    enough = next(n for n in range(10, 1000) if shared.chance((n * wrong).round(), probs) < shared.FALSE_ALARM)
    draws = torch.multinomial(wrong.expand(4000, 5), 3 * enough, replacement=True, generator=rng)

    missed = sum(shared.chance(row.bincount(minlength=5), probs) > shared.FALSE_ALARM for row in draws)

    assert missed <= 4


# ---------------------------------------------------------------------------------------------- seeds, cases, processes

NOTING = """
    import pytest
    import torch

    def note(request, value):
        with open({path!r}, "a") as file:
            print(request.node.name, value, file=file)


    @pytest.mark.points(1)
    @pytest.mark.parametrize("case", [1, 2, 3])
    def test_cases(student, check, rng, request, case):
        note(request, rng.initial_seed())
        check(student.call("toy.calls"), case)


    @pytest.mark.points(1)
    def test_alone(student, check, rng, request):
        note(request, rng.initial_seed())
        check(student.call("toy.calls"), 1)


    @pytest.mark.points(1)
    def test_seeds(student, check, rng, request):
        def seed():
            import random

            return torch.initial_seed(), random.random()

        (own, drawn), ranks = student.run(seed), student.on(ranks=2).run(seed)
        note(request, [own, drawn])
        check.that(own != rng.initial_seed(), "the seed is that of the inputs")
        check([rank[0] for rank in ranks], [own, own + 1])
"""

COUNTING = """
    called = 0


    def calls():
        \"\"\"How often it was called.\"\"\"
        # student: count
        global called
        called += 1
        return called
"""


@pytest.fixture(scope="module")
def noting(tmp_path_factory):
    """(a grader of a lesson whose tests note what they see, the file where they do)."""
    root = tmp_path_factory.mktemp("noting")
    path = root / "noted"
    write_lesson(root, solution=COUNTING, suite=NOTING.replace("{path!r}", repr(str(path))))
    with Grader(load("99-toy", root)) as grader:
        yield grader, path


def noted(noting, replacing=("", ""), **asked):
    """(the scorecard, (test, what it noted) of those that were run)."""
    grader, path = noting
    source = grader.lesson.solution_files()["toy.py"].decode().replace(*replacing)
    path.write_text("")
    card = grader.grade(Submission("student", "", {"toy.py": source.encode()}), Asked(**asked))
    return card, [line.split(" ", 1) for line in path.read_text().splitlines()]


def test_inputs_and_seeds_follow_the_names_and_the_secret(noting):
    card, all_of_them = noted(noting, seed=1)
    _, one_alone = noted(noting, seed=1, tests=("test_alone",))
    _, again = noted(noting, seed=1, tests=("test_seeds",))
    _, otherwise = noted(noting, seed=2)

    assert [row.message for row in card.outcomes if row.status != PASSED] == []
    assert [name for name, _ in all_of_them] == [
        "test_cases[1]",
        "test_cases[2]",
        "test_cases[3]",
        "test_alone",
        "test_seeds",
    ]
    assert len(dict(map(reversed, all_of_them))) == 5  # all differ
    assert one_alone[0] in all_of_them
    assert again[0] in all_of_them
    assert not any(line in all_of_them for line in otherwise)


def test_the_first_case_that_fails_ends_a_test(noting):
    counts_twice = ("called += 1", "called += 1 + (called == 1)")

    card, lines = noted(noting, counts_twice, seed=1, tests=("test_cases",))

    ran = [name for name, _ in lines]
    assert ran[:2] == ["test_cases[1]", "test_cases[2]"]
    assert ran.count("test_cases[3]") == ran.count("test_cases[1]") - 1  # of the solution, which is asked as well
    assert card.score == 0
