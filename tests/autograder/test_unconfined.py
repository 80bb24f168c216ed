"""Practice where there is no fork: the same verdicts from two processes, said to be unconfined."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT, TOY_SOLUTION, TOY_SUITE, write_lesson

from autograder.box.sandbox import Sandbox
from autograder.scorecard import FAILED, NOT_REACHED, PASSED, Scorecard

# What Windows has not is taken away before the package is imported. Grades toy.py of each folder, prints the scorecards.
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
    with Grader(lesson, GraderOptions(require=tuple(sys.argv[2].split()))) as grader:
        works = [take_in(Path(folder), lesson.modules) for folder in sys.argv[3:]]
        cards = [grader.grade(work, Asked(seed=1)).to_json() for work in works]
    print(f"[{', '.join(cards)}]")
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


WORKS = {
    "the solution": TOY_SOLUTION + "\n    print('hello')\n",
    "transposed": TOY_SOLUTION.replace("tril", "triu"),
    "dies": TOY_SOLUTION.replace("if length < 1:", "if length < 1:\n            import os; os._exit(0)"),
}


@pytest.fixture(scope="module")
def grade(tmp_path_factory):
    """grade(names of WORKS, layers): their scorecards, graded one after another; or what was said on the error output."""
    folder = tmp_path_factory.mktemp("windows")
    write_lesson(folder / "root", suite=TOY_SUITE + MORE_TESTS, settings="call_timeout_s = 20\n")
    (folder / "run.py").write_text(AS_ON_WINDOWS)
    for name, text in WORKS.items():
        (folder / name).mkdir()
        (folder / name / "toy.py").write_text(textwrap.dedent(text))

    def run(names, require=""):
        command = [
            sys.executable,
            "-B",
            folder / "run.py",
            folder / "root",
            require,
            *(folder / name for name in names),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "USERNAME": "ada"}  # which Windows always says
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            return done.stderr
        return {
            name: Scorecard.from_json(json.dumps(card))
            for name, card in zip(names, json.loads(done.stdout), strict=True)
        }

    return run


@pytest.fixture(scope="module")
def cards(grade):
    """name -> scorecard; one grader, which starts processes for each."""
    return grade(list(WORKS))


def statuses(card):
    return {row.test: row.status for row in card.outcomes}


@pytest.mark.slow
def test_the_solution_gets_all_points_and_is_said_to_be_unconfined(cards):
    card = cards["the solution"]

    assert set(statuses(card).values()) == {PASSED}, card
    assert card.layers == ("processes", "unconfined")
    assert any("unconfined" in note for note in card.notes)
    assert "hello" in card.student_output


@pytest.mark.slow
def test_verdicts_are_those_of_the_box(cards):
    row = next(row for row in cards["transposed"].outcomes if row.test == "test_the_past_is_seen")
    assert (row.status, row.mistake) == (FAILED, "the mask is transposed: it shows the future")


@pytest.mark.slow
def test_a_death_costs_its_test_only(cards):
    card = cards["dies"]

    assert statuses(card)["test_a_bad_length_is_refused"] == FAILED
    assert set(statuses(card).values()) == {PASSED, FAILED}
    assert NOT_REACHED not in statuses(card).values()


@pytest.mark.slow
def test_a_required_layer_is_not_there(grade):
    assert "this machine has no landlock" in grade(["the solution"], "landlock")


@pytest.mark.parametrize(("without", "said"), [((), False), (("uid", "landlock"), True), (("uid", "seccomp"), True)])
def test_a_box_whose_layers_do_not_hold_says_so(without, said):
    with Sandbox(without=without) as sandbox:
        assert ("unconfined" in sandbox.layers) == said
