"""From a submission to a scorecard: whose fault it was, and what a student is told."""

import pickle
import sys

import pytest
from conftest import TOY_SOLUTION, write_lesson

from autograder.errors import UsageError
from autograder.grade import Grader
from autograder.lesson import load
from autograder.options import Asked, GraderOptions
from autograder.scorecard import FAILED, GRADER_ERROR, NOT_REACHED, PASSED, PENDING_GPU
from autograder.submission import Submission

pytestmark = pytest.mark.usefixtures("graders_share_a_box")


def statuses(card):
    return {row.test: row.status for row in card.outcomes}


def by_test(card, test):
    return next(row for row in card.outcomes if row.test == test)


@pytest.fixture
def grade_with(tmp_path):
    """Grades the toy solution (or another text) with another hidden suite."""

    def grade(suite, text=TOY_SOLUTION, settings="", seed=1, solution=TOY_SOLUTION, **options):
        write_lesson(tmp_path, suite=suite, settings=settings, solution=solution)
        lesson = load("99-toy", tmp_path)
        import textwrap

        with Grader(lesson, GraderOptions(**options)) as grader:
            return grader.grade(Submission("student", "", {"toy.py": textwrap.dedent(text).encode()}), Asked(seed=seed))

    return grade


# ---------------------------------------------------------------------------------------------- verdicts


def test_the_solution_gets_all_points(grade_toy):
    card = grade_toy(TOY_SOLUTION)

    assert set(statuses(card).values()) == {PASSED}
    assert (card.score, card.max_score) == (4, 4)


def test_a_recognised_mistake_is_named(grade_toy):
    card = grade_toy(TOY_SOLUTION.replace(".tril()", ".triu()"))

    row = by_test(card, "test_the_past_is_seen")
    assert row.status == FAILED
    assert row.mistake == row.message == "the mask is transposed: it shows the future"
    assert (row.points, row.max_points) == (0, 2)


def test_one_failing_case_fails_the_function(grade_toy):
    card = grade_toy(TOY_SOLUTION.replace(".tril()", ".tril() if length < 5 else torch.zeros(5, 5, dtype=torch.bool)"))

    assert by_test(card, "test_the_past_is_seen").status == FAILED


def test_what_the_test_cannot_use_is_the_students_failure(grade_toy):
    card = grade_toy("def causal_mask(length):\n    return 'a mask'")

    assert by_test(card, "test_the_mask_has_rows").status == FAILED
    assert by_test(card, "test_the_mask_has_rows").message == (
        "the test could not use what your code returned (a str): check its type and shape"
    )
    assert card.grader_errors == ()


def test_a_plain_assert_shows_its_message(grade_toy):
    card = grade_toy("import torch\ndef causal_mask(length):\n    return torch.ones(2, 2)")

    assert by_test(card, "test_the_mask_has_rows").message == "the mask has too few rows"


def test_not_implemented_says_so(grade_toy):
    card = grade_toy("def causal_mask(length):\n    raise NotImplementedError('causal_mask is not implemented yet')")

    assert {row.message for row in card.outcomes} == {"causal_mask is not implemented yet"}
    assert card.score == 0


def test_a_missing_module_says_so(grade_toy):
    card = grade_toy(other="x = 1")

    assert {row.message for row in card.outcomes} == {"toy.py is missing from the submission"}


def test_a_hang_is_a_failure_of_each_test_that_hangs(grade_toy):
    card = grade_toy("def causal_mask(length):\n    while True: pass")

    assert set(statuses(card).values()) == {FAILED}
    assert card.outcomes[0].message == "calling toy.causal_mask used more than 1.5 s of processor time"


def test_a_test_that_the_solution_fails_too_is_our_error(grade_with):
    card = grade_with("""
        import pytest
        @pytest.mark.points(1)
        def test_broken(student):
            student.call("toy.causal_mask", 2)
            undefined_name
        @pytest.mark.points(1)
        def test_wrong_assert(student):
            assert student.call("toy.causal_mask", 2).shape == (3, 3)
        @pytest.mark.points(1)
        def test_skips_itself():
            pytest.skip("no")
        @pytest.mark.points(1)
        def test_bad_probe(student):
            length = 3
            def probe():
                return length
            student.run(probe)
        @pytest.mark.points(1)
        def test_fine(student):
            assert student.call("toy.causal_mask", 2).shape == (2, 2)
    """)

    assert statuses(card) == {
        "test_broken": GRADER_ERROR,
        "test_wrong_assert": GRADER_ERROR,
        "test_skips_itself": GRADER_ERROR,
        "test_bad_probe": GRADER_ERROR,
        "test_fine": PASSED,
    }
    assert "undefined_name" in by_test(card, "test_broken").detail
    assert "undefined_name" not in by_test(card, "test_broken").message


def test_a_suite_that_cannot_be_loaded_is_our_error(grade_with):
    card = grade_with("import nothing_of_that_name")

    assert [row.status for row in card.outcomes] == [GRADER_ERROR]


