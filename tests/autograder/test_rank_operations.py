"""What torch.distributed offers and student code may use, as the group of the box carries it and as real gloo does."""

import pytest
import torch

from autograder.box.sandbox import Sandbox
from autograder.box.session import Session
from autograder.errors import StudentRaised
from autograder.in_process import InProcess
from autograder.student import Student

WORK = """
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.nn.functional as differentiable
from torch.distributed.device_mesh import init_device_mesh


def rank():
    return dist.get_rank()


def size():
    return dist.get_world_size()


def all_gather_into_tensor():
    out = torch.zeros(2 * size())
    dist.all_gather_into_tensor(out, torch.arange(2.0) + 10 * rank())
    return out.tolist()


def reduce_scatter_tensor():
    out = torch.zeros(2)
    dist.reduce_scatter_tensor(out, torch.arange(4.0))
    return out.tolist()


def gather_and_scatter():
    gathered = [torch.zeros(1) for _ in range(2)] if rank() == 0 else None
    dist.gather(torch.ones(1) * rank(), gathered, dst=0)
    part = torch.zeros(1)
    dist.scatter(part, [torch.tensor([5.0]), torch.tensor([6.0])] if rank() == 1 else None, src=1)
    return gathered and torch.cat(gathered).tolist(), part.item()


def reduce_to_one():
    x = torch.tensor([rank() + 1.0])
    dist.reduce(x, 1, op=dist.ReduceOp.MAX)
    return x.item() if rank() == 1 else None


def all_to_all():
    out = [torch.zeros(1) for _ in range(2)]
    dist.all_to_all(out, [torch.ones(1) * (10 * rank() + i) for i in range(2)])
    return torch.cat(out).tolist()


def all_to_all_of_uneven_parts():
    out = torch.zeros(2 * (rank() + 1))
    dist.all_to_all_single(out, torch.arange(3.0) + 100 * rank(), [rank() + 1] * 2, [1, 2])
    return out.tolist()


def exchange_in_one_batch():
    out, other = torch.zeros(1), 1 - rank()
    pair = [dist.P2POp(dist.isend, torch.ones(1) * rank(), other), dist.P2POp(dist.irecv, out, other)]
    for work in dist.batch_isend_irecv(pair):
        work.wait()
    return out.item()


def random_ones(kinds):
    # Noise of each kind, twice, and zeros: some messages are longer than what the grader looks at.
    generator = torch.Generator().manual_seed(7)
    for dtype, count in kinds:
        x = (100 * torch.randn(count, generator=generator)).to(getattr(torch, dtype))
        for sent in (x, x, torch.zeros_like(x)):
            dist.send(sent, 1) if rank() == 0 else dist.recv(torch.empty_like(sent), 0)


def tags():
    one, two = torch.zeros(1), torch.zeros(1)
    if rank() == 0:
        works = [dist.isend(torch.ones(1), 1, tag=1), dist.isend(2 * torch.ones(1), 1, tag=2)]
    else:
        works = [dist.irecv(two, 0, tag=2), dist.irecv(one, 0, tag=1)]
    for work in works:
        work.wait()
    return one.item(), two.item()


def from_any():
    if rank() == 1:
        return dist.send(torch.ones(1), 0)
    return dist.recv(torch.zeros(1))


def wait_and_completed():
    x = torch.ones(2)
    work = dist.all_reduce(x, async_op=True)
    while not work.is_completed():
        pass
    work.wait()
    return x.tolist(), work.is_completed(), work.is_success(), [tensor.tolist() for tensor in work.result()]


def future():
    x = torch.ones(2)
    halved = dist.all_reduce(x, async_op=True).get_future().then(lambda done: done.value()[0] / 2)
    return halved.wait().tolist()


def subgroup():
    group = dist.new_group([1, 0])
    x = torch.tensor([float(rank())])
    dist.broadcast(x, 1, group=group)
    alone = dist.new_group([1])
    return x.item(), dist.get_process_group_ranks(group), dist.get_global_rank(group, 1), dist.get_rank(alone)


def average():
    x = torch.tensor([1.0 + rank()])
    dist.all_reduce(x, op=dist.ReduceOp.AVG)
    return x.item()


def objects():
    words, gathered, part = [{"rank": rank()}], [None, None], [None]
    dist.broadcast_object_list(words, src=1)
    dist.all_gather_object(gathered, ("of", rank()))
    dist.scatter_object_list(part, ["a", "b"] if rank() == 0 else None, src=0)
    return words, gathered, part


def dtypes():
    wrong = []
    for name in "float32 float64 bfloat16 float16 int64 int32 uint8".split():
        x = torch.full((3,), rank() + 1, dtype=getattr(torch, name))
        dist.all_reduce(x)
        wrong += [] if x.tolist() == [3, 3, 3] else [name]
    flags = [torch.zeros(2, dtype=torch.bool) for _ in range(2)]
    dist.all_gather(flags, torch.tensor([rank() == 0, True]))
    return wrong, torch.stack(flags).tolist()


def layouts():
    x = (torch.arange(6.0).reshape(2, 3) + rank()).T
    dist.all_reduce(x)
    parts = [torch.zeros(2, 3).T for _ in range(2)]
    dist.all_gather(parts, (torch.arange(6.0).reshape(2, 3) + rank()).T)
    whole = torch.zeros(2, 6).T
    dist.all_gather_into_tensor(whole, torch.ones(3, 2) * rank())
    return x.tolist(), parts[1].tolist(), whole.tolist()


def no_dimension():
    x, parts = torch.tensor(1.0 + rank()), [torch.tensor(0.0) for _ in range(2)]
    dist.all_gather(parts, x)
    dist.all_reduce(x)
    return x.item(), torch.stack(parts).tolist()


def coalesced():
    a, b = torch.ones(2), torch.ones(3)
    with dist._coalescing_manager():
        dist.all_reduce(a)
        dist.all_reduce(b)
    c, d = torch.zeros(2), torch.zeros(1)
    with dist._coalescing_manager(async_ops=True) as both:
        dist.all_gather_into_tensor(c, torch.ones(1) * rank())
        dist.all_gather_into_tensor(d.expand(2).clone(), torch.ones(1))
    both.wait()
    e = torch.zeros(1)
    with dist._coalescing_manager():
        dist.reduce_scatter_tensor(e, torch.arange(2.0))
    return a.tolist(), b.tolist(), c.tolist(), e.item()


def in_a_hook():
    layer, works = torch.nn.Linear(2, 1, bias=False), []
    layer.weight.register_post_accumulate_grad_hook(lambda p: works.append(dist.all_reduce(p.grad, async_op=True)))
    layer(torch.full((1, 2), 1.0 + rank())).sum().backward()
    for work in works:
        work.wait()
    return layer.weight.grad.tolist()


def gradients_through_them():
    x = torch.ones(2, requires_grad=True)
    differentiable.all_reduce(x * (rank() + 1)).sum().backward()
    z = torch.ones(1, requires_grad=True)
    (torch.cat(differentiable.all_gather(z)) * torch.tensor([1.0, 2.0])).sum().backward()
    return x.grad.tolist(), z.grad.tolist()


def functional_ones():
    x = torch.ones(2) * rank()
    total = functional.all_reduce(x, "sum", dist.group.WORLD) + 0
    whole = functional.all_gather_tensor(x, 0, dist.group.WORLD) + 0
    part = functional.reduce_scatter_tensor(torch.arange(4.0), "sum", 0, dist.group.WORLD) + 0
    return total.tolist(), whole.tolist(), part.tolist()


def a_mesh():
    mesh, x = init_device_mesh("cpu", (2,)), torch.ones(1)
    dist.all_reduce(x, group=mesh.get_group())
    return x.item()


def to_itself():
    dist.recv(torch.ones(2), rank())


def every_second(operation):
    x = torch.zeros(4, 6)[:, ::2]
    if operation == "batch":
        dist.batch_isend_irecv([dist.P2POp(dist.isend, x, 1 - rank()), dist.P2POp(dist.irecv, torch.zeros(4, 3), 1 - rank())])
    elif operation == "any":
        dist.recv(x)
    else:
        getattr(dist, operation)(x, 1 - rank())


def uneven_output():
    dist.all_gather_into_tensor(torch.zeros(3), torch.zeros(1))
"""
VALUES = {  # name -> what each of two ranks returns
    "all_gather_into_tensor": [[0, 1, 10, 11]] * 2,
    "reduce_scatter_tensor": [[0, 2], [4, 6]],
    "gather_and_scatter": [([0, 1], 5), (None, 6)],
    "reduce_to_one": [None, 2],
    "all_to_all": [[0, 10], [1, 11]],
    "all_to_all_of_uneven_parts": [[0, 100], [1, 2, 101, 102]],
    "exchange_in_one_batch": [1, 0],
    "tags": [(0, 0), (1, 2)],
    "from_any": [1, None],
    "wait_and_completed": [([2, 2], True, True, [[2, 2]])] * 2,
    "future": [[1, 1]] * 2,
    "subgroup": [(1, [0, 1], 1, -1), (1, [0, 1], 1, 0)],
    "average": [1.5] * 2,
    "objects": [
        ([{"rank": 1}], [("of", 0), ("of", 1)], ["a"]),
        ([{"rank": 1}], [("of", 0), ("of", 1)], ["b"]),
    ],
    "dtypes": [([], [[True, True], [False, True]])] * 2,
    "layouts": [([[1, 7], [3, 9], [5, 11]], [[1, 4], [2, 5], [3, 6]], [[0, 0]] * 3 + [[1, 1]] * 3)] * 2,
    "no_dimension": [(3, [1, 2])] * 2,
    "coalesced": [([2, 2], [2, 2, 2], [0, 1], 0), ([2, 2], [2, 2, 2], [0, 1], 2)],
    "in_a_hook": [[[3, 3]]] * 2,
    "gradients_through_them": [([2, 2], [2]), ([4, 4], [4])],
    "functional_ones": [([1, 1], [0, 0, 1, 1], [0, 2]), ([1, 1], [0, 0, 1, 1], [4, 6])],
    "a_mesh": [2] * 2,
}


