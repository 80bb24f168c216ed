"""Tripwires and what stands for torch.compile break nothing of torch for code that calls nothing forbidden."""

import ast
import subprocess
import sys
import textwrap

import pytest
from conftest import write_lesson

from autograder.grade import Grader
from autograder.lesson import load
from autograder.scorecard import PASSED
from autograder.submission import Submission

NAMES = """torch.nn.functional.scaled_dot_product_attention torch.nn.functional.multi_head_attention_forward
    torch.nn.functional.gelu torch.nn.functional.layer_norm torch.nn.MultiheadAttention""".split()
# Each function returns True where torch is as it was without tripwires.
HONEST = '''
import copy, functools, inspect, pickle, sys
import torch
import torch.utils.checkpoint
import torch.nn.functional as F
from torch import nn

ATTEND, PACKET = F.scaled_dot_product_attention, torch.ops.aten.scaled_dot_product_attention

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x)

def double(x):
    """Twice x."""
    return 2 * x

X = torch.ones(2, 3)

# ---- the compiler

def compile_a_function():
    return torch.equal(torch.compile(double)(X), 2 * X) and torch.compile(double).__doc__ == "Twice x."

@torch.compile
def decorated(x):
    return 3 * x

@torch.compile(fullgraph=True, dynamic=True, backend="inductor", mode="max-autotune", options={"a": 1})
def decorated_with_options(x):
    return 4 * x

def compile_as_a_decorator():
    return torch.equal(decorated(X) + decorated_with_options(X), 7 * X)

def compile_with_keywords():
    return torch.equal(torch.compile(model=double, backend="eager")(X), 2 * X)

def compile_a_module():
    layer = Layer()
    compiled = torch.compile(layer)
    same = torch.equal(compiled(X), layer(X)) and list(compiled.state_dict()) == list(layer.state_dict())
    return same and isinstance(compiled, Layer) and not compiled.eval().training

def a_module_compiles_itself():
    layer = Layer()
    before = layer(X)
    layer.compile(dynamic=True)
    return torch.equal(layer(X), before) and torch.equal(copy.deepcopy(layer)(X), before)

class Compiled(nn.Module):
    @torch.compile(dynamic=True)
    def forward(self, x):
        return x + 1

def compile_a_method():
    return torch.equal(Compiled()(X), X + 1)

@torch.compiler.disable
def not_compiled(x):
    return x + 2

@torch.compiler.disable(recursive=False)
def not_compiled_either(x):
    return x + 3

def nothing_to_disable():
    torch.compiler.reset()
    return not torch.compiler.is_compiling() and torch.equal(not_compiled(X) + not_compiled_either(X), 2 * X + 5)

def what_is_not_to_be_compiled_is_refused():
    try:
        torch.compile(3)
    except TypeError as error:
        return "torch.compile" in str(error)

def steps(x):
    """What makes torch import its compiler, which is half a second a test, only to tell it to keep away."""
    optimizer = torch.optim.AdamW([x])
    (2 * x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False).sum().backward()
    meta = nn.Linear(3, 3).to("meta")(torch.empty(2, 3, device="meta")).tril()
    with torch.device("meta"):
        nn.Embedding(3, 4)(torch.zeros(2, dtype=torch.long)).masked_fill(torch.ones(2, 1, dtype=torch.bool), 0.0)
    return meta

def nothing_of_the_compiler_is_imported():
    steps(X.clone().requires_grad_())
    after = {name for name in sys.modules if name.startswith(("torch._dynamo.", "torch._inductor."))}
    return after <= {"torch._dynamo.config", "torch._dynamo.config_utils"} or after

def an_optimizer_steps_and_a_checkpoint_has_its_gradient():
    x = X.clone().requires_grad_()
    meta = steps(x)
    return bool((x < X).all()) and torch.allclose(x.grad, x.cos()) and meta.shape == (2, 3)

def settings_of_the_compiler_are_there():
    import torch._dynamo
    torch._dynamo.config.suppress_errors = True
    with torch._dynamo.config.patch(verbose=True):
        return torch._dynamo.config.verbose and torch.equal(torch._dynamo.disable(double)(X), 2 * X)

def the_compiler_is_there_for_who_asks():
    import torch._dynamo
    torch._dynamo.reset()
    from torch._dynamo.utils import counters
    return inspect.ismodule(torch._dynamo) and callable(torch._dynamo.optimize) and not hasattr(torch._dynamo, "no_such_name")

# ---- operators

def an_operator_keeps_its_overloads():
    named = PACKET.default.name() == "aten::scaled_dot_product_attention" and PACKET.overloads() == ["default"]
    return named and isinstance(PACKET, torch._ops.OpOverloadPacket) and isinstance(PACKET.default, torch._ops.OpOverload)

def an_operator_stays_the_same_object():
    return copy.deepcopy(PACKET) is PACKET and PACKET.default is PACKET.default and {PACKET: 1}[PACKET] == 1

def an_operator_shows_itself_as_it_was():
    shown = repr(PACKET), str(PACKET.default), type(PACKET).__name__, type(PACKET.default).__name__
    return shown == ("<OpOverloadPacket(op='aten.scaled_dot_product_attention')>",
                     "aten.scaled_dot_product_attention.default", "OpOverloadPacket", "OpOverload")

def torchs_own_tables_of_operators_load():
    import torch._decomp
    return torch.ops.aten.gelu.default in torch._decomp.decomposition_table

# ---- functions and classes

def one_function_has_one_replacement():
    return F.scaled_dot_product_attention is torch._C._nn.scaled_dot_product_attention

def a_function_keeps_its_name_and_text():
    return (ATTEND.__name__, ATTEND.__module__) == ("scaled_dot_product_attention", "torch._C._nn") and "query" in ATTEND.__doc__

def a_function_is_pickled_by_its_name():
    return pickle.loads(pickle.dumps(ATTEND)) is ATTEND and pickle.loads(pickle.dumps(F.layer_norm)) is F.layer_norm

def a_signature_is_that_of_the_original():
    names = list(inspect.signature(F.layer_norm).parameters)
    return names[:2] == ["input", "normalized_shape"] and "embed_dim" in inspect.signature(nn.MultiheadAttention).parameters

def source_is_that_of_the_original():
    return inspect.getsource(F.layer_norm).startswith("def layer_norm(")

def wraps_goes_on():
    @functools.wraps(F.layer_norm)
    def own(x):
        return x
    return own.__name__ == "layer_norm" and torch.equal(own(X), X)

class Own(nn.MultiheadAttention):
    pass

def a_class_can_be_derived_and_pickled():
    return issubclass(Own, nn.MultiheadAttention) and pickle.loads(pickle.dumps(nn.MultiheadAttention)) is nn.MultiheadAttention

# ---- what takes functions apart

def scripted(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, [3]) + F.gelu(x)

def torchscript_compiles_what_uses_them():
    return torch.allclose(torch.jit.script(scripted)(X), scripted(X))

def torchscript_compiles_a_module():
    layer = Layer()
    return torch.equal(torch.jit.script(layer)(X), layer(X))

def tracing_works():
    return torch.allclose(torch.jit.trace(scripted, X)(X), scripted(X))

def function_transforms_work():
    slopes = torch.func.vmap(torch.func.grad(lambda row: F.gelu(row).sum()))(X)
    return slopes.shape == X.shape and bool(slopes.isfinite().all())

def symbolic_tracing_works():
    return torch.equal(torch.fx.symbolic_trace(Layer())(X).shape and torch.fx.symbolic_trace(double)(X), 2 * X)

def checkpoints_work():
    x = X.clone().requires_grad_()
    torch.utils.checkpoint.checkpoint(scripted, x, use_reentrant=False).sum().backward()
    return x.grad.shape == X.shape

@torch.no_grad()
def without_gradients(x):
    return 2 * x

def grad_modes_are_decorators():
    return not without_gradients(X.clone().requires_grad_()).requires_grad
'''
USES = """
import torch
def overload(q):
    return torch.ops.aten.scaled_dot_product_attention.default(q, q, q)
def packet(q):
    return torch.ops.aten.scaled_dot_product_attention(q, q, q)
def python_function(q):
    return torch.nn.functional.layer_norm(q, [4])
"""


