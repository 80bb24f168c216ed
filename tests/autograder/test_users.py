"""Users of slots: ids that nobody else on this machine has, and of whose processes only our own are killed."""

import os
import subprocess
import sys
import time

import pytest

from autograder.box import users
from autograder.box.policy import Policy
from autograder.box.sandbox import Sandbox
from autograder.errors import BoxError

as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives slots users of their own"
)
SYSTEMD = (range(60001, 60578), range(61184, 65520))  # homes and hosts; services without a user of their own


def test_no_id_is_one_that_systemd_gives_away():
    ids = range(users.FIRST, users.FIRST + users.COUNT)

    assert not any(uid in taken for uid in ids for taken in SYSTEMD)


@as_root
def test_an_id_is_held_until_its_lock_is_closed():
    held = [users.take() for _ in range(3)]

    assert len({uid for uid, _ in held}) == 3
    assert all(users.is_nobodys(uid) for uid, _ in held)
    for _, lock in held:
        lock.close()


def test_an_id_of_a_container_is_not_taken(monkeypatch, tmp_path):
    given = tmp_path / "subuid"
    given.write_text(f"# of containers\nalice:{users.FIRST}:100\nbroken line\n")
    monkeypatch.setattr(users, "_GIVEN_AWAY", (str(given), str(tmp_path / "missing")))

    assert [users.is_nobodys(users.FIRST + step) for step in (0, 99, 100)] == [False, False, True]


def test_an_id_that_this_process_cannot_become_is_not_taken(monkeypatch, tmp_path):
    small = tmp_path / "uid_map"
    small.write_text("         0     100000       1000\n")
    monkeypatch.setattr(users, "_MAPS", (str(small),))

    assert not users.is_nobodys(users.FIRST)


def test_an_id_of_an_account_is_not_taken(monkeypatch):
    monkeypatch.setattr(users.pwd, "getpwuid", lambda uid: "alice")

    assert not users.is_nobodys(users.FIRST)


def test_where_none_is_free_the_error_says_what_to_look_at(monkeypatch):
    monkeypatch.setattr(users, "is_nobodys", lambda uid: False)

    with pytest.raises(BoxError, match=r"no user id from 60578 to 61183 is free .* /etc/subuid"):
        users.take()


def asleep_as(uid):
    """A process of another service that happens to have this user id."""
    command = [
        sys.executable,
        "-c",
        f"import os, time; os.setgid({uid}); os.setuid({uid}); print(1, flush=True); time.sleep(60)",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    return process


@as_root
def test_the_id_of_a_process_that_runs_is_not_taken():
    stranger = asleep_as(users.FIRST)
    try:
        assert not users.is_nobodys(users.FIRST)
    finally:
        stranger.kill()
        stranger.communicate()


@as_root
def test_a_strangers_process_outlives_a_slot_of_its_user():
    with Sandbox() as sandbox:
        if "seccomp" not in sandbox.layers:
            pytest.skip("without seccomp a slot's processes can leave their group")
        with sandbox.slot(
            {"work.py": b"import os\ndef fork(): return os.fork() or __import__('time').sleep(60)"}, Policy()
        ) as slot:
            channel = slot.channel("work", seed=1, timeout=5)
            channel.ask({"call": "work.fork", "args": [], "kwargs": {}, "device": "cpu"}, 5)
            stranger = asleep_as(slot._uid)
            uid = slot._uid
        time.sleep(0.2)
        lives = stranger.poll() is None
        stranger.kill()
        stranger.communicate()

    assert lives
    assert users.is_nobodys(uid)  # what the slot started is gone
