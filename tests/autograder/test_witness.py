"""A failed test counts only after the lesson's solution has passed it on the same inputs: whose fault it was."""

import textwrap

import pytest
from conftest import write_lesson

from autograder import grade as grade_module
from autograder.batch import Job, run
from autograder.grade import Grader
from autograder.lesson import load
from autograder.options import Asked, GraderOptions
from autograder.scorecard import FAILED, GRADER_ERROR, NOT_REACHED, OUR_ERROR, PASSED
from autograder.submission import Submission

pytestmark = pytest.mark.usefixtures("graders_share_a_box")
SOLUTION = """
    import torch


    def fifth(x):
        return 0.2 * x


    def mean(x):
        return x.mean()


    def count(x):
        return x.numel()
"""
SUITE = """
    import pytest
    import torch


    @pytest.mark.points(4)
    def test_fifth(student, check, rng):
        x = torch.rand(3, generator=rng)
        check(student.call("toy.fifth", x), 0.2 * x.double(), dtype=torch.float32, mistakes={"x is squared": x.double() ** 2})


    @pytest.mark.points(2)
    def test_mean(student, check, rng):
        x = torch.rand(5, generator=rng)
        check(student.call("toy.mean", x), x.double().mean(), dtype=torch.float32)


    @pytest.mark.points(1)
    def test_count(student, check):
        check(student.call("toy.count", torch.ones(2, 3)), 6)
"""
SLOPPY = SOLUTION.replace("0.2 * x", "x * x")  # a real mistake
OTHER = SOLUTION.replace("0.2 * x", "x / 5")  # as right as the solution
BROKEN_SUITES = {
    "a wrong expected value": ("0.2 * x.double()", "0.3 * x.double()"),
    "a wrong tolerance": ("dtype=torch.float32, mistakes", "dtype=torch.float32, terms=1e-9, mistakes"),
    "a test that raises": ("x = torch.rand(3, generator=rng)", "x = torch.rand(3, generator=undefined)"),
    "a test that cannot use what it gets": ('student.call("toy.fifth", x)', 'student.call("toy.fifth", x)["y"]'),
    "a probe that cannot be shipped": ('student.call("toy.fifth", x)', "student.run(lambda: x)"),
    "a wrong expected type": ("0.2 * x.double(), dtype=torch.float32", "(0.2 * x.double()).tolist()"),
    "something that check cannot expect": ("0.2 * x.double(), dtype=torch.float32", "object()"),
    "a function that the contract does not have": ('"toy.fifth"', '"toy.sixth"'),
    "luck, on the inputs of this seed": ("0.2 * x.double()", "0.2 * x.double() + (x[0] > -1).double()"),
}


@pytest.fixture
def lesson(tmp_path):
    def make(suite=SUITE, solution=SOLUTION, settings=""):
        write_lesson(tmp_path, solution=solution, suite=suite, settings=settings)
        return load("99-toy", tmp_path)

    return make


def work(text, name="student"):
    return Submission(name, "", {"toy.py": textwrap.dedent(text).encode()})


def graded(lesson, text, seed=1, own_users=True, **options):
    with Grader(lesson, GraderOptions(without=() if own_users else ("uid",), **options)) as grader:
        return grader.grade(work(text), Asked(seed=seed))


def statuses(card):
    return {row.test: row.status for row in card.outcomes}


def row_of(card, test):
    return next(row for row in card.outcomes if row.test == test)


@pytest.fixture
def runs(monkeypatch):
    """The tests of each run of the suite, in order; None where all of them were asked for."""
    asked = []

    def note(plugin, lesson, modules, tests=None, options=()):
        asked.append(None if tests is None else set(tests))
        return suite(plugin, lesson, modules, tests, options)

    suite = grade_module.run_suite
    monkeypatch.setattr(grade_module, "run_suite", note)
    return asked


# ---------------------------------------------------------------------------------------------- whose fault


@pytest.mark.parametrize("own_users", [True, False])
@pytest.mark.parametrize("kind", BROKEN_SUITES)
def test_a_broken_test_is_nobodys_failure(lesson, kind, own_users):
    broken = lesson(SUITE.replace(*BROKEN_SUITES[kind]))

    for text in (SOLUTION, OTHER):
        card = graded(broken, text, own_users=own_users)

        assert statuses(card) == {"test_fifth": GRADER_ERROR, "test_mean": PASSED, "test_count": PASSED}
        row = row_of(card, "test_fifth")
        assert (row.points, row.max_points, row.mistake) == (0, 4, None)
        assert row.message == OUR_ERROR
        assert "the lesson's solution does not pass this test" in row.detail


