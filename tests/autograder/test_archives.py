"""Archives that were made to do harm, or were harmed: each gets an answer, and costs nobody else anything."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from packing import zipped

from autograder.intake import archives, reader
from autograder.intake.archives import read_archive
from autograder.submission import take_in

sys.path.insert(0, str(ROOT / "tests"))
import fuzz_intake  # noqa: E402

MUTANTS = 150  # at some 30 ms each
MONSTERS = fuzz_intake.monsters()


@pytest.mark.parametrize("name", MONSTERS)
def test_a_monster_gets_an_answer(tmp_path, name):
    submission = fuzz_intake.check(MONSTERS[name], tmp_path / f"work{Path(name).suffix}")

    graded = {"a bomb.tar.gz", "twice.zip", "odd names.tar", "all archives.zip", "deep.tar"}
    assert ("attention.py" in submission.files) == (name in graded)


def test_mutants_get_an_answer_each(tmp_path):
    mutants = fuzz_intake.mutants(random.Random(1))

    answers = [fuzz_intake.check(next(mutants), tmp_path / "work.zip") for _ in range(MUTANTS)]

    graded = sum("attention.py" in answer.files for answer in answers)
    assert MUTANTS // 10 < graded < MUTANTS, "mutants are all broken, or none is"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space")
def test_a_header_that_announces_gigabytes_is_not_read_by_the_grader(tmp_path):
    import resource

    path = tmp_path / "work.tar.gz"
    path.write_bytes(MONSTERS["a name of 1 GB, which is there.tar.gz"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert "too much memory" in take_in(path, ("attention",)).problem

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # kB


# ---------------------------------------------------------------------------------------------- the reader


def answering(monkeypatch, tmp_path, program: str):
    """Puts another program in the reader's place."""
    path = tmp_path / "reader.py"
    path.write_text(f"import os, sys, time\nout = sys.stdout.buffer\n{program}")
    monkeypatch.setattr(archives, "_COMMAND", [sys.executable, "-I", "-S", "-B", str(path)])
    (tmp_path / "hw.zip").write_bytes(zipped({"attention.py": b"x = 1"}))
    return take_in(tmp_path / "hw.zip", ("attention",)).problem


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("os.abort()", "takes too much time or memory"),
        ("os._exit(0)", "takes too much time or memory"),
        ("out.write(b'rubbish' * 100)", "is cut off or damaged"),
        ("out.write(b'R' + b'\\xff' * 16)", "is cut off or damaged"),
        (f"out.write(b'F' + bytes({reader.HEAD.size - 1})); out.flush(); os._exit(1)", "takes too much time or memory"),
        (f"while True: out.write(b'F' + bytes({reader.HEAD.size - 1}))", "is cut off or damaged"),
    ],
    ids=["crashes", "says nothing", "rubbish", "a giant", "stops in the middle", "never ends"],
)
def test_a_reader_that_goes_wrong_costs_one_submission(monkeypatch, tmp_path, program, said):
    assert said in answering(monkeypatch, tmp_path, program)


def test_a_reader_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(archives, "WALL_S", 1.0)

    assert "too much time" in answering(monkeypatch, tmp_path, "time.sleep(600)")


@pytest.mark.skipif(os.name != "posix", reason="a process that has lost its parent")
def test_a_reader_does_not_outlive_its_grader(tmp_path):
    """It waits for an archive that never ends: a pipe, in the place of a file."""
    grader = "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); print(p.pid, flush=True); time.sleep(600)"
    command = [sys.executable, "-I", "-S", "-B", str(Path(reader.__file__))]
    parent = subprocess.Popen([sys.executable, "-c", grader, *command], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    time.sleep(1)  # it has begun to read

    parent.kill()
    parent.wait()

    end = time.monotonic() + 30
    while _lives(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _lives(pid)


def _lives(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_the_reader_needs_the_standard_library_alone(tmp_path):
    """From a closed folder, as in a zip that grades as root, where nothing of ours is on any path."""
    closed = tmp_path / "grader"
    closed.mkdir(mode=0o700)
    (closed / "reader.py").write_bytes(Path(reader.__file__).read_bytes())
    (tmp_path / "hw.zip").write_bytes(zipped({"attention.py": b"x = 1"}))

    with open(tmp_path / "hw.zip", "rb") as archive:
        command = [sys.executable, "-I", "-S", "-B", str(closed / "reader.py")]
        done = subprocess.run(command, stdin=archive, capture_output=True, cwd="/", env={})

    assert done.stderr == b""
    assert b"attention.pyx = 1" in done.stdout


def test_an_archive_costs_some_hundredths_of_a_second(tmp_path):
    (tmp_path / "hw.zip").write_bytes(zipped({"attention.py": b"x = 1"}))
    times = []
    for _ in range(5):
        before = os.times()
        with open(tmp_path / "hw.zip", "rb") as stream:
            assert read_archive(stream).trouble == ""
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)

    assert min(times) < 0.15, f"CPU seconds of the reader: {times}"
