"""Hidden tests of llm_architectures: LlamaModel as it is made, with known weights, against its steps in float64."""

from dataclasses import replace

import pytest
import torch

from llm_architectures_helpers import EITHER, Llama, agreeing, rotary_theta
from shared import MANNERS, nearly, on_right_parts, past, randn, tokens

pytestmark = pytest.mark.question("LlamaModel")

# ---------------------------------------------------------------------------------------------- a new model

D, H, KV, FF, V, LAYERS = 24, 3, 1, 32, 13, 2  # inside.with_known_weights needs heads that are 8 wide
SIZES = (V, D, LAYERS, H, KV, FF)


def known_state(table, size=1.0):
    """By the names of transformers, what known_logits makes of the weights."""
    signs = torch.tensor([1, 1, 1, 1, 1, -1, 1, -1], dtype=torch.float64).repeat(4)

    def matrix(rows, columns):
        return (0.03 if FF in (rows, columns) else 0.02) * signs[:rows, None] * signs[:columns]

    gain = torch.full((D,), 8.0 * size, dtype=torch.float64)
    shapes = {"self_attn.q": (D, D), "self_attn.k": (8, D), "self_attn.v": (8, D), "self_attn.o": (D, D)}
    shapes |= {"mlp.gate": (FF, D), "mlp.up": (FF, D), "mlp.down": (D, FF)}
    layer = {f"{name}_proj": matrix(*shape) for name, shape in shapes.items()}
    layer |= {"input_layernorm": gain, "post_attention_layernorm": gain}
    state = {f"model.layers.{n}.{name}.weight": weight for n in range(LAYERS) for name, weight in layer.items()}
    return state | {"model.embed_tokens.weight": table, "model.norm.weight": gain, "lm_head.weight": table}


def known_logits(sizes, base, table, size, ids, right):
    """A probe: the logits of a model with the known weights, whose gains are `size` as large."""

    def use():
        from llm_architectures import LlamaModel

        model = LlamaModel(*sizes) if base is None else LlamaModel(*sizes, rope_base=base)
        model = inside.with_known_weights(model, [table])
        for weight in model.parameters():
            if (weight == inside.GAIN).all():
                weight.data.mul_(size)
        return inside.a_tensor(model(ids)).detach()

    return inside.use_of(use, "llm_architectures", "LlamaModel", right)


