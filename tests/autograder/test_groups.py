"""Control groups of slots: the kernel counts each slot's processes and threads, whoever else is the same user."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commands import alive, descendants, wait_until
from crowding import groups_in

from autograder.box.sandbox import Sandbox
from autograder.box.zygote import becoming, cgroup, delegated
from autograder.errors import AutograderError, BoxError

HERE = Path(__file__).parent
CANNOT = 77  # launch.py's way to say that this machine does not allow a mode
SPIN = b"import os, time\n\ndef spin():\n    os.fork()\n    open('left', 'w').close()\n    time.sleep(300)\n"
REQUEST = {"call": "toy.spin", "args": [], "kwargs": {}, "device": "cpu"}
GRADER = """
import sys
from autograder.box.sandbox import Sandbox

box = Sandbox(without=sys.argv[2].split(","), groups=sys.argv[1])
channel = box.slot({"toy.py": sys.argv[3].encode()}).channel("toy", 0, 60)
print(box._process.pid, flush=True)
if sys.argv[4]:
    channel.ask({"call": "toy.spin", "args": [], "kwargs": {}, "device": "cpu"}, 200)
sys.stdin.read()
"""


@pytest.fixture
def place():
    """A group of the test's own in which groups for slots can be made: as if the grader had been started in it."""
    found = delegated.place()
    if not found:
        pytest.skip("no control group can be made here that counts processes")
    folder = tempfile.mkdtemp(prefix="test-of-groups-", dir=found)
    yield folder
    for name in os.listdir(folder):
        with suppress(OSError):
            os.rmdir(os.path.join(folder, name))
    os.rmdir(folder)


# ---------------------------------------------------------------------------------------------- what the kernel does


@pytest.mark.parametrize(
    ("mode", "without"),
    [("root", ""), ("root", "rlimits"), ("root", "uid"), ("docker", ""), ("plain", "")],
)
def test_what_starts_all_it_may_ends_at_its_own_limit(place, mode, without):
    command = [sys.executable, "-B", str(HERE.parent / "hostile" / "launch.py"), mode, place]
    command += [sys.executable, "-B", str(HERE / "crowding.py"), place, without]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert "cgroup" in found["layers"]
    assert found["forks"] == [[30, 11]] * 3  # with the worker and the test 32: then the kernel says EAGAIN
    assert found["neighbour"] == 0
    assert 20 <= found["threads"] <= 30
    assert (found["groups"], found["limits"], found["most"]) == (4, ["32"], 32)
    assert found["attacked"] == []
    assert groups_in(place) == []


def test_a_group_is_new_for_each_worker_and_gone_with_it(place):
    with Sandbox(groups=place) as box, box.slot({"toy.py": SPIN}) as slot:
        assert groups_in(place) == []
        slot.channel("toy", 0, 60).close()
        (first,) = groups_in(place)
        slot.stop()
        assert groups_in(place) == []
        slot.channel("toy", 0, 60).close()
        (second,) = groups_in(place)

        assert first != second
    assert groups_in(place) == []


def test_a_slot_whose_group_cannot_be_made_works_all_the_same(place):
    own = tempfile.mkdtemp(dir=place)
    with Sandbox(groups=own) as box:
        os.rmdir(own)
        with box.slot({"toy.py": b"def three(): return 3"}) as slot:
            answer = slot.channel("toy", 0, 60).ask(REQUEST | {"call": "toy.three"}, 60)

    assert answer == {"value": 3}


def test_a_slot_that_cannot_enter_its_group_is_counted_otherwise(place):
    group = cgroup.make(place, 5)
    group.remove()

    assert not becoming._has_entered(group)
    assert not becoming._has_entered(None)


# ---------------------------------------------------------------------------------------------- who is killed leaves none


@pytest.mark.parametrize("without", ["", "uid", "uid,seccomp,landlock"])
def test_a_grader_that_is_killed_leaves_no_group(place, without):
    with grader_in(place, without, "spins") as (grader, _):
        assert wait_until(lambda: groups_in(place))
        grader.kill()

    assert wait_until(lambda: not groups_in(place), 20)


