"""Hidden tests of llm_architectures: T5Model, against the steps of the paper in float64, with known weights.

They give what `transformers`' T5ForConditionalGeneration gives; here each step can be replaced by a mistake.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

import shared
from llm_architectures_helpers import agreeing, rms
from shared import MANNERS, join_heads, nearly, on_right_parts, past, randn, split_heads, tokens, weigh

pytestmark = pytest.mark.question("T5Model")

D, H, V, LAYERS = 24, 3, 13, 2  # inside.with_known_weights needs heads that are 8 wide
SIZES = (V, D, LAYERS, H)
GAIN = torch.linspace(2, 6, D).double()[torch.arange(D) * 7 % D]  # of all norms: no two numbers are equal

# ---------------------------------------------------------------------------------------------- the buckets of a distance


def bucket(distance, count, farthest=128):
    """0, 1, … for the nearer half of `count` buckets, then by a logarithm: distance >= near · ratio^(k / rest), in integers."""
    near = count // 2
    if distance < near:
        return distance
    rest, ratio, k = count - near, farthest // near, 0
    while k < rest - 1 and distance**rest >= ratio ** (k + 1) * near**rest:
        k += 1
    return near + k


def rounded_bucket(distance, count):
    near = count // 2
    steps = math.log(max(distance, 1) / near) / math.log(128 / near) * (count - near)
    return distance if distance < near else min(near + round(steps), count - 1)


def buckets(distance, both_sides):
    """Of key - query: in the encoder 16 for the keys that come later, behind 16 for the others; in the decoder 32 for the past."""
    if both_sides:
        return 16 * (distance > 0) + bucket(abs(distance), 16)
    return bucket(max(0, -distance), 32)


def plainly(distance, both_sides):
    """Without a logarithm: the last bucket of a side has all that is farther."""
    return 16 * (distance > 0) + min(abs(distance), 15) if both_sides else min(max(0, -distance), 31)


BUCKETS = {  # sentence -> buckets(distance, both_sides)
    "the distance is query - key; it should be key - query": lambda d, both: buckets(-d, both),
    "the encoder has no buckets of its own for keys that come later": lambda d, both: buckets(-abs(d), both) % (16 if both else 32),
    "the encoder uses the buckets of the decoder, which know the past alone": lambda d, both: buckets(d, False),
    "the decoder uses the buckets of the encoder; all 32 should be for the past": lambda d, both: buckets(d, True),
    "far distances have no buckets that grow by a logarithm; they all share the last one": plainly,
    "the buckets grow to a distance of 64; it should be 128": lambda d, both: (
        16 * (d > 0) + bucket(abs(d), 16, 64) if both else bucket(max(0, -d), 32, 64)
    ),
    "the encoder counts the key itself among those that come later": lambda d, both: (
        16 * (d >= 0) + bucket(abs(d), 16) if both else buckets(d, False)
    ),
    "the steps of the logarithm are rounded to the nearest; they should be rounded down": lambda d, both: (
        16 * (d > 0) + rounded_bucket(abs(d), 16) if both else rounded_bucket(max(0, -d), 32)
    ),
    "the numbers of the buckets have no effect: no layer adds them, or all distances have one bucket": lambda d, both: 0,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- T5, step by step


@dataclass(frozen=True)
class T5:
    """Its steps. All are right, and a mistake replaces one."""

    buckets: Callable = buckets
    size: float = 1.0  # by which the embedding is multiplied
    norm: Callable = rms
    gain: torch.Tensor = GAIN
    style: Callable = lambda x, f, norm: x + f(norm(x))
    act: Callable = torch.relu
    attention_style: Callable | None = None  # where they differ
    feed_style: Callable | None = None
    scale: float = 1.0  # by which scores are divided
    adds_mask: bool = False
    heads: int = H
    biased: Callable = lambda layer: True  # whether a layer adds the numbers of the buckets
    cross_bias: str = ""  # "table", or "padded": that of the targets, and 0 beyond
    between: Callable = lambda x, weight: x  # two layers of the encoder
    between_in_decoder: Callable = lambda x, weight: x
    last_norm: Callable = rms  # of a stack
    last_of_decoder: Callable = rms
    visible: Callable = past  # in the decoder
    source: Callable = lambda memory: memory  # what the cross-attention reads
    weigh: Callable = weigh
    mask_of: Callable = lambda mask: mask
    hides_targets: bool = False
    hidden_in_encoder: bool = True
    hidden_in_memory: bool = True
    order: Callable = lambda steps: steps
    out: float = D**-0.5
    shift: int = 0

    def encode(self, tables, ids, mask=None):
        token, table, _ = tables
        length, see = ids.shape[1], self.seen(ids, mask if self.hidden_in_encoder else None)
        bias, x = self.bias(table, length, length, True), token[ids] * self.size
        for layer in range(LAYERS):
            x = self.between(x, self.gain) if layer else x
            x = self.attend(x, None, see, bias if self.biased(layer) else 0.0)
            x = self.feed(x)
        return self.last_norm(x, self.gain)

    def seen(self, ids, mask):
        return torch.ones(len(ids), 1, 1, ids.shape[1]) if mask is None else self.mask_of(mask)[:, None, None]

    def decode(self, tables, ids, memory, mask=None):
        token, table, _ = tables
        ids = torch.cat([torch.zeros_like(ids[:, : self.shift]), ids], 1)[:, : ids.shape[1]]
        length, keys = ids.shape[1], memory.shape[1]
        see = self.seen(memory[..., 0], mask if self.hidden_in_memory else None)
        of_targets = self.visible(length) * (see if self.hides_targets and keys == length else 1)
        bias, x = self.bias(table, length, length, False), token[ids] * self.size
        over = self.bias(table, length, keys, False) if self.cross_bias else 0.0
        if self.cross_bias == "padded":
            over[..., length:] = 0.0
        for layer in range(LAYERS):
            steps = [
                lambda x, layer=layer: self.attend(x, None, of_targets, bias if self.biased(layer) else 0.0),
                lambda x: self.attend(x, self.source(memory), see, over),
                self.feed,
            ]
            x = self.between_in_decoder(x, self.gain) if layer else x
            for step in self.order(steps):
                x = step(x)
        return self.last_of_decoder(x, self.gain) * self.out @ token.T

    def bias(self, table, queries, keys, both_sides):
        found = [[self.buckets(key - query, both_sides) for key in range(keys)] for query in range(queries)]
        return table[torch.tensor(found)].permute(2, 0, 1)

    def attend(self, x, memory, see, bias):
        def attention(y):
            q, k, v = (split_heads(spread(part, D), self.heads) for part in (y, *[y if memory is None else memory] * 2))
            scores = q @ k.mT / self.scale + bias
            added = self.adds_mask and see.shape[-2] == 1
            weights = (scores + see).softmax(-1) if added else self.weigh(scores, (see == 0).expand(scores.shape))
            return spread(join_heads(weights @ v), D)

        return (self.attention_style or self.style)(x, attention, lambda y: self.norm(y, self.gain))

    def feed(self, x):
        return (self.feed_style or self.style)(
            x, lambda y: spread(self.act(spread(y, 4 * D)), D), lambda y: self.norm(y, self.gain)
        )


SIZE = float(torch.tensor(0.02))  # of a weight, as float32 has it


def spread(x, width):
    """What a Linear without bias makes of x with the weights of with_known_weights."""
    signs = torch.tensor([1, 1, 1, 1, 1, -1, 1, -1], dtype=torch.float64).repeat(12)
    return SIZE * (x @ signs[: x.shape[-1]])[..., None] * signs[:width]


def layer_norm(x, weight):
    return F.layer_norm(x, x.shape[-1:]) * weight


STEPS = {  # sentence -> the steps that it replaces, of the encoder and the decoder
    "the scores are divided by the root of a head's width; T5 should not scale them": {"scale": math.sqrt(D / H)},
    "the scores are divided by the root of d_model; T5 should not scale them": {"scale": math.sqrt(D)},
    "the norms subtract the mean; they should be RMSNorm": {
        "norm": layer_norm, "last_norm": layer_norm, "last_of_decoder": layer_norm,
    },
    "the norm follows the residual connection; it should come before each sub-layer": {
        "style": lambda x, f, norm: norm(x + f(x)),
    },
    "the norm follows the residual connection, and there is none at the end of a stack": {
        "style": lambda x, f, norm: norm(x + f(x)), "last_norm": lambda x, w: x, "last_of_decoder": lambda x, w: x,
    },
    "the attention has no norm before it": {"attention_style": lambda x, f, norm: x + f(x)},
    "the feed-forward has no norm before it": {"feed_style": lambda x, f, norm: x + f(x)},
    "the norm follows the residual connection of the feed-forward; it should come before": {
        "feed_style": lambda x, f, norm: norm(x + f(x)),
    },
    "attention_mask is added to the scores; what it hides should not be attended to": {"adds_mask": True},
    "the residual connections are missing": {"style": lambda x, f, norm: f(norm(x))},
    "the sub-layers have no norm before them": {"style": lambda x, f, norm: x + f(x)},
    "the residual connection begins after the norm": {"style": lambda x, f, norm: norm(x) + f(norm(x))},
    "a stack has no norm at its end": {"last_norm": lambda x, w: x, "last_of_decoder": lambda x, w: x},
    "the encoder's last norm follows each layer; it should follow the last one only": {"between": rms},
    "the feed-forward has a GELU; T5 1.0 should have a ReLU": {"act": F.gelu},
    "the feed-forward has the tanh form of GELU; T5 1.0 should have a ReLU": {"act": lambda x: F.gelu(x, approximate="tanh")},
    "the feed-forward has silu; T5 1.0 should have a ReLU": {"act": F.silu},
    "the feed-forward has no activation; it should have a ReLU": {"act": lambda x: x},
    "the embedding is multiplied by the root of d_model; T5 should not scale it": {"size": math.sqrt(D)},
    "only the first layer adds the numbers of the buckets; all layers should": {"biased": lambda layer: layer == 0},
    "only the last layer adds the numbers of the buckets; all layers should": {"biased": lambda layer: layer == LAYERS - 1},
    "the numbers of the buckets have no effect: no layer adds them, or all distances have one bucket": {"biased": lambda layer: False},
    "attention_mask has no effect in the encoder": {"hidden_in_encoder": False},
    "attention_mask of the first row is used for all rows": {"mask_of": lambda mask: mask[:1].expand_as(mask)},
}  # fmt: skip
OF_DECODER = {
    "the logits are not scaled; the states should be multiplied by d_model^-0.5": {"out": 1.0},
    "the logits are divided by d_model; it should be its root": {"out": 1 / D},
    "the decoder's stack has no norm at its end": {"last_of_decoder": lambda x, w: x},
    "the decoder's last norm follows each layer; it should follow the last one only": {"between_in_decoder": rms},
    "the decoder is not causal": {"visible": lambda length: torch.ones(length, length, dtype=torch.bool)},
    "no target sees itself": {"visible": lambda length: past(length).tril(-1)},
    "the cross-attention adds the numbers of the buckets; it should add none": {"cross_bias": "table"},
    "the cross-attention adds the numbers of the targets' buckets; it should add none": {"cross_bias": "padded"},
    "attention_mask hides targets, where there are as many; it should hide inputs alone": {"hides_targets": True},
    "attention_mask has no effect in the cross-attention": {"hidden_in_memory": False},
    "the cross-attention norms the encoder's states once more; it should read them as they are": {
        "source": lambda memory: rms(memory, GAIN),
    },
    "the cross-attention comes before the self-attention": {"order": lambda steps: [steps[1], steps[0], steps[2]]},
    "the cross-attention comes after the feed-forward": {"order": lambda steps: [steps[0], steps[2], steps[1]]},
    "the decoder has no cross-attention": {"order": lambda steps: steps[::2]},
    "target_ids are shifted; they should be read as they are": {"shift": 1},
}  # fmt: skip
BUCKET_STEPS = {sentence: {"buckets": wrong} for sentence, wrong in BUCKETS.items()}
# What a mistake of the plain tests may be, so that it does not count again where another thing is asked for.
STYLES = STEPS | OF_DECODER


def made_from(rng):
    """(table of tokens, table of buckets, which both stacks get, gain of all norms)."""
    return [
        (3 * randn(rng, V, D)).double(),
        (3 * randn(rng, 32, H)).double(),
        GAIN,
    ]  # exact in float32, as which they arrive


def even_weights(scores, hidden):
    """A softmax of the lowest number where it is hidden, also where all is."""
    return scores.masked_fill(hidden, -1e9).softmax(-1)


def real_ones(states, mask):
    """The states at real places, and 0 at the others, where they are open."""
    fits = isinstance(states, torch.Tensor) and states.shape[:2] == mask.shape
    return states * mask[..., None] if fits else states


def results_of(sizes, given, calls, right):
    """A probe: what a model with known weights makes of the calls, in eval mode."""

    def use():
        from llm_architectures import T5Model

        *tables, gain = given
        model = inside.with_known_weights(T5Model(*sizes), tables)
        for weight in model.parameters():
            if (weight == inside.GAIN).all():
                weight.data.copy_(gain)
        return [inside.a_tensor(model(*call)).detach() for call in calls]

    return inside.use_of(use, "llm_architectures", "T5Model", right)


def some_texts(rng):
    """Input ids (3, 9), target ids (3, 7), and a mask of the inputs."""
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[0, 7], mask[1, 6:], mask[2, 0], mask[2, 4] = 0, 0, 0, 0
    ids, targets = tokens(rng, V, 3, 9), tokens(rng, V, 3, 7)
    ids[:2, 2] = 0  # a token like any other
    return ids, targets, mask


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.points(4)
def test_the_states_are_those_of_t5s_encoder(student, check, rng):
    """Without targets: the encoder's states after its last norm. They are compared at real tokens."""
    tables, (ids, _, mask) = made_from(rng), some_texts(rng)
    calls = [(ids, None, mask), (ids,)]

    def truth(changes):
        do = replace(T5(), **changes)
        return [real_ones(do.encode(tables, ids, mask), mask), do.encode(tables, ids)]

    def fine(found):
        return nearly([real_ones(found[0], mask), found[1]], truth({}), 1e-3)

    found = on_right_parts(student, results_of, SIZES, tables, calls, fine=fine)

    with_mask, without = found
    values = {sentence: lambda wrong=wrong: truth(wrong) for sentence, wrong in (STEPS | BUCKET_STEPS).items()}
    check([real_ones(with_mask, mask), without], truth({}), relative=1e-3, mistakes=values)


