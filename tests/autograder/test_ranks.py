"""Ranks: one probe in several processes of one process group, in the box and on an author's machine."""

import os
import sys
import time

import pytest
import torch

from autograder.bounds import bounded_memory
from autograder.box.ranks.broker import Broker
from autograder.box.sandbox import Sandbox
from autograder.box.session import Session
from autograder.errors import AuthorError, BadReply, CheckFailed, StudentDied, StudentRaised, StudentTimeout
from autograder.in_process import InProcess
from autograder.student import Student

try:
    import resource
except ImportError:  # Windows
    pass

WORK = """
import os
import threading

import torch
import torch.distributed as dist


KEPT = []


def rank():
    return dist.get_rank(), dist.get_world_size(), os.environ["RANK"]


def process():
    return os.getpid(), os.getuid()


def draw():
    return torch.rand(4)


def refuse(rows):
    raise ValueError(f"rows must be positive, not {rows}")


def refuse_on_one():
    if dist.get_rank() == 1:
        raise ValueError("rank 1 has no rows")
    dist.barrier()


def hang_on_one():
    while dist.get_rank() == 1:
        pass
    dist.barrier()


def die_on_one():
    if dist.get_rank() == 1:
        os._exit(0)
    dist.barrier()


def lose_one(what):
    if dist.get_rank() == 1:
        raise KeyError("lost")
    work = dist.irecv(torch.ones(2), 1)
    while what != "die" or not work.is_completed():
        if what == "poll":
            work.is_completed()
    os._exit(0)


def misfit(what):
    rank, x = dist.get_rank(), torch.ones(2)
    if what == "shape":
        dist.recv(x, 0) if rank else dist.send(torch.ones(3), 1)
    elif what == "count":
        dist.all_gather([x], x.clone())
    elif what == "dtype":
        dist.all_reduce(x.double() if rank else x)
    elif what == "root":
        dist.broadcast(x, rank)
    elif what == "order":
        dist.barrier() if rank else dist.all_reduce(x)
    elif what == "sends":
        dist.send(x, 1 - rank)
    elif what == "early" and rank == 0:
        dist.barrier()


def reduce_by_a_factor():
    dist.all_reduce(torch.ones(2), op=dist._make_nccl_premul_sum(2.0))


def lock_for_the_other(path):
    # rank 0 holds a lock and tells so: what is rank 1 told of it?
    import fcntl

    with open(path) as stream:
        if dist.get_rank() == 0:
            fcntl.flock(stream, fcntl.LOCK_EX)
        dist.barrier()
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return "locked"
        finally:
            dist.barrier()
        return "free"


def rubbish():
    from autograder.box import wire

    group = dist.distributed_c10d._get_default_group()
    wire.send(group._link._connection, {"wait": 99})
    dist.barrier()


def send_later():
    threading.Timer(0.2, dist.isend, [torch.ones(100), 1 - dist.get_rank()]).start()


def count(seen=[]):
    seen.append(1)
    return len(seen)
"""


@pytest.fixture(scope="module")
def session():
    with Sandbox() as sandbox, Session(lambda: sandbox.slot({"rank_work.py": WORK.encode()})) as session:
        yield session


@pytest.fixture
def boxed(session):
    processes = session.processes(("rank_work", "test"), seed=1)
    yield Student(processes)
    processes.close()


@pytest.fixture
def local(tmp_path):
    (tmp_path / "rank_work.py").write_text(WORK)
    processes = InProcess(tmp_path)
    yield Student(processes)
    processes.close()


@pytest.fixture(params=["boxed", "local"])
def student(request):
    return request.getfixturevalue(request.param)


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_call_gives_one_value_a_rank(student, ranks):
    assert student.on(ranks=ranks).call("rank_work.rank") == [(rank, ranks, str(rank)) for rank in range(ranks)]


