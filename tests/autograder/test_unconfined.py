"""Practice where there is no fork: the same verdicts from two processes, said to be unconfined."""

import os
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT, TOY_SOLUTION, TOY_SUITE, write_lesson

from autograder.box.sandbox import Sandbox
from autograder.scorecard import FAILED, NOT_REACHED, PASSED, Scorecard

# What Windows has not is taken away before the package is imported. Grades toy.py of the folder, prints the scorecard.
AS_ON_WINDOWS = """
import multiprocessing, os, signal, socket, sys

for module, names in ((os, "fork setsid geteuid getuid sched_getaffinity"), (socket, "send_fds recv_fds"),
                      (signal, "SIGALRM setitimer")):
    for name in names.split():
        delattr(module, name)
for name in ("resource", "fcntl", "pyseccomp"):
    sys.modules[name] = None
multiprocessing.get_all_start_methods = lambda: ["spawn"]

from pathlib import Path

if __name__ == "__main__":
    from autograder.grade import Grader
    from autograder.lesson import load
    from autograder.options import Asked, GraderOptions
    from autograder.submission import take_in

    lesson = load("99-toy", Path(sys.argv[1]))
    with Grader(lesson, GraderOptions(require=tuple(sys.argv[3:]))) as grader:
        card = grader.grade(take_in(Path(sys.argv[2]), lesson.modules), Asked(seed=1))
    print(card.to_json())
"""

MORE_TESTS = """

    @pytest.mark.points(1)
    def test_ranks_speak(student):
        def total():
            import torch.distributed as dist

            mine = torch.tensor(dist.get_rank() + 1)
            dist.all_reduce(mine)
            return int(mine)

        assert student.on(ranks=2, timeout=60).run(total) == [3, 3]


    @pytest.mark.points(1)
    def test_draws_are_seeded(student):
        assert student.run(_draw()) != student.run(_draw())


    def _draw():
        def draw():
            return float(torch.rand(()))

        return draw
"""


@pytest.fixture
def grade(tmp_path):
    write_lesson(tmp_path / "root", suite=TOY_SUITE + MORE_TESTS, settings="call_timeout_s = 20\n")
    (tmp_path / "run.py").write_text(AS_ON_WINDOWS)
    (tmp_path / "work").mkdir()

    def run(text, *require):
        (tmp_path / "work" / "toy.py").write_text(textwrap.dedent(text))
        command = [sys.executable, "-B", tmp_path / "run.py", tmp_path / "root", tmp_path / "work", *require]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "USERNAME": "ada"}  # which Windows always says
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        return Scorecard.from_json(done.stdout) if done.returncode == 0 else done.stderr

    return run


def statuses(card):
    return {row.test: row.status for row in card.outcomes}


@pytest.mark.slow
def test_the_solution_gets_all_points_and_is_said_to_be_unconfined(grade):
    card = grade(TOY_SOLUTION + "\n    print('hello')\n")

    assert set(statuses(card).values()) == {PASSED}, card
    assert card.layers == ("processes", "unconfined")
    assert any("unconfined" in note for note in card.notes)
    assert "hello" in card.student_output


@pytest.mark.slow
def test_verdicts_are_those_of_the_box(grade):
    card = grade(TOY_SOLUTION.replace("tril", "triu"))

    row = next(row for row in card.outcomes if row.test == "test_the_past_is_seen")
    assert (row.status, row.mistake) == (FAILED, "the mask is transposed: it shows the future")


@pytest.mark.slow
def test_a_death_costs_its_test_only(grade):
    card = grade(TOY_SOLUTION.replace("if length < 1:", "if length < 1:\n            import os; os._exit(0)"))

    assert statuses(card)["test_a_bad_length_is_refused"] == FAILED
    assert set(statuses(card).values()) == {PASSED, FAILED}
    assert NOT_REACHED not in statuses(card).values()


@pytest.mark.slow
def test_a_required_layer_is_not_there(grade):
    assert "this machine has no landlock" in grade(TOY_SOLUTION, "landlock")


@pytest.mark.parametrize(("without", "said"), [((), False), (("uid", "landlock"), True), (("uid", "seccomp"), True)])
def test_a_box_whose_layers_do_not_hold_says_so(without, said):
    with Sandbox(without=without) as sandbox:
        assert ("unconfined" in sandbox.layers) == said