@pytest.mark.parametrize("without", ["", "uid"])
def test_a_zygote_that_is_killed_leaves_no_group(place, without):
    with Sandbox(without=without.split(","), groups=place) as box:
        channel = box.slot({"toy.py": SPIN}).channel("toy", 0, 60)
        asking = threading.Thread(target=ask_in_vain, args=(channel,))
        asking.start()
        assert wait_until(lambda: list(box.folder.glob("*/scratch/left")))
        assert len(groups_in(place)) == 1
        box._process.kill()

    asking.join()
    assert groups_in(place) == []


def test_what_a_grader_and_its_zygote_leave_is_removed_by_the_next(place):
    with grader_in(place, "", "") as (grader, zygote):
        assert wait_until(lambda: groups_in(place))
        started = descendants(zygote)
        grader.send_signal(19)  # it must not clean up after its zygote
        os.kill(zygote, 9)
        grader.kill()
    assert wait_until(lambda: not alive(started), 20)
    assert len(groups_in(place)) == 1

    with Sandbox(groups=place):
        assert groups_in(place) == []


def test_a_group_that_somebody_holds_or_is_in_is_left(place):
    held, other = cgroup.make(place, 5), os.path.join(place, "somebody-elses")
    os.mkdir(other)
    forgotten = cgroup.make(place, 5)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as guest:
        cgroup.write(forgotten.folder, "cgroup.procs", str(guest.pid))
        os.close(forgotten._lock)
        cgroup.sweep(place)

        assert {held.folder, forgotten.folder} == {os.path.join(place, name) for name in groups_in(place)}
        guest.communicate(b"\n")
    cgroup.sweep(place, 5)
    assert groups_in(place) == [os.path.basename(held.folder)]
    assert os.path.isdir(other)
    held.remove()


def grader_in(place, without, spins):
    return _Grader([sys.executable, "-c", GRADER, place, without, SPIN.decode(), spins])


class _Grader:
    def __init__(self, command):
        self._command = command

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process, int(self._process.stdout.readline())

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()


def ask_in_vain(channel):
    with suppress(AutograderError):
        channel.ask(REQUEST, 100)


# ---------------------------------------------------------------------------------------------- where there is a place


def test_a_folder_that_is_no_group_is_no_place(tmp_path):
    assert delegated.place(str(tmp_path)) == ""
    assert delegated.place(str(tmp_path / "none")) == ""
    assert list(tmp_path.iterdir()) == []
    assert cgroup.make("", 5) is None


def test_a_group_that_stops_nobody_is_no_place(place, monkeypatch):
    monkeypatch.setattr(delegated, "_ONE_TOO_MANY", "pass")

    assert delegated.place(place) == ""
    assert groups_in(place) == []


def test_who_requires_groups_gets_none_without(monkeypatch):
    monkeypatch.setattr(delegated, "_find", lambda: "")

    with pytest.raises(BoxError, match="has no cgroup"):
        Sandbox(require=["cgroup"])


V1 = "36 25 0:31 {root} {point} rw,nosuid - cgroup cgroup rw,pids\n"
V2 = "29 22 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CPU = "35 25 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
ROOT = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
PIDS, UNIFIED = "/sys/fs/cgroup/pids", "/sys/fs/cgroup"
SCOPE = "/user.slice/user-1000.slice/session-3.scope"


