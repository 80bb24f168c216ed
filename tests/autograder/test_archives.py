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

from autograder.intake import archives, opening, reader
from autograder.intake.archives import read_archive
from autograder.intake.entries import Entry
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


def peak_and_cpu_of(path):
    """(MB of memory, CPU seconds) that a grader takes for a submission, in a process of its own; and what it says."""
    code = f"""
import os, resource
from pathlib import Path
from autograder.submission import take_in
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, os.times()
work = take_in(Path({str(path)!r}), ("attention", "flash_attention"))
end = os.times()
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
print(peak, end.user + end.system - start.user - start.system, work.problem or work.missing.get("attention", ""))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, cpu, said = done.stdout.rstrip("\n").split(" ", 2)
    return int(peak), float(cpu), said


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process")
def test_archives_inside_share_what_one_may_hold(tmp_path):
    inner = zipped({f"m{place}.py": b"#" * (2 << 20) for place in range(40)})
    (tmp_path / "work.zip").write_bytes(zipped({f"a{place}.zip": inner for place in range(3)}))

    peak, cpu, said = peak_and_cpu_of(tmp_path / "work.zip")

    assert said == "work.zip contains too much: at most 8388608 bytes of Python are accepted; pack only your .py files"
    assert peak < 100, "MB"


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process")
def test_what_archives_two_levels_deep_hold_is_not_kept(tmp_path):
    inner = zipped({f"b{place}.zip": bytes(20 << 20) for place in range(4)})
    files = {f"a{place}.zip": inner for place in range(8)}
    (tmp_path / "work.zip").write_bytes(zipped({**files, "attention.py": b"x = 1"}))

    peak, cpu, said = peak_and_cpu_of(tmp_path / "work.zip")

    assert said == ""
    assert peak < 100, "MB"


def test_entries_of_archives_inside_are_counted_together(tmp_path):
    inner = zipped({f"x{place}.txt": b"" for place in range(2000)})
    files = {f"a{place}.zip": inner for place in range(4)}
    (tmp_path / "work.zip").write_bytes(zipped({**files, "z.zip": zipped({"attention.py": b"x = 1"})}))

    work = take_in(tmp_path / "work.zip", ("attention",))

    assert set(work.files) == {"attention.py"}
    assert [note.partition(":")[0] for note in work.notes if "too many entries" in note] == [
        "left out a2.zip",
        "left out a3.zip",
    ]


def test_readers_of_one_submission_share_their_time(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "cpu_of_readers", iter(range(0, 10_000, 20)).__next__)  # 20 s each
    files = {f"a{place}.zip": zipped({f"m{place}.py": b"x = 1"}) for place in range(5)}
    (tmp_path / "work.zip").write_bytes(zipped({**files, "attention.py": b"x = 1"}))

    work = take_in(tmp_path / "work.zip", ("attention",))

    assert "attention.py" in work.files
    assert sum("takes too much time" in note for note in work.notes) == 3


ODD_NAMES = {
    "hyphens": lambda place: f"{place}-{'-1' * 90}.\uff50\uff59",
    "spaces": lambda place: f"{place}{' ' * 180}.\uff50\uff59",
    "underscores": lambda place: f"{place}{'_' * 180}x.\uff50\uff59",
    "long": lambda place: f"{place}{'_ ' * 1500}.\uff50\uff59",
    "numbers": lambda place: f"{place}{'_1' * 90}_.\uff50\uff59",
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_cost_next_to_nothing(tmp_path, name):
    files = {ODD_NAMES[name](place): b"" for place in range(4900)}
    (tmp_path / "work.zip").write_bytes(zipped(files))

    _, cpu, said = min(peak_and_cpu_of(tmp_path / "work.zip") for _ in range(2))

    assert said.startswith("attention.py is missing from the submission")
    assert cpu < 3, "seconds"


def test_environments_cost_what_their_names_do(tmp_path):
    entries = [Entry(f"v{place}/pyvenv.cfg", reader.UNREAD) for place in range(20_000)]
    entries += [
        Entry("v1/x/y.py", reader.READ),
        Entry("v1x/y.py", reader.READ),
        Entry("v1/in/pyvenv.cfg", reader.UNREAD),
    ]
    began = time.process_time()

    kept = opening._without_venvs(entries)

    assert time.process_time() - began < 2
    assert [entry.name for entry in kept if entry.kind != reader.NEEDLESS] == ["v1x/y.py"]
    assert len(kept) == 20_001


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
