"""The box: a slot computes, hangs, dies or lies, and the next test and the next submission do not notice."""

import os
import time

import pytest
import torch

from autograder.box.policy import Policy
from autograder.box.sandbox import Sandbox
from autograder.errors import BadReply, BoxError, StudentDied, StudentFault, StudentTimeout
from autograder.files import remove_tree


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as box:
        yield box


def ask(slot, path, *args, module="work", timeout=5.0):
    """One call in a fresh fork; the reply as it came."""
    channel = slot.channel(module, seed=1, timeout=timeout)
    try:
        return channel.ask({"call": path, "args": list(args), "kwargs": {}, "device": "cpu"}, timeout)
    finally:
        channel.close()


def slot_of(sandbox, source, **limits):
    return sandbox.slot({"work.py": source.encode()}, Policy(**limits))


def test_a_value_comes_back(sandbox):
    with slot_of(sandbox, "def double(x): return 2 * x") as slot:
        reply = ask(slot, "work.double", torch.arange(3.0))

    assert torch.equal(reply["value"], torch.tensor([0.0, 2.0, 4.0]))


def test_each_test_gets_a_fresh_copy_of_the_imported_module(sandbox):
    with slot_of(sandbox, "seen = []\ndef count():\n    seen.append(1)\n    return len(seen)") as slot:
        assert [ask(slot, "work.count")["value"] for _ in range(2)] == [1, 1]


def test_calls_of_one_test_share_one_process(sandbox):
    with slot_of(sandbox, "seen = []\ndef count():\n    seen.append(1)\n    return len(seen)") as slot:
        channel = slot.channel("work", seed=1, timeout=5)
        request = {"call": "work.count", "args": [], "kwargs": {}, "device": "cpu"}

        assert [channel.ask(request, 5)["value"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("inside", "found"),
    [
        ("seen = []\ndef count():\n    seen.append(1)\n    return len(seen)", {"value": 1}),
        ("1 / 0", {"error": "ZeroDivisionError"}),
    ],
    ids=["made once, and fresh in each test", "what is wrong with them is told to each probe"],
)
def test_the_helpers_of_probes(sandbox, inside, found):
    with slot_of(sandbox, "", inside=inside) as slot:
        for _ in range(2):
            channel = slot.channel("work", seed=1, timeout=5)
            probe = {"source": "def probe():\n    return inside.count()", "name": "probe", "inside": inside}
            reply = channel.ask({**probe, "args": [], "kwargs": {}, "device": "cpu"}, 5)
            channel.close()

            assert {key: value["types"][0] if key == "error" else value for key, value in reply.items()} == found


def test_an_exception_comes_back_with_its_place(sandbox):
    with slot_of(sandbox, "def fail():\n    raise ValueError('no')") as slot:
        error = ask(slot, "work.fail")["error"]

    assert error["types"][0] == "ValueError"
    assert error["text"] == "no"
    assert error["where"] == "work.py:2 in fail"


def test_a_hang_ends_at_the_deadline_and_the_next_test_works(sandbox):
    source = "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\ndef hang():\n    while True: pass\ndef one(): return 1"
    with slot_of(sandbox, source) as slot:
        started = time.monotonic()
        with pytest.raises(StudentTimeout, match=r"calling work.hang used more than 0.5 s of processor time"):
            ask(slot, "work.hang", timeout=0.5)

        assert time.monotonic() - started < 5
        assert ask(slot, "work.one")["value"] == 1


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 11)", "os.abort()"])
def test_a_process_that_ends_is_a_failure(sandbox, end):
    with slot_of(sandbox, f"import os\ndef end(): {end}\ndef one(): return 1") as slot:
        with pytest.raises(StudentDied):
            ask(slot, "work.end")

        assert ask(slot, "work.one")["value"] == 1