@pytest.mark.parametrize(
    ("groups", "mounts", "expected"),
    [
        pytest.param("4:pids:/\n1:cpu:/\n", V1.format(root="/", point=PIDS), (1, PIDS), id="1"),
        pytest.param(
            f"9:cpu,cpuacct:/x\n4:pids:{SCOPE}\n1:name=systemd:{SCOPE}\n0::{SCOPE}\n",
            ROOT + CPU + V1.format(root="/", point=PIDS) + V2.format(root="/", point=f"{UNIFIED}/unified"),
            (1, PIDS + SCOPE),
            id="both",
        ),
        pytest.param("4:pids:/docker/ab\n", V1.format(root="/docker/ab", point=PIDS), (1, PIDS), id="1 in a container"),
        pytest.param(
            "4:pids:/docker/ab/own\n",
            V1.format(root="/docker/ab", point=PIDS),
            (1, f"{PIDS}/own"),
            id="1 in a group of a container",
        ),
        pytest.param("4:pids:/\n", V1.format(root="/", point=PIDS), (1, PIDS), id="1 in a namespace"),
        pytest.param("4:pids:/../other\n", V1.format(root="/", point=PIDS), (1, ""), id="1 outside its namespace"),
        pytest.param("4:pids:/elsewhere\n", V1.format(root="/docker/ab", point=PIDS), (1, ""), id="1 out of sight"),
        pytest.param("4:pids:/dock\n", V1.format(root="/docker", point=PIDS), (1, ""), id="1 a name that begins so"),
        pytest.param("4:pids:/x\n", ROOT + CPU, (1, ""), id="1 not mounted"),
        pytest.param(
            "4:pids:/a:b c\n", V1.format(root="/", point="/mnt/a\\040b"), (1, "/mnt/a b/a:b c"), id="1 odd names"
        ),
        pytest.param(
            "4:pids:/x\n",
            V1.format(root="/", point="/covered") + V1.format(root="/", point="/newer"),
            (1, "/newer/x"),
            id="1 mounted twice",
        ),
        pytest.param(
            f"0::{SCOPE}\n",
            V2.format(root="/", point=UNIFIED),
            (2, f"{UNIFIED}/user.slice/user-1000.slice"),
            id="2 in a session",
        ),
        pytest.param("0::/init\n", V2.format(root="/", point=UNIFIED), (2, UNIFIED), id="2 below a container's root"),
        pytest.param("0::/\n", V2.format(root="/", point=UNIFIED), (2, ""), id="2 in a container"),
        pytest.param(
            "0::/docker/ab\n", V2.format(root="/docker/ab", point=UNIFIED), (2, ""), id="2 in a container, no namespace"
        ),
        pytest.param("0::/../x\n", V2.format(root="/", point=UNIFIED), (2, ""), id="2 outside its namespace"),
        pytest.param(f"0::{SCOPE}\n", ROOT, (2, ""), id="2 not mounted"),
        pytest.param(f"1:name=systemd:{SCOPE}\n", ROOT, (2, ""), id="no hierarchy that counts"),
        pytest.param("", "", (2, ""), id="nothing"),
        pytest.param("rubbish\n", "more - of - it\n\n36 25 -\n", (2, ""), id="rubbish"),
    ],
)
def test_the_place_is_found_in_what_the_kernel_says(groups, mounts, expected):
    assert delegated.own_group(groups, mounts) == expected


@pytest.mark.parametrize(
    ("marked", "systemd", "hands_out", "is_place", "written"),
    [
        ("user.delegate", True, "cpu pids", True, False),
        ("trusted.delegate", True, "cpu", True, True),
        ("user.delegate", False, "", True, True),
        ("", True, "cpu pids", False, False),  # systemd divides it, whoever may write to it
        ("", False, "cpu pids", True, False),
        ("", False, "cpu", False, False),
    ],
)
def test_a_group_of_version_2_is_divided_only_where_it_is_ours(
    tmp_path, monkeypatch, marked, systemd, hands_out, is_place, written
):
    control = tmp_path / "cgroup.subtree_control"
    control.write_text(hands_out)

    def mark(path, name):
        if name == marked and str(path) == str(tmp_path):
            return b"1"
        raise OSError

    monkeypatch.setattr(os, "getxattr", mark)
    monkeypatch.setattr(delegated, "_SYSTEMD", tmp_path if systemd else tmp_path / "none")
    monkeypatch.setattr(delegated, "own_group", lambda groups, mounts: (2, str(tmp_path)))

    assert bool(delegated._find()) == is_place
    assert ("+pids" in control.read_text()) == written


def test_a_group_whose_remaining_process_is_dying_is_waited_for(place):
    group = cgroup.make(place, 5)
    with subprocess.Popen(["sleep", "0.3"]) as guest:
        cgroup.write(group.folder, "cgroup.procs", str(guest.pid))
        started = time.monotonic()
        group.remove()

    assert time.monotonic() - started < 1
    assert groups_in(place) == []
