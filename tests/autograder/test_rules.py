"""Forbidden names are found where they are used, and only there; a use costs what the lesson says."""

import textwrap

import pytest
import torch
from conftest import write_lesson

from autograder.box.inside.scan import find, last_parts, look
from autograder.exports import gradescope, render, table
from autograder.grade import Grader
from autograder.lesson import load
from autograder.scorecard import FAILED, PASSED, Evidence
from autograder.submission import Submission

pytestmark = pytest.mark.usefixtures("graders_share_a_box")
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
        "from torch.nn.functional import *\ny = scaled_dot_product_attention(q, k, v)",
        "from torch.nn import *\ny = functional.scaled_dot_product_attention(q, k, v)",
        "import torch, operator\noperator.attrgetter('nn.functional.scaled_dot_product_attention')(torch)(q, k, v)",
        "from operator import attrgetter\nfrom torch.nn import functional\nget = attrgetter('scaled_dot_product_attention')\nget(functional)",
        "import operator, torch.nn.functional as F\noperator.methodcaller('scaled_dot_product_attention', q, k, v)(F)",
        "import torch.nn.functional as F\nNAME = 'scaled_dot_product_attention'\ny = getattr(F, NAME)",
        "import torch.nn.functional as F\nfind = getattr\ny = find(F, f'scaled_dot_{\"product\"}_attention')",
        "import builtins, torch.nn.functional as F\ny = builtins.getattr(F, 'scaled_dot_product_attention')",
        "import torch.nn.functional as F\ny = F.__getattribute__('scaled_dot_product_attention')",
        "import torch.nn.functional as F\ny = vars(F).get('scaled_dot_product_attention')",
        "import sys\ny = sys.modules['torch.nn.functional'].scaled_dot_product_attention",
        "import torch.nn.functional as F\ny = globals()['F'].scaled_dot_product_attention",
        "import importlib\ny = importlib.import_module('.functional', 'torch.nn').scaled_dot_product_attention",
        "import functools, torch\nfunctools.reduce(getattr, ['nn', 'functional', 'scaled_dot_product_attention'], torch)",
        "import torch.nn.functional as F\nG: object = F\nG.scaled_dot_product_attention",
        "import torch.nn.functional as F\nG, one = F, 1\nG.scaled_dot_product_attention",
        "import torch.nn.functional as F\ndef f(q, G=F):\n    return G.scaled_dot_product_attention(q, q, q)",
        "import torch.nn.functional as F\ndef decoy():\n    import math as F\nF.scaled_dot_product_attention",
        "import torch.nn.functional as F\nclass A:\n    f = F\n    def g(self, q):\n        return self.f.scaled_dot_product_attention(q, q, q)",
        "import torch.nn.functional as F\nexec('y = F.scaled_dot_product_attention(q, q, q)')",
        "import torch.nn.functional as F\nx = " + "+".join(["1"] * 2500) + "\nF.scaled_dot_product_attention",
        "\ufeffimport torch.nn.functional as F\nF.scaled_dot_product_attention",
        "import torch\ntorch._scaled_dot_product_attention_math(q, k, v)",
        "import torch\ntorch._VF._scaled_dot_product_flash_attention_for_cpu(q, k, v)",
        "import torch\ntorch._C._VariableFunctions._scaled_dot_product_efficient_attention",
        "import torch\ntorch.ops.aten._flash_attention_forward.default(q, k, v)",
        "import torch\nfrom torch import _native_multi_head_attention as own",
        "import torch\ntorch.jit.CompilationUnit('def f(q):\\n  return torch._scaled_dot_product_attention_math(q, q, q)[0]')",
    ],
)
def test_a_use_is_found_through_its_aliases(source):
    assert names_in(source) == [SDPA]


def test_classes_and_packages_are_found():
    assert names_in("from torch import nn\nclass A(nn.MultiheadAttention): pass") == ["torch.nn.MultiheadAttention"]
    assert names_in("from torch.nn.modules.activation import MultiheadAttention") == ["torch.nn.MultiheadAttention"]
    assert names_in("from transformers.models import gpt2") == ["transformers"]
    assert names_in("import importlib\nimportlib.import_module('transformers')") == ["transformers"]


def test_every_fused_attention_of_this_torch_is_a_relative():
    operators = {schema.name.partition("::")[2] for schema in torch._C._jit_get_all_schemas()}
    fused = {name for name in operators if "attention" in name or name.endswith("transformer_encoder_layer_fwd")}

    assert len(fused) > 15
    assert fused - set(last_parts([SDPA])) == set()
    assert last_parts(NAMES)["TransformerEncoderLayer"] == "torch.nn.MultiheadAttention"