@pytest.mark.parametrize("own_users", [True, False])
def test_a_real_mistake_beside_it_still_fails(lesson, own_users):
    broken = lesson(SUITE.replace('"toy.count", torch.ones(2, 3)), 6', '"toy.count", torch.ones(2, 3)), 7'))

    card = graded(broken, SLOPPY.replace("x.mean()", "x.sum()"), own_users=own_users)

    assert statuses(card) == {"test_fifth": FAILED, "test_mean": FAILED, "test_count": GRADER_ERROR}
    assert row_of(card, "test_fifth").mistake == "x is squared"


WITHOUT_FIFTH = SUITE.replace("def test_fifth", "def not_a_test")
CLASS = {
    "solution": SOLUTION,
    "other": OTHER,
    "sloppy": SLOPPY,
    "as the wrong test wants it": SOLUTION.replace("0.2 * x", "0.3 * x"),
    "sums": SOLUTION.replace("x.mean()", "x.sum()"),
    "a function that is the starter's": SOLUTION.replace("return 0.2 * x", "raise NotImplementedError('fifth is not implemented yet')"),
    "a function that is missing": SOLUTION.replace("def fifth", "def fourth"),
    "a function that dies": SOLUTION.replace("return 0.2 * x", "import os; os._exit(0)"),
    "nothing works": "def broken(:",
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_SUITES)
@pytest.mark.parametrize("scale", ["", "scale_to = 10"])
def test_a_broken_test_gives_everybody_the_total_of_the_suite_without_it(tmp_path, kind, scale):
    """Whoever passes it gains nothing, and the solution keeps 100 %."""
    totals = {}
    for name, suite in {"broken": SUITE.replace(*BROKEN_SUITES[kind]), "without": WITHOUT_FIFTH}.items():
        write_lesson(tmp_path / name, SOLUTION, suite, f"{scale}\n")
        jobs = [Job(work(text, student), Asked(seed=1, in_a_class=True)) for student, text in CLASS.items()]
        cards = [card for _, card in run(load("99-toy", tmp_path / name), jobs)]
        totals[name] = {card.student: (card.score, card.max_score) for card in cards}

    assert totals["broken"] == totals["without"]
    assert totals["broken"]["solution"] == ((10, 10) if scale else (3, 3))
    assert totals["broken"]["as the wrong test wants it"] == totals["broken"]["solution"]
    assert totals["broken"]["nothing works"][0] == 0 < totals["broken"]["sums"][0] < totals["broken"]["solution"][0]


@pytest.mark.parametrize("student", CLASS)
def test_graded_alone_everybody_has_the_same_share(lesson, student):
    broken, without = (
        graded(lesson(suite), CLASS[student])
        for suite in (SUITE.replace("0.2 * x.double()", "0.3 * x.double()"), WITHOUT_FIFTH)
    )

    assert broken.score / broken.max_score == without.score / without.max_score


def test_another_version_of_torch_costs_nobody_points(lesson):
    """The solution and honest work agree, and both are not what the suite expects: as when a kernel changes its result."""
    shifted = SOLUTION.replace("x.mean()", "x.mean() * (1 + 1e-3)")
    card = graded(lesson(solution=shifted), shifted.replace("0.2 * x", "x / 5"))

    assert statuses(card) == {"test_fifth": PASSED, "test_mean": GRADER_ERROR, "test_count": PASSED}


def test_a_test_that_is_wrong_under_some_seeds_costs_points_under_none(lesson):
    lucky = SUITE.replace("0.2 * x.double()", "0.2 * x.double() + (x[0] > 0.5).double()")
    with Grader(lesson(lucky)) as grader:
        honest = {statuses(grader.grade(work(OTHER), Asked(seed=seed)))["test_fifth"] for seed in range(12)}
        wrong = {statuses(grader.grade(work(SLOPPY), Asked(seed=seed)))["test_fifth"] for seed in range(12)}

    assert honest == {PASSED, GRADER_ERROR}
    assert wrong == {FAILED, GRADER_ERROR}


