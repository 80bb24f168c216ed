"""Hidden tests of quantization: ModelQuantizer, QuantizedTransformer, model_size_bytes.

Sizes are measured: all tensors that can be reached from a module count, under whatever name.
"""

import pytest
import torch

from quantization_helpers import LEVELS, NOTHING, agree, in_groups, near_levels, rounded
from shared import MANNERS, dtype_of, on_right_parts, randn

MODEL = pytest.mark.question("ModelQuantizer")
WHOLE = pytest.mark.question("QuantizedTransformer, model_size_bytes")

# ---------------------------------------------------------------------------------------------- ModelQuantizer


@MODEL
@pytest.mark.points(2)
def test_linears_are_replaced_wherever_they_are(student, check):
    """At the top, in containers and modules of any depth, of subclasses; a model that is a Linear becomes a layer itself."""

    def probe():
        def use():
            from torch.nn import Linear, ModuleDict, ModuleList, ReLU, Sequential

            class Narrow(Linear):
                pass

            deep = inside.Parts(a=inside.Parts(b=ModuleList([inside.Parts(c=Linear(4, 4)), ReLU()])))
            model = inside.Parts(
                top=Linear(4, 4), listed=ModuleList([Linear(4, 4)]), named=ModuleDict({"x": Linear(4, 4)}),
                row=Sequential(Linear(4, 4), Sequential(ReLU(), Linear(4, 4))), deep=deep, kind=Narrow(4, 4), plain=Linear(4, 4, bias=False), frozen=Linear(4, 4).requires_grad_(False), end=Linear(4, 4),
            )  # fmt: skip
            new = inside.quantized(model)
            itself = inside.quantized(Linear(4, 6, bias=False))
            result = inside.a_tensor(itself(torch.ones(2, 4))).detach()
            return inside.linears_left(new), isinstance(new, inside.Parts), inside.linears_left(itself), result

        return inside.use_of(use, "quantization", "ModelQuantizer", False)

    left, kind, itself, result = student.run(probe)

    deeper = ["listed.0", "named.x", "row.0", "row.1.1", "deep.a.b.0.c"]
    check(left, [], what="the names of the Linears that are left", mistakes={
        "only the Linears at the top of the model are replaced": deeper,
        "no Linear is replaced": ["top", *deeper, "kind", "plain", "frozen", "end"],
        "Linears deep inside of modules are left": ["row.1.1", "deep.a.b.0.c"],
        "Linears in a ModuleDict are left": ["named.x"],
        "Linears of a subclass are left": ["kind"],
        "Linears without bias are left": ["plain"],
        "Linears that do not learn are left": ["frozen"],
        "the last Linear of the model is left; a model without embeddings has no output head": ["end"],
        "the first Linear of the model is left": ["top"],
    })  # fmt: skip
    check.that(kind is True, "the new model is not of the old one's class")
    check(itself, [], otherwise="a model that is a Linear itself is not replaced")
    check(list(result.shape), [2, 6], what="the result of a model that is a Linear")
    check.that(bool(result.any()), NOTHING)


@MODEL
@pytest.mark.points(1)
def test_a_linear_in_two_places_is_one_module_afterwards(student, check):
    """Both names are replaced, by the same module, inside of other modules too."""

    def probe():
        from torch.nn import Linear

        one = Linear(4, 4)
        new = inside.quantized(inside.Parts(a=one, b=one, inner=inside.Parts(c=one)))
        return inside.linears_left(new), new.a is new.b and new.a is new.inner.c, inside.tells_apart(new, torch.eye(4))

    left, same, works = student.run(probe)

    check(left, [], otherwise="a Linear with several names is replaced under one of them only")
    check.that(same is True, "a Linear in several places becomes several modules; it should stay one")
    check.that(works, NOTHING)


