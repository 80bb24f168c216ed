"""What holds under the seed that a class happens to get holds under the others, or `autograder flaky` says where not."""

import textwrap

import pytest
from conftest import TOY_SOLUTION, write_lesson
from typer.testing import CliRunner

from autograder.author.seeds import broken_promises, lost_points
from autograder.cli import app
from autograder.lesson import load

pytestmark = pytest.mark.usefixtures("graders_share_a_box")

LUCK = """
    import pytest, torch
    @pytest.mark.points(1)
    def test_luck(student, rng):
        student.call("toy.causal_mask", 2)
        assert torch.rand(1, generator=rng) < 0.7, "bad luck"
"""
SOMETIMES = """
    import pytest, torch
    @pytest.mark.points(1)
    def test_mask(student, check, rng):
        T = int(torch.randint(1, 3, (), generator=rng))
        right = torch.ones(T, T, dtype=torch.bool).tril()
        check(student.call("toy.causal_mask", T), right, mistakes={"the mask is upside down": right.T})
"""
UPSIDE_DOWN = """
why = "one token has the same mask either way"
fails = ["test_mask"]
mistake = "the mask is upside down"
[[change]]
old = "tril()"
new = "triu()"
"""


def test_tests_that_correct_work_loses_by_chance_are_found(tmp_path):
    write_lesson(tmp_path, suite=LUCK)

    lost = lost_points(load("99-toy", tmp_path), range(12))

    assert 0 < len(lost) < 12
    assert {(name, what) for name, _, what in lost} == {
        ("solution", "test_luck: the lesson's solution does not pass this test on these inputs: bad luck")
    }


def test_of_a_right_work_only_the_modules_that_are_asked_for_are_graded(tmp_path):
    write_lesson(tmp_path, suite=LUCK)
    (tmp_path / "assignments" / "99-toy" / "lesson.toml").write_text('title = "Toy"\nmodules = ["toy", "other"]\n')
    (tmp_path / "solutions" / "99-toy" / "other.py").write_text(textwrap.dedent(TOY_SOLUTION))
    suite = textwrap.dedent(LUCK).replace("toy.", "other.").replace("test_luck", "test_other_luck")
    (tmp_path / "tests" / "lessons" / "99-toy" / "test_other.py").write_text(suite)
    both = tmp_path / "tests" / "submissions" / "99-toy" / "right" / "both"
    both.mkdir(parents=True)
    (both / "expect.toml").write_text('why = "the solution, handed in whole"\n')
    for module in ("toy", "other"):
        (both / f"{module}.py").write_text(textwrap.dedent(TOY_SOLUTION))

    lost = lost_points(load("99-toy", tmp_path), range(12), modules=("other",))

    assert {(name, what.partition(":")[0]) for name, _, what in lost} == {
        ("solution", "test_other_luck"),
        ("right/both", "test_other_luck"),
    }


@pytest.fixture
def sometimes(tmp_path):
    write_lesson(tmp_path, suite=SOMETIMES)
    sample = tmp_path / "tests" / "submissions" / "99-toy" / "wrong" / "toy" / "upside-down.toml"
    sample.parent.mkdir(parents=True)
    sample.write_text(UPSIDE_DOWN)
    return tmp_path


def test_wrong_samples_that_pass_by_chance_are_found(sometimes):
    broken = broken_promises(load("99-toy", sometimes), range(12))

    assert 0 < len({seed for _, seed, _ in broken}) < 12
    assert {(name, what) for name, _, what in broken} == {
        ("wrong/upside-down", "test_mask should fail and does not"),
        ("wrong/upside-down", "'the mask is upside down' should be named, but nothing was"),
    }


@pytest.mark.parametrize(("options", "said"), [([], "0 tests lost"), (["--wrong"], "upside-down, seed")])
def test_the_command_says_which_seed(sometimes, monkeypatch, options, said):
    monkeypatch.chdir(sometimes)

    result = CliRunner().invoke(app, ["flaky", "99-toy", "-n", "8", "--processes", "1", *options])

    assert said in result.output
    assert result.exit_code == len(options)