def test_every_collective_of_torch_distributed_works(student):
    def collectives(columns):
        import torch.distributed as dist

        rank, size = dist.get_rank(), dist.get_world_size()
        mine = torch.arange(columns) + 10 * rank
        reduced, sent = mine.clone(), torch.zeros(columns, dtype=torch.int64)
        dist.all_reduce(reduced)
        dist.broadcast(sent if rank else sent.copy_(mine), 0)
        gathered = [torch.zeros_like(mine) for _ in range(size)]
        dist.all_gather(gathered, mine)
        part = torch.zeros(columns // size, dtype=torch.int64)
        dist.reduce_scatter(part, list(mine.chunk(size)))
        swapped = torch.zeros_like(mine)
        dist.all_to_all_single(swapped, mine)
        objects = [None] * size
        dist.all_gather_object(objects, {"rank": rank})
        return reduced, sent, torch.stack(gathered), part, swapped, objects

    values = student.on(ranks=2).run(collectives, 4)

    rows = torch.stack([torch.arange(4), torch.arange(4) + 10])
    for rank, (reduced, sent, gathered, part, swapped, objects) in enumerate(values):
        assert torch.equal(reduced, rows.sum(0))
        assert torch.equal(sent, rows[0])
        assert torch.equal(gathered, rows)
        assert torch.equal(part, rows.sum(0).chunk(2)[rank])
        assert torch.equal(swapped, torch.cat([row.chunk(2)[rank] for row in rows]))
        assert objects == [{"rank": 0}, {"rank": 1}]


def test_neighbours_exchange_more_than_any_buffer_holds(student):
    def ring(length):
        import torch.distributed as dist

        rank, size = dist.get_rank(), dist.get_world_size()
        received = torch.zeros(length)
        sending = dist.isend(torch.full((length,), float(rank)), (rank + 1) % size)
        receiving = dist.irecv(received, (rank - 1) % size)
        sending.wait()
        receiving.wait()
        return received.unique()

    assert [value.tolist() for value in student.on(ranks=2).run(ring, 1 << 20)] == [[1.0], [0.0]]


def test_torch_s_own_data_parallel_runs(boxed):
    def gradients(x):
        import torch.distributed as dist

        torch.manual_seed(dist.get_rank())
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
        model(x[dist.get_rank()]).sum().backward()
        return model.module.weight.detach(), model.module.weight.grad

    x = torch.arange(6.0).reshape(2, 3)
    (weight, grad), (other_weight, other_grad) = boxed.on(ranks=2).run(gradients, x)

    assert torch.equal(weight, other_weight)
    assert torch.equal(grad, other_grad)
    assert torch.allclose(grad, x.mean(0).expand(2, 3))


def test_to_be_a_rank_imports_no_compiler(student):
    """It was half a second of processor time for each rank of each test."""

    def compiler():
        import sys

        torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
        return "torch._dynamo.convert_frame" in sys.modules

    assert student.on(ranks=2).run(compiler) == [False, False]


def test_what_a_rank_sends_before_it_returns_arrives(boxed):
    def many(count):
        import rank_work
        import torch.distributed as dist

        if dist.get_rank() == 0:
            for number in range(count):
                rank_work.KEPT.append(dist.isend(torch.tensor(number), 1))
            return None
        received = [torch.tensor(-1) for _ in range(count)]
        for value in received:
            dist.recv(value, 0)
        return torch.stack(received)

    two = boxed.on(ranks=2)
    for _ in range(5):
        assert two.run(many, 50)[1].tolist() == list(range(50))


def test_a_subgroup_is_its_own(student):
    def halves():
        import torch.distributed as dist

        groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        total = torch.tensor([dist.get_rank()])
        dist.all_reduce(total, group=groups[dist.get_rank() // 2])
        return int(total)

    assert student.on(ranks=4).run(halves) == [1, 1, 5, 5]


def test_ranks_have_generators_of_their_own(student):
    first, second = student.on(ranks=2).call("rank_work.draw")

    assert not torch.equal(first, second)


def test_calls_of_one_test_share_the_processes(student):
    two = student.on(ranks=2)

    assert [two.call("rank_work.count"), two.call("rank_work.count")] == [[1, 1], [2, 2]]


def test_traffic_is_that_of_the_last_call(student):
    def reduce_twice():
        import torch.distributed as dist

        dist.all_reduce(torch.ones(5, dtype=torch.float64))
        dist.barrier()

    two = student.on(ranks=2)
    two.call("rank_work.rank")
    two.run(reduce_twice)

    sent = [(message.operation, message.bytes) for message in two.traffic if message.rank == 1]
    assert sent == [("all_reduce", 40), ("barrier", 0)]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="slots have users of their own for root only"
)
def test_each_rank_has_a_user_of_its_own(boxed):
    (first, user), (second, other) = boxed.on(ranks=2).call("rank_work.process")

    assert first != second
    assert len({user, other, os.getuid()}) == 3


def test_a_lock_says_nothing_to_another_rank(boxed):
    assert boxed.on(ranks=2).call("rank_work.lock_for_the_other", torch.__file__) == ["free", "free"]


# ---------------------------------------------------------------------------------------------- faults


def test_a_reduction_without_a_name_here_is_refused_where_it_is_called(student):
    with pytest.raises(StudentRaised, match="the reduction .* is not supported here, only sum, avg"):
        student.on(ranks=2).call("rank_work.reduce_by_a_factor")


def test_the_rank_that_raised_first_speaks_for_all(student):
    with pytest.raises(StudentRaised, match="rank 1: ValueError: rank 1 has no rows"):
        student.on(ranks=2).call("rank_work.refuse_on_one")


def test_raises_expects_the_error_of_every_rank(student):
    student.on(ranks=2).raises(ValueError, "rank_work.refuse", -1, says="rows")

    with pytest.raises(CheckFailed):
        student.on(ranks=2).raises(ValueError, "rank_work.refuse_on_one")


def test_a_rank_that_hangs_is_named(student):
    with pytest.raises(StudentTimeout, match="rank 0 is waiting in barrier, rank 1 computes"):
        student.on(ranks=2, timeout=1).call("rank_work.hang_on_one")


def test_a_rank_that_dies_is_named(student):
    with pytest.raises(StudentDied, match=r"running rank 1.*\(rank 0 (is waiting in barrier|computes)\)"):
        student.on(ranks=2, timeout=5).call("rank_work.die_on_one")


@pytest.mark.parametrize("what", ["poll", "compute", "die"])
def test_what_a_rank_raised_comes_before_what_became_of_the_others(student, what):
    with pytest.raises(
        (StudentTimeout, StudentDied), match="^rank 1: KeyError: 'lost'; after that, .*rank 1 has returned"
    ):
        student.on(ranks=2, timeout=1).call("rank_work.lose_one", what)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("shape", r"recv: a tensor \(3,\) float32 came, but the one to receive it is \(2,\) float32"),
        ("count", "all_gather: 2 tensors came, but there are 1 to receive them"),
        ("dtype", r"all_reduce: rank 0 gives \(2,\) float32, rank 1 gives \(2,\) float64"),
        (
            "root",
            "the ranks disagree: rank 0 calls broadcast with root 0, rank 1 calls broadcast with root 1; they should",
        ),
        ("order", "the ranks disagree: rank 0 calls all_reduce .sum., rank 1 calls barrier; they should"),
        (
            "sends",
            "waiting for each other: rank 0 is waiting in send to rank 1, rank 1 .*; one of them should receive first",
        ),
        ("early", "rank 0 is waiting in barrier, but rank 1 has returned and will never take part"),
    ],
)
def test_ranks_that_do_not_fit_together_are_told_how(student, what, words):
    with pytest.raises(StudentRaised, match=words):
        student.on(ranks=2).call("rank_work.misfit", what)