@MODEL
@pytest.mark.points(2)
def test_the_old_model_is_left_alone(student, check):
    """It keeps its Linears and weights, and shares no tensor with the new one."""

    def probe():
        from torch.nn import BatchNorm1d, Embedding, LayerNorm, Linear

        model = inside.Parts(a=Embedding(9, 4), b=Linear(4, 4), c=LayerNorm(4), d=Linear(4, 4), e=BatchNorm1d(4), head=Linear(4, 9))  # fmt: skip
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        new, rude = inside.manners(inside.quantized, model)[::2]
        old = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
        new_tensors = {tensor.data_ptr() for tensor in (*new.parameters(), *new.buffers()) if tensor.numel()}
        shared = [name for name, at in old.items() if at in new_tensors]
        kept = all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items() if name in before)
        return inside.linears_left(model), kept, shared, rude, inside.tells_apart(new.eval(), torch.arange(9))

    left, kept, shared, rude, works = student.run(probe)

    check(
        left, ["b", "d", "head"], otherwise="Linears of the old model are replaced; they should be replaced in a copy"
    )
    check.that(kept is True, "weights of the old model are changed")
    check(shared, [], mistakes={
        "the new model shares the biases of the old one": ["b.bias", "d.bias"],
    }, otherwise="the new model shares tensors with the old one")  # fmt: skip
    check(rude, "", mistakes=MANNERS)
    check.that(works, NOTHING)


@MODEL
@pytest.mark.points(1)
def test_each_call_makes_a_new_model(student, check):
    """One quantizer, asked twice for a model whose weights have changed meanwhile, and for one like it."""

    def probe():
        from quantization import ModelQuantizer

        quantizer = ModelQuantizer()
        model, other = (inside.Parts(a=torch.nn.Linear(4, 4)) for _ in range(2))
        first = quantizer.quantize_model(model)
        with torch.no_grad():
            model.a.weight.mul_(-3)
        made = [first, quantizer.quantize_model(model), quantizer.quantize_model(other)]
        x = torch.eye(4)
        with torch.no_grad():
            wanted = [inside.quantized(one)(x) for one in (model, other)]
            return [inside.a_tensor(one(x)) for one in made], wanted, made[0] is made[1]

    (first, second, other), (right, others_right), same = student.run(probe)

    check.that(not same, "a second call returns the model of the first")
    check.that(not torch.equal(first, second), "a second call does not see that weights have changed")
    check(second, right, otherwise="a second call gives something else than a new quantizer does")
    check(other, others_right, otherwise="another model gets what was made for the first")


ONE = [["inner.unembed"]] * 2


@MODEL
@pytest.mark.points(2)
def test_a_linear_that_is_tied_to_an_embedding_is_the_output_head(student, check):
    """Wherever it is, whatever its name: it stays, and stays tied. Then no name makes a head, and no equal weight."""

    def probe():
        from torch.nn import Embedding, Linear

        class Own(Embedding):
            pass

        def tied(names, kind=Embedding, **others):
            embedding = kind(9, 4)
            parts = {name: Linear(4, 9, bias=False) for name in names}
            for part in parts.values():
                part.weight = embedding.weight
            inner = inside.Parts(**parts, layer=Linear(4, 4))
            model = inside.Parts(other=Embedding(3, 4), embedding=embedding, inner=inner, **others)
            if "twin" in others:
                others["twin"].weight.data.copy_(embedding.weight)
            new = inside.quantized(model)
            left = inside.linears_left(new)
            kept = all(
                getattr(new.inner, name).weight is new.embedding.weight for name in names if f"inner.{name}" in left
            )
            return left, kept, inside.tells_apart(new.inner.layer, torch.eye(4))

        return [
            tied(["unembed"]),
            tied(["unembed"], lm_head=Linear(4, 9), output=Linear(4, 4)),
            tied(["a", "b"]),
            tied(["unembed"], twin=Linear(4, 9, bias=False)),
            tied(["unembed"], Own),
        ]

    found = student.run(probe)

    left, kept, works = zip(*found, strict=True)
    check(list(left), [*ONE[:2], ["inner.a", "inner.b"], *ONE[:2]], what="the Linears that are left", mistakes={
        "a tied head is quantized if it is not at the top of the model": [[], ["lm_head"], [], [], []],
        "a tied head is quantized": [[], [], [], [], []],
        "a head that is tied to an embedding of a subclass is quantized": [*ONE[:2], ["inner.a", "inner.b"], *ONE[:1], []],
        "a head with a usual name is left although another is tied": [
            *ONE[:1], ["inner.unembed", "lm_head"], ["inner.a", "inner.b"], *ONE[:2]
        ],
        "only one of several tied Linears is left": [*ONE[:2], ["inner.a"], *ONE[:2]],
        "a Linear whose weight equals that of an embedding is left although it is not tied": [
            *ONE[:2], ["inner.a", "inner.b"], ["inner.unembed", "twin"], *ONE[:1]
        ],
        "Linears of the size of the vocabulary are left; only a tied one should be": [
            *ONE[:1], ["inner.unembed", "lm_head"], ["inner.a", "inner.b"], ["inner.unembed", "twin"], *ONE[:1]
        ],
    })  # fmt: skip
    check.that(all(kept), "the head is no longer tied to the embedding")
    check.that(all(works), NOTHING)


