"""Whatever a student returns ends in passed or failed, soon: every hidden test with some 50 kinds of nonsense as replies.

Nothing is run in a box: the student is a function that answers every request with the same thing. Here a random tenth of all
pairs (a hidden test's case, a kind of nonsense) is tried, of a seed that is printed; all of them with
`make test-thorough`.
"""

import math
import random
import secrets
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import all_lessons

from autograder.bounds import bounded_memory
from autograder.box import replies, wire
from autograder.box.budget import Budget
from autograder.box.caps import REPLY
from autograder.box.codec import DTYPES, Opaque
from autograder.cases import case_of
from autograder.errors import BadReply
from autograder.plugin import GradingPlugin
from autograder.scorecard import GRADER_ERROR
from autograder.suite import run_suite

LESSONS = all_lessons()
MODULES = [(lesson, module) for lesson in LESSONS for module in lesson.modules]
MOST_CPU_S = 8.0  # no reply may multiply; naming the mistake of a beam search takes 3.5 s whatever came back


def nested(depth, leaf):
    return leaf if not depth else [nested(depth - 1, leaf)]


def with_the_same_hash(count):
    """Tuples that are told apart by comparing them all: hash(-1) is hash(-2)."""
    return [tuple(-1 - (number >> bit & 1) for bit in range(13)) for number in range(count)]


class Lambda:
    pass


VALUES = {
    "None": None, "True": True, "-1": -1, "0": 0, "2**62": 2**62, "2**70": 2**70, "nan": math.nan, "inf": math.inf, "1e308": 1e308,
    "no text": "", "a text": "a", "a long text": "a" * 400_000, "no bytes": b"", "bytes": b"\xff" * 1000,
    "an empty list": [], "an empty dict": {}, "an empty tuple": (), "an unknown object": Lambda(),
    "three Nones": (None, None, None), "a list of lists": [[[1], [2, 3]], []], "30 deep": nested(30, 1),
    "a list of 1e5": [0] * 100_000, "a list of texts": ["a", "b"], "a list of bytes": [b"a", b"bc"], "two floats": [0.5, math.nan],
    "a dict with odd keys": {None: 1, -1: 2, (1, 2): 3, 0.5: 4, b"": 5, True: 6}, "texts to tensors": {"a": torch.ones(2)},
    "a dict of 1e4": {str(i): i for i in range(10_000)}, "tuples with one hash": with_the_same_hash(4000),
    "lists with one hash": [list(item) for item in with_the_same_hash(4000)],
    **{f"a tensor of {name}": torch.ones(2, 3).to(dtype) for name, dtype in DTYPES.items()},
    "a tensor of no dimension": torch.tensor(1.5), "an empty tensor": torch.empty(0), "rows of nothing": torch.empty(60_000, 0),
    "columns of nothing": torch.empty(0, 60_000), "a long tensor": torch.zeros(60_000), "a large tensor": torch.zeros(1000, 1000),
    "a large tensor of bool": torch.zeros(60_000, 30, dtype=torch.bool), "a column": torch.zeros(60_000, 1),
    "eight dimensions": torch.zeros(1, 2, 1, 2, 1, 2, 1, 2), "NaN": torch.full((2, 3, 4, 5), math.nan), "infinities": torch.full((4,), math.inf),
    "large integers": torch.tensor([2**62, -(2**63)]), "tensors of many shapes": [torch.ones(n, 2) for n in range(5)],
    "a pair of tensors": (torch.ones(2, 3), torch.ones(3)), "a thousand tensors": [torch.ones(1)] * 1000,
    "a sparse tensor": torch.eye(3).to_sparse(), "a meta tensor": torch.empty(2, 3, device="meta"),
    "a nested tensor": Opaque("float32 tensor of an unusual kind"), "sparse ones": [torch.eye(2).to_sparse()] * 3,
    "a quantized tensor": Opaque("qint8 tensor of an unusual kind"), "a function": with_the_same_hash,
    "functions": (len, len), "a dtype": torch.float32, "a module": torch.nn.Linear(1, 1), "a class": Lambda,
}  # fmt: skip
REPLIES = {
    "no reply": None, "an empty reply": {}, "two replies": {"value": 1, "error": {}}, "an error without a type": {"error": {}},
    "types that are none": {"error": {"types": [1, None], "text": [], "where": {}, "traceback": 7}},
    "a ValueError that names nothing": {"error": {"types": ["ValueError", "Exception"], "text": ""}},
    "an error that is a text": {"error": "no"}, "notes that are none": {"value": 1, "used": 7}, "odd notes": {"value": 1, "used": [1, {}]},
    "the starter's": {"error": {"types": ["NotImplementedError"], "text": "f is not implemented yet"}},
}  # fmt: skip