def test_what_a_reply_makes_of_a_test_is_the_students_failure(lesson):
    """The mistake is computed from what came back; with that it cannot be compared, with the solution's it can."""
    suite = SUITE.replace('"x is squared": x.double() ** 2', '"x is squared": object()')
    card = graded(lesson(suite), SOLUTION.replace("0.2 * x", "x.to_sparse()"))

    assert statuses(card)["test_fifth"] == FAILED


def test_what_needs_a_broken_test_is_ours_too(lesson):
    suite = SUITE.replace("0.2 * x.double()", "0.3 * x.double()").replace(
        "@pytest.mark.points(2)", '@pytest.mark.points(2)\n    @pytest.mark.needs("test_fifth")'
    )
    mistaken = SUITE.replace("@pytest.mark.points(2)", '@pytest.mark.points(2)\n    @pytest.mark.needs("test_fifth")')

    assert statuses(graded(lesson(suite), SOLUTION))["test_mean"] == GRADER_ERROR
    assert statuses(graded(lesson(mistaken), SLOPPY))["test_mean"] == NOT_REACHED


def test_a_package_that_is_missing_here_is_nobodys_failure(lesson):
    missing = "import a_package_that_is_not_here\n" + textwrap.dedent(SOLUTION)

    card = graded(lesson(solution=missing), missing)
    assert set(statuses(card).values()) == {GRADER_ERROR}
    assert "cannot be imported here" in card.outcomes[0].detail
    assert set(statuses(graded(lesson(), missing)).values()) == {FAILED}


def test_the_students_own_prerequisites_do_not_reach_the_witness(tmp_path):
    write_lesson(tmp_path)
    write_lesson_using_it(tmp_path)
    files = {
        "user.py": b"from toy import causal_mask\ndef rows(n): return len(causal_mask(n))\n",
        "toy.py": b"def causal_mask(length): return [0]",
    }

    with Grader(load("98-user", tmp_path), GraderOptions(own_prerequisites=True)) as grader:
        card = grader.grade(Submission("student", "", files), Asked(seed=1))

    assert statuses(card) == {"test_rows": FAILED}