@MODEL
@pytest.mark.points(2)
def test_without_a_tied_one_the_head_is_known_by_its_name(student, check):
    """lm_head, head or output, in this order, at the top of a model that has an embedding."""

    def probe(cases):
        from torch.nn import Embedding, Linear

        def left(with_embedding, names, inner):
            parts = {"embedding": Embedding(9, 4)} if with_embedding else {}
            parts["inner"] = inside.Parts(**{name: Linear(4, 4) for name in inner})
            new = inside.quantized(inside.Parts(**parts, **{name: Linear(4, 9) for name in names}))
            return inside.linears_left(new), inside.tells_apart(new.inner, torch.eye(4))

        return [left(*case) for case in cases]

    cases = {  # (has an embedding, Linears at the top, Linears inside) -> what is left
        (True, ("lm_head",), ("a",)): ["lm_head"],
        (True, ("head",), ("a",)): ["head"],
        (True, ("output",), ("a",)): ["output"],
        (True, ("output", "head", "lm_head"), ()): ["lm_head"],
        (True, ("output", "head"), ()): ["head"],
        (True, ("decoder", "classifier"), ("lm_head", "head", "output")): [],
        (False, ("lm_head", "head", "output"), ("a",)): [],
    }
    found, works = zip(*student.run(probe, [list(case) for case in cases]), strict=True)

    def each(one):
        return [one(*case, right) for case, right in cases.items()]

    check(list(found), list(cases.values()), what="the Linears that are left", mistakes={
        "the head is quantized if it is not tied": each(lambda emb, top, inner, right: []),
        "only lm_head is known; head and output should be too": each(
            lambda emb, top, inner, right: ["lm_head"] if emb and "lm_head" in top else []
        ),
        "lm_head, head and output are all left; only the first that there is should be": each(
            lambda emb, top, inner, right: [name for name in top if emb and name in ("lm_head", "head", "output")]
        ),
        "a head is left in a model without embeddings; it has none": each(
            lambda emb, top, inner, right: right if emb else ["lm_head"]
        ),
        "Linears with a head's name inside of other modules are left; only one at the top should be": each(
            lambda emb, top, inner, right: right + [f"inner.{name}" for name in inner if name != "a"]
        ),
        "lm_head is left wherever it is, and no other head": each(
            lambda emb, top, inner, right: [f"inner.{name}" for name in inner if name == "lm_head"] + [
                name for name in top if name == "lm_head"
            ]
        ),
        "lm_head, head and output are left wherever they are; only one at the top of a model with an embedding should be": each(
            lambda emb, top, inner, right: [f"inner.{name}" for name in inner if name != "a"] + [
                name for name in top if name in ("lm_head", "head", "output")
            ]
        ),
        "the last of output, head and lm_head is taken, in the order of the model; lm_head should come first": each(
            lambda emb, top, inner, right: right and [top[0]]
        ),
    })  # fmt: skip
    check.that(all(works), NOTHING)


