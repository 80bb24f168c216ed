"""Faults of the machine: processes that are killed, disks that are full. They cost nobody a grade, and leave nothing behind."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commands import (
    PATIENCE_S,
    alive,
    descendants,
    finished,
    graders,
    grading,
    named,
    temporary,
    wait_until,
    write_course,
)
from conftest import write_lesson

from autograder import files, kept
from autograder.batch import Job, run
from autograder.box.sandbox import Sandbox
from autograder.errors import AutograderError, BoxError, UsageError
from autograder.lesson import load
from autograder.scorecard import Outcome, Scorecard
from autograder.submission import Submission

__all__ = ["temporary"]  # a fixture
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")

DEADLY_SUITE = """
    import os
    import signal

    import pytest


    @pytest.mark.points(1)
    def test_the_mask(student):
        if student.call("toy.kills"):
            os.kill(os.getpid(), signal.SIGKILL)
"""
REQUEST = {"call": "toy.spin", "args": [], "kwargs": {}, "device": "cpu"}
SLOT = """
import sys, time
from autograder.box.sandbox import Sandbox

def main():
    box = Sandbox(without=sys.argv[1].split(","))
    code = b"import os, time\\n\\ndef wait():\\n    os.fork()\\n    open('left', 'w').close()\\n    time.sleep(300)\\n"
    channel = box.slot({"toy.py": code}).channel("toy", 0, 30)
    print(box._process.pid, flush=True)
    channel.ask({"call": "toy.wait", "args": [], "kwargs": {}, "device": "cpu"}, 200)