@pytest.mark.points(3)
@pytest.mark.parametrize("base", [None, 20.0])
def test_a_new_model_is_a_llama(student, check, rng, base):
    """Embedding, pre-norm layers with rotary positions of rope_base, SwiGLU, a last norm, the output: with known weights."""
    table, ids = randn(rng, V, D, dtype=torch.float64), tokens(rng, V, 2, 9)
    state, used = known_state(table), base or 10000.0
    do = Llama(H, KV, frequencies=lambda width: rotary_theta(width, used))

    def fine(found):
        return nearly(found, do.logits(state, ids), 1e-3)

    logits = on_right_parts(student, known_logits, SIZES, base, table, 1.0, ids, fine=fine)

    others = {
        "the frequencies are those of d_model; they should be those of a head's width": {
            "frequencies": lambda width: rotary_theta(D, used)[: width // 2],
        },
        "rope_base is not used": {"frequencies": rotary_theta} if base else None,
        "the positions are scaled by the wrong base; by default it should be 10000": None if base else {
            "frequencies": lambda width: rotary_theta(width, 500000.0),
        },
    }  # fmt: skip
    mistakes = {sentence: steps for sentence, steps in (others | EITHER).items() if steps}
    values = {
        sentence: lambda steps=steps: replace(do, **steps).logits(state, ids) for sentence, steps in mistakes.items()
    }
    check(logits, do.logits(state, ids), relative=1e-3, mistakes=values)


@pytest.mark.points(1)
def test_the_eps_of_llama_is_1e_6(student, check, rng):
    """That of all norms, the last one too: it shows where embedding and gains are small."""
    table, ids, do = randn(rng, V, D, dtype=torch.float64), tokens(rng, V, 2, 9), Llama(H, KV)
    tables, sizes = (table, table * 2**-10), (1.0, 2**-7)
    plain, small = (known_state(*given) for given in zip(tables, sizes, strict=True))

    def near(value, right):
        return nearly(value, right, 1e-3)

    own, found = (
        on_right_parts(
            student,
            known_logits,
            SIZES,
            None,
            table,
            size,
            ids,
            fine=lambda x, state=state: near(x, do.logits(state, ids)),
        )
        for table, size, state in zip(tables, sizes, (plain, small), strict=True)
    )
    do = replace(do, **agreeing(own, lambda steps: replace(do, **steps).logits(plain, ids), EITHER, near))

    def wider(norm):
        return lambda x, weight, eps: norm(x, weight, 1e-5)

    wrong = {
        "the eps of all norms is 1e-5; it should be 1e-6": {"eps": 1e-5},
        "the eps of the last norm is 1e-5; it should be 1e-6": {"last_norm": wider(do.last_norm)},
        "the eps of the norms in the layers is 1e-5; it should be 1e-6": {"norm": wider(do.norm)},
    }
    check(found, do.logits(small, ids), relative=1e-3, mistakes={
        sentence: lambda steps=steps: replace(do, **steps).logits(small, ids) for sentence, steps in wrong.items()
    })  # fmt: skip


@pytest.mark.points(2)
def test_a_token_sees_all_before_it(student, check, rng):
    """Logits change with each token up to their place and with none that follows; short texts and single rows too."""

    def probe(sizes, ids, right):
        def use():
            from llm_architectures import LlamaModel

            model = LlamaModel(*sizes).double().eval()
            inside.draw_weights(model)
            one = model(ids[:, :1])  # a short one first: what is kept of it must not bother a longer one
            plain, changes = inside.a_tensor(model(ids)), []
            for place in range(ids.shape[1]):
                other = ids.clone()
                other[:, place] = (other[:, place] + 1) % sizes[0]
                changes.append((model(other) - plain).abs().amax((0, 2)))
            alone = torch.cat([model(row[None]) for row in ids])
            turned = model(ids[:, [1, 0, *range(2, ids.shape[1])]])
            moved = (turned - plain)[:, -1].detach().abs().max()
            return torch.stack(changes), [x.detach() for x in (plain, alone, one)], float(moved)

        return inside.use_of(use, "llm_architectures", "LlamaModel", right)

    changes, (plain, alone, one), moved = student.run(probe, (V, 16, 1, 4, 2, 20), tokens(rng, V, 3, 6), False)

    check.that(bool((changes[~past(6).T] < 1e-9).all()), "a token sees what follows it")
    check.that(bool((changes[past(6).T] > 1e-9).all()), "a token does not see itself, or one before it")
    check.that(moved > 1e-9, "the order of the tokens has no effect on the last logits")
    check(alone, plain, terms=4096, otherwise="a row has different logits in a batch and alone")
    check(
        one,
        plain[:, :1],
        terms=4096,
        otherwise="a text of one token has different logits from those at the start of a text",
    )


@pytest.mark.points(2)
def test_the_weights_are_those_of_llama(student, check):
    """Keys and values have num_kv_heads, SwiGLU three matrices, there is no bias, and the output has its own weight."""

    def probe(calls):
        from llm_architectures import LlamaModel

        models = [LlamaModel(*sizes) for sizes in calls]
        with_token = [list(weight.shape) for weight in models[0].parameters() if calls[0][0] in weight.shape]
        used = inside.says_something(models[0](torch.arange(6).view(2, 3)))
        return [inside.matrices(model)[1] for model in models], with_token, used

    v, d, heads, kv, ff = 71, 16, 4, 2, 20
    (one, two), with_token, used = student.run(probe, [(v, d, 1, heads, kv, ff), (v, d, 2, heads, kv, ff)])

    check.that(used, "the logits are the same everywhere")
    check(with_token, [[v, d], [v, d]], mistakes={
        "the output is tied to the embedding; it should have a weight of its own": [[v, d]],
        "the output has a bias; it should have none": [[v, d], [v, d], [v]],
    }, what="the weights that have a row for each token")  # fmt: skip
    layer = 2 * d * d + 2 * d * d * kv // heads + 3 * d * ff + 2 * d
    check(two - one, layer, mistakes={
        "keys and values have all heads; they should have num_kv_heads": layer + 2 * d * d - 2 * d * d * kv // heads,
        "the Linears have biases; they should have none": layer + 2 * d + 2 * d * kv // heads + 2 * ff + d,
        "the attention has biases; it should have none": layer + 2 * d + 2 * d * kv // heads,
        "the norms have biases; RMSNorm should have none": layer + 2 * d,
        "the feed-forward has two matrices; SwiGLU has three": layer - d * ff,
        "the two norms of a layer are one": layer - d,
        "the layers share their weights, or are not registered": 0,
    }, what="the numbers of a layer")  # fmt: skip
    check(one - layer, 2 * v * d + d, mistakes={
        "there is no norm after the last layer": 2 * v * d,
        "there is a table of positions; RoPE has no weights": 2 * v * d + d + 2048 * d,
    }, what="the numbers besides the layers")  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("sizes", "length", "words"),
    [
        ((V, 24, 1, 5, 5, FF), 3, ("num_heads", "d_model", 5)),
        ((V, 24, 1, 6, 4, FF), 3, ("num_kv_heads", "num_heads", 4)),
        ((V, 9, 1, 3, 3, FF), 3, ("d_model", "num_heads", "dim", 3, 9)),
        ((V, 24, 1, 3, 1, FF, 6), 7, ("max_len", "input_ids", 7)),
    ],
)
def test_sizes_that_do_not_fit_llama_are_refused(student, check, sizes, length, words):
    """D not divisible by H, H by num_kv_heads, an odd width of a head and a text longer than max_len are a ValueError."""

    def probe(sizes, length):
        from llm_architectures import LlamaModel

        return list(inside.a_tensor(LlamaModel(*sizes).eval()(torch.zeros(9, length, dtype=torch.int64))).shape)

    student.raises(ValueError, probe, sizes, length, says=words)
    check(student.run(probe, (V, 24, 1, 3, 1, FF, 6), 6), [9, 6, V])  # more rows than max_len