def write_lesson_using_it(root):
    for name, text in {
        "assignments/98-user/lesson.toml": 'title = "User"\nmodules = ["user"]\nuses = ["99-toy"]\n',
        "solutions/98-user/user.py": "from toy import causal_mask\ndef rows(n): return len(causal_mask(n))\n",
        "tests/lessons/98-user/test_user.py": "import pytest\n@pytest.mark.points(1)\ndef test_rows(student, check):\n"
        "    check(student.call('user.rows', 3), 3)\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


# ---------------------------------------------------------------------------------------------- what it costs


ALL_TESTS = {"test_fifth", "test_mean", "test_count"}


def test_the_solution_is_asked_about_all_tests_of_what_passes_some(lesson, runs):
    graded(lesson(), SLOPPY)

    assert runs == [None, ALL_TESTS]


def test_a_mutant_asks_about_what_it_failed_only(lesson, runs):
    with Grader(lesson()) as grader:
        grader.grade(work(SOLUTION.replace("x.mean()", "x.sum()")), Asked(seed=1, stop_early=True))

    assert runs == [None, {"test_mean"}]


def test_in_a_class_all_totals_are_out_of_the_same_points(lesson, runs):
    with Grader(lesson(SUITE.replace("0.2 * x.double()", "0.3 * x.double()"))) as grader:
        passes_all = grader.grade(work(SOLUTION.replace("0.2 * x", "0.3 * x")), Asked(seed=1, in_a_class=True))

    assert statuses(passes_all)["test_fifth"] == GRADER_ERROR
    assert passes_all.max_score == 3


@pytest.mark.parametrize(
    "text",
    [
        SOLUTION,
        "def fifth(x): raise NotImplementedError('fifth is not implemented yet')\nmean = count = fifth",
        "def fifth(x:",
    ],
    ids=["the solution", "the stub", "a syntax error"],
)
def test_what_needs_no_witness_costs_none(lesson, runs, text):
    card = graded(lesson(), text)

    assert runs == [None]
    assert GRADER_ERROR not in statuses(card).values()


def test_a_missing_file_needs_no_witness(lesson, runs):
    with Grader(lesson()) as grader:
        card = grader.grade(Submission("student", "", {}), Asked(seed=1))

    assert runs == [None]
    assert set(statuses(card).values()) == {FAILED}


def test_an_exception_that_is_not_the_starters_needs_one(lesson, runs):
    graded(lesson(), SOLUTION.replace("return 0.2 * x", "raise NotImplementedError('TODO')"))

    assert runs == [None, ALL_TESTS]


def test_a_class_asks_the_solution_once(lesson, runs):
    texts = [SLOPPY, OTHER, SLOPPY, SLOPPY.replace("x.mean()", "x.sum()"), SLOPPY.replace("x.mean()", "x.sum()")]
    jobs = [Job(work(text, f"student{index}")) for index, text in enumerate(texts)]

    cards = [card for _, card in run(lesson(), jobs)]

    assert len({card.seed for card in cards}) == 1
    assert [tests for tests in runs if tests] == [ALL_TESTS]
    assert [statuses(card)["test_mean"] for card in cards] == [PASSED, PASSED, PASSED, FAILED, FAILED]


def test_two_classes_have_two_seeds(lesson):
    made = lesson()
    first, second = ([card.seed for _, card in run(made, [Job(work(SOLUTION))])] for _ in range(2))

    assert first != second


def test_jobs_keep_the_seed_that_they_name(lesson):
    jobs = [Job(work(SOLUTION), Asked(seed=seed)) for seed in (7, 8)]

    assert [card.seed for _, card in run(lesson(), jobs)] == [7, 8]


def test_a_broken_test_is_asked_twice_and_then_believed(lesson, runs):
    broken = lesson(SUITE.replace("0.2 * x.double()", "0.3 * x.double()"))
    with Grader(broken) as grader:
        for _ in range(3):
            grader.grade(work(OTHER), Asked(seed=1))

    assert [tests for tests in runs if tests] == [ALL_TESTS, {"test_fifth"}]


# ---------------------------------------------------------------------------------------------- where slots share a user


def test_where_slots_share_a_user_the_solution_runs_before_any_student(lesson, monkeypatch):
    order = []
    real = Grader._slot

    def note(self, files, forbidden=()):
        order.append("solution" if b"0.2 * x" in files["toy.py"] else "student")
        return real(self, files, forbidden)

    monkeypatch.setattr(Grader, "_slot", note)
    with Grader(lesson(), GraderOptions(without=("uid",))) as grader:
        for _ in range(2):
            grader.grade(work(SLOPPY), Asked(seed=1))

    assert order.index("student") > max(place for place, who in enumerate(order) if who == "solution")
    assert order[-2:] == ["student", "student"]


def test_in_a_pool_one_process_hears_it_before_any_runs_a_submission(lesson, tmp_path):
    """Each run of the suite says on whom, in which process."""
    log = tmp_path / "log"
    noting = f"""

    @pytest.mark.points(1)
    def test_who(student):
        import os

        who = student.call("toy.who")
        with open({str(log)!r}, "a") as log:
            log.write(f"{{os.getpid()}} {{who}}\\n")
    """
    who = "\n\n    def who():\n        return {!r}\n"
    made = lesson(SUITE + noting, SOLUTION + who.format("solution"))
    jobs = [Job(work(SLOPPY + who.format("student"), f"student{index}")) for index in range(4)]

    cards = [card for _, card in run(made, jobs, processes=2, options=GraderOptions(without=("uid",)))]

    assert [statuses(card)["test_fifth"] for card in cards] == [FAILED] * 4
    lines = [line.split()[1] for line in log.read_text().splitlines()]
    assert lines == ["solution"] + ["student"] * 4


# ---------------------------------------------------------------------------------------------- mutants


def test_a_broken_test_kills_no_mutant(lesson, runs):
    broken = lesson(SUITE.replace("0.2 * x.double()", "0.3 * x.double()"))
    with Grader(broken) as grader:
        survivor = grader.grade(work(OTHER), Asked(seed=1, stop_early=True))
        killed = grader.grade(work(SOLUTION.replace("x.mean()", "x.sum()")), Asked(seed=1, stop_early=True))

    assert statuses(survivor) == {"test_fifth": GRADER_ERROR, "test_mean": PASSED, "test_count": PASSED}
    assert statuses(killed)["test_mean"] == FAILED