@pytest.mark.parametrize("line", ["raise SystemExit(0)", "raise KeyboardInterrupt", "import pytest; pytest.skip('x')"])
def test_exits_and_skips_are_exceptions_of_the_student(sandbox, line):
    with slot_of(sandbox, f"def leave():\n    {line}") as slot:
        assert "error" in ask(slot, "work.leave")


def test_a_module_that_hangs_at_import_costs_one_deadline(sandbox):
    with sandbox.slot({"slow.py": b"while True: pass", "work.py": b"def one(): return 1"}) as slot:
        with pytest.raises(StudentTimeout, match=r"importing slow.py"):
            ask(slot, "slow.f", module="slow", timeout=0.5)
        started = time.monotonic()
        with pytest.raises(StudentTimeout):
            ask(slot, "slow.f", module="slow", timeout=0.5)

        assert time.monotonic() - started < 0.3
        assert ask(slot, "work.one")["value"] == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit", "SystemExit"),
        ("\0", "SyntaxError|ValueError"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(sandbox, source, words):
    with slot_of(sandbox, source) as slot, pytest.raises(StudentFault, match=f"work.py cannot be imported: ({words})"):
        ask(slot, "work.f")


def test_rubbish_on_the_connection_is_no_reply(sandbox):
    source = """
        import os
        def rubbish():
            for fd in range(3, 60):
                try: os.write(fd, b"x" * 64)
                except OSError: pass
    """
    with slot_of(sandbox, "if True:" + source.replace("\n    ", "\n")) as slot, pytest.raises((BadReply, StudentDied)):
        ask(slot, "work.rubbish")


def test_memory_of_the_whole_slot_is_limited(sandbox):
    source = """
import os, time
def spread():
    for _ in range(8):
        if not os.fork():
            held = bytearray(60 << 20)
            for i in range(0, len(held), 4096): held[i] = 1
            time.sleep(30)
    time.sleep(30)
"""
    with slot_of(sandbox, source, memory_mb=150) as slot, pytest.raises(StudentDied, match="150 MB of memory"):
        ask(slot, "work.spread", timeout=20)


def test_nothing_of_a_slot_survives_it(sandbox, tmp_path):
    source = """
import os, time
def daemon():
    if not os.fork():
        try: os.setsid()
        except OSError: pass
        if not os.fork():
            time.sleep(60)
        os._exit(0)
    return os.getuid()
"""
    before = set(processes_in(sandbox))
    with slot_of(sandbox, source) as slot:
        ask(slot, "work.daemon")
        folder = slot._folder
    time.sleep(0.05)

    assert set(processes_in(sandbox)) <= before
    assert not folder.exists()


def processes_in(sandbox):
    """Processes below the zygote, orphans included (it is their subreaper)."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:  # a name may be any bytes
                    parents[int(name)] = int(stat.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
    found = {sandbox._process.pid}
    for _ in range(5):
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found - {sandbox._process.pid}


def test_folders_without_end_cost_their_own_slot_only(sandbox):
    source = """
import os, time
def dig():
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    time.sleep(20)
"""
    with slot_of(sandbox, source) as slot:
        with pytest.raises(StudentDied, match="folders too deep"):
            ask(slot, "work.dig", timeout=10)
        folder = slot._folder
    with slot_of(sandbox, "def one(): return 1") as slot:
        assert ask(slot, "work.one")["value"] == 1

    assert not folder.exists()


def test_shared_memory_that_no_counter_shows_is_refused(sandbox):
    source = """
import mmap
def private(): return len(mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
def shared(): return len(mmap.mmap(-1, 4096))
"""
    if "seccomp" not in sandbox.layers:
        pytest.skip("seccomp refuses it")
    with slot_of(sandbox, source) as slot:
        assert ask(slot, "work.private") == {"value": 4096}
        assert ask(slot, "work.shared")["error"]["types"][0] == "PermissionError"


TOUCH = """
import ctypes, gc, os, time
def touch_all():
    gc.unfreeze()
    for address in {id(each) & -4096 for each in gc.get_objects()}:
        ctypes.memmove(address, address, 1)
def forks(count, touch):
    for _ in range(count):
        if not os.fork():
            if touch: touch_all()
            time.sleep(20)
    time.sleep(3 if touch else 0.5)
    return "done"
"""


def test_inherited_pages_that_forks_write_to_count(sandbox):
    with slot_of(sandbox, TOUCH, memory_mb=400) as slot:
        with pytest.raises(StudentDied, match="400 MB of memory"):
            ask(slot, "work.forks", 12, True, timeout=15)
        assert ask(slot, "work.forks", 12, False, timeout=15) == {"value": "done"}


def test_deleted_files_count(sandbox):
    source = """
import os, time
def hide():
    held = []
    for i in range(6):
        held.append(open(f"f{i}", "wb"))
        os.unlink(f"f{i}")
        held[-1].write(b"x" * (60 << 20))
        held[-1].flush()
    time.sleep(20)
"""
    with slot_of(sandbox, source) as slot, pytest.raises(StudentDied, match="MB of files"):
        ask(slot, "work.hide", timeout=15)


@pytest.mark.parametrize(
    "line",
    [
        "os.setsid()",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "socket.socketpair()[0].bind(chr(0) + 'x')",
        "socket.socket()",
    ],
)
def test_what_would_reach_out_of_the_slot_is_refused(sandbox, line):
    if "seccomp" not in sandbox.layers:
        pytest.skip("needs seccomp")
    with slot_of(sandbox, f"import os, socket\ndef reach(): {line}") as slot:
        assert ask(slot, "work.reach")["error"]["types"][0] == "PermissionError"


def test_a_name_that_cannot_be_written_is_our_error_and_leaves_nothing(sandbox):
    before = list(sandbox.folder.iterdir())

    with pytest.raises(BoxError, match="cannot be written"):
        sandbox.slot({"a.py": b"", "a.py/b.py": b""})

    assert list(sandbox.folder.iterdir()) == before


def test_output_is_kept_and_capped(sandbox):
    with slot_of(sandbox, "def chat():\n    print('hello')\n    print('x' * 10**7)") as slot:
        ask(slot, "work.chat")
        output = slot.output

    assert output.startswith("hello")
    assert len(output) <= 65536 + 2


def test_randomness_is_seeded_by_the_grader(sandbox):
    with slot_of(
        sandbox,
        "import torch, random, numpy\ndef draw(): return [torch.rand(1).item(), random.random(), float(numpy.random.rand())]",
    ) as slot:
        first, again = ask(slot, "work.draw"), ask(slot, "work.draw")
        channel = slot.channel("work", seed=2, timeout=5)
        other = channel.ask({"call": "work.draw", "args": [], "kwargs": {}, "device": "cpu"}, 5)

    assert first == again
    assert all(one != two for one, two in zip(first["value"], other["value"], strict=True))


def test_the_standard_library_can_be_imported_in_the_box(sandbox):
    source = "def lazy():\n    import statistics, sqlite3, colorsys\n    return statistics.mean([1, 2, 3])"
    with slot_of(sandbox, source) as slot:
        assert ask(slot, "work.lazy")["value"] == 2


def test_two_slots_have_two_users(sandbox):
    if os.geteuid():
        pytest.skip("slots have users of their own where the grader is root")
    source = "import os\ndef uid(): return os.getuid()"
    with slot_of(sandbox, source) as one, slot_of(sandbox, source) as two:
        uids = [ask(slot, "work.uid")["value"] for slot in (one, two)]

    assert uids[0] != uids[1]
    assert 0 not in uids


def test_a_required_layer_that_is_missing_fails_closed():
    with pytest.raises(BoxError, match="no landlock"):
        Sandbox(require=["landlock"], without=["landlock"])


def test_a_tree_without_permissions_is_removed(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (deep / "link").symlink_to("/etc")
    (tmp_path / "a").chmod(0)

    remove_tree(tmp_path / "a")

    assert not (tmp_path / "a").exists()