@MODEL
@pytest.mark.points(2)
@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_all_else_of_a_model_stays_as_it_is(student, check, kind):
    """Embeddings, norms and loose parameters are the same, of any dtype; each module has its mode; what was shared is shared."""

    def probe(kind):
        from torch.nn import Dropout, Embedding, LayerNorm, Linear, Parameter

        model = inside.Parts(a=Embedding(9, 4), b=Linear(4, 4), c=inside.Parts(d=Linear(4, 4), e=Dropout(0.5)), f=LayerNorm(4), g=Embedding(9, 4), h=Linear(4, 4), i=LayerNorm(4))  # fmt: skip
        torch.nn.init.normal_(model.f.weight), model.f.bias.data.add_(torch.rand(4))
        model.i.weight = model.f.weight
        if kind != "int8":
            model.double()
        model.g.weight, model.loose = model.a.weight, Parameter(torch.randn(3))
        model.register_buffer("table", torch.arange(5.0))
        model.a.weight.requires_grad_(False)
        model.train()
        for part in (model.b, model.c.e, model.f):
            part.eval()
        modes = {name: part.training for name, part in model.named_modules()}
        old = {name: tensor.clone() for name, tensor in model.state_dict().items() if name[0] in "aflgti"}
        new = inside.quantized(model, kind)
        kept = dict(new.named_parameters(remove_duplicate=False)) | dict(new.named_buffers())
        changed = [
            name
            for name, tensor in old.items()
            if name not in kept or kept[name].dtype != tensor.dtype or not torch.equal(kept[name], tensor)
        ]
        wrong = [name for name, mode in modes.items() if new.get_submodule(name).training != mode]
        inner = [part.training for part in new.b.modules()] + [inside.quantized(Linear(4, 4).eval(), kind).training]
        if inside.weight_of(new.h).dtype != model.h.weight.dtype:
            changed.append("the weight of a new layer")
        tied = new.g.weight is new.a.weight and new.i.weight is new.f.weight
        return changed, wrong, inner, tied, new.a.weight.requires_grad, new.f.weight.requires_grad

    changed, wrong, inner, tied, learns, norms_learn = student.run(probe, kind)

    check(
        changed,
        [],
        mistakes={
            "the weight of a new layer does not have the dtype of the Linear": ["the weight of a new layer"],
        },
        otherwise="embeddings, norms, loose parameters or buffers are changed or missing",
    )
    check(wrong, [], mistakes={
        "new layers are in train mode where the Linear was in eval mode": ["b"],
        "the new model is in train mode, with all its modules": ["b", "c.e", "f"],
        "the new model is in eval mode, with all its modules": ["", "a", "c", "c.d", "g", "h", "i"],
    }, otherwise="some modules have the wrong mode afterwards")  # fmt: skip
    check.that(not any(inner), "a layer's own modules are not in its mode")
    check.that(tied is True, "two embeddings or two norms that shared a weight no longer share it")
    check.that(norms_learn is True, "a weight that learns does not learn in the new model")
    check.that(learns is False, "a weight that does not learn learns in the new model")


def rounded_as(kind, weight):
    if kind != "nf4":
        return rounded(weight, *((8, None) if kind == "int8" else (4, 64)))
    flat = weight.double().flatten().split(64)
    levels = [LEVELS[(part[:, None] / part.abs().max() - LEVELS).abs().argmin(1)] * part.abs().max() for part in flat]
    return torch.cat(levels).view(weight.shape)