main()
"""


# ---------------------------------------------------------------------------------------------- a grading process dies


def test_a_grading_process_that_is_killed_costs_no_grade(tmp_path, temporary):
    course = write_course(tmp_path, 8)
    command = grading(course, temporary, 2)
    assert wait_until(lambda: finished(course) or command.poll() is not None)
    started = descendants(command.pid)

    os.kill(min(graders(command.pid)), signal.SIGKILL)
    said, _ = command.communicate(timeout=PATIENCE_S)

    assert (command.returncode, len(finished(course))) == (0, 8), said
    assert {Scorecard.from_json(path.read_text()).score for path in finished(course)} == {4}
    assert "Traceback" not in said
    assert wait_until(lambda: not alive(started)), "processes stay behind"
    assert wait_until(lambda: not list(temporary.iterdir())), "files of submissions stay behind"


def test_a_submission_that_its_process_dies_of_twice_is_a_row_of_ours_and_costs_no_other(
    tmp_path, temporary, monkeypatch
):
    write_lesson(tmp_path, "def kills():\n    return False\n", DEADLY_SUITE)
    monkeypatch.setenv("AUTOGRADER_ROOT", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(temporary))
    kills = {"ada": True, "bob": False, "eve": False}
    jobs = [Job(Submission(who, "", {"toy.py": f"def kills(): return {it}".encode()})) for who, it in kills.items()]

    cards = {card.student: card for _, card in run(load("99-toy"), jobs, processes=1)}

    assert {who: card.score for who, card in cards.items() if not card.is_lost} == {"bob": 1, "eve": 1}
    ((detail),) = [row.detail for row in cards["ada"].grader_errors]
    assert "died, and so did a second one (by SIGKILL)" in detail
    assert wait_until(lambda: not list(temporary.iterdir()), 10), "files of submissions stay behind"


@pytest.mark.parametrize("without", ["", "uid", "uid,seccomp,landlock"])
def test_a_grader_that_is_killed_leaves_no_process_and_no_folder(temporary, without):
    with subprocess.Popen(
        [sys.executable, "-c", SLOT, without], env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.PIPE
    ) as grader:
        try:
            zygote = int(grader.stdout.readline())
            assert wait_until(lambda: list(temporary.glob("*/*/scratch/left")))
            started = descendants(zygote) | {zygote}
            assert len(started) >= 4  # zygote, worker, test, what it forked
        finally:
            grader.kill()

    assert wait_until(lambda: not alive(started), 10), "processes stay behind"
    assert wait_until(lambda: not list(temporary.iterdir()), 10), "files of submissions stay behind"


def ask_in_vain(channel):
    with suppress(AutograderError):
        channel.ask(REQUEST, 100)


@pytest.mark.parametrize("without", ["", "uid"])
def test_a_zygote_that_is_killed_leaves_no_process_and_no_folder(without):
    code = b"import os, time\n\ndef spin():\n    os.fork()\n    open('left', 'w').close()\n    while True: pass\n"
    with Sandbox(without=without.split(",")) as box:
        channel = box.slot({"toy.py": code}).channel("toy", 0, 30)
        asking = threading.Thread(target=ask_in_vain, args=(channel,))
        asking.start()
        assert wait_until(lambda: list(box.folder.glob("*/scratch/left")))
        started = descendants(box._process.pid)
        assert len(started) >= 3  # worker, test, what it forked
        box._process.kill()

    asking.join()
    assert wait_until(lambda: not alive(started), 10), "processes stay behind"
    assert not box.folder.exists()


@pytest.mark.parametrize("number", [*range(5), *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 50))])
def test_sigkill_at_a_random_moment_leaves_whole_cards_and_nothing_else(tmp_path, temporary, number):
    course, chance = write_course(tmp_path, 12), random.Random(number)
    command = grading(course, temporary, 1 + number % 2)
    if number % 3:
        wait_until(lambda: finished(course))
        time.sleep(chance.uniform(0, 1.5))
    else:
        time.sleep(chance.uniform(0, 8))
    started = descendants(command.pid)

    command.kill()
    command.communicate(timeout=PATIENCE_S)  # ends when nobody can print any more

    assert wait_until(lambda: not alive(started | named(str(temporary)))), "processes stay behind"
    assert not list(temporary.iterdir()), "files of submissions stay behind"
    cards = [Scorecard.from_json(path.read_text()) for path in finished(course)]
    assert {card.score for card in cards} <= {4}
    assert {path.name for path in (course / "out").glob("*/*")} <= {"scorecard.json"}


# ---------------------------------------------------------------------------------------------- a disk is full


@pytest.fixture
def small_disk(temporary):
    """A disk with room for few bytes."""
    disk = temporary / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=711", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk):
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def card(score=1, student="ada", source="abc"):
    row = Outcome("test_a", "toy", "", "A", "passed", float(score), 4.0)
    return Scorecard("99-toy", student, 1, (row,), submission=source, modules=("toy",))


def test_a_file_that_finds_no_room_is_a_sentence_and_what_was_there_stays(small_disk):
    path, fresh = small_disk / "a" / "b.txt", small_disk / "new" / "c.txt"
    files.write(path, "before")
    fill(small_disk)

    for to in (path, fresh):
        with pytest.raises(UsageError, match=rf"^{to} cannot be written: No space left on device$"):
            files.write(to, "x" * 100_000)

    assert path.read_text() == "before"
    assert sorted(item.name for item in small_disk.rglob("*")) == ["a", "b.txt", "filler"]


@pytest.mark.parametrize("room", range(0, 16384, 4096))
def test_a_card_that_finds_no_room_leaves_the_earlier_one(small_disk, room):
    kept.keep(card(1), small_disk)
    before = (small_disk / "ada" / "scorecard.json").read_bytes()
    fill(small_disk)
    os.truncate(small_disk / "filler", (small_disk / "filler").stat().st_size - room)
    other = dataclasses.replace(card(2, source="other"), student_output="x" * 12000)

    with pytest.raises(UsageError, match=r"ada/(scorecard|earlier-1).json cannot be written: No space left on device$"):
        kept.keep(other, small_disk)

    assert (small_disk / "ada" / "scorecard.json").read_bytes() == before
    assert [item.name for item in (small_disk / "ada").iterdir()] == ["scorecard.json"]


def test_a_card_that_is_replaced_is_there_at_every_moment(tmp_path, monkeypatch):
    """As a kill would find it before each file that is written."""
    kept.keep(card(1), tmp_path)
    real, found = kept.write, []

    def watched(path, content):
        found.append(kept.read(tmp_path / "ada" / "scorecard.json").score)
        real(path, content)

    monkeypatch.setattr(kept, "write", watched)
    kept.keep(card(2, source="other"), tmp_path)

    assert found == [1, 1]
    assert kept.read(tmp_path / "ada" / "scorecard.json").score == 2
    assert kept.read(tmp_path / "ada" / "earlier-1.json").score == 1


def test_a_box_without_room_says_so(capfd, small_disk, monkeypatch):
    before = tempfile.gettempdir()
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with Sandbox() as box:
        with pytest.raises(BoxError, match=r"/submission cannot be written: No space left on device$"):
            box.slot({"toy.py": b"#" * 100_000})
        with pytest.raises(BoxError, match=r"shared/toy cannot be written: No space left on device$"):
            box.share("toy", {"toy.py": b"#" * 100_000})
        fill(small_disk)
        with pytest.raises(BoxError, match=r"cannot be written: No space left on device$"):
            box.slot({"toy.py": b"x = 1"})
        os.remove(small_disk / "filler")
        for left in (box.folder / "shared").rglob("*.py"):
            left.unlink()
        with box.slot({"toy.py": b"x = 1"}) as slot:
            fill(small_disk)
            slot.channel("toy", 0, 30).close()

    assert [item.name for item in small_disk.iterdir()] == ["filler"]
    subprocess.run(["mount", "-o", "remount,nr_inodes=2", small_disk], check=True)
    with pytest.raises(BoxError, match=rf"^{small_disk} cannot be written: No space left on device$"):
        Sandbox()
    monkeypatch.setattr(tempfile, "tempdir", before)  # capfd needs it
    assert "Traceback" not in capfd.readouterr().err


def autograder(*arguments, root, **options):
    return subprocess.run(
        [sys.executable, "-m", "autograder.cli", *map(str, arguments)],
        cwd=root, env={**os.environ, "AUTOGRADER_ROOT": str(root), "COLUMNS": "300"}, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def test_a_command_that_finds_no_room_says_one_sentence(tmp_path, small_disk):
    course = write_course(tmp_path, 2)
    kept.keep(card(1), tmp_path / "cards")
    (small_disk / "out").mkdir()
    fill(small_disk)

    graded = autograder(
        *("grade", "submissions", "--each", "--lesson", "99-toy", "--out", small_disk / "out", "--processes", 1),
        root=course, stdout=subprocess.PIPE,
    )  # fmt: skip
    exported = autograder(
        "export", "cards", "--format", "csv", "--out", small_disk / "a.csv", root=course, stdout=subprocess.PIPE
    )

    for done in (graded, exported):
        assert done.returncode == 2
        assert "cannot be written: No space left on device" in done.stdout
        assert "Traceback" not in done.stdout
    assert [item.name for item in small_disk.rglob("*")] == ["out", "filler"] or not list(
        (small_disk / "out").iterdir()
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_output_that_is_full_is_no_traceback(tmp_path):
    kept.keep(card(1), tmp_path / "cards")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "autograder.cli", "export", "cards", "--format", "csv"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    assert done.stderr == "error: the output cannot be written: No space left on device\n"
    assert done.returncode == 2
