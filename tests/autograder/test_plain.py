"""Without the box, for an author: `pytest tests/lessons/NN-name`, and `replay --in-process`, each with a debugger."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import TOY_SOLUTION, write_lesson

from autograder.grade import grade_in_process
from autograder.lesson import load
from autograder.options import Asked
from autograder.submission import Submission

CONFTEST = "from autograder.author.plain import *  # noqa: F403\n"
SUITE = '''
    import pytest
    import torch


    @pytest.mark.points(2)
    @pytest.mark.parametrize("length", [1, 4])
    def test_the_past_is_seen(student, check, length):
        """A position sees itself and the past."""
        def probe(length):
            from toy import causal_mask

            print("in the probe")
            return causal_mask(length)

        print("in the test")
        mask = student.run(probe, length)
        check(mask, torch.ones(length, length, dtype=torch.bool).tril())


    @pytest.mark.points(1)
    def test_numbers_are_drawn(student, check, rng):
        """Random numbers."""
        assert float(torch.rand((), generator=rng)) != float(torch.rand((), generator=rng))


    @pytest.mark.gpu
    @pytest.mark.points(1)
    def test_on_a_gpu(student, device):
        """On a GPU."""
        assert device.type == "cuda"
'''
WRONG = TOY_SOLUTION.replace(".tril()", ".triu()")


@pytest.fixture
def root(tmp_path):
    write_lesson(tmp_path, suite=SUITE)
    (tmp_path / "tests" / "lessons" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "toy.py").write_text(textwrap.dedent(WRONG))
    return tmp_path


def environment(root):
    return {
        **os.environ,
        "AUTOGRADER_ROOT": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TERM": "dumb",
        "COLUMNS": "200",
    }


def plain_pytest(root, *args):
    """(exit code, what pytest prints)"""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


class Terminal:
    """A command with a pseudo-terminal for its keyboard and screen."""

    def __init__(self, root, *command):
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.chdir(root)
            os.execvpe(command[0], list(command), environment(root))
        self.screen = ""

    def until(self, words, seconds=90):
        """What is on the screen once these words are, since it was last asked."""
        end, began = time.monotonic() + seconds, len(self.screen)
        while words not in self.screen[began:]:
            assert select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))[0], self.screen
            try:
                self.screen += os.read(self._descriptor, 65536).decode(errors="replace").replace("\r\n", "\n")
            except OSError:  # it has ended
                pytest.fail(f"{words!r} was not printed:\n{self.screen}", pytrace=False)
        return self.screen[began:]

    def types(self, line):
        os.write(self._descriptor, line.encode() + b"\n")

    def ends(self):
        """Its exit code."""
        try:
            while select.select([self._descriptor], [], [], 60)[0]:
                self.screen += os.read(self._descriptor, 65536).decode(errors="replace").replace("\r\n", "\n")
        except OSError:
            pass
        pid, self._pid = self._pid, None  # the number may be another process's from now on
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self):
        os.close(self._descriptor)
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


@pytest.fixture
def terminal(root):
    opened = []

    def start(*command):
        opened.append(Terminal(root, *command))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def put_breakpoint(file, before):
    """breakpoint() in a line of its own before the first line that begins with `before`."""
    text = file.read_text()
    file.write_text(re.sub(rf"^( *)(?={re.escape(before)})", r"\1breakpoint()\n\1", text, count=1, flags=re.MULTILINE))
    assert "breakpoint()" in file.read_text()


# ---------------------------------------------------------------------------------------------- pytest tests/lessons/…


@pytest.mark.slow
def test_a_suite_runs_on_the_solution(root):
    code, said = plain_pytest(root, "tests/lessons/99-toy", "--strict-markers")

    assert (code, "3 passed, 1 skipped" in said) == (0, True), said


@pytest.mark.slow
def test_one_test_runs_on_a_submission_and_says_what_is_wrong_and_what_was_printed(root):
    code, said = plain_pytest(
        root, "tests/lessons/99-toy/test_toy.py", "--submission", "ada", "-k", "past and 4", "--tb=short"
    )

    assert (code, "1 failed, 3 deselected" in said) == (1, True), said
    assert "autograder.errors.CheckFailed" in said
    assert "75 % of the values are wrong" in said
    assert "in the test\nin the probe\n" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "sentence"),
    [("nobody", "--submission nobody is not a folder"), ("tests", "tests has no toy.py, which test_toy.py is about")],
)
def test_a_submission_that_is_not_there_is_named(root, folder, sentence):
    code, said = plain_pytest(root, "tests/lessons/99-toy", "--submission", folder)

    assert code != 0
    assert sentence in said


@pytest.mark.slow
def test_inputs_are_those_of_a_grading_with_the_same_seed(root):
    seen = "tests/lessons/99-toy/test_toy.py"
    (root / seen).write_text(
        "import pytest, torch\n\n\n@pytest.mark.points(1)\ndef test_a(student, check, rng):\n    'A.'\n"
        "    check.that(False, f'drawn: {torch.randint(10**6, (), generator=rng)}')\n    student.call('toy.causal_mask', 1)\n"
    )
    five, six = (re.search(r"drawn: \d+", plain_pytest(root, seen, "--seed", seed)[1])[0] for seed in "56")
    graded = subprocess.run(
        [sys.executable, "-m", "autograder.cli", *"grade solutions/99-toy --lesson 99-toy --out out --seed 5".split()],
        cwd=root, env=environment(root), capture_output=True, text=True,
    ).stdout  # fmt: skip

    assert five != six
    assert five in graded


@pytest.mark.slow
def test_a_breakpoint_stops_in_the_test_in_a_probe_and_in_the_students_code(root, terminal):
    suite = root / "tests/lessons/99-toy/test_toy.py"
    put_breakpoint(suite, "mask = student.run")
    put_breakpoint(suite, "return causal_mask")
    put_breakpoint(root / "ada" / "toy.py", "return torch.ones")

    screen = terminal(sys.executable, "-m", "pytest", "tests/lessons/99-toy", "--submission", "ada", "-k", "past and 4")
    assert "-> mask = student.run(probe, length)" in screen.until("(Pdb) ")
    screen.types("c")
    assert "-> return causal_mask(length)" in screen.until("(Pdb) ")
    screen.types("c")
    assert "-> return torch.ones(length, length" in screen.until("(Pdb) ")
    screen.types("p 1000 + length")
    assert "1004" in screen.until("(Pdb) ")
    screen.types("c")

    assert screen.ends() == 1
    assert "1 failed" in screen.screen


@pytest.mark.slow
def test_who_leaves_the_debugger_in_the_students_code_ends_pytest(root, terminal):
    put_breakpoint(root / "solutions/99-toy/toy.py", "return torch.ones")

    screen = terminal(sys.executable, "-m", "pytest", "tests/lessons/99-toy")
    screen.until("(Pdb) ")
    screen.types("q")

    assert screen.ends() == pytest.ExitCode.INTERRUPTED
    assert "failed" not in screen.screen


# ---------------------------------------------------------------------------------------------- replay --in-process


@pytest.fixture
def card(root):
    graded = subprocess.run(
        [sys.executable, "-m", "autograder.cli", "grade", "ada", "--lesson", "99-toy", "--out", "out"],
        cwd=root, env=environment(root), capture_output=True, text=True,
    )  # fmt: skip
    assert graded.returncode == 0, graded.stdout
    return root / "out" / "ada" / "scorecard.json"


def replay(card, test="test_the_past_is_seen"):
    return [sys.executable, "-m", "autograder.cli", "replay", str(card), "--test", test, "--in-process"]


@pytest.mark.slow
def test_a_replay_stops_in_the_test_and_in_the_students_code(root, card, terminal):
    put_breakpoint(root / "tests/lessons/99-toy/test_toy.py", "mask = student.run")
    put_breakpoint(root / "ada" / "toy.py", "return torch.ones")

    screen = terminal(*replay(card))
    said = screen.until("(Pdb) ")
    assert "ada has changed since" in said
    assert "in the test\n" in said
    assert "-> mask = student.run(probe, length)" in said
    screen.types("c")
    assert "-> return torch.ones(length, length" in screen.until("(Pdb) ")
    screen.types("p 1000 + length")
    assert "1001" in screen.until("(Pdb) ")
    screen.types("c")
    screen.until("-> mask = student.run(probe, length)")  # the second case
    screen.types("c")
    screen.until("(Pdb) ")
    screen.types("c")

    assert screen.ends() == 0
    assert "failed" in screen.screen


def test_two_submissions_in_one_process_are_two_and_find_the_lessons_that_they_use(root):
    base = root / "solutions" / "98-base" / "base.py"
    for path, text in {
        root / "assignments/98-base/lesson.toml": 'title = "Base"\nmodules = ["base"]\n',
        root / "assignments/99-toy/lesson.toml": 'title = "Toy"\nmodules = ["toy"]\nuses = ["98-base"]\n',
        base: "def twice(n):\n    return 2 * n\n",
        root / "tests/lessons/99-toy/test_toy.py": "import pytest\n\npytestmark = pytest.mark.points(1)\n\n\n"
        "def test_a(student, check):\n    check(student.call('toy.f', 2), 5)\n\n\ndef test_b(student, check):\n    check(student.on(ranks=2).call('toy.f', 2), [5, 5])\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    right = "from base import twice\n\n\ndef f(n):\n    return twice(n) + 1\n"
    copied = {"base.py": b"def twice(n):\n    return 7\n"}  # not used, as when grading
    works = [{"toy.py": right.encode(), **copied}, {"toy.py": right.replace("+ 1", "+ 2").encode()}, {}]
    path = list(sys.path)

    lesson = load("99-toy", root)
    rows = [grade_in_process(lesson, Submission("s", "", files), Asked(seed=1)) for files in works]

    assert [[row.status for row in each] for each in rows] == [["passed"] * 2, ["failed"] * 2, ["failed"] * 2]
    assert rows[2][0].message == "toy.py is missing from the submission"
    assert sys.path == path


@pytest.mark.slow
def test_who_leaves_the_debugger_ends_the_replay_without_a_verdict(root, card, terminal):
    put_breakpoint(root / "ada" / "toy.py", "return torch.ones")

    screen = terminal(*replay(card))
    screen.until("(Pdb) ")
    screen.types("q")

    assert screen.ends() == 130
    assert "could not use" not in screen.screen
    assert "Traceback" not in screen.screen


FAULTS = """

    def test_without_points(student):
        pass


    @pytest.mark.points(1)
    @pytest.mark.needs("test_the_past")
    def test_that_needs(student):
        pass


    @pytest.mark.points(1)
    def test_that_passes_on(student, rng):
        student.call("toy.causal_mask", rng)


    @pytest.mark.points(1)
    def test_misspelt(student):
        student.call("toy.causal_maks", 1)
"""


def test_what_an_author_must_mend_is_said_before_the_traceback(root):
    write_lesson(root, suite=SUITE + FAULTS)

    code, said = plain_pytest(
        root, "tests/lessons/99-toy", "--deselect", "tests/lessons/99-toy/test_toy.py::test_on_a_gpu"
    )

    first = dict(re.findall(r"^_+ (?:ERROR at setup of )?(\w+) _+\n+(.*)", said, re.MULTILINE))
    assert code == 1
    assert first == {
        "test_without_points": "test_without_points has no points: write @pytest.mark.points(n)",
        "test_that_needs": "test_that_needs: @pytest.mark.needs('test_the_past'): its module has no such test; did you mean "
        "'test_the_past_is_seen'?",
        "test_that_passes_on": "student.call('toy.causal_mask'): argument 1 is a Generator, which cannot be passed to the "
        "student's process: pass a seed, and make it in the probe: torch.Generator().manual_seed(seed)",
        "test_misspelt": "student.call('toy.causal_maks'): toy has no function 'causal_maks' in the lesson's solution; did you "
        "mean 'causal_mask'?",
    }
    assert "3 passed" in said
