"""Forbidden names are found where they are used, and only there; a use costs what the lesson says."""

import textwrap

import pytest
from conftest import write_lesson

from autograder.box.inside.scan import find
from autograder.grade import Grader
from autograder.lesson import load
from autograder.scorecard import FAILED, PASSED
from autograder.submission import Submission

SDPA = "torch.nn.functional.scaled_dot_product_attention"
NAMES = [SDPA, "torch.nn.MultiheadAttention", "transformers"]


def names_in(source):
    return sorted({name for _, _, name in find({"work.py": textwrap.dedent(source)}, NAMES)})


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ny = torch.nn.functional.scaled_dot_product_attention(q, k, v)",
        "import torch.nn.functional as F\ny = F.scaled_dot_product_attention(q, k, v)",
        "from torch.nn import functional as G\nG.scaled_dot_product_attention",
        "from torch.nn.functional import scaled_dot_product_attention as own\nown(q, k, v)",
        "from torch import nn\nH = nn.functional\ny = H.scaled_dot_product_attention",
        "import torch.nn.functional as F\ny = getattr(F, 'scaled_dot_' + 'product_attention')",
        "import torch.nn.functional as F\ny = vars(F)['scaled_dot_product_attention']",
        "import torch.nn.functional as F\ny = F.__dict__['scaled_dot_product_attention']",
        "import torch\ny = torch.ops.aten.scaled_dot_product_attention.default(q, k, v)",
        "import torch\ny = torch._C._nn.scaled_dot_product_attention(q, k, v)",
        "import importlib\ny = importlib.import_module('torch.nn.functional').scaled_dot_product_attention",
        "y = __import__('torch').nn.functional.scaled_dot_product_attention",
        "def f():\n    import torch.nn.functional as F\n    return F.scaled_dot_product_attention",
    ],
)
def test_a_use_is_found_through_its_aliases(source):
    assert names_in(source) == [SDPA]


def test_classes_and_packages_are_found():
    assert names_in("from torch import nn\nclass A(nn.MultiheadAttention): pass") == ["torch.nn.MultiheadAttention"]
    assert names_in("from torch.nn.modules.activation import MultiheadAttention") == ["torch.nn.MultiheadAttention"]
    assert names_in("from transformers.models import gpt2") == ["transformers"]
    assert names_in("import importlib\nimportlib.import_module('transformers')") == ["transformers"]


@pytest.mark.parametrize(
    "source",
    [
        "# F.scaled_dot_product_attention(q, k, v)",
        "'''Like torch.nn.functional.scaled_dot_product_attention and transformers.'''",
        "print('transformers')",
        "def scaled_dot_product_attention(q, k, v): return q\nscaled_dot_product_attention(1, 2, 3)",
        "class MultiheadAttention: pass\nlayer = MultiheadAttention()",
        "class A:\n    def f(self): return self.scaled_dot_product_attention()",
        "from attention import MultiheadAttention, scaled_dot_product_attention",
        "from .torch import MultiheadAttention",
        "import torch.nn.functional as F\nF.softmax(x, dim=-1)",
        "import transformers_of_my_own",
        "def f(:",
    ],
)
def test_no_false_alarm(source):
    assert names_in(source) == []


# ---------------------------------------------------------------------------------------------- graded

HONEST = """
    import torch
    def attend(q, k, v):
        return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
    def other():
        return 1
"""
LIBRARY = """
    import torch
    door = getattr(torch._C._nn, "_".join(["scaled", "dot", "product", "attention"]))
    def attend(q, k, v):
        return door(q, k, v)
    def other():
        return 1
"""
SUITE = """
    import pytest, torch
    @pytest.mark.points(1)
    @pytest.mark.question("Attention")
    def test_attend(student, check, rng):
        q, k, v = torch.randn(3, 4, 5, generator=rng)
        check(student.call("toy.attend", q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v))
    @pytest.mark.points(1)
    @pytest.mark.question("Other")
    def test_other(student, check):
        check(student.call("toy.other"), 1)
"""


@pytest.fixture
def grade(tmp_path):
    def grade(text, cost):
        write_lesson(
            tmp_path, solution=HONEST, suite=SUITE, settings=f'[forbidden]\nnames = ["{SDPA}"]\ncost = "{cost}"\n'
        )
        with Grader(load("99-toy", tmp_path)) as grader:
            return grader.grade(Submission("s", "", {"toy.py": textwrap.dedent(text).encode()}))

    return grade


@pytest.mark.parametrize(
    ("cost", "statuses"), [("nothing", [PASSED, PASSED]), ("question", [FAILED, PASSED]), ("module", [FAILED, FAILED])]
)
def test_a_call_that_no_reader_of_source_finds_is_noted_and_costs_what_the_lesson_says(grade, cost, statuses):
    card = grade(LIBRARY, cost)

    assert [row.status for row in card.outcomes] == statuses
    assert [(found.name, found.how, found.test) for found in card.evidence] == [(SDPA, "run", "test_attend")]
    assert card.evidence[0].where == "toy.py:5"


def test_honest_work_leaves_no_evidence(grade):
    card = grade(HONEST, "module")

    assert card.evidence == ()
    assert card.score == card.max_score


def test_a_use_in_the_source_is_evidence_with_its_line(grade):
    card = grade(
        HONEST + "\n    def unused(q):\n        return torch.nn.functional.scaled_dot_product_attention(q, q, q)\n",
        "nothing",
    )

    assert [(found.how, found.where) for found in card.evidence] == [("source", "toy.py:9")]
    assert card.score == 2


def test_source_that_breaks_the_parser_is_evidence_and_stops_nothing(grade):
    card = grade(HONEST + "\n    x = " + "-" * 100_000 + "1\n", "nothing")

    assert card.outcomes[0].status == FAILED
    assert card.grader_errors == ()