@MODEL
@pytest.mark.points(2)
@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_each_type_rounds_as_it_should(student, check, rng, kind):
    """int8: a scale a row; int4: groups of 64; nf4: blocks of 64 of the flattened weight. Biases stay as they are."""

    def probe(weights, kind, x, right):
        def use():
            layers = [inside.linear_with(*pair) for pair in weights]
            # as soon as it is called int8, it is what is made without a name
            new = inside.quantized(torch.nn.Sequential(*layers), *([] if kind == "int8" else [kind]))
            return inside.listed([layer(one) for layer, one in zip(new, x, strict=True)]) + [
                inside.weight_of(layer) for layer in new
            ]

        return inside.use_of(use, "quantization", "ModelQuantizer", right)

    made = {
        "int8": lambda rows, width: in_groups(rng, rows, width, width, 8),
        "int4": lambda rows, width: in_groups(rng, rows, width, 64, 4),
        "nf4": lambda rows, width: near_levels(rng, rows, width)[0],
    }[kind]
    pairs = [(made(6, 160), randn(rng, 6)), (made(5, 24), None)]
    x = [randn(rng, 3, 160), randn(rng, 3, 24)]

    def truth(change, bias=True):
        layers = [(one.double(), change(w), b.double() if b is not None and bias else None) for one, (w, b) in zip(x, pairs, strict=True)]  # fmt: skip
        return [torch.nn.functional.linear(*layer) for layer in layers] + [w for _, w, _ in layers]

    def wrong(change, bias=True):
        return lambda: [value.float() for value in truth(change, bias)]

    right = truth(lambda w: rounded_as(kind, w))
    found = on_right_parts(student, probe, pairs, kind, x, fine=lambda found: agree(found, right))

    check(found, right, dtype=torch.float32, mistakes={
        "the weights are not rounded": wrong(lambda w: w.double()),
        "the biases are missing": wrong(lambda w: rounded_as(kind, w), bias=False),
        **{
            f"{kind} is rounded as {other} should be": wrong(lambda w, other=other: rounded_as(other, w))
            for other in ("int8", "int4", "nf4")
            if other != kind
        },
        "a row has one scale; groups of 64 should have one": wrong(lambda w: rounded(w, 4)),
        "blocks of 64 end with a row; they should be those of the flattened weight": wrong(
            lambda w: torch.stack([rounded_as("nf4", row[None])[0] for row in w])
        ),
    })  # fmt: skip


LIMITS = {"int8": 0.30, "int4": 0.20, "nf4": 0.20}


@MODEL
@pytest.mark.points(2)
@pytest.mark.parametrize("kind", list(LIMITS))
def test_a_model_is_as_small_as_it_should_be(student, check, kind):
    """int8 at most 0.30, int4 and nf4 at most 0.20 of float32, of all tensors that the model holds, also after it was used."""

    def probe(kind, right):
        def use():
            model = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128))
            new = inside.quantized(model, kind)
            first = inside.bytes_held(new)
            works = inside.tells_apart(new, torch.eye(128)[:2])
            return [bytes / inside.bytes_held(model) for bytes in (first, inside.bytes_held(new))], works

        return inside.use_of(use, "quantization", "ModelQuantizer", right)

    limit = LIMITS[kind]
    (first, used), works = on_right_parts(student, probe, kind, fine=lambda found: max(found[0]) <= limit)

    check.that(works, NOTHING)
    check.that(first < 0.9, "the weights are still there in floating point")
    check.that(used < first + 0.05, "the model keeps dequantized weights when it was used")
    check.that(first < 0.24 or kind == "int8", f"codes of {kind} have a byte of their own; two should share one")
    check.that(first <= limit, f"a model of {kind} is too large")


@MODEL
@pytest.mark.points(1)
def test_attention_of_torch_works_when_it_is_quantized(student, check, rng):
    """nn.MultiheadAttention reads weight and bias of its out_proj, with gradients as without."""

    def probe(x):
        def use():
            torch.manual_seed(0)
            attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
            torch.nn.init.normal_(attention.out_proj.bias)
            new = inside.quantized(inside.Parts(attention=attention)).attention
            left = inside.linears_left(new)
            outputs = [inside.a_tensor(new(x, x, x)[0])]
            with torch.no_grad():
                outputs.append(new(x, x, x)[0])
                attention.out_proj.weight.copy_(inside.weight_of(new.out_proj))
            return left, outputs, attention(x, x, x)[0], inside.weight_of(new.out_proj)

        return inside.use_of(use, "quantization", "QuantizedLinear", False)

    left, outputs, truth, weight = student.run(probe, randn(rng, 2, 5, 16))

    check(left, [], otherwise="out_proj of nn.MultiheadAttention is left; it is of a subclass of nn.Linear")
    check.that(bool(weight.any()), NOTHING)
    check(outputs, [truth, truth], relative=1e-5)