def test_a_forged_message_fails_its_test_and_no_other(session):
    first, second = (session.processes(("rank_work", "test"), seed=1) for _ in range(2))

    with pytest.raises(BadReply):
        Student(first).on(ranks=2).call("rank_work.rubbish")
    first.close()

    assert len(Student(second).on(ranks=2).call("rank_work.rank")) == 2
    second.close()


def test_what_is_sent_after_all_have_answered_is_in_no_call_s_traffic(student):
    two = student.on(ranks=2)
    two.call("rank_work.send_later")
    time.sleep(1)

    with pytest.raises(BadReply, match="went on sending after all ranks had answered"):
        two.call("rank_work.rank")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="processes are looked up in /proc")
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_whatever_ends_a_call_ends_its_ranks(student, monkeypatch, error):
    two = student.on(ranks=2)
    pids = [pid for pid, _ in two.call("rank_work.process")]

    def fail(*_):
        raise error

    monkeypatch.setattr(Broker, "handle", fail)
    with pytest.raises(error):
        two.call("rank_work.hang_on_one")

    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tests have a bound of memory on Linux")
def test_the_bound_of_a_test_s_memory_waits_for_the_zygote(boxed, monkeypatch):
    seen, receive = [], Sandbox._receive

    def look(*args):
        seen.append(resource.getrlimit(resource.RLIMIT_DATA))
        return receive(*args)

    monkeypatch.setattr(Sandbox, "_receive", look)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded_memory():
        bound = resource.getrlimit(resource.RLIMIT_DATA)
        boxed.on(ranks=2).call("rank_work.rank")
        assert resource.getrlimit(resource.RLIMIT_DATA) == bound

    assert before != bound
    assert set(seen) == {(before[1], before[1])}


@pytest.mark.parametrize("ranks", [-1, 17, 2.0, True, "2"])
def test_a_wrong_number_of_ranks_is_the_author_s_error(local, ranks):
    with pytest.raises(AuthorError, match="ranks"):
        local.on(ranks=ranks)


def test_ranks_may_send_each_other_more_than_a_reply_may_hold(student):
    """A bucket of gradients is one long tensor; only what comes back to the test has caps."""

    def summed(size):
        import torch.distributed as dist

        x = torch.ones(size)
        dist.all_reduce(x)
        return float(x.sum())

    assert student.on(ranks=2).run(summed, 200_000) == [400_000, 400_000]


def test_a_rank_returns_no_more_than_any_reply(student):
    def long():
        return torch.ones(200_000)

    with pytest.raises(BadReply, match="at most 65536 in a dimension"):
        student.on(ranks=2).run(long)
