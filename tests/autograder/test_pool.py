"""A pool's processes die one way or another: that costs the call that one held, and nothing else."""

import functools
import os
import signal
from pathlib import Path

import pytest

from autograder.errors import BoxError, GraderFault
from autograder.pool import Lost, Pool


class Tool:
    """What a process of the pool holds."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / f"{os.getpid()}.made").touch()

    def close(self) -> None:
        (self.folder / f"{os.getpid()}.closed").touch()


def double(tool, number):
    return 2 * number


def die_sometimes(tool, number, how, times):
    """Doubles, but the first `times` calls with 3 end the process."""
    (tool.folder / f"{os.getpid()}.called").touch()
    if number == 3:
        tries = len(list(tool.folder.glob("*.died")))
        if tries < times:
            (tool.folder / f"{tries}.died").touch()
            how()
    return 2 * number


def fail(tool, number):
    if number == 1:
        raise BoxError("the box broke")
    return number


def make_and_die(folder, times):
    """The first `times` processes end before they can be called."""
    died = len(list(folder.glob("*.stillborn")))
    if died < times:
        (folder / f"{died}-{os.getpid()}.stillborn").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Tool(folder)


def refuse():
    raise BoxError("no box here")


KILLED = functools.partial(signal.raise_signal, signal.SIGKILL)
CRASHED = functools.partial(signal.raise_signal, signal.SIGSEGV)
GONE = functools.partial(os._exit, 3)


def pids(folder, what):
    return {path.stem for path in folder.glob(f"*.{what}")}


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("how", [KILLED, CRASHED, GONE], ids=["killed", "crashed", "os._exit"])
def test_a_process_that_dies_costs_a_second_try_and_nothing_else(tmp_path, processes, how):
    with Pool(processes, functools.partial(Tool, tmp_path)) as pool:
        results = list(pool.each(die_sometimes, [(number, how, 1) for number in range(9)]))

    assert sorted(results) == [(number, 2 * number) for number in range(9)]
    assert len(pids(tmp_path, "died")) == 1
    assert len(pids(tmp_path, "called") - pids(tmp_path, "closed")) == 1  # all others closed what they held


@pytest.mark.parametrize(("how", "said"), [(KILLED, "SIGKILL"), (CRASHED, "SIGSEGV"), (GONE, "exit code 3")])
def test_a_call_that_ends_its_process_twice_is_lost_and_no_other(tmp_path, how, said):
    with Pool(2, functools.partial(Tool, tmp_path)) as pool:
        results = dict(pool.each(die_sometimes, [(number, how, 99) for number in range(9)]))
        again = dict(pool.each(double, [(number,) for number in range(4)]))

    assert results == {number: 2 * number for number in range(9)} | {3: Lost(said)}
    assert len(pids(tmp_path, "died")) == 2
    assert again == {number: 2 * number for number in range(4)}


def test_a_process_that_dies_with_nothing_in_hand_costs_nothing(tmp_path):
    with Pool(1, functools.partial(Tool, tmp_path)) as pool:
        first = list(pool.each(double, [(1,)]))
        (pid,) = pids(tmp_path, "made")
        os.kill(int(pid), signal.SIGKILL)
        then = list(pool.each(double, [(2,), (3,)]))

    assert (first, sorted(then)) == ([(0, 2)], [(0, 4), (1, 6)])


def test_a_process_that_dies_before_its_first_call_is_replaced(tmp_path):
    with Pool(1, functools.partial(make_and_die, tmp_path, 1)) as pool:
        assert list(pool.each(double, [(1,)])) == [(0, 2)]


def test_where_no_process_lives_that_is_said(tmp_path):
    with (
        Pool(2, functools.partial(make_and_die, tmp_path, 99)) as pool,
        pytest.raises(GraderFault, match=r"no grading process lives .* SIGKILL"),
    ):
        list(pool.each(double, [(1,), (2,)]))


def test_what_is_raised_there_is_raised_here(tmp_path):
    with Pool(1, refuse) as pool, pytest.raises(BoxError, match="no box here"):
        list(pool.each(double, [(1,)]))
    with Pool(1, functools.partial(Tool, tmp_path)) as pool, pytest.raises(BoxError, match="the box broke"):
        list(pool.each(fail, [(0,), (1,)]))

    assert pids(tmp_path, "made") == pids(tmp_path, "closed")