@MODEL
@pytest.mark.points(1)
@pytest.mark.parametrize("kind", ["nf4", "int8", "int4"])
def test_a_quantized_model_is_saved_and_loaded(student, check, rng, kind):
    """A model made in the same way that loads the state_dict of another gives what that one gives."""

    def probe(kind, x):
        def use():
            one, other = (
                inside.quantized(torch.nn.Sequential(torch.nn.Linear(20, 7), torch.nn.Linear(7, 5)), kind)
                for _ in range(2)
            )
            other.load_state_dict(one.state_dict())
            return inside.listed([other(x), one(x)]), inside.tells_apart(one, x)

        return inside.use_of(use, "quantization", "ModelQuantizer", False)

    (loaded, own), works = student.run(probe, kind, randn(rng, 3, 20))

    check.that(works, NOTHING)
    check(loaded, own, otherwise="a model that loads the state_dict of another gives something else")


@MODEL
@pytest.mark.points(1)
def test_an_unknown_type_is_refused(student):
    """quantization_type is int8, int4 or nf4; anything else is a ValueError, for both classes."""

    def quantize(kind):
        inside.quantized(torch.nn.Sequential(torch.nn.Linear(4, 4)), kind)

    def wrap(kind):
        from quantization import QuantizedTransformer

        QuantizedTransformer(torch.nn.Sequential(torch.nn.Linear(4, 4)), kind)

    def nothing(kind):
        inside.quantized(torch.nn.ReLU(), kind)

    for probe in (quantize, wrap, nothing):
        student.accepts(probe, "int8")
    for kind in ("int3", "fp4", ""):
        student.raises(ValueError, quantize, kind, says=("quantization_type", *([kind] if kind else [])))
    student.raises(ValueError, wrap, "int16", says=("quantization_type", "int16"))
    student.raises(ValueError, nothing, "int3", says=("quantization_type", "int3"))


# ---------------------------------------------------------------------------------------------- QuantizedTransformer