DOORS = """
import functools, importlib, threading
import torch
import torch.nn.functional as F

NAME = "_".join(["scaled", "dot", "product", "attention"])
direct = getattr(F, NAME)
part = functools.partial(getattr(F, NAME))
own = {}
exec(compile("import torch\\ndef made(q): return getattr(torch.nn.functional, '_'.join(['scaled', 'dot', 'product', 'attention']))(q, q, q)", "<own>", "exec"), own)
made = own["made"]

def private(q):
    return getattr(torch, "_" + NAME + "_math")(q, q, q)[0]
def table(q):
    return getattr(torch._C._VariableFunctions, "_" + NAME + "_math")(q, q, q)[0]
def vf(q):
    return getattr(torch._VF, "_" + NAME + "_math")(q, q, q)[0]
def operator(q):
    return getattr(torch.ops.aten, "_" + NAME + "_math").default(q, q, q)[0]
def flash(q):
    return getattr(torch, "_" + NAME.replace("attention", "flash_attention_for_cpu"))(q[None], q[None], q[None])[0][0]
def raw(q):
    return torch._C._jit_get_operation("aten::_" + NAME + "_math")[0](q, q, q)[0]
def in_a_thread(q):
    results = []
    thread = threading.Thread(target=results.append, args=(0,))
    thread.run = functools.partial(getattr(F, NAME), q, q, q)
    thread.start()
    thread.join()
def imports(q):
    importlib.import_module(".".join(["torch", "nn", "atten" + "tion", "bias"]))
"""