@pytest.mark.parametrize(
    ("work", "others"),
    [
        ("from helper import F\nF.scaled_dot_product_attention", {"helper.py": "import torch.nn.functional as F"}),
        (
            "import helper\nhelper.G.scaled_dot_product_attention",
            {"helper.py": "import torch.nn.functional as F\nG = F"},
        ),
        ("from helper import *\nscaled_dot_product_attention(q)", {"helper.py": "from torch.nn.functional import *"}),
        (
            "from utils.own import F as X\nX.scaled_dot_product_attention",
            {"utils/own.py": "from . import G as F", "utils/__init__.py": "from torch.nn import functional as G"},
        ),
    ],
)
def test_a_name_is_followed_from_file_to_file(work, others):
    files = {"work.py": work, **others}

    assert [name for file, _, name in find(files, NAMES) if file == "work.py"] == [SDPA]


def test_a_file_that_cannot_be_read_hides_no_other_and_is_told():
    use = "import torch\ntorch.nn.functional.scaled_dot_product_attention"
    tangled = "import torch as F\n" + "F = F.a if F else F.b\n" * 20
    files = {"a.py": "x = (", "b.py": use, "c.py": "x\0", "d.py": "x = " + "-" * 100_000 + "1", "e.py": tangled}

    report = look(files, NAMES)

    assert report["uses"][1] == {0: [2]}
    assert sorted(report["unread"]) == [0, 2, 3, 4]
    assert report["unread"][0] == "it is not Python (line 1)"


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
        "from torch.nn.functional import *\ndef scaled_dot_product_attention(q): return q\nscaled_dot_product_attention(1)",
        "from attention import *\nscaled_dot_product_attention(1)",
        "import torch\nclass A:\n    def f(self, x): return self.MultiheadAttention(torch.softmax(x, -1))",
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
    def grade(text, cost, others=None):
        write_lesson(
            tmp_path, solution=HONEST, suite=SUITE, settings=f'[forbidden]\nnames = ["{SDPA}"]\ncost = "{cost}"\n'
        )
        with Grader(load("99-toy", tmp_path)) as grader:
            return grader.grade(Submission("s", "", {"toy.py": textwrap.dedent(text).encode(), **(others or {})}))

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


USE = b"import torch\ndef unused(q):\n    return torch.nn.functional.scaled_dot_product_attention(q, q, q)\n"


def uses(card):
    return [(found.module, found.where) for found in card.evidence if found.is_a_use]


def test_a_byte_order_mark_and_a_large_file_hide_nothing(grade):
    large = b"data = '" + b"x" * 300_000 + b"'\n" + USE
    card = grade("\ufeff" + textwrap.dedent(HONEST) + USE.decode(), "nothing", {"large.py": large})

    assert uses(card) == [("large", "large.py:4"), ("toy", "toy.py:9")]
    assert card.score == 2


def test_a_use_in_a_helper_is_charged_to_the_module_that_imports_it(grade):
    files = {"helper.py": b"from parts import deep\n", "parts/__init__.py": b"", "parts/deep.py": USE}
    card = grade("    import helper\n" + HONEST, "module", files)

    assert uses(card) == [("toy", "parts/deep.py:3")]
    assert [row.status for row in card.outcomes] == [FAILED, FAILED]


def test_a_use_in_a_file_that_nobody_imports_is_told_and_costs_nothing(grade):
    card = grade(HONEST, "module", {"notes.py": USE})

    assert uses(card) == [("notes", "notes.py:3")]
    assert card.score == card.max_score


def test_what_was_not_scanned_is_told_beside_the_uses_of_the_others(grade):
    card = grade(HONEST, "module", {"broken.py": b"def f(:\n", "zero.py": b"\0", "notes.py": USE})

    assert Evidence("broken", "not scanned", "broken.py: it is not Python (line 1)", "not scanned") in card.evidence
    assert uses(card) == [("notes", "notes.py:3")]
    assert card.score == card.max_score
    assert "not scanned (zero.py: it is not Python (line 1))" in render("csv", [card])
    assert "not scanned" not in gradescope.results(card)["output"]
    assert "not scanned: broken.py: it is not Python (line 1)" in table.one(card).caption


def test_a_file_that_ends_the_scanning_process_costs_the_evidence_of_no_other(grade, monkeypatch):
    from autograder import rules

    monkeypatch.setattr(rules, "_SCAN", rules._SCAN + "\n_look = look\n" + textwrap.dedent(ENDS_ON_A_BOMB))
    card = grade(HONEST, "nothing", {"bomb.py": b"# bomb\n", "notes.py": USE})

    assert uses(card) == [("notes", "notes.py:3")]
    assert [found.where.partition(":")[0] for found in card.evidence if not found.is_a_use] == ["bomb.py"]


ENDS_ON_A_BOMB = """
    def look(files, forbidden):
        if "bomb.py" in files:
            import os
            os._exit(3)
        return _look(files, forbidden)
"""


def test_notes_that_the_lesson_does_not_ask_for_are_no_evidence():
    from autograder import rules
    from autograder.lesson import Forbidden

    notes = {("toy", "test_a"): ["Click here (toy.py:1)", f"{SDPA} (toy.py:2)", f"{SDPA} (" + "x" * 500]}
    found = rules.at_run_time(notes, Forbidden(names=(SDPA,)))

    assert [use.name for use in found] == [SDPA, SDPA]
    assert len(found[1].where) < 130