@pytest.mark.points(2)
def test_far_keys_share_buckets_in_the_encoder(student, check, rng):
    """From a distance of 8 on the buckets grow by a logarithm, up to 128, on both sides."""
    tables, (ids, _, _), far = made_from(rng), some_texts(rng), 1 + tokens(rng, V - 1, 1, 150)
    texts = [far, far[:, :40]]

    def truth(changes):
        return [replace(T5(), **changes).encode(tables, text) for text in texts]

    def fine(found):
        return nearly(found[1:], truth({}), 1e-3)

    plain, *found = on_right_parts(student, results_of, SIZES, tables, [(ids,), *[(x,) for x in texts]], fine=fine)
    own = agreeing(plain, lambda changes: replace(T5(), **changes).encode(tables, ids), STEPS, shared.is_right)

    values = {sentence: lambda wrong=wrong: truth(own | wrong) for sentence, wrong in BUCKET_STEPS.items()}
    check(found, truth(own), relative=1e-3, mistakes=values, names=("the states of 150 tokens", "the states of 40"))


@pytest.mark.points(4)
def test_the_logits_are_those_of_t5s_decoder(student, check, rng):
    """Causal self-attention, cross-attention to the encoder's states, feed-forward; the embedding gives the logits."""
    tables, (ids, targets, mask) = made_from(rng), some_texts(rng)
    memory, as_many = T5().encode(tables, ids, mask), tokens(rng, V, 3, 9)

    def truth(changes):
        return [replace(T5(), **changes).decode(tables, y, memory, mask) for y in (targets, as_many)]

    def fine(found):
        return nearly(found[1:], truth({}), 1e-4)

    calls = [(ids, None, mask), (ids, targets, mask), (ids, as_many, mask)]
    states, *logits = on_right_parts(student, results_of, SIZES, tables, calls, fine=fine)
    if shared.is_own(states, memory):  # what is wrong in the encoder has its own test
        memory = states

    values = {
        sentence: lambda wrong=wrong: truth(wrong) for sentence, wrong in (OF_DECODER | STEPS | BUCKET_STEPS).items()
    }
    check(
        logits,
        truth({}),
        relative=1e-3,
        mistakes=values,
        names=("the logits", "the logits of as many targets as inputs"),
    )