@pytest.fixture(scope="module")
def boxed():
    with Sandbox() as sandbox, Session(lambda: sandbox.slot({"operations.py": WORK.encode()})) as session:
        processes = session.processes(("operations", "test"), seed=1)
        yield Student(processes).on(ranks=2)
        processes.close()


@pytest.fixture(scope="module")
def over_gloo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operations")
    (folder / "operations.py").write_text(WORK)
    processes = InProcess(folder, gloo=True)
    yield Student(processes).on(ranks=2)
    processes.close()


@pytest.fixture(params=["boxed", "over_gloo"])
def two(request):
    return request.getfixturevalue(request.param)


def as_numbers(value):
    """Floats that are whole as they are written above; torch's own types as lists."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", VALUES)
def test_an_operation_gives_the_same_in_the_box_and_over_gloo(two, name):
    assert [as_numbers(value) for value in two.call(f"operations.{name}")] == VALUES[name]


def test_traffic_is_the_same_over_gloo(boxed, over_gloo):
    for name in ("all_to_all_of_uneven_parts", "tags", "reduce_to_one", "subgroup", "in_a_hook"):
        sent = []
        for two in (boxed, over_gloo):
            two.call(f"operations.{name}")
            sent.append(sorted(two.traffic, key=repr))
        assert sent[0] == sent[1], name


def test_news_is_the_same_over_gloo(boxed, over_gloo):
    floats = ("float32", "float64", "float16", "bfloat16", "complex64")
    kinds = [*((dtype, count) for dtype in floats for count in (0, 3, 2000, 20_001)), ("int8", 5000), ("bool", 300)]
    sent = []
    for two in (boxed, over_gloo, boxed):
        two.call("operations.random_ones", kinds)
        sent.append([(message.shapes, message.news) for message in two.traffic if message.operation == "send"])

    assert len(sent[0]) == 3 * len(kinds)
    assert sent[0] == sent[1] == sent[2]


def test_a_message_to_oneself_is_refused_where_it_is_called(boxed):
    with pytest.raises(StudentRaised, match=r"rank \d calls recv with itself: .*operations.py:\d+ in to_itself"):
        boxed.call("operations.to_itself")


def test_a_tensor_that_has_no_equal_parts_is_refused_where_it_is_given(boxed):
    with pytest.raises(StudentRaised, match=r"a tensor \(3,\) cannot be cut into 2 parts of equal size"):
        boxed.call("operations.uneven_output")


@pytest.mark.parametrize("operation", ["send", "recv", "isend", "irecv", "batch", "any"])
def test_what_is_not_contiguous_is_refused_as_by_gloo(two, operation):
    with pytest.raises(StudentRaised, match=r"has to be contiguous.*operations.py:\d+ in every_second"):
        two.call("operations.every_second", operation)