def functions_of(text):
    """The functions of a submission that take nothing, and those that take a tensor."""
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if not node.args.args], [node.name for node in functions if node.args.args]


def graded(root, text, suite, more=()):
    settings = f'[forbidden]\nnames = {[*NAMES, *more]!r}\ncost = "nothing"\n'
    write_lesson(root, solution=text, suite=suite, settings=settings)
    with Grader(load("99-toy", root)) as grader:
        return grader.grade(Submission("s", "", {"toy.py": textwrap.dedent(text).encode()}))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    suite = "import pytest\n" + "".join(
        f'@pytest.mark.points(1)\ndef test_{name}(student, check):\n    check(student.call("toy.{name}"), True)\n'
        for name in functions_of(HONEST)[0]
    )
    return graded(tmp_path_factory.mktemp("honest"), HONEST, suite)


@pytest.mark.parametrize("name", functions_of(HONEST)[0])
def test_torch_is_as_it_was(honest, name):
    row = next(row for row in honest.outcomes if row.test == f"test_{name}")
    assert row.status == PASSED, (row.message, row.detail)


def test_torch_may_be_told_twice():
    twice = "import torch; from autograder.box.inside import uncompiled as u; u.lay(); u.lay(); torch.optim.SGD([torch.ones(1)])"

    subprocess.run([sys.executable, "-c", twice], check=True)


def test_a_call_is_noted_at_each_of_the_functions_doors(tmp_path):
    names = ["direct", "part", *functions_of(DOORS)[1], "made"]
    test = """@pytest.mark.points(1)
def test_{name}(student):
    q = torch.ones(2, 3, 4)
    student.call("toy.{name}", *[q] * {count})
    def probe(q):
        import toy
        toy.{name}(*[q] * {count})
    student.run(probe, q)
"""
    suite = "import pytest, torch\n" + "".join(
        test.format(name=name, count=3 if name in ("direct", "part") else 1) for name in names
    )
    card = graded(tmp_path, DOORS, suite, ("torch.nn.attention",))

    noted = {found.test.removeprefix("test_"): found.name for found in card.evidence if found.how == "run"}
    assert card.grader_errors == ()
    assert noted == {name: "torch.nn.attention" if name == "imports" else NAMES[0] for name in names}


def test_what_a_tests_helper_calls_is_not_the_students(tmp_path):
    suite = """
import pytest, torch
@pytest.mark.points(1)
def test_helper(student):
    def probe(q):
        import toy
        toy.twice(torch.nn.functional.scaled_dot_product_attention(q, q, q))
    student.run(probe, torch.ones(2, 3, 4))
"""
    card = graded(tmp_path, "def twice(x):\n    return 2 * x\n", suite)

    assert (card.evidence, card.score) == ((), 1)


def test_calls_are_still_noted(tmp_path):
    suite = "import pytest, torch\n" + "".join(
        f'@pytest.mark.points(1)\ndef test_{name}(student):\n    student.call("toy.{name}", torch.ones(2, 3, 4))\n'
        for name in functions_of(USES)[1]
    )
    card = graded(tmp_path, USES, suite)

    noted = {found.test: found.name for found in card.evidence if found.how == "run"}
    assert noted == {"test_overload": NAMES[0], "test_packet": NAMES[0], "test_python_function": NAMES[3]}
