"""Ranks over torch's own gloo, as students run them on their machine: values, faults, what was recorded, and the picture."""

import subprocess
import sys
import textwrap

import pytest
import torch

from autograder import gloo
from autograder.box.ranks.listener import Event, Listener
from autograder.errors import AuthorError, BadReply, BoxError
from autograder.gloo import RankError, run_ranks
from autograder.timeline import timeline

WORK = """
import os
import time

import torch
import torch.distributed as dist

from autograder.gloo import span


def add(x, factor=1):
    with span(f"F{dist.get_rank()}"):
        total = factor * x * (dist.get_rank() + 1)
    dist.all_reduce(total)
    return total


def to_the_next():
    rank, size = dist.get_rank(), dist.get_world_size()
    received = torch.zeros(3)
    sending = dist.isend(torch.ones(3) * rank, (rank + 1) % size)
    dist.recv(received, (rank - 1) % size)
    sending.wait()
    return received.tolist()


def raise_on_one():
    if dist.get_rank() == 1:
        raise ValueError("rank 1 has no rows")
    dist.barrier()


def die_on_one():
    dist.barrier()
    if dist.get_rank() == 1:
        os._exit(1)
    dist.barrier()


def hang_on_one():
    if dist.get_rank() == 1:
        time.sleep(60)
    dist.barrier()
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "gloo_work.py").write_text(WORK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_runs_on_each_rank(work):
    ranks = run_ranks("gloo_work:add", 3, torch.ones(2), factor=2)

    assert [value.tolist() for value in ranks] == [[12, 12]] * 3
    assert sorted((sent.rank, sent.operation, sent.bytes) for sent in ranks.traffic) == [
        (rank, "all_reduce", 8) for rank in range(3)
    ]


def test_what_took_time_is_recorded(work):
    ranks = run_ranks("gloo_work:to_the_next", 2)

    assert list(ranks) == [[1, 1, 1], [0, 0, 0]]
    assert sorted((event.rank, event.name, event.peer) for event in ranks.events) == [
        (0, "recv", 1), (0, "send", 1), (1, "recv", 0), (1, "send", 0),
    ]  # fmt: skip
    assert all(0 <= event.begin <= event.waited <= event.end for event in ranks.events)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raise_on_one", r"(?s)rank 1: ValueError: rank 1 has no rows.*gloo_work.py.*in raise_on_one"),
        ("die_on_one", r"running rank 1 \(rank 0 is waiting in barrier\)"),
        ("hang_on_one", "rank 0 is waiting in barrier, rank 1 computes"),
    ],
)
def test_a_rank_that_fails_ends_all_and_is_named(work, name, says):
    with pytest.raises(RankError, match=says):
        run_ranks(f"gloo_work:{name}", 2, timeout=5)


def test_a_machine_without_a_free_processor_is_said(work, monkeypatch):
    def starves(*_):
        raise BoxError("the machine is too busy to judge this")

    monkeypatch.setattr(gloo.LocalTeam, "ask", starves)
    with pytest.raises(RankError, match="too busy"):
        run_ranks("gloo_work:add", 2, 1.0)


def test_what_each_rank_cannot_find_or_be_given_is_said_at_once():
    with pytest.raises(ValueError, match="must stand at the top of a file"):
        run_ranks(lambda: 0, 2)
    with pytest.raises(ValueError, match="ranks must be a number of processes, not 0"):
        run_ranks(textwrap.dedent, 0)
    with pytest.raises(AuthorError, match="argument 1 is a Generator"):
        run_ranks(textwrap.dedent, 2, torch.Generator())


def test_a_script_gives_its_own_function(work):
    script = WORK + textwrap.dedent("""
        if __name__ == "__main__":
            from autograder.gloo import run_ranks

            print(run_ranks(add, 2, torch.ones(1)))
    """)
    (work / "script.py").write_text(script)

    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=120)

    assert done.stdout == "[tensor([3.]), tensor([3.])]\n", done.stderr


def test_a_script_without_its_guard_is_told_so(work):
    (work / "script.py").write_text(WORK + "\nfrom autograder.gloo import run_ranks\nrun_ranks(to_the_next, 2)\n")

    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=120)

    assert done.returncode
    assert 'call run_ranks below `if __name__ == "__main__":`' in done.stderr


def test_the_command_prints_each_rank_and_draws(work, capsys):
    pytest.importorskip("matplotlib")

    assert gloo.main(["gloo_work.py:to_the_next", "--ranks", "2", "--timeline", "ring.svg"]) == 0

    assert capsys.readouterr().out.startswith("rank 0: [1.0, 1.0, 1.0]\nrank 1: [0.0, 0.0, 0.0]\nthe timeline is in ")
    assert "<svg" in (work / "ring.svg").read_text()


@pytest.mark.parametrize(("words", "says"), [(["add"], "say which function"), (["no.py:add"], "no.py is not in")])
def test_the_command_says_what_is_missing(work, capsys, words, says):
    with pytest.raises(SystemExit):
        gloo.main(words)

    assert says in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- what was told, drawn


def told(listener, rank, number, begin, end, operation="all_reduce", **details):
    message = {"begin": operation, "id": number, "at": begin, "group": "0", "ranks": [0, 1], "root": None, "peer": None}
    listener.handle(rank, message | {"tag": 0, "shapes": [[4]], "bytes": 16, "heads": []} | details)
    listener.handle(rank, {"wait": number, "at": begin})
    if end is not None:
        listener.handle(rank, {"end": number, "at": end, "failed": ""})


def test_an_operation_that_has_not_ended_is_what_a_rank_waits_in():
    listener = Listener(3)
    told(listener, 0, 1, 1.0, None)
    told(listener, 1, 1, 1.0, 2.0, "send", peer=0)
    listener.returned(2)

    assert str(listener) == "rank 0 is waiting in all_reduce, rank 1 computes, rank 2 has returned"
    assert str(listener.events[1]) == "send to rank 0"


@pytest.mark.parametrize("message", [{}, {"begin": "send"}, {"wait": []}, {"span": "F"}])
def test_what_is_not_a_message_is_refused(message):
    with pytest.raises(BadReply):
        Listener(2).handle(0, message)


def test_a_timeline_shows_boxes_bars_and_arrows(tmp_path):
    pytest.importorskip("matplotlib")
    events = [
        Event(0, "F0", True, 0.0, 0.1),
        Event(0, "send", False, 0.1, 0.2, 0.15, (0, 1), 1, bytes=8),
        Event(1, "recv", False, 0.0, 0.2, 0.0, (0, 1), 0),
        Event(1, "F0", True, 0.2, 0.3),
        Event(0, "all_reduce", False, 0.2, 0.4, 0.3, (0, 1), bytes=4_000_000),
        Event(1, "all_reduce", False, 0.3, None, 0.3, (0, 1), bytes=4_000_000),
    ]

    path = timeline(events, tmp_path / "step.svg", title="a step", words={"F": "forward"})

    drawn = path.read_text()
    texts = ("a step", "forward", "F0", "all_reduce 4 MB", "rank 1", "computes", "waits", "send")
    assert [text for text in texts if f"<!-- {text}" not in drawn] == []


def test_there_must_be_something_to_draw(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="nothing to draw"):
        timeline([], tmp_path / "step.png")


def test_without_matplotlib_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ImportError, match="pip install matplotlib"):
        timeline([Event(0, "F0", True, 0.0, 0.1)], tmp_path / "step.png")