def through_the_wire(reply, device=b'"cpu"'):
    """As the grader gets it; `device` is where the tensors say that they were."""
    try:
        message = b"".join(map(bytes, wire.encode(reply)))
        return wire.decode(bytearray(message.replace(b'"cpu"', device)), REPLY)
    except (ValueError, wire.ProtocolError) as error:
        return BadReply(str(error))


def each_reply():
    replies = {**{name: {"value": value} for name, value in VALUES.items()}, **REPLIES}
    elsewhere = {"a tensor from elsewhere": through_the_wire({"value": torch.ones(2, 3)}, b'"xpu"')}
    return {name: through_the_wire(reply) for name, reply in replies.items()} | elsewhere


class Nonsense(GradingPlugin):
    """Runs each case with many kinds of replies, and notes those that end in an error of ours or take long.

    Args:
        share: of all pairs, drawn from `seed`.
    """

    def __init__(self, lesson, share, seed):
        super().__init__(lambda test, seed: self.processes_of_ours, Budget(), inside=lesson.inside, gpu_device="cpu")
        self.processes_of_ours = SimpleNamespace(
            ask=self._ask, ask_ranks=self._ask_ranks, cpu_s=time.process_time, close=lambda: None
        )
        self._replies, self._share, self._random = each_reply(), share, random.Random(seed)
        self._name = ""
        self.tried, self.problems = 0, []

    def _ask(self, request, timeout):
        reply = self._replies[self._name]
        if isinstance(reply, BadReply):
            raise reply
        return replies.read(dict(reply) if isinstance(reply, dict) else reply)

    def _ask_ranks(self, request, ranks, timeout):
        return {rank: self._ask(request, timeout) for rank in range(ranks)}, []

    def pytest_pyfunc_call(self, pyfuncitem):
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        for name in self._replies:
            if self._random.random() < self._share:
                self._name = name
                self._try(pyfuncitem, arguments)
        return True

    def _try(self, item, arguments):
        self.tried += 1
        started, ended = time.process_time(), "passed"
        try:
            with bounded_memory():
                item.obj(**arguments)
        except Exception as error:
            ended = case_of(error)
        seconds = time.process_time() - started
        if seconds > MOST_CPU_S:
            self.problems.append(f"{item.nodeid} takes {seconds:.1f} s of {self._name}")
        if ended != "passed" and ended.status == GRADER_ERROR:
            self.problems.append(
                f"{item.nodeid} is a grader error with {self._name}: {ended.detail.strip().splitlines()[-1]}"
            )


@pytest.fixture(autouse=True)
def one_thread():
    """As the grader has: several that wait for each other take many times the processor time on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tried(lesson, module, share, seed):
    plugin = Nonsense(lesson, share, seed)
    run_suite(plugin, lesson, [module])
    assert plugin.collection_errors == []
    assert plugin.problems == []
    return plugin.tried


def ids(value):
    return getattr(value, "name", value)


@pytest.mark.parametrize(("lesson", "module"), MODULES, ids=ids)
def test_some_nonsense_ends_in_a_verdict(lesson, module):
    seed = secrets.randbits(32)
    print(f"seed {seed}")

    assert tried(lesson, module, 0.1, seed)


@pytest.mark.thorough
@pytest.mark.parametrize(("lesson", "module"), MODULES, ids=ids)
def test_all_nonsense_ends_in_a_verdict(lesson, module):
    assert tried(lesson, module, 1.1, 0) > 1000