def test_a_value_that_keeps_the_test_busy_is_the_students_failure(grade_with, monkeypatch):
    monkeypatch.setattr("autograder.grade.TEST_S", 0.5)
    suite = """
        import pytest
        @pytest.mark.points(1)
        def test_counts(student):
            for _ in range(student.call("toy.size")):
                pass
    """
    card = grade_with(suite, text="def size():\n    return 2**62", solution="def size():\n    return 2")

    assert statuses(card) == {"test_counts": FAILED}


def test_gpu_tests_wait_outside_the_total(grade_with):
    suite = """
        import pytest
        @pytest.mark.points(3)
        @pytest.mark.gpu
        def test_on_gpu(student, device):
            student.call("toy.causal_mask", 2)
        @pytest.mark.points(1)
        def test_on_cpu(student):
            student.call("toy.causal_mask", 2)
    """
    card = grade_with(suite)

    assert statuses(card) == {"test_on_gpu": PENDING_GPU, "test_on_cpu": PASSED}
    assert (card.score, card.max_score, card.pending_gpu_points) == (1, 1, 3)


def test_cases_of_a_test_share_a_process_and_tests_do_not(grade_with):
    suite = """
        import os
        import pytest

        def nth_call():
            import toy
            toy.calls = getattr(toy, "calls", 0) + 1
            print(toy.calls, flush=True)
            return toy.calls

        @pytest.mark.points(1)
        @pytest.mark.parametrize("case", [1, 2, 3])
        def test_counts(student, case):
            assert student.run(nth_call) == case
        @pytest.mark.points(1)
        def test_counts_again(student):
            assert student.run(nth_call) == 1
        @pytest.mark.points(1)
        @pytest.mark.parametrize("case", ["before", "dies", "after"])
        def test_ends_with_its_first_failure(student, case):
            if case == "dies":
                student.call("toy.die")
            student.run(nth_call)
        @pytest.mark.points(1)
        def test_after_a_death(student):
            assert student.run(nth_call) == 1
    """
    text = "def die():\n    {}\n"
    card = grade_with(suite, text.format("import os; os._exit(0)"), solution=text.format("pass"))

    assert [row.status for row in card.outcomes] == [PASSED, PASSED, FAILED, PASSED]
    assert "process ended" in by_test(card, "test_ends_with_its_first_failure").message
    assert card.student_output.split() == ["1", "2", "3", "1", "1", "1"]  # before the death, and in the next test


def test_needs_is_not_reached(grade_with):
    suite = """
        import pytest
        @pytest.mark.points(1)
        def test_first(student):
            '''The first.'''
            student.raises(ValueError, "toy.causal_mask", 3)
        @pytest.mark.points(1)
        @pytest.mark.needs("test_first")
        def test_second(student):
            student.call("toy.causal_mask", 2)
    """
    card = grade_with(suite, "def causal_mask(n): pass", solution="def causal_mask(n):\n    if n > 2: raise ValueError")

    assert statuses(card)["test_second"] == NOT_REACHED
    assert by_test(card, "test_second").message == "not reached: it builds on 'The first.'"


@pytest.mark.parametrize(
    ("settings", "line", "why"),
    [
        ("deadline_s = 2\ncall_timeout_s = 1\n", "while True: pass", "processor time for the whole lesson"),
        ("deadline_s = 0.2\n", "time.sleep(1)", "the time for the whole lesson was used up"),
    ],
)
def test_the_lessons_deadline_ends_everything(grade_with, settings, line, why):
    suite = "import pytest\n" + "".join(
        f'@pytest.mark.points(1)\ndef test_{i}(student): student.call("toy.causal_mask", 2)\n' for i in range(8)
    )
    card = grade_with(suite, text=f"import time\ndef causal_mask(n):\n    {line}", settings=settings)

    assert list(statuses(card).values()).count(NOT_REACHED) >= 3
    assert why in card.outcomes[-1].message
    assert card.measurements.seconds < 30


# ---------------------------------------------------------------------------------------------- inputs and feedback


def test_inputs_come_from_the_seed_and_the_tests_name(grade_with):
    suite = """
        import pytest, torch
        @pytest.mark.points(1)
        @pytest.mark.parametrize("case", [1, 2])
        def test_draw(student, rng, case):
            student.call("toy.note", torch.rand(2, generator=rng))
    """
    text = "def note(x):\n    print(x.tolist())\n"
    runs = [grade_with(suite, text=text, seed=seed, solution=text).student_output.splitlines() for seed in (1, 1, 2)]

    assert runs[0] == runs[1]
    assert len({*runs[0], *runs[2]}) == 4