@pytest.mark.points(2)
def test_far_targets_share_buckets_in_the_decoder(student, check, rng):
    """All 32 buckets are for the past: 16 of one distance each, then by a logarithm up to 128."""
    tables, (ids, targets, _), far = made_from(rng), some_texts(rng), tokens(rng, V, 1, 150)
    ids = ids.clamp(min=1)
    memory, of_far = T5().encode(tables, ids), T5().encode(tables, ids[:1])

    def fine(found):
        return shared.is_right(found[3], T5().decode(tables, far, of_far))

    calls = [(ids,), (ids[:1],), (ids, targets), (ids[:1], far)]
    states, state, plain, logits = on_right_parts(student, results_of, SIZES, tables, calls, fine=fine)
    if shared.is_own(states, memory) and shared.is_own(state, of_far):
        memory, of_far = states, state

    own = agreeing(plain, lambda wrong: replace(T5(), **wrong).decode(tables, targets, memory), STYLES, shared.is_right)
    values = {
        sentence: lambda wrong=wrong: replace(T5(), **own | wrong).decode(tables, far, of_far)
        for sentence, wrong in BUCKET_STEPS.items()
    }
    check(logits, replace(T5(), **own).decode(tables, far, of_far), relative=1e-3, mistakes=values)


@pytest.mark.points(1)
def test_the_eps_of_t5_is_1e_6(student, check, rng):
    """That of all norms, the last ones too: it shows where embedding and gains are small."""
    tables, (ids, targets, _) = made_from(rng), some_texts(rng)
    ids = ids.clamp(min=1)
    small, calls = (
        [part * size for part, size in zip(tables, (2**-10, 1, 2**-7), strict=True)],
        [(ids,), (ids, targets)],
    )

    def states_of(changes, tables):
        return replace(T5(), **changes, gain=tables[2]).encode(tables, ids)

    def logits_of(changes, tables, states):
        return replace(T5(), **changes, gain=tables[2]).decode(tables, targets, states)

    def right(tables):
        return [states_of({}, tables), logits_of({}, tables, states_of({}, tables))]

    def near(value, right):
        return nearly(value, right, 1e-3)

    plain = on_right_parts(student, results_of, SIZES, tables, calls, fine=lambda found: near(found, right(tables)))
    found = on_right_parts(student, results_of, SIZES, small, calls, fine=lambda found: near(found, right(small)))
    memories = [
        states if shared.is_own(states, right(tables)[0]) else right(weights)[0]
        for (states, _), weights in ((plain, tables), (found, small))
    ]
    own = agreeing(plain[0], lambda changes: states_of(changes, tables), STEPS | BUCKET_STEPS, near)
    decoder = agreeing(plain[1], lambda wrong: logits_of(wrong, tables, memories[0]), STYLES | BUCKET_STEPS, near)

    def truth(*names):
        eps = dict.fromkeys(names, lambda x, weight: rms(x, weight, 1e-5))
        return [states_of(own | eps, small), logits_of(decoder | eps, small, memories[1])]

    check(found, truth(), relative=1e-3, names=("the states", "the logits"), mistakes={
        "the eps of all norms is 1e-5; it should be 1e-6": lambda: truth("norm", "last_norm", "last_of_decoder"),
        "the eps of the last norms is 1e-5; it should be 1e-6": lambda: truth("last_norm", "last_of_decoder"),
        "the eps of the norms in the layers is 1e-5; it should be 1e-6": lambda: truth("norm"),
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- what is seen


@pytest.mark.points(2)
def test_a_target_sees_the_input_and_the_targets_before_it(student, check, rng):
    """Logits change with each real input token, with the targets up to their place, and with none that follows."""

    def probe(sizes, ids, targets, right):
        def use():
            from llm_architectures import T5Model

            model = T5Model(*sizes).double().eval()
            inside.draw_weights(model)
            plain, changes = inside.a_tensor(model(ids, targets)), []
            for text, is_target in ((ids, False), (targets, True)):
                for place in range(text.shape[1]):
                    other = text.clone()
                    other[:, place] = (other[:, place] + 1) % sizes[0]
                    inputs = (ids, other) if is_target else (other, targets)
                    changes.append((model(*inputs) - plain).abs().amax((0, 2)))
            alone = torch.cat([model(ids[row : row + 1], targets[row : row + 1]) for row in range(len(ids))])
            first = model(ids, targets[:, :1])
            one = inside.a_tensor(model(ids[:, :1])), inside.a_tensor(model(ids[:, :1], targets))
            shapes = [list(x.shape) for x in one]
            return torch.stack(changes), [plain.detach(), alone.detach(), first.detach()], shapes

        return inside.use_of(use, "llm_architectures", "T5Model", right)

    given = tokens(rng, V, 2, 4), tokens(rng, V, 2, 5)
    changes, (plain, alone, first), shapes = student.run(probe, SIZES, *given, False)

    of_inputs, of_targets = changes[:4], changes[4:]
    check.that(bool((of_inputs > 1e-9).all()), "the logits do not depend on all input tokens")
    check.that(bool((of_targets[~past(5).T] < 1e-9).all()), "a target sees what follows it")
    check.that(bool((of_targets[past(5).T] > 1e-9).all()), "a target does not see itself, or one before it")
    check(alone, plain, terms=4096, otherwise="a row has different logits in a batch and alone")
    check(first, plain[:, :1], terms=4096, otherwise="a first target has different logits if others follow it")
    check(shapes, [[2, 1, D], [2, 5, V]], what="the shapes of states and logits of an input of one token")


@pytest.mark.points(2)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_masked_inputs_change_nothing(student, check, rng, dtype):
    """What attention_mask hides changes neither states nor logits, on whichever side it is, however large the scores are."""

    def probe(sizes, ids, other, targets, mask, right):
        def use():
            from llm_architectures import T5Model

            model = T5Model(*sizes).double().eval()
            inside.draw_weights(model)
            calls = [(ids, mask), (other, mask), (ids, mask.bool())]
            pairs = [inside.listed([model(x, None, see), model(x, targets, see)]) for x, see in calls]
            results = [[one.detach() for one in pair] for pair in pairs]
            for weight in model.parameters():
                if sorted(weight.shape) == [sizes[3], 32]:  # the tables of buckets
                    weight.data.abs_().mul_(-1e5)
            large = [model(x, None, mask).detach() for x in (ids, other)]
            return results, large, inside.says_something(results[0][1])

        return inside.use_of(use, "llm_architectures", "T5Model", right)

    ids, targets, mask = some_texts(rng)
    other = torch.where(mask == 1, ids, (ids + 1) % V)
    (one, two, plain), large, used = student.run(probe, SIZES, ids, other, targets, mask.to(dtype), False)

    check.that(used, "the logits are the same everywhere")
    check(real_ones(two[0], mask), real_ones(one[0], mask), terms=4096,
          otherwise="what attention_mask hides is attended to in the encoder")  # fmt: skip
    check(two[1], one[1], terms=4096, otherwise="what attention_mask hides is attended to by the decoder")
    check(one[1], plain[1], terms=4096, otherwise="a mask of 1 and 0 differs from one of True and False")
    check(real_ones(large[1], mask), real_ones(large[0], mask), terms=4096,
          otherwise="what attention_mask hides is attended to where the numbers of the buckets are larger than what it subtracts")  # fmt: skip


@pytest.mark.points(1)
def test_attention_to_nothing_gives_nothing(student, check, rng):
    """The logits for an input that is hidden altogether are those of a decoder without cross-attention, and no NaN."""
    tables, (ids, targets, mask) = made_from(rng), some_texts(rng)
    one, none = mask.clone(), torch.zeros_like(mask)
    one[1] = 0

    def truth(changes, see):
        do = replace(T5(), **changes)
        return do.decode(tables, targets, do.encode(tables, ids, see), see)

    def pair(changes):  # a row of a batch, and all of it
        return [truth(changes, one)[1], truth(changes, none)]

    def row(logits):
        return logits[1] if isinstance(logits, torch.Tensor) and logits.shape == (3, 7, V) else logits

    def fine(found):
        return nearly([row(found[2]), found[3]], pair({}), 1e-4)

    calls = [(ids, None, mask), *[(ids, targets, see) for see in (mask, one, none)]]
    states, plain, partly, hidden = on_right_parts(student, results_of, SIZES, tables, calls, fine=fine)
    memory = T5().encode(tables, ids, mask)
    memory = states if shared.is_own(states, memory) else memory
    own = agreeing(
        plain, lambda wrong: replace(T5(), **wrong).decode(tables, targets, memory, mask), STYLES, shared.is_right
    )
    own = {key: step for key, step in own.items() if key not in ("adds_mask", "hidden_in_memory", "hidden_in_encoder")}

    check.that(not shared.has_nan([partly, hidden]), "an input that is hidden altogether gives NaN")
    even, seen = own | {"weigh": even_weights}, own | {"mask_of": torch.ones_like}
    check([row(partly), hidden], pair(own), relative=1e-3, names=("a hidden row", "a hidden batch"), mistakes={
        "an input that is hidden altogether is attended to evenly; attention to nothing should give 0": lambda: pair(even),
        "an input that is hidden altogether is attended to as if it were not; attention to nothing should give 0": lambda: pair(seen),
        "a batch that is hidden altogether is attended to as if it were not; attention to nothing should give 0": lambda: [
            pair(own)[0], pair(seen)[1],
        ],
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- weights


@pytest.mark.points(3)
def test_the_weights_are_those_of_t5(student, check, rng):
    """One embedding for all, one table of buckets a stack, matrices and norms of the layers, and no biases."""

    def probe(calls):
        import inspect

        from llm_architectures import T5Model

        parameters = list(inspect.signature(T5Model).parameters.values())
        named = [parameter.name for parameter in parameters], [parameter.default for parameter in parameters[1:]]
        counts = [inside.matrices(T5Model(*sizes))[1] for sizes in calls]
        with_embedding = [w for w in T5Model(*calls[0]).parameters() if calls[0][0] in w.shape]
        ids = torch.arange(6).view(2, 3)
        return counts, len(with_embedding), named, inside.says_something(T5Model(*calls[0])(ids, ids))

    (one, two, wide), tables, (names, defaults), used = student.run(
        probe, [(71, 8, 1, 2), (71, 8, 2, 2), (72, 8, 1, 2)]
    )

    d = 8
    check.that(used, "the logits are the same everywhere")
    check(
        names,
        ["vocab_size", "d_model", "num_layers", "num_heads", "max_len"],
        otherwise="the arguments have the wrong names",
    )
    check(defaults, [768, 12, 12, 512], what="the defaults")
    check(tables, 1, mistakes={
        "the output has a weight of its own; it should be the embedding": 2,
        "encoder, decoder and output have three weights; they should share one embedding": 3,
    }, what="the number of matrices with a row for each token")  # fmt: skip
    check(wide - one, d, mistakes={
        "there are two matrices with a row for each token; there should be one": 2 * d,
        "the output has a bias for each token": d + 1,
    }, what="the numbers that a token adds")  # fmt: skip
    layers = (4 + 8) * d * d + 2 * d + (8 + 8) * d * d + 3 * d
    check(two - one, layers, mistakes={
        "each layer has tables of buckets of its own; all layers of a stack should share one": layers + 2 * 32 * 2,
        "the Linears have biases; they should have none": layers + (4 + 8 + 2 + 8) * d,
        "the norms have biases; RMSNorm should have none": layers + 5 * d,
        "the Linears and the norms have biases; they should have none": layers + (4 + 8 + 2 + 8 + 3) * d,
        "the feed-forward is d_model wide; it should be 4 · d_model": layers - 2 * 6 * d * d,
        "the layers share their weights, or are not registered": 0,
    }, what="the numbers of a layer of the encoder and one of the decoder")  # fmt: skip
    rest = one - layers - 71 * d
    check(rest, 2 * 32 * 2 + 2 * d, mistakes={
        "the two stacks share one table of buckets; each should have its own": 32 * 2 + 2 * d,
        "there is no table of buckets": 2 * d,
        "a table has one number a bucket; it should have one for each head": 2 * 32 + 2 * d,
        "the last norms are shared or missing": 2 * 32 * 2 + d,
        "there is a table for the cross-attention too": 3 * 32 * 2 + 2 * d,
    }, what="the numbers besides the embedding and the layers")  # fmt: skip


@pytest.mark.points(1)
def test_all_of_t5_learns(student, check, rng):
    """Every weight gets a gradient from the logits, the encoder's through the cross-attention, and they are right."""

    def probe(sizes, ids, targets, mask, right):
        def use():
            from llm_architectures import T5Model

            model = T5Model(*sizes).double().eval()
            inside.draw_weights(model)
            for weight in inside.matrices(model)[0]:
                weight.data.mul_(0.5)  # no score so large that a softmax is all or nothing
            weights, see = inside.weights_of(model), mask
            output = inside.a_tensor(model(ids, targets, see))
            if output.isnan().any():  # has a test of its own
                see = None
                output = inside.a_tensor(model(ids, targets))
            if not output.requires_grad:
                return [False], [0.0], [1.0]

            def total():
                with torch.enable_grad():
                    return inside.total(model(ids, targets, see)).detach()

            grads = inside.gradients(output, weights)
            along = [float((torch.arange(g.numel()).double().cos().view_as(g) * g).sum()) for g in grads]
            slopes = inside.slopes_of(total, weights, 1e-5)
            # Where a ReLU has its corner within that step, a smaller one misses it.
            for number, weight in enumerate(weights):
                for step in (1e-7, 1e-9):
                    if abs(along[number] - slopes[number]) > 1e-3 * max(1.0, *map(abs, slopes)):
                        slopes[number] = inside.slopes_of(total, [weight], step)[0]
            return [bool(grad.any()) for grad in grads], along, slopes

        return inside.use_of(use, "llm_architectures", "T5Model", right)

    given = tokens(rng, V, 2, 5), tokens(rng, V, 2, 4), torch.tensor([[1, 1, 1, 1, 0], [0, 0, 0, 0, 0]])
    given[0][0, :2] = torch.tensor([0, 1])
    reached, along, slopes = student.run(probe, (V, D, 1, H), *given, False)

    check.that(any(reached), "no gradient reaches the weights")
    check.that(all(reached), "no gradient reaches some of the weights")
    check.that(not any(map(math.isnan, along)), "an input that is hidden altogether gives gradients of NaN")
    scale = max(1.0, *map(abs, slopes))
    right = [abs(one - other) < 1e-2 * scale for one, other in zip(along, slopes, strict=True)]
    check.that(all(right), "gradients are wrong")


# ---------------------------------------------------------------------------------------------- the rest


@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("sizes", "lengths", "words"),
    [
        ((V, D, 1, 5), (2, 2), ("num_heads", "d_model", 5)),
        ((V, D, 1, H, 6), (7, 2), ("max_len", "input_ids", 7)),
        ((V, D, 1, H, 6), (2, 7), ("max_len", "target_ids", 7)),
    ],
)
def test_sizes_that_do_not_fit_t5_are_refused(student, check, sizes, lengths, words):
    """D not divisible by H, and an input or target that is longer than max_len, are a ValueError; max_len itself is not."""

    def probe(sizes, lengths):
        from llm_architectures import T5Model

        ids = [torch.zeros(9, length, dtype=torch.int64) for length in lengths]  # more rows than max_len
        return list(inside.a_tensor(T5Model(*sizes).eval()(*ids)).shape)

    student.raises(ValueError, probe, sizes, lengths, says=words)
    check(student.run(probe, (V, D, 1, H, 6), (6, 6)), [9, 6, V])


@pytest.mark.points(1)
def test_t5_drops_nothing_and_changes_nothing_else(student, check, rng):
    """Train mode gives what eval mode gives; ids may be strided or int32 and stay as they are; float32 stays float32; logits
    are those of the weights that are there now."""

    def probe(sizes, ids, targets, mask):
        from llm_architectures import T5Model

        model, other = T5Model(*sizes), T5Model(*sizes)
        seeded = torch.equal(model.eval()(ids, targets), other.eval()(ids, targets))
        plain = inside.a_tensor(model.eval()(ids, targets, mask))
        logits, after, rude = inside.manners(model.train(), ids, targets, mask)
        short = model(ids.int(), targets.int(), mask)
        new = T5Model(*sizes).eval()
        with torch.no_grad():
            model.eval()(ids, targets, mask)
            for weight in model.parameters():
                weight.mul_(-2.0)
            new.load_state_dict(model.state_dict())
            moved = [inside.a_tensor(x(ids, targets, mask)) for x in (model, new)]
        return seeded, [x.detach() for x in (plain, logits, short)], moved, after, rude

    given = some_texts(rng)
    seeded, (plain, logits, short), (moved, new), after, rude = student.run(probe, SIZES, *given)

    check.that(not seeded, "all models start with the same weights: do not set a seed")
    check(after, list(given), otherwise="the inputs are changed in place")
    check(rude, "", mistakes=MANNERS)
    check(plain.dtype, torch.float32)
    check(
        logits,
        plain,
        terms=4096,
        otherwise="the logits of train mode differ from those of eval mode: T5 should have no dropout here",
    )
    check(short, plain, terms=4096, otherwise="the logits depend on whether ids have 32 or 64 bits")
    kept = "the logits are not those of the weights as they are now: what earlier weights gave should not be kept"
    check(moved, new, terms=4096, otherwise=kept)


@pytest.mark.gpu
@pytest.mark.points(1)
def test_t5_follows_its_inputs_to_the_gpu(student, check, rng, device):
    """On the GPU in bfloat16 states and logits are there, too, with a mask and without."""

    def probe(sizes, ids, targets, mask):
        from llm_architectures import T5Model

        model = T5Model(*sizes).to(ids.device, torch.bfloat16).eval()
        calls = [(ids,), (ids, targets), (ids, targets, mask)]
        return [inside.a_tensor(model(*call)).detach() for call in calls]

    for result in student.on(device=device, timeout=60).run(probe, SIZES, *some_texts(rng)):
        check(result, result.clone(), dtype=torch.bfloat16)  # it was on the device
        check.that(not shared.has_nan([result]), "a value is NaN")