@pytest.mark.points(1)
def test_all_of_llama_learns(student, check, rng):
    """Every matrix and every norm gets a gradient from the logits, and each token that is read, 0 too."""

    def probe(sizes, ids, right):
        def use():
            from llm_architectures import LlamaModel

            model = LlamaModel(*sizes).double().eval()
            inside.draw_weights(model)
            weights, logits = list(model.parameters()), inside.a_tensor(model(ids))
            grads = inside.gradients(logits, weights)
            rows = [grad[ids.unique()].any(-1).tolist() for grad in grads if len(grad) == sizes[0]]
            return [bool(grad.any()) for grad in grads], rows

        return inside.use_of(use, "llm_architectures", "LlamaModel", right)

    ids = tokens(rng, V, 2, 5)
    ids[0, 1] = 0
    reached, rows = student.run(probe, SIZES, ids, False)

    check.that(any(reached), "no gradient reaches the weights")
    check.that(all(reached), "no gradient reaches some of the weights")
    check.that(all(map(all, rows)), "the embedding of a token does not learn: padding_idx should not be set")


@pytest.mark.points(1)
def test_llama_drops_nothing_and_changes_nothing_else(student, check, rng):
    """Train mode gives what eval mode gives; ids may be strided or int32 and stay as they are; max_len and rope_base have defaults."""

    def probe(sizes, ids):
        import inspect

        from llm_architectures import LlamaModel

        model, other = LlamaModel(*sizes), LlamaModel(*sizes)
        seeded = torch.equal(model.eval()(ids), other.eval()(ids))
        plain = inside.a_tensor(model.eval()(ids))
        logits, (after,), rude = inside.manners(model.train(), ids)
        results = [x.detach() for x in (plain, logits, model(ids.int()))]
        parameters = inspect.signature(LlamaModel).parameters
        defaults = {name: p.default for name, p in parameters.items() if name in ("max_len", "rope_base")}
        return seeded, results, after, rude, defaults, model.double()(ids).dtype

    ids = tokens(rng, V, 3, 7)
    seeded, (plain, logits, short), after, rude, defaults, dtype = student.run(probe, SIZES, ids)

    check.that(not seeded, "all models start with the same weights: do not set a seed")
    check(after, ids, otherwise="input_ids are changed in place")
    check(rude, "", mistakes=MANNERS)
    check(plain.dtype, torch.float32)
    check(
        logits,
        plain,
        terms=4096,
        otherwise="the logits of train mode differ from those of eval mode: there should be no dropout",
    )
    check(short, plain, terms=4096, otherwise="the logits depend on whether ids have 32 or 64 bits")
    check(defaults, {"max_len": 2048, "rope_base": 10000.0}, what="the defaults")
    check(dtype, torch.float64, what="the dtype of a float64 model")