@WHOLE
@pytest.mark.points(2)
def test_a_wrapper_is_called_as_the_model(student, check, rng):
    """All arguments, by position and by name, go to the quantized model; what it returns comes back, all of it."""

    def probe(x):
        def use():
            from quantization import QuantizedTransformer

            class Model(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.layer = torch.nn.Linear(4, 4)

                def forward(self, x, mask=None, *, factor=1.0):
                    return {"y": self.layer(x) * factor, "seen": [mask, factor]}, "more"

            model, seen, kinds = Model().eval(), [], []
            for kind in ([], ["int8"], ["int4"], ["nf4"]):
                wrapper = QuantizedTransformer(model, *kind)
                result = wrapper(x, True, factor=2.0)
                whole = isinstance(result, tuple) and len(result) == 2 and result[1] == "more"
                given = result[0] if whole else result
                seen.append([given["seen"], whole, torch.equal(given["y"], 2 * wrapper.model.layer(x))])
                name = kind[0] if kind else "int8"
                kinds.append(torch.equal(inside.quantized(model, name).layer(x), wrapper.model.layer(x)))
            left = inside.linears_left(wrapper), inside.linears_left(model)
            return isinstance(wrapper, torch.nn.Module), seen, kinds, left, len(list(wrapper.buffers())) > 0

        return inside.use_of(use, "quantization", "ModelQuantizer", False)

    is_module, seen, kinds, left, held = student.run(probe, randn(rng, 3, 4))

    check.that(is_module is True, "a QuantizedTransformer is not an nn.Module")
    check(seen, [[[True, 2.0], True, True]] * 4, mistakes={
        "of several results of the model only one comes back": [[[True, 2.0], False, True]] * 4,
    }, otherwise="the model does not get all arguments, or its result is changed")  # fmt: skip
    check(kinds, [True] * 4, otherwise="`model` is not what ModelQuantizer makes for this quantization_type")
    check(left, ([], ["layer"]), mistakes={
        "the model that is wrapped is not quantized": (["model.layer"], ["layer"]),
        "the model that was given is changed": ([], []),
    })  # fmt: skip
    check.that(held is True, "the quantized model is not a part of the wrapper")


@WHOLE
@pytest.mark.points(1)
def test_a_wrapper_adds_nothing_of_its_own(student, check):
    """Modes are those of the model, also after a call; gradients reach the input; the model in floating point is gone."""

    def probe():
        def use():
            from quantization import QuantizedTransformer

            model = inside.Parts(a=torch.nn.Linear(128, 128), b=torch.nn.Linear(128, 128))
            model.train().b.eval()
            wrapper = QuantizedTransformer(model)
            inside.a_module(wrapper.model, "the attribute model")
            size = inside.bytes_held(wrapper) / inside.bytes_held(model)
            x = torch.ones(1, 128, requires_grad=True)
            modes = [[part.training for part in (wrapper, wrapper.model, wrapper.model.b)]]
            learns = inside.a_tensor(wrapper(x)).requires_grad
            modes.append([part.training for part in (wrapper, wrapper.model, wrapper.model.b)])
            return modes, QuantizedTransformer(model.eval()).training, learns, size

        return inside.use_of(use, "quantization", "ModelQuantizer", False)

    (before, after), evaluating, learns, size = student.run(probe)

    check(before, [True, True, False], otherwise="a mode is not that of the model, or of its part")
    check.that(evaluating is False, "the mode is not that of the model")
    check(after, before, otherwise="a call changes the mode")
    check.that(learns, "no gradient goes through the wrapper")
    check.that(size < 0.5, "the wrapper still holds the model in floating point")


@WHOLE
@pytest.mark.points(1)
@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_lesson_2s_models_are_quantized(student, check, rng, kind):
    """GPTModel keeps its tied head, Transformer its output; all other Linears are replaced, and outputs are close."""

    def probe(ids, kind):
        def use():
            from quantization import QuantizedTransformer
            from transformer import GPTModel, Transformer

            torch.manual_seed(0)
            found = []
            for model, inputs in (
                (GPTModel(40, 32, 2, 4, max_len=16), [ids]),
                (Transformer(40, 40, 32, 2, 4, 64), [ids, ids]),
            ):
                wrapper = QuantizedTransformer(model.eval(), kind)
                new, old = (inside.a_tensor(each(*inputs)).detach() for each in (wrapper, model))
                found.append((inside.linears_left(wrapper), list(new.shape), float((new - old).norm() / old.norm())))
            return found

        return inside.use_of(use, "quantization", "ModelQuantizer", False)

    found = student.run(probe, torch.randint(1, 40, (2, 9), generator=rng), kind)

    heads = [["model.lm_head"], ["model.output"]]
    check([left for left, *_ in found], heads, what="the Linears that are left", mistakes={
        "the tied head of GPTModel is quantized": [[], heads[1]],
        "the head of Transformer, `output`, is quantized": [heads[0], []],
        "the heads are quantized": [[], []],
    })  # fmt: skip
    check([shape for _, shape, _ in found], [[2, 9, 40]] * 2, what="shapes")
    limit = 0.05 if kind == "int8" else 0.5
    check.that(all(0 < off < limit for *_, off in found), "the logits are far from those of the model, or the same")


# ---------------------------------------------------------------------------------------------- model_size_bytes


@WHOLE
@pytest.mark.points(1)
def test_parameters_and_buffers_count_by_their_dtype(student, check):
    """Of any dtype and device; buffers that are not saved count, too; so do parts of parts."""

    def probe():
        from quantization import model_size_bytes

        model = inside.Parts(a=torch.nn.Linear(5, 3).double(), b=inside.Parts(c=torch.nn.BatchNorm1d(7).half()))
        model.register_buffer("codes", torch.zeros(50, dtype=torch.int8)[:11])
        model.b.register_buffer("late", torch.zeros(13, dtype=torch.int16), persistent=False)
        model.frozen = torch.nn.Parameter(torch.zeros(17), requires_grad=False)
        model.far = torch.nn.Linear(10, 2, bias=False, device="meta")
        model.farther = torch.nn.Linear(2, 5, bias=False, device="meta")
        return model_size_bytes(model), model_size_bytes(torch.nn.ReLU())

    size, nothing = student.run(probe)

    parameters, saved, late, frozen, far = 8 * 18 + 2 * 14, 2 * 14 + 8 + 11, 26, 68, 120
    whole = parameters + saved + late + frozen + far
    check(size, whole, what="the size", mistakes={
        "buffers do not count": parameters + frozen + far,
        "buffers that are not saved do not count": whole - late,
        "each number counts four bytes; its dtype should say how many": 4 * (18 + 14 + 14 + 1 + 11 + 13 + 17 + 30),
        "weights that do not learn do not count": whole - frozen,
        "numbers are counted, not bytes": 18 + 14 + 14 + 1 + 11 + 13 + 17 + 30,
        "bits are counted, not bytes": 8 * whole,
        "a tensor that is a part of a larger one counts as that one": whole + 39,
        "only the modules at the top count": whole - 2 * 14 - 2 * 14 - 8,
        "tensors on other devices do not count": whole - far,
        "of the tensors without memory, on the meta device, one counts only": check.when(size in (whole - 80, whole - 40), size),
    })  # fmt: skip
    check(nothing, 0, what="the size of a model without tensors")


@WHOLE
@pytest.mark.points(1)
def test_a_tensor_with_several_names_counts_once(student, check):
    """Tied weights, a module in two places, a shared buffer."""

    def probe():
        from quantization import model_size_bytes
        from torch.nn import Embedding, Linear

        embedding, head, twice = Embedding(9, 4), Linear(4, 9, bias=False), Linear(4, 4)
        head.weight = embedding.weight
        tied = inside.Parts(embedding=embedding, head=head)
        table = torch.zeros(6)
        buffers = inside.Parts(a=torch.nn.ReLU(), b=torch.nn.ReLU())
        buffers.a.register_buffer("table", table), buffers.b.register_buffer("table", table)
        equal = inside.Parts(a=Linear(4, 4), b=Linear(4, 4))
        equal.b.load_state_dict(equal.a.state_dict())
        return [model_size_bytes(model) for model in (tied, inside.Parts(a=twice, b=twice), buffers, equal)]

    sizes = student.run(probe)

    check(sizes, [144, 80, 24, 160], what="the sizes", mistakes={
        "tied weights and modules in two places count twice": [288, 160, 48, 160],
        "tied weights count twice": [288, 80, 48, 160],
        "a buffer with two names counts twice": [144, 80, 48, 160],
        "different tensors with the same values count once": [144, 80, 24, 80],
    }, otherwise="what has several names does not count once")  # fmt: skip


@pytest.mark.gpu
@MODEL
@pytest.mark.points(1)
def test_models_are_quantized_where_they_are(student, check, rng, device):
    """On the GPU all types work in bfloat16, too; layers stay on the device."""

    def probe(x):
        found = []
        for kind in ("int8", "int4", "nf4"):
            model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)).to(x)
            new = inside.quantized(model, kind)
            found.append((new(x), model(x)))
        return [(new.detach(), old.detach()) for new, old in found]

    for new, old in student.on(device=device, timeout=60).run(probe, randn(rng, 5, 64).bfloat16()):
        check((dtype_of(new), list(new.shape)), (torch.bfloat16, [5, 8]), names=("dtype", "shape"))
        check.that(
            float((new - old).double().norm() / old.double().norm()) < 0.4, "the result is far from that of the model"
        )