def test_feedback_holds_no_expected_value_and_no_line_of_a_test(grade_with):
    suite = """
        import pytest, torch
        @pytest.mark.points(1)
        def test_secret(student, check):
            value = student.call("toy.f")
            check(value, 271828)
        @pytest.mark.points(1)
        def test_secret_tensor(student, check):
            check(student.call("toy.g"), torch.tensor([3.14159, 2.71828]))
        @pytest.mark.points(1)
        def test_secret_text(student, check):
            check(student.call("toy.h"), {"key": ["password"]})
    """
    text = "import torch\ndef f(): return {}\ndef g(): return torch.tensor({})\ndef h(): return {{'key': ['{}']}}"
    card = grade_with(
        suite, text.format(1, [1.0, 1.0], "x"), solution=text.format(271828, [3.14159, 2.71828], "password")
    )

    told = " ".join(row.message for row in card.outcomes)
    assert card.score == 0
    assert not any(secret in told for secret in ("271828", "3.14", "2.71", "password", "student.call", "check("))


def test_a_copy_of_another_package_is_neither_run_nor_found(grade_toy):
    evil = "raise SystemExit('found me')"
    card = grade_toy(TOY_SOLUTION, torch=evil, conftest=evil, pytest=evil, autograder=evil, sitecustomize=evil)

    assert set(statuses(card).values()) == {PASSED}


def test_modules_and_tests_can_be_chosen(toy_grader, toy):
    submission = Submission("student", "", toy.solution_files())

    card = toy_grader.grade(submission, Asked(tests=("test_the_mask_has_rows",)))

    assert list(statuses(card)) == ["test_the_mask_has_rows"]
    with pytest.raises(UsageError, match="no module 'nix'"):
        toy_grader.grade(submission, Asked(modules=("nix",)))


def test_scorecards_say_what_was_graded_with_what(grade_toy):
    card = grade_toy(TOY_SOLUTION)

    assert all((card.digests.package, card.digests.submission, card.digests.modules["toy"]))
    assert {"processes", "rlimits"} <= set(card.layers)
    assert set(card.environment) == {"autograder", "python", "torch", "platform"}
    assert pickle.dumps(card).count(b"torch") == 1  # the key: who holds a pool of graders reads a card without torch
    assert card.measurements.seconds > 0
    assert card.measurements.student_cpu_seconds > 0
    assert card.measurements.student_peak_mb is None or card.measurements.student_peak_mb > 0
    assert card.seed == 1


# ---------------------------------------------------------------------------------------------- ranks

RANKS_SUITE = """
import pytest
import torch


@pytest.mark.points(3)
def test_each_rank_sees_the_sum(student, check):
    two = student.on(ranks=2, timeout=5)
    values = two.run(_probe())
    for value in values:
        check(value, torch.tensor([3.0]), mistakes={"the ranks do not speak": torch.tensor([1.0])})
    assert [message.bytes for message in two.traffic] == [4, 4], "each rank sends its four bytes once"


def _probe():
    def total():
        import toy
        import torch.distributed as dist

        return toy.total(torch.tensor([1.0 + dist.get_rank()]))

    return total
"""
RANKS_TEXT = """
import torch.distributed as dist


def total(x):
    dist.all_reduce(x)
    return x
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("dist.all_reduce(x)", ""),
        ("pass", "the ranks do not speak"),
        ("dist.all_reduce(x) if dist.get_rank() else None", "rank 0 has returned"),
        ("dist.all_reduce(x), dist.barrier()", "each rank sends its four bytes once"),
    ],
)
def test_ranks_are_graded(grade_with, change, message):
    card = grade_with(RANKS_SUITE, RANKS_TEXT.replace("dist.all_reduce(x)", change), solution=RANKS_TEXT)

    row = by_test(card, "test_each_rank_sees_the_sum")
    assert row.status == (FAILED if message else PASSED)
    assert message in row.message


# ---------------------------------------------------------------------------------------------- suites of several files


def test_a_suite_of_several_files_is_one_module(tmp_path):
    write_lesson(tmp_path)
    tests = tmp_path / "tests" / "lessons" / "99-toy"
    (tests / "toy_helpers.py").write_text("LENGTH = 4\n")
    (tests / "test_toy__more.py").write_text(
        "import pytest\nfrom toy_helpers import LENGTH\n\n\n@pytest.mark.points(5)\n@pytest.mark.needs('test_the_past_is_seen')\n"
        "def test_more(student):\n    assert len(student.call('toy.causal_mask', LENGTH)) == 4\n"
    )
    lesson = load("99-toy", tmp_path)

    with Grader(lesson) as grader:
        solution = grader.grade(Submission("student", "", lesson.solution_files()))
        other = {"toy.py": lesson.solution_files()["toy.py"].replace(b"tril", b"triu")}
        wrong = grader.grade(Submission("student", "", other))

    assert (solution.score, solution.max_score) == (9, 9)
    assert by_test(solution, "test_more").module == "toy"
    assert by_test(wrong, "test_more").status == NOT_REACHED
    assert "toy_helpers" not in sys.modules
