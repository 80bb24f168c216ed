"""Hidden tests of text_generation.

Most models here are tables: the logits of the next token by the last two tokens (inside.Table), so that `transformers`,
or a few lines of this file, can work out in this process what a model in the student's process leads to.

A test of drawn tokens is a chi-square test at 1e-9: all of them together fail a right solution less than once in 10^6.
"""

import math
from itertools import product

import pytest
import torch
from transformers import (
    GenerationMixin,
    GPT2Config,
    GPT2LMHeadModel,
    MinPLogitsWarper,
    PreTrainedConfig,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import CausalLMOutput

TOP_K = pytest.mark.question("filter_top_k")
TOP_P = pytest.mark.question("filter_top_p")
MIN_P = pytest.mark.question("filter_min_p")
PENALTY = pytest.mark.question("apply_repetition_penalty")
SAMPLE = pytest.mark.question("sample_next_token")
GREEDY = pytest.mark.question("greedy_search")
BEAM = pytest.mark.question("beam_search")
SPECULATIVE = pytest.mark.question("speculative_sample")
GPT = pytest.mark.question("GPTTextGenerator")
HUGGING_FACE = pytest.mark.question("HuggingFaceTextGenerator")
CREATIVE = pytest.mark.question("CreativeTextGenerator")

INF = torch.inf
LENGTHS = ("max_length", "max_len", "ids", "prompt")  # one of these is in the message of a bad length


def randn(rng, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=rng, dtype=dtype)


def tokens(rng, vocab_size, *shape):
    return torch.randint(0, vocab_size, shape, generator=rng)


def judge(check, fact, wrong):
    """Something that is so or not, and what it means if it is not."""
    check(bool(fact), True, mistakes={wrong: False})


def fits(counts, probs):
    """Whether counts may be draws with these probabilities: Pearson's test at 1e-9. Rare cells are taken together."""
    counts, probs = counts.double().flatten(), probs.double().flatten()
    if counts[probs == 0].sum() > 0:
        return False
    expected = counts.sum() * probs
    common = expected >= 10
    counts, expected = (torch.cat([cells[common], cells[~common].sum()[None]]) for cells in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    if len(counts) == 1:
        return True
    statistic = ((counts - expected) ** 2 / expected).sum()
    return bool(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2), statistic / 2) > 1e-9)


def check_drawn(check, counts, probs, mistakes, other="the tokens are not drawn with the right probabilities"):
    """mistakes: sentence -> the probabilities that this mistake gives, or a function of them."""
    found = None
    if not fits(counts, probs):
        laws = ((sentence, wrong() if callable(wrong) else wrong) for sentence, wrong in mistakes.items())
        found = next((sentence for sentence, law in laws if fits(counts, law)), other)
    check(found, None, mistakes={found: found} if found else None)


def check_randomness(check, facts):
    """facts: of inside.randomness."""
    judge(check, not facts["torch used"], "torch's own generator is used although generator is given")
    judge(check, facts["seed"], "one seed of generator gives different tokens: everything is to be drawn from it")
    judge(check, not facts["other seed"], "generator has no influence on what is drawn")
    judge(check, facts["torch's seed"], "without generator torch's own is to be used: its seed gives the tokens again")
    judge(check, not facts["next"], "every call draws the same: no seed may be set")


def check_manners(check, kept, changed, printed):
    judge(check, kept, "a tensor that was given is changed in place")
    judge(check, not changed, "the call changes global state of torch, such as the seed or the grad mode")
    judge(check, not printed, "the call prints something")


# ---------------------------------------------------------------------------------------------- filters


def check_filter(student, check, name, logits, cases, truth, mistakes):
    """cases: arguments after the logits. truth, and each mistake: (logits, *case) -> logits."""

    def probe(name, logits, cases):
        import text_generation

        return [inside.manners(getattr(text_generation, name), logits, *case) for case in cases]

    inputs = [logits, logits[:1].float()]  # in float64; in float32 and B = 1
    for given in inputs:
        found = [[case[0][:1], *case[1:]] if isinstance(case[0], torch.Tensor) else case for case in cases]
        found = found if len(given) == 1 else cases
        for case, (result, after, *rest) in zip(found, student.run(probe, name, given, found), strict=True):
            check(result, truth(given, *case), mistakes={
                sentence: (lambda wrong=wrong, given=given, case=case: wrong(given, *case))
                for sentence, wrong in mistakes.items()
            })  # fmt: skip
            check_manners(check, torch.equal(after[0], given), *rest)


def where(kept, logits, otherwise=-INF):
    return logits.masked_fill(~kept, otherwise)


@TOP_K
@pytest.mark.points(2)
def test_top_k_keeps_the_k_greatest(student, check, rng):
    """The k greatest logits of each row stay, the others become -inf; k > V keeps all."""
    logits = randn(rng, 5, 11, dtype=torch.float64) * 3

    def top(logits, k):
        return logits >= logits.sort(descending=True).values[:, [k - 1]]

    check_filter(student, check, "filter_top_k", logits, [(1,), (4,), (10,), (11,), (30,)],
                 lambda logits, k: TopKLogitsWarper(k)(None, logits), {
        "the k smallest logits stay: the k greatest do": lambda logits, k: -where(top(-logits, k), -logits, INF),
        "one token too few stays: the k-th greatest stays too": lambda logits, k: where(top(logits, k - 1), logits),
        "one token too many stays": lambda logits, k: where(top(logits, k + 1), logits),
        "what is removed becomes 0: it becomes -inf": lambda logits, k: where(top(logits, k), logits, 0),
        "the k greatest of the whole batch stay: it is k in each row":
            lambda logits, k: where(top(logits.flatten()[None], k), logits.flatten()[None]).view(logits.shape),
        "probabilities are returned: filters return logits":
            lambda logits, k: where(top(logits, k), logits).softmax(-1),
        "k is not used": lambda logits, k: logits,
    })  # fmt: skip


@TOP_K
@pytest.mark.points(1)
def test_top_k_refuses_a_k_below_one(student):
    """A k below 1 is a ValueError."""
    student.raises(ValueError, "text_generation.filter_top_k", torch.zeros(2, 3), 0, says=("k", "top_k"))


def clear_of(rng, values, quantity, shape, size):
    """Logits whose quantity(probabilities sorted downwards) stays clear of the values: rounding does not decide."""
    while True:
        logits = randn(rng, *shape, dtype=torch.float64) * size
        sorted_probs = logits.softmax(-1).sort(descending=True).values
        if all((quantity(sorted_probs) - value).abs().min() > 1e-4 for value in values):
            return logits


@TOP_P
@pytest.mark.points(3)
def test_top_p_keeps_the_smallest_set_that_reaches_p(student, check, rng):
    """The most likely tokens stay until their probabilities reach p, with the token that crosses p."""
    ps = [0.3, 0.62, 0.9]
    logits = clear_of(rng, ps, lambda probs: probs.cumsum(-1), (7, 9), 1.0)
    logits[0] = torch.tensor(
        [0.1, -0.3, 0, 0.2, 0.05, -0.1, 0.3, -0.2, -0.25]
    )  # p is crossed by another token than the first
    logits[1] = torch.tensor([9.0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])  # p is crossed by the first token

    def nucleus(logits, p, kept):
        """kept(the mass before each token, its probability), in sorted order."""
        probs, order = logits.softmax(-1).sort(descending=True)
        return torch.zeros_like(order, dtype=torch.bool).scatter(1, order, kept(probs.cumsum(-1) - probs, probs))

    def first(mask):
        return torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1)

    def right(logits, p):
        return nucleus(logits, p, lambda before, own: before < p)

    def unsorted(logits, p):
        probs = logits.softmax(-1).sort(descending=True).values
        return probs.cumsum(-1) - probs < p

    def one_more(logits, p):
        return nucleus(
            logits, p, lambda before, own: torch.cat([first(before < p)[:, :1], (before < p)[:, :-1]], dim=1)
        )

    def least(logits, p):
        probs, order = logits.softmax(-1).sort()
        return torch.zeros_like(order, dtype=torch.bool).scatter(1, order, probs.cumsum(-1) - probs < p)

    check_filter(student, check, "filter_top_p", logits, [(p,) for p in ps],
                 lambda logits, p: TopPLogitsWarper(p)(None, logits), {
        "the token that crosses p is removed: it stays":
            lambda logits, p: where(nucleus(logits, p, lambda before, own: first(before + own < p)), logits),
        "the token that crosses p is removed, even if it is the only one: it stays":
            lambda logits, p: where(nucleus(logits, p, lambda before, own: before + own < p), logits),
        "a token more than needed stays": lambda logits, p: where(one_more(logits, p), logits),
        "the mask is for the sorted tokens: bring it back into the order of the ids":
            lambda logits, p: where(unsorted(logits, p), logits),
        "the logits come back sorted: the order of the ids is lost":
            lambda logits, p: where(right(logits, p), logits).sort(descending=True).values,
        "the least likely tokens are added up first: it is the most likely ones":
            lambda logits, p: where(least(logits, p), logits),
        "p is compared with the probability of each token alone":
            lambda logits, p: where(logits.softmax(-1) >= p, logits),
        "what is removed becomes 0: it becomes -inf": lambda logits, p: where(right(logits, p), logits, 0),
        "the mass that stays is 1 - p": lambda logits, p: where(right(logits, 1 - p), logits),
        "probabilities are returned: filters return logits":
            lambda logits, p: where(right(logits, p), logits).softmax(-1),
        "p is not used": lambda logits, p: logits,
    })  # fmt: skip


@TOP_P
@pytest.mark.points(1)
def test_top_p_keeps_one_or_all_at_its_ends(student, check, rng):
    """With a tiny p the likeliest token stays, with p = 1 all do; tokens that were removed before stay removed."""
    logits = randn(rng, 4, 6)
    logits[1, 2] = -INF

    def probe(logits):
        from text_generation import filter_top_p

        return [filter_top_p(logits, p) for p in (1e-4, 1.0, 1)]

    tiny, *all_of_them = student.run(probe, logits)

    check(tiny, where(logits == logits.amax(-1, keepdim=True), logits), mistakes={
        "a tiny p leaves no token: the likeliest always stays": torch.full_like(logits, -INF),
    })  # fmt: skip
    check(all_of_them, [logits, logits])


@TOP_P
@pytest.mark.points(1)
@pytest.mark.parametrize("p", [0.0, -0.1, 1.1])
def test_top_p_refuses_a_p_outside_0_to_1(student, p):
    """A p that is not in (0, 1] is a ValueError."""
    student.raises(ValueError, "text_generation.filter_top_p", torch.zeros(2, 3), p, says=("p", "top_p"))


@MIN_P
@pytest.mark.points(2)
def test_min_p_compares_with_the_likeliest(student, check, rng):
    """The tokens with at least p times the greatest probability of their row stay."""
    ps = [0.3, 0.08, 0.7]
    logits = clear_of(rng, ps, lambda probs: probs / probs[:, :1], (6, 9), 0.8)
    logits[0] = torch.tensor([0.285, 0.28, 0.275, 0.05, 0.04, 0.03, 0.02, 0.01, 0.01], dtype=torch.float64).log()
    logits[1] = torch.tensor([0.01, 0.02, 0.8, 0.03, 0.03, 0.03, 0.05, 0.02, 0.01], dtype=torch.float64).log()

    def kept(logits, p, probs):
        return where(probs >= p * probs.amax(-1, keepdim=True), logits)

    check_filter(student, check, "filter_min_p", logits, [(p,) for p in (*ps, 1.0)],
                 lambda logits, p: MinPLogitsWarper(p)(None, logits), {
        "with p = 1 no token stays: the likeliest has p times its own probability, so it stays":
            lambda logits, p: where(logits.softmax(-1) > p * logits.softmax(-1).amax(-1, keepdim=True), logits),
        "the threshold is p: it is p times the greatest probability of the row":
            lambda logits, p: where(logits.softmax(-1) >= p, logits),
        "p times the greatest logit is the threshold of the logits: it is about probabilities":
            lambda logits, p: kept(logits, p, logits),
        "the greatest probability is that of the whole batch: each row has its own":
            lambda logits, p: where(logits.softmax(-1) >= p * logits.softmax(-1).max(), logits),
        "the less likely tokens stay":
            lambda logits, p: where(logits.softmax(-1) < p * logits.softmax(-1).amax(-1, keepdim=True), logits),
        "what is removed becomes 0: it becomes -inf":
            lambda logits, p: where(kept(logits, p, logits.softmax(-1)) > -INF, logits, 0),
        "probabilities are returned: filters return logits":
            lambda logits, p: kept(logits, p, logits.softmax(-1)).softmax(-1),
        "p is not used": lambda logits, p: logits,
    })  # fmt: skip


@PENALTY
@pytest.mark.points(3)
def test_a_repeated_token_becomes_less_likely(student, check, rng):
    """A positive logit of a token in ids is divided by the penalty, a negative one multiplied; a token counts once."""
    logits = randn(rng, 4, 9, dtype=torch.float64) * 2
    logits[:, 2], logits[:, 5] = 1.5, -1.5
    ids = torch.cat([torch.tensor([[2, 5, 5, 2, 5]] * 4), tokens(rng, 9, 4, 2)], dim=1)
    ids[:, -1] = torch.tensor([0, 1, 3, 4])  # each row has one that the first does not have
    ids[0, -2] = 2

    def count(logits, ids):
        return torch.zeros_like(logits).scatter_add(1, ids, torch.ones_like(ids, dtype=logits.dtype))

    def lowered(logits, penalty):
        return torch.where(logits > 0, logits / penalty, logits * penalty)

    def where_seen(new, logits, ids):
        return torch.where(count(logits, ids) > 0, new, logits)

    check_filter(student, check, "apply_repetition_penalty", logits, [(ids, 1.3), (ids, 0.6), (ids, 1.0)],
                 lambda logits, ids, penalty: RepetitionPenaltyLogitsProcessor(penalty)(ids, logits), {
        "negative logits are divided too, which makes them likelier: they are multiplied":
            lambda logits, ids, penalty: where_seen(logits / penalty, logits, ids),
        "positive logits are multiplied too: they are divided":
            lambda logits, ids, penalty: where_seen(logits * penalty, logits, ids),
        "the penalty makes tokens likelier: positive logits are divided, negative ones multiplied":
            lambda logits, ids, penalty: where_seen(lowered(logits, 1 / penalty), logits, ids),
        "a token that occurs twice is punished twice: it counts once":
            lambda logits, ids, penalty: lowered(logits, penalty ** count(logits, ids)),
        "all rows are punished for the tokens of all: each has its own":
            lambda logits, ids, penalty: where_seen(
                lowered(logits, penalty), logits, ids.flatten().expand(len(ids), -1)
            ),
        "all rows are punished for the tokens of the first: each has its own":
            lambda logits, ids, penalty: where_seen(lowered(logits, penalty), logits, ids[:1].expand_as(ids)),
        "only the last token of ids counts: all of them do":
            lambda logits, ids, penalty: where_seen(lowered(logits, penalty), logits, ids[:, -1:]),
        "all logits are punished: it is those of the tokens in ids":
            lambda logits, ids, penalty: lowered(logits, penalty),
        "the penalty is subtracted": lambda logits, ids, penalty: where_seen(logits - penalty, logits, ids),
        "the penalty is not used": lambda logits, ids, penalty: logits,
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- sample_next_token

DRAWS = 3000


def shuffled(rng, rows, probs):
    """(logits (rows, V), order): the probabilities in another order in each row; probs[i] is that of order[:, i]."""
    order = torch.rand(rows, len(probs), generator=rng).argsort(dim=1)
    logits = torch.log(torch.tensor(probs, dtype=torch.float64)).float() + 2 * randn(rng, rows, 1)
    return torch.zeros(rows, len(probs)).scatter(1, order, logits), order


def ranks(drawn, order):
    """How often probs[0], probs[1], … were drawn."""
    return (order == drawn[:, None]).sum(dim=0)


def law(*weights):
    """The weights as probabilities."""
    weights = torch.tensor(weights, dtype=torch.float64)
    return weights / weights.sum()


@SAMPLE
@pytest.mark.points(2)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_are_drawn_from_the_softmax(student, check, rng, temperature):
    """Tokens are drawn with probabilities softmax(logits / temperature), each row by itself."""
    probs = [0.4, 0.25, 0.2, 0.1, 0.05, 0.0]
    logits, order = shuffled(rng, DRAWS, probs)

    drawn = student.call("text_generation.sample_next_token", logits, temperature=temperature)

    judge(check, drawn.shape == (DRAWS,), "the shape of the tokens is not (B,)")
    check_drawn(check, ranks(drawn, order), law(*(p ** (1 / temperature) for p in probs)), {
        "the temperature is not used": law(*probs),
        "the logits are multiplied by the temperature: they are divided": lambda: law(*(p**temperature for p in probs)),
        "the likeliest token is taken: draw one": law(1, 0, 0, 0, 0, 0),
        "all tokens are drawn with the same probability": law(1, 1, 1, 1, 1, 1),
    })  # fmt: skip


@SAMPLE
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(2.0, 3, 0.7), (2.0, 3, 0.45), (1.0, 4, None), (0.5, None, 0.8), (1.0, 50, 1.0)]
)
def test_temperature_then_top_k_then_top_p(student, check, rng, temperature, top_k, top_p):
    """The temperature comes first, then top-k, then top-p of what top-k has left."""
    tempered = [0.3, 0.25, 0.2, 0.12, 0.08, 0.05]
    logits, order = shuffled(rng, DRAWS, [p**temperature for p in tempered])

    def probe(logits, temperature, top_k, top_p):
        from text_generation import sample_next_token

        return sample_next_token(logits, temperature, top_k, top_p)

    drawn = student.run(probe, logits, temperature, top_k, top_p)

    def top(weights, k):
        return weights if k is None else law(*weights[:k], *[0.0] * len(weights[k:]))

    def nucleus(weights, p):
        weights = law(*weights)
        return weights if p is None else torch.where(weights.cumsum(0) - weights < p, weights, 0.0)

    def warmed(weights, power=1 / temperature):
        return law(*(weight**power for weight in weights))

    plain = [p**temperature for p in tempered]
    check_drawn(check, ranks(drawn, order), law(*nucleus(top(warmed(plain), top_k), top_p)), {
        "top-p comes before top-k, or counts what top-k removed: the mass is of what top-k has left":
            law(*top(nucleus(warmed(plain), top_p), top_k)),
        "the temperature comes after the filters: it comes first":
            law(*warmed(nucleus(top(law(*plain), top_k), top_p))),
        "the temperature comes between top-k and top-p: it comes first": law(*nucleus(top(warmed(plain), None), top_p)),
        "top_k is not used": law(*nucleus(warmed(plain), top_p)),
        "top_p is not used": law(*top(warmed(plain), top_k)),
        "neither top_k nor top_p is used": warmed(plain),
    })  # fmt: skip


@SAMPLE
@pytest.mark.points(1)
def test_the_generator_draws(student, check, rng):
    """All randomness comes from generator, or from torch's own if there is none; nothing else changes."""
    logits = randn(rng, 40, 8)

    def probe(logits):
        from text_generation import sample_next_token

        facts = inside.randomness(lambda generator: sample_next_token(logits, generator=generator))
        return facts, [inside.manners(sample_next_token, logits, 0.7, *filters) for filters in [(3, 0.9), ()]]

    facts, calls = student.run(probe, logits)

    check_randomness(check, facts)
    for _, after, *rest in calls:
        check_manners(check, torch.equal(after[0], logits), *rest)


@SAMPLE
@pytest.mark.points(1)
def test_one_candidate_is_sure(student, check, rng):
    """With top_k=1, or a tiny top_p, the likeliest token of each row comes out, as int64."""
    logits = randn(rng, 9, 12)

    def probe(logits):
        from text_generation import sample_next_token

        return [sample_next_token(logits, top_k=1), sample_next_token(logits[:1].double(), 0.1, top_p=1e-6)]

    first, second = student.run(probe, logits)

    check(first, logits.argmax(-1), mistakes={"the shape is (B, 1): it is (B,)": logits.argmax(-1, keepdim=True)})
    check(second, logits[:1].argmax(-1))


@SAMPLE
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.0), ("temperature", -1.0), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.5)]
)
def test_bad_settings_are_refused(student, name, value):
    """temperature <= 0, top_k < 1 and a top_p outside (0, 1] are ValueErrors."""
    names = (name, name.removeprefix("top_"))
    student.raises(ValueError, "text_generation.sample_next_token", torch.zeros(2, 4), says=names, kwargs={name: value})


# ---------------------------------------------------------------------------------------------- greedy_search


def refuses_lengths(student, name):
    """The function, called with models that must not be asked, refuses prompts without room and too long results."""

    def probe(name, prompt_length, max_length, max_lens):
        import text_generation

        models = [inside.unasked(max_len) for max_len in max_lens]
        beams = [2] if name == "beam_search" else []
        getattr(text_generation, name)(*models, torch.ones(2, prompt_length, dtype=torch.long), *beams, max_length)

    endless, limits = ([None, None], [[8, None], [None, 8]]) if name == "speculative_sample" else ([None], [[8]])
    for case in [(4, 4, endless), (6, 4, endless), *((2, 9, limit) for limit in limits)]:
        student.raises(ValueError, probe, name, *case, says=("max_length", "max_len", "ids", "prompt"))


def leaves_models_alone(student, check, name, rng):
    """The function calls models as they are, and changes neither their modes nor its other inputs."""
    table, ids = randn(rng, 5, 5, 5), tokens(rng, 5, 2, 3)

    def probe(name, table, ids):
        import text_generation

        function, count = getattr(text_generation, name), 2 if name == "speculative_sample" else 1
        options = [2] if name == "beam_search" else []
        models = [inside.Table(table)] * count
        # First of all: what a call has changed for good, a second one does not change.
        _, after, *rest = inside.manners(function, *models, ids, *options, 7)
        facts = inside.as_it_is(function, table, count, ids, *options, 7)
        return facts, torch.equal(after[count], ids), rest

    (before, during, after), kept, rest = student.run(probe, name, table, ids)

    as_before = [calls and all(call == modes for call in calls) for modes, calls in zip(before, during, strict=True)]
    judge(check, all(as_before), "the model is put into another mode: it is to be called as it is")
    judge(check, before == after, "the model is left in another mode than it was in")
    check_manners(check, kept, *rest)


def argmaxes(table, prompts, max_length, eos=None, *, prompt_ends=False, stop="all", fill=None, after="filled"):
    """What greedy search gives; the keywords are what one can get wrong."""
    rows, ended = [list(row) for row in prompts.tolist()], [prompt_ends and eos in row for row in prompts.tolist()]
    while len(rows[0]) < max_length and not (any(ended) if stop == "any" else all(ended) if stop == "all" else False):
        for i, row in enumerate(rows):
            token = int(table[row[-2] if len(row) > 1 else 0, row[-1]].argmax())
            if ended[i] and after == "filled":
                token = eos if fill is None else fill
            row.append(token)
            ended[i] = ended[i] or token == eos
    return torch.tensor(rows)


def cycle(rng, vocab_size):
    """A table where token v is almost surely followed by v + 1, and the last one by 0."""
    following = (torch.arange(vocab_size) + 1) % vocab_size
    return 25.0 * torch.nn.functional.one_hot(following, vocab_size) + randn(rng, vocab_size, vocab_size, vocab_size)


EOS = 6
CYCLE_PROMPTS = torch.tensor([[EOS, 3, 1], [2, 0, 4], [0, 5, 5], [1, EOS, 3]])  # end after 5, 2, 1 and 3 tokens
ENDS_AT_0 = torch.tensor([[1, 5], [0, 3], [2, 4]])  # after 2, 4 and 3 tokens
AN_EOS_OF_0 = "an eos_id of 0 is taken as none: only None switches it off"
SURE_MISTAKES = {
    "a row goes on after its eos: it is filled with eos_id": {"after": "goes on"},
    "a row is filled with 0 after its eos: it is filled with eos_id": {"fill": 0},
    "an eos in the prompt ends its row: only a generated one does": {"prompt_ends": True},
    "generation stops when one row has ended: all must have": {"stop": "any"},
    "the result is max_length wide: it is as wide as its longest row": {"stop": "never"},
    "eos ends nothing: rows go on to max_length": {"stop": "never", "after": "goes on"},
}


def check_ends(check, results, table):
    """results: for CYCLE_PROMPTS, for rows of which one ends with eos, for one row, for an eos_id of 0;
    max_length 12, 12, 6 and 12."""
    cases = [(CYCLE_PROMPTS, 12, EOS), (torch.tensor([[1, EOS], [2, 5]]), 12, EOS), (torch.tensor([[0, 2]]), 6, EOS)]
    cases.append((ENDS_AT_0, 12, 0))
    for result, (prompts, max_length, eos) in zip(results, cases, strict=True):
        expected = argmaxes(table, prompts, max_length, eos)
        check(result, expected, mistakes={
            **({AN_EOS_OF_0: argmaxes(table, prompts, max_length)} if eos == 0 else {}),
            **{
                sentence: (lambda wrong=wrong, p=prompts, m=max_length, eos=eos: argmaxes(table, p, m, eos, **wrong))
                for sentence, wrong in SURE_MISTAKES.items()
            },
        })  # fmt: skip


@GREEDY
@pytest.mark.points(2)
def test_greedy_takes_the_likeliest_token(student, check, rng):
    """Each token is the argmax of the model's last logits; max_length counts the prompt."""
    table, prompts = randn(rng, 7, 7, 7), tokens(rng, 7, 5, 3)

    def probe(table, prompts):
        from text_generation import greedy_search

        one = greedy_search(inside.Table(table, max_len=2), prompts[:1, :1], 2)
        return one, greedy_search(inside.Table(table, max_len=30), prompts, max_length=9)

    one, several = student.run(probe, table, prompts)

    check(several, argmaxes(table, prompts, 9), mistakes={
        "max_length is taken as the number of new tokens: it counts the prompt": lambda: argmaxes(table, prompts, 12),
        "the result is one token too short": lambda: argmaxes(table, prompts, 8),
        "the prompt is not in the result": lambda: argmaxes(table, prompts, 9)[:, 3:],
        "the least likely token is taken": lambda: argmaxes(-table, prompts, 9),
    })  # fmt: skip
    check(one, argmaxes(table, prompts[:1, :1], 2))


@GREEDY
@pytest.mark.points(2)
def test_greedy_rows_end_at_eos(student, check, rng):
    """A row ends with the eos that it generates and is filled with eos_id; the result is as wide as its longest row."""
    table = cycle(rng, 7)

    def probe(table, prompts, zero):
        from text_generation import greedy_search

        ends = torch.tensor([[1, 6], [2, 5]])
        cases = [(prompts, 12), (ends, 12), (ends[:1] * 0 + torch.tensor([0, 2]), 6)]
        results = [greedy_search(inside.Table(table), ids, length, eos_id=6) for ids, length in cases]
        return [*results, greedy_search(inside.Table(table), zero, 12, eos_id=0)]

    check_ends(check, student.run(probe, table, CYCLE_PROMPTS, ENDS_AT_0), table)


@GREEDY
@pytest.mark.points(1)
def test_greedy_refuses_lengths_before_it_starts(student):
    """A prompt without room and a max_length above the model's max_len are ValueErrors before the model is called."""
    refuses_lengths(student, "greedy_search")


@GREEDY
@pytest.mark.points(1)
def test_greedy_calls_the_model_as_it_is(student, check, rng):
    """The model is called in the mode it is in; nothing that was given changes."""
    leaves_models_alone(student, check, "greedy_search", rng)


# ---------------------------------------------------------------------------------------------- beam_search


class TableLM(PreTrainedModel, GenerationMixin):
    """A table as a model of transformers, for its generate()."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"

    def __init__(self, table):
        super().__init__(PreTrainedConfig(vocab_size=len(table), is_decoder=True))
        self.table = torch.nn.Parameter(table)
        self.generation_config.use_cache = False

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids}

    def forward(self, input_ids, **_):
        before = torch.cat([torch.zeros_like(input_ids[:, :1]), input_ids[:, :-1]], dim=1)
        return CausalLMOutput(logits=self.table[before, input_ids])


def generated(table, ids, num_beams, max_length, eos, penalty):
    """(ids, scores) of transformers' beam search."""
    padding = len(table)  # no token of the model, so that none of the prompt looks like it
    output = TableLM(table).generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=num_beams, max_length=max_length, eos_token_id=eos,
        pad_token_id=padding, length_penalty=penalty, early_stopping=False, do_sample=False,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    sequences = output.sequences
    return sequences.masked_fill(sequences == padding, eos or 0), output.sequences_scores.double()


def beams(log_probs, prompt, num_beams, max_length, eos, penalty, *,
          norm="generated", stop="heuristic", keep=2, among="best", eos_ends=True,
          first=True, own=False, last=True, prompt_ends=False, choose="normalized", revived=False):  # fmt: skip
    """(sequence, score, margin) of one row; the keywords are what one can get wrong.

    margin: the least difference of two scores whose order mattered.
    """
    start, margin = len(prompt), math.inf
    running = [(0.0, list(prompt))] * (1 if first else num_beams)
    done = [(0.0, list(prompt))] if prompt_ends and eos in prompt else []

    def scored(total, length):
        size = {"all": length, "no eos": max(length - start - 1, 1), "next": length - start + 1}.get(
            norm, length - start
        )
        return total * size**penalty if norm == "multiplied" else total if norm == "none" else total / size**penalty

    def finish(total, sequence):
        kept = sorted([*done, (scored(total, len(sequence)), sequence)], key=lambda item: -item[0])
        return kept if stop == "worst of all" else kept[:num_beams]

    def gap(scores):
        scores = sorted(scores, reverse=True)
        return min((a - b for a, b in zip(scores, scores[1:], strict=False)), default=math.inf)

    if done:
        return done[0][1], done[0][0], margin
    for length in range(start + 1, max_length + 1):
        grown = [
            [(total + float(p), [*sequence, v]) for v, p in enumerate(log_probs[sequence[-2], sequence[-1]])]
            for total, sequence in running
        ]
        grown = [max(row) for row in grown] if own and length > start + 1 else [item for row in grown for item in row]
        grown = sorted(grown, key=lambda item: -item[0])
        margin = min(margin, gap([total for total, _ in grown[: 2 * num_beams + 1]]))
        best, running = grown[: keep * num_beams], []
        for rank, (total, sequence) in enumerate(best):
            ends = eos_ends and sequence[-1] == eos
            if (ends or (length == max_length and (last or not done))) and (rank < num_beams or among == "all"):
                done = finish(total, sequence)
            elif (not ends or revived) and len(running) < num_beams and length < max_length:
                running.append((total, sequence))
        if length == max_length or not running:
            break
        if len(done) >= num_beams or (stop == "first" and done):
            hope = scored(running[0][0], max_length if stop == "never" and penalty > 0 else length)
            margin = min(margin, abs(hope - done[-1][0]), gap([score for score, _ in done]))
            if stop in ("full", "first") or hope <= done[-1][0]:
                break
    if choose == "likeliest":
        done = sorted(done, key=lambda item: -item[0] * (len(item[1]) - start) ** penalty)
    margin = min(margin, gap([score for score, _ in done]))
    if not done:
        return running[0][1], scored(*running[0][:1], len(running[0][1])), margin
    return done[0][1], done[0][0], margin


def all_beams(log_probs, ids, *settings, **wrong):
    """(ids, scores) of all rows."""
    rows = [beams(log_probs, row, *settings, **wrong) for row in ids.tolist()]
    width, eos = max(len(sequence) for sequence, _, _ in rows), settings[2]
    filled = [sequence + [eos or 0] * (width - len(sequence)) for sequence, _, _ in rows]
    return torch.tensor(filled), torch.tensor([score for _, score, _ in rows], dtype=torch.float64)


def beam_mistakes(table, ids, *settings):
    log_probs = table.double().log_softmax(-1)

    def made(**wrong):
        return lambda: all_beams(log_probs, ids, *settings, **wrong)

    def totals():
        """The right sequences with their log-likelihoods."""
        rows = [beams(log_probs, row, *settings) for row in ids.tolist()]
        scores = [score * (len(sequence) - ids.shape[1]) ** settings[3] for sequence, score, _ in rows]
        return all_beams(log_probs, ids, *settings)[0], torch.tensor(scores, dtype=torch.float64)

    def wide():
        right, scores = all_beams(log_probs, ids, *settings)
        return torch.nn.functional.pad(right, (0, settings[1] - right.shape[1]), value=settings[2] or 0), scores

    return {
        **({AN_EOS_OF_0: lambda: all_beams(log_probs, ids, *settings[:2], None, settings[3])} if settings[2] == 0 else {}),
        "the result is max_length wide: it is as wide as the longest of the best hypotheses": wide,
        "the scores are not divided by the length": totals,
        "the score of a hypothesis is divided by its length with the prompt: only generated tokens count":
            made(norm="all"),
        "hypotheses are compared by their log-likelihood: it is divided by their number of tokens ** length_penalty":
            made(norm="none"),
        "eos does not count in the length of a hypothesis: it does": made(norm="no eos"),
        "the length of a hypothesis is one too great": made(norm="next"),
        "the log-likelihood is multiplied by the length ** length_penalty: it is divided": made(norm="multiplied"),
        "length_penalty is not used": lambda: all_beams(log_probs, ids, *settings[:3], 1.0),
        "eos ends no beam": made(eos_ends=False),
        "logits are added up: it is log-probabilities": lambda: all_beams(table, ids, *settings),
        "an eos in the prompt ends its row: only a generated one does": made(prompt_ends=True),
        "the search stops as soon as num_beams hypotheses have ended: better ones may come": made(stop="full"),
        "the search stops at the first hypothesis that ends: better ones may come": made(stop="first"),
        "the search goes on for longer than early_stopping=False does": made(stop="never"),
        "all hypotheses that end are kept, so that the worst of them lets the search go on: keep the best num_beams":
            made(stop="worst of all"),
        "beams that end take the places of others: num_beams that do not end go on": made(keep=1),
        "a hypothesis that ends outside of the best num_beams counts: it does not": made(among="all"),
        "a beam that ends outside of the best num_beams goes on after its eos": made(revived=True),
        "beams that reach max_length do not count where others have ended: they do": made(last=False),
        "the best hypothesis is chosen by its log-likelihood alone": made(choose="likeliest"),
        "all beams start with the prompt's score, so that they stay the same": made(first=False),
        "each beam is continued by itself: the best of all beams' continuations go on": made(own=True),
    }  # fmt: skip


SUBTLE = [
    {"keep": 1}, {"stop": "full"}, {"stop": "never"}, {"among": "all"}, {"last": False}, {"choose": "likeliest"},
    {"revived": True}, {"stop": "worst of all"},
]  # fmt: skip


def telling_prompts(rng, table, count, settings, unseen):
    """Prompts whose beams have no near ties, which rounding could decide, and the mistakes that none of them shows."""
    log_probs, found = table.double().log_softmax(-1).numpy(), []
    for _ in range(100):
        prompt = tokens(rng, len(log_probs), 3).tolist()
        right = beams(log_probs, prompt, *settings)
        if right[2] < 2e-4:
            continue
        shown = [wrong for wrong in unseen if beams(log_probs, prompt, *settings, **wrong)[0] != right[0]]
        unseen = [wrong for wrong in unseen if wrong not in shown]
        if shown or len(found) < count:
            found.append(prompt)
        if len(found) >= count and not unseen:
            break
    return torch.tensor(found), unseen


def beam_cases(rng, eos, all_settings):
    """A table and cases for check_beams; with eos it is drawn until all subtle mistakes show somewhere."""
    for _ in range(20):
        table, cases, unseen = randn(rng, 9, 9, 9) * 1.5, [], SUBTLE if eos is not None else []
        if eos is not None:
            table[:, :, eos] += 1.0
        for num_beams, max_length, penalty in all_settings:
            settings = num_beams, max_length, eos, penalty
            ids, unseen = telling_prompts(rng, table, 30, settings, unseen)
            cases.append((ids, *settings))
        if not unseen:
            break
    return table, cases


def check_beams(student, check, table, cases):
    """cases: (ids, num_beams, max_length, eos, length_penalty)."""

    def probe(table, cases):
        from text_generation import beam_search

        results = []
        for ids, num_beams, max_length, eos_id, length_penalty in cases:
            model = inside.Table(table, max_len=max_length)
            found = beam_search(model, ids, num_beams, max_length, eos_id=eos_id, length_penalty=length_penalty)
            results.append((found[0], found[1].double()))
        return results

    for result, (ids, *settings) in zip(student.run(probe, table, cases), cases, strict=True):
        check(result, generated(table, ids, *settings), within=1e-4, mistakes=beam_mistakes(table, ids, *settings))


@BEAM
@pytest.mark.points(3)
def test_beams_agree_with_transformers_without_eos(student, check, rng):
    """Without eos_id the likeliest of num_beams beams is found, for each row, with its score."""
    check_beams(student, check, *beam_cases(rng, None, [(3, 8, 1.0), (2, 7, 0.5), (8, 6, 1.0)]))


@BEAM
@pytest.mark.points(4)
def test_beams_agree_with_transformers_with_eos(student, check, rng):
    """Hypotheses end with eos_id and are compared by log-likelihood / number of tokens ** length_penalty."""
    check_beams(student, check, *beam_cases(rng, 2, [(3, 10, 1.0), (3, 8, 0.0), (2, 9, 1.0), (4, 8, 2.0)]))


@BEAM
@pytest.mark.points(1)
def test_the_best_hypotheses_fill_the_width(student, check, rng):
    """The ids are as wide as the longest best hypothesis, filled with eos_id; an eos in the prompt ends nothing."""
    table = cycle(rng, 7)
    ends = torch.tensor([[EOS, 3, 4], [2, 0, 4], [0, 5, 5], [1, EOS, 4]])
    one = torch.tensor([[2, EOS]])
    check_beams(student, check, table, [(ends, 2, 9, EOS, 1.0), (one, 3, 10, EOS, 1.0), (ENDS_AT_0, 2, 9, 0, 1.0)])


@BEAM
@pytest.mark.points(1)
def test_many_beams_find_the_likeliest_sequence(student, check, rng):
    """With so many beams that none is lost the result is the likeliest of all sequences; one beam is greedy search."""
    table = randn(rng, 4, 4, 4)
    prompt = torch.tensor([[1, 3], [2, 0]])

    def probe(table, prompt):
        from text_generation import beam_search

        ids, scores = beam_search(inside.Table(table), prompt, num_beams=16, max_length=5)
        return ids, scores.double(), beam_search(inside.Table(table), prompt, 1, 7)[0]

    ids, scores, greedy = student.run(probe, table, prompt)

    log_probs, best = table.double().log_softmax(-1), []
    for a, b in prompt.tolist():
        best.append(max(
            (float(log_probs[a, b, x] + log_probs[b, x, y] + log_probs[x, y, z]) / 3, [a, b, x, y, z])
            for x, y, z in product(range(4), repeat=3)
        ))  # fmt: skip
    check(ids, torch.tensor([sequence for _, sequence in best]))
    check(scores, torch.tensor([score for score, _ in best], dtype=torch.float64), within=1e-4)
    check(greedy, argmaxes(table, prompt, 7))


@BEAM
@pytest.mark.points(1)
def test_beam_search_refuses_lengths_before_it_starts(student):
    """A prompt without room and a max_length above the model's max_len are ValueErrors before the model is called."""
    refuses_lengths(student, "beam_search")


@BEAM
@pytest.mark.points(1)
def test_beam_search_calls_the_model_as_it_is(student, check, rng):
    """The model is called in the mode it is in; nothing that was given changes."""
    leaves_models_alone(student, check, "beam_search", rng)


# ---------------------------------------------------------------------------------------------- speculative_sample

WANTED, PROPOSED = [0.5, 0.3, 0.15, 0.05], [0.05, 0.25, 0.1, 0.6]  # the target's and the draft's law
BETA = sum(min(p, q) for p, q in zip(WANTED, PROPOSED, strict=True))  # so likely a draft token is accepted


def two_tables(orders, *laws):
    """Tables with these laws, in another order of the tokens, orders (4, 4, 4, 4), after each context."""
    return [torch.tensor(probs).log()[orders] for probs in laws]


def contexts(rng):
    """[a, b, token] -> its place in the laws after a and b."""
    return torch.rand(4, 4, 4, 4, generator=rng).argsort(dim=-1)[0]


def speculated(tables, prompt, count, num_draft, *, accept="ratio", correction="residual", reads="before"):
    """The law (4,) * count of the tokens after the prompt; the keywords are what one can get wrong."""
    target, draft = (table.double().softmax(-1) for table in tables)
    laws = {}

    def of(table, context):
        return table[context[-2], context[-1]]

    def law_after(context, left):
        if left == 0:
            return torch.ones((), dtype=torch.float64)
        if (context, left) not in laws:
            laws[context, left] = torch.zeros((4,) * left, dtype=torch.float64)
            judge_draft(laws[context, left], context, (), left, 1.0)
        return laws[context, left]

    def judge_draft(out, context, placed, left, weight):
        q = of(draft, context)
        if len(placed) == min(num_draft, left):
            if len(placed) == left:
                out[placed] += weight
                return
            for y, chance in enumerate(of(target, context)):
                out[(*placed, y)] += weight * chance * law_after((*context, y), left - len(placed) - 1)
            return
        for x in range(4):
            p = of(target, {"before": context, "after": (*context, x), "early": context[:-1]}[reads])
            taken = float({
                "ratio": min(1.0, p[x] / q[x]), "all": 1.0, "inverse": min(1.0, q[x] / p[x]), "p": p[x],
                "greater": p[x] >= q[x],
            }[accept])  # fmt: skip
            judge_draft(out, (*context, x), (*placed, x), left, weight * q[x] * taken)
            surplus = {
                "residual": (p - q).clamp(min=0),
                "target": p,
                "draft": q,
                "absolute": (p - q).abs(),
            }
            for y, chance in enumerate(surplus[correction] / surplus[correction].sum()):
                out[(*placed, y)] += (
                    weight * q[x] * (1 - taken) * chance * law_after((*context, y), left - len(placed) - 1)
                )

    return law_after(tuple(prompt), count)


def speculation_mistakes(*case):
    def made(**wrong):
        return lambda: speculated(*case, **wrong).sum((1, 2))

    return {
        "all draft tokens are accepted, or replaced from max(0, q - p): that gives the draft's distribution": made(
            accept="all"
        ),
        "a rejected token is replaced by a draw from p: it is drawn from max(0, p - q), normalized": made(
            correction="target"
        ),
        "a rejected token is replaced by a draw from q: it is drawn from max(0, p - q), normalized": made(
            correction="draft"
        ),
        "a rejected token is replaced by a draw from |p - q|: it is max(0, p - q)": made(correction="absolute"),
        "a token is accepted with q / p: it is p / q": made(accept="inverse"),
        "a token is accepted with probability p: it is p / q": made(accept="p"),
        "a token is accepted where p >= q and never else: it is accepted with probability p / q": made(
            accept="greater"
        ),
        "the target's logits are read one position too late: logits at t are about token t + 1": made(reads="after"),
        "the target's logits are read one position too early": made(reads="early"),
        "the target's likeliest tokens come out: its distribution is wanted": lambda: speculated(
            [case[0][0] * 1000, case[0][1]], *case[1:]
        ).sum((1, 2)),
    }


@SPECULATIVE
@pytest.mark.points(3)
def test_speculation_has_the_distribution_of_the_target(student, check, rng):
    """Three tokens are distributed as if each had been drawn from the target, in every row of a large batch."""
    tables, prompt, rows = two_tables(contexts(rng), WANTED, PROPOSED), [3, 1, 2], 3000

    def probe(tables, prompt, rows):
        from text_generation import speculative_sample

        target, draft = (inside.Table(table) for table in tables)
        return [speculative_sample(target, draft, torch.tensor([prompt] * rows), 6, count) for count in (1, 2)]

    results = student.on(timeout=60).run(probe, tables, prompt, rows)

    for count, ids in zip((1, 2), results, strict=True):
        judge(check, ids.shape == (rows, 6), "the result is not max_length wide in every row")
        judge(check, (ids[:, :3] == torch.tensor(prompt)).all(), "the rows do not begin with their prompts")
        a, b, c = ids[:, 3:].T
        drawn = (a * 16 + b * 4 + c).bincount(minlength=64).view(4, 4, 4)
        case, other = (tables, prompt, 3, count), "the tokens do not have the target's distribution"
        expected = speculated(*case)
        # How the others are cut into rounds is open, so that mistakes are told by the first token.
        check_drawn(check, drawn.sum((1, 2)), expected.sum((1, 2)), speculation_mistakes(*case), other)
        check_drawn(check, drawn, expected, {}, other)


@SPECULATIVE
@pytest.mark.points(3)
def test_speculation_in_few_rows_has_the_distribution_of_the_target(student, check, rng):
    """Long rows of a small batch have the target's distribution too: no row depends on what the others accept."""
    orders, one_order = contexts(rng), torch.randperm(4, generator=rng).expand(4, 4, 4)
    narrow = [0.3, 0.3, 0.2, 0.2], [0.5, 0.5, 0.0, 0.0]
    cases = [
        ([[0, 1]], 700, 3, orders, (WANTED, PROPOSED)),
        ([[1, 2], [3, 0]], 400, 3, orders, (WANTED, PROPOSED)),
        ([[2, 2]], 1000, 1, one_order, narrow),
    ]

    def probe(prompt, length, count, tables):
        from text_generation import speculative_sample

        target, draft = (inside.Table(table) for table in tables)
        return speculative_sample(target, draft, torch.tensor(prompt), length, count)

    for prompt, length, count, orders, laws in cases:
        ids = student.on(timeout=60).run(probe, prompt, length, count, two_tables(orders, *laws))

        judge(check, ids.shape == (len(prompt), length), "the result is not max_length wide in every row")
        p, q = (torch.tensor(probs) for probs in laws)
        beta = float(torch.minimum(p, q).sum())
        judged, added = sum(beta**k for k in range(count)), beta**count  # tokens a round, looked at and after them
        # Each token's place in the law of its own context: these are independent, whatever the tokens are.
        places = orders[ids[:, :-2], ids[:, 1:-1], ids[:, 2:]]
        check_drawn(check, places.flatten().bincount(minlength=4), law(*p), {
            "the token after a round without rejection is drawn from the draft: draw it from the target":
                law(*(judged * p + added * q)),
            "a rejected token is replaced by a draw from p: it is drawn from max(0, p - q), normalized":
                law(*(judged * (torch.minimum(p, q) + (1 - beta) * p) + added * p)),
            "the token after a round without rejection is drawn from max(0, p - q): draw it from p":
                law(*(judged * p + added * (p - q).clamp(min=0) / (1 - beta))),
            "all draft tokens are accepted, or replaced from max(0, q - p): that gives the draft's distribution":
                law(*(count * q + p)),
        }, "the tokens do not have the target's distribution where a batch is small")  # fmt: skip


@SPECULATIVE
@pytest.mark.points(1)
def test_a_correction_is_of_its_own_position(student, check, rng):
    """A second draft token that is rejected is replaced by a draw from the laws after the first one."""
    even, p, q = [0.25] * 4, [0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.7, 0.1]
    order, rows = torch.randperm(4, generator=rng), 3000
    target, draft = (torch.tensor(probs).log()[order].repeat(4, 4, 1) for probs in (p, q))
    target[0, 0], draft[0, 0] = torch.tensor([even, even]).log()  # after the prompt they agree: all rows go on

    def probe(target, draft, rows):
        from text_generation import speculative_sample

        models, prompts = (inside.Table(target), inside.Table(draft)), torch.zeros(rows, 2, dtype=torch.long)
        return speculative_sample(*models, prompts, 5, num_draft_tokens=2)

    ids = student.on(timeout=60).run(probe, target, draft, rows)

    judge(check, ids.shape == (rows, 5), "the result is not max_length wide in every row")
    # A first token 0 is left out: where it follows the prompt's 0 the models still agree.
    places = order[ids[ids[:, 2] != 0, 3]]
    p, q, even = (torch.tensor(probs, dtype=torch.float64) for probs in (p, q, even))
    kept = torch.minimum(p, q)
    check_drawn(check, places.bincount(minlength=4), p, {
        "a rejected token is replaced by a draw from max(0, p - q) with the q of another position":
            kept + (1 - kept.sum()) * law(*(p - even).clamp(min=0)),
        "a rejected token is replaced by a draw from max(0, p - q) with the p of another position":
            kept + (1 - kept.sum()) * law(*(even - q).clamp(min=0)),
        "a rejected token is replaced by a draw from the laws of another position": kept + (1 - kept.sum()) * even,
    }, "the tokens after the first one do not have the target's distribution")  # fmt: skip


@SPECULATIVE
@pytest.mark.points(1)
def test_each_draft_token_is_decided_by_itself(student, check):
    """Whether a draft token is accepted does not depend on how the one before it was decided."""
    length = 1200

    def probe(length):
        from text_generation import speculative_sample

        coin, stubborn = (torch.tensor(probs).log().repeat(2, 2, 1) for probs in ([0.5, 0.5], [1.0, 0.0]))
        models = inside.Table(coin), inside.Table(stubborn)
        return speculative_sample(*models, torch.zeros(1, 2, dtype=torch.long), length + 2, num_draft_tokens=3)

    ids = student.on(timeout=60).run(probe, length)

    judge(check, ids.shape == (1, length + 2), "the result is not max_length wide in every row")
    # One number for a round of three either rejects the first token or accepts all: 1.75 zeros in 2.5 tokens.
    check_drawn(check, ids[0, 2:].bincount(minlength=2), law(0.5, 0.5), {
        "one random number decides about all draft tokens of a round: each token needs its own": law(0.7, 0.3),
    }, "the tokens do not have the target's distribution in a single row")  # fmt: skip


@SPECULATIVE
@pytest.mark.points(2)
def test_models_that_agree_and_models_that_exclude(student, check, rng):
    """A draft like the target is always accepted; what the target excludes never comes, what the draft excludes may."""
    same = randn(rng, 5, 5, 5)
    barred, narrow = torch.zeros(5, 5, 5), torch.zeros(5, 5, 5)
    barred[..., [0, 3]] = -INF  # the target says 1, 2, 4
    narrow[..., [1, 4]] = -INF  # the draft 0, 2, 3

    def probe(same, barred, narrow):
        from text_generation import speculative_sample

        agreed = []
        for length in (9, 12):
            model = inside.Table(same, max_len=length)
            ids, stats = speculative_sample(model, model, torch.tensor([[1, 2], [0, 4]]), length, return_stats=True)
            agreed.append((tuple(ids.shape), float(stats.accepted)))
        models = inside.Table(barred), inside.Table(narrow)
        return agreed, speculative_sample(*models, torch.ones(300, 1, dtype=torch.long), 6)

    agreed, ids = student.on(timeout=60).run(probe, same, barred, narrow)

    check([shape for shape, _ in agreed], [(2, 9), (2, 12)])
    judge(check, all(share > 0.99 for _, share in agreed), "a draft that is the target itself is not always accepted")
    judge(
        check,
        all(share < 1.0001 for _, share in agreed),
        "more draft tokens are accepted than proposed: the token that the target adds does not count",
    )
    check_drawn(check, ids[:, 1:].flatten().bincount(minlength=5), law(0, 1, 1, 0, 1), {
        "the draft's tokens come although the target excludes them": law(1, 0, 1, 1, 0),
    })  # fmt: skip


@SPECULATIVE
@pytest.mark.points(2)
def test_the_share_of_accepted_draft_tokens(student, check, rng):
    """stats.accepted is the number of accepted draft tokens by that of proposed ones, looked at or not."""
    tables = two_tables(contexts(rng), WANTED, PROPOSED)

    def probe(tables):
        from text_generation import speculative_sample

        target, draft = (inside.Table(table) for table in tables)
        ids, stats = speculative_sample(target, draft, torch.tensor([[1, 2]]), 700, return_stats=True)
        return ids.shape[1], float(stats.accepted)

    length, accepted = student.on(timeout=60).run(probe, tables)

    run = sum(BETA**k for k in range(1, 5))  # accepted draft tokens a round, of 4
    check(length, 700)
    check(accepted, run / 4, within=0.085, mistakes={  # 5 standard deviations of about 350 rounds
        "accepted is divided by the draft tokens up to the first rejection: all that were proposed count": BETA,
        "accepted is divided by the tokens of the result: it is by the proposed draft tokens": run / (run + 1),
        "accepted is the share of rejected tokens": 1 - run / 4,
        "accepted is a number of tokens a round: it is a share": run,
        "accepted is a percentage: it is a share": 25 * run,
        "the token that the target adds is counted as accepted": (run + 1) / 4,
    })  # fmt: skip


@SPECULATIVE
@pytest.mark.points(1)
@pytest.mark.parametrize(("start", "length", "count"), [(1, 2, 4), (3, 8, 4), (2, 9, 1), (2, 5, 30)])
def test_every_row_gets_max_length_tokens(student, check, rng, start, length, count):
    """Rows accept different numbers, and all get max_length tokens; no model gets more than max_len = max_length."""
    tables, ids = [randn(rng, 6, 6, 6) * 2 for _ in range(2)], tokens(rng, 6, 7, start)

    def probe(tables, ids, length, count, max_len):
        from text_generation import speculative_sample

        models = [inside.Table(table, max_len) for table in tables]
        return speculative_sample(*models, ids, length, num_draft_tokens=count)

    result = student.run(probe, tables, ids, length, count, None)
    limited = student.run(probe, tables, ids, length, count, length)

    check((tuple(result.shape), result.dtype), ((7, length), torch.int64), mistakes={
        "max_length is taken as the number of new tokens: it counts the prompt": ((7, length + start), torch.int64),
        "the result has a token too many: cut the last round short": ((7, length + 1), torch.int64),
        "the prompt is not in the result": ((7, length - start), torch.int64),
    })  # fmt: skip
    check([result[:, :start], limited[:, :start]], [ids, ids])
    judge(check, ((result >= 0) & (result < 6)).all(), "there are ids that are no tokens")


@SPECULATIVE
@pytest.mark.points(1)
def test_the_generator_draws_all_of_speculation(student, check, rng):
    """Draft tokens, decisions and corrections all come from generator, or from torch's own if there is none."""
    tables = [randn(rng, 6, 6, 6) for _ in range(2)]

    def probe(tables):
        from text_generation import speculative_sample

        models = [inside.Table(table) for table in tables]
        ids = torch.tensor([[1, 2], [3, 4], [0, 5]])
        return inside.randomness(lambda generator: speculative_sample(*models, ids, 20, generator=generator))

    check_randomness(check, student.run(probe, tables))


@SPECULATIVE
@pytest.mark.points(1)
def test_speculation_refuses_lengths_before_it_starts(student):
    """A prompt without room and a max_length above the model's max_len are ValueErrors before a model is called."""
    refuses_lengths(student, "speculative_sample")


@SPECULATIVE
@pytest.mark.points(1)
def test_speculation_calls_the_models_as_they_are(student, check, rng):
    """Both models are called in the mode they are in; nothing that was given changes."""
    leaves_models_alone(student, check, "speculative_sample", rng)


# ---------------------------------------------------------------------------------------------- GPTTextGenerator


@GPT
@pytest.mark.points(2)
def test_the_generator_holds_a_gpt(student, check):
    """The attribute model is lesson 2's GPTModel, with the sizes that were asked for."""

    def probe(sizes):
        from text_generation import GPTTextGenerator
        from transformer import GPTModel

        generator = GPTTextGenerator(**sizes)
        ours, theirs = generator.model.eval(), GPTModel(**sizes).eval()
        kinds = isinstance(generator, torch.nn.Module), isinstance(ours, GPTModel), ours in list(generator.modules())
        shapes = [
            {name: tuple(weight.shape) for name, weight in model.state_dict().items()} for model in (ours, theirs)
        ]
        if shapes[0] != shapes[1]:
            return kinds, False, ours.max_len, None
        theirs.load_state_dict(ours.state_dict())
        ids = torch.arange(10).view(2, 5)
        return kinds, True, ours.max_len, (theirs(ids) - ours(ids)).abs().max()

    sizes = {"vocab_size": 11, "d_model": 12, "num_layers": 2, "num_heads": 3, "max_len": 20}
    kinds, same, max_len, distance = student.run(probe, sizes)

    judge(check, kinds[0], "GPTTextGenerator is no nn.Module")
    judge(check, kinds[1], "the attribute model is not a GPTModel of lesson 2")
    judge(check, kinds[2], "model is no submodule: its parameters are not found")
    check(max_len, 20, mistakes={"max_len is not handed on to the model": 1024})
    judge(
        check,
        same,
        "the model has weights of other sizes than GPTModel(vocab_size, d_model, num_layers, num_heads, max_len=…)",
    )
    judge(check, distance < 1e-5, "the model has another number of heads")


@GPT
@pytest.mark.points(2)
def test_generate_goes_on_from_the_last_token(student, check, rng):
    """With top_k=1 each token is the argmax of the model's last logits in eval mode; max_length counts the prompt."""

    def probe(prompt):
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(13, 8, 2, 2, max_len=9)
        with torch.no_grad():
            for weight in generator.parameters():
                if weight.dim() > 1:
                    weight.normal_()
        result = generator.train().generate(prompt, 9, top_k=1)
        ids, first, last = prompt, prompt, prompt
        generator.eval()
        for _ in range(6):
            ids = torch.cat([ids, generator.model(ids)[:, -1:].argmax(-1)], dim=1)
            first = torch.cat([first, generator.model(first)[:, :1].argmax(-1)], dim=1)
            last = torch.cat([last, generator.model(last[:, -1:]).argmax(-1)], dim=1)
        return result, ids, first, last, generator.train().generate(prompt[:1, :1], max_length=2).shape

    result, expected, first, last, shape = student.run(probe, tokens(rng, 13, 12, 3))

    check(result, expected, mistakes={
        "the prompt is not in the result": expected[:, 3:],
        "the first position's logits are used: the last ones say what comes next": first,
        "the model sees the last token only: it is to see the whole row": last,
        "the result is one token too short": expected[:, :-1],
    })  # fmt: skip
    check(tuple(shape), (1, 2))


@GPT
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, [0.35, 0.3, 0.2, 0.1, 0.05]), ({"temperature": 0.5}, [0.1225, 0.09, 0.04, 0.01, 0.0025]),
     ({"top_k": 2}, [0.35, 0.3, 0, 0, 0]), ({"top_p": 0.7}, [0.35, 0.3, 0.2, 0, 0])],
)  # fmt: skip
def test_generate_samples_with_its_settings(student, check, rng, options, kept):
    """Each new token is drawn from what temperature, top_k and top_p leave of the model's distribution."""
    probs = [0.35, 0.3, 0.2, 0.1, 0.05]
    order = torch.rand(5, 5, 5, generator=rng).argsort(dim=-1)
    table = torch.zeros(5, 5, 5).scatter(-1, order, torch.tensor(probs).log().expand(5, 5, 5))

    def probe(table, options):
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(5, 8, 1, 2, max_len=5)
        generator.model.forward = inside.Table(table)
        return generator.generate(torch.tensor([[4, 2, 1]] * 1000), 5, **options)

    ids = student.run(probe, table, options)

    judge(check, ids.shape == (1000, 5), "the result does not have max_length tokens in every row")
    drawn = sum(ranks(ids[:, t], order[ids[:, t - 2], ids[:, t - 1]]) for t in (3, 4))
    name = next(iter(options), "nothing")
    check_drawn(check, drawn, law(*kept), {
        f"{name} is not used": law(*probs),
        "the logits are multiplied by the temperature: they are divided": law(*(p**0.5 for p in probs)),
        "the likeliest token is taken: draw one": law(1, 0, 0, 0, 0),
    })  # fmt: skip


@GPT
@pytest.mark.points(2)
def test_generated_rows_end_at_eos(student, check, rng):
    """A row ends with the eos that it generates and is filled with eos_id; the result is as wide as its longest row."""
    table = cycle(rng, 7)

    def probe(table, prompts, zero):
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(7, 8, 1, 2, max_len=12)
        generator.model.forward = inside.Table(table)
        cases = [(prompts, 12), (torch.tensor([[1, 6], [2, 5]]), 12), (torch.tensor([[0, 2]]), 6)]
        results = [generator.generate(ids, length, eos_id=6) for ids, length in cases]
        return [*results, generator.generate(zero, 12, eos_id=0)]

    check_ends(check, student.run(probe, table, CYCLE_PROMPTS, ENDS_AT_0), table)


@GPT
@pytest.mark.points(3)
def test_generate_runs_in_eval_mode_and_gives_modes_back(student, check):
    """While it generates every module is in eval mode; afterwards each one is in the mode it was in."""

    def probe():
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(7, 8, 2, 2, max_len=8)
        during = []
        forward = generator.model.forward

        def watched(ids):
            during.append(any(inside.modes(generator.model)))
            return forward(ids)

        generator.model.forward = watched
        prompt, seen = torch.tensor([[1, 2], [3, 4]]), []
        for start in ("train", "eval", "mixed"):
            generator.train(start != "eval")
            if start == "mixed":
                inner = list(generator.model.children())
                inner[0].eval()
                list(inner[-1].modules())[-1].eval()
                list(generator.model.modules())[4].eval()
            before = inside.modes(generator)
            generator.generate(prompt, 5)
            seen.append((before, inside.modes(generator)))
        generator.train()
        _, after, *rest = inside.manners(generator.generate, prompt, 8, 0.8, 3, 0.9, 2)
        return during, seen, torch.equal(after[0], prompt), rest

    during, seen, kept, rest = student.run(probe)

    judge(check, during, "the model is not called")
    judge(check, not any(during), "the model is called in train mode: generate runs in eval mode")
    wrong = ["is left in eval mode: it was in train mode", "is put into train mode: it was in eval mode",
             "is put into the mode of the whole: each module has its own"]  # fmt: skip
    for (before, after), sentence in zip(seen, wrong, strict=True):
        judge(check, after == before, f"afterwards the model {sentence}")
    check_manners(check, kept, *rest)


@GPT
@pytest.mark.points(1)
def test_the_generator_of_generate_draws(student, check):
    """All randomness comes from generator, or from torch's own if there is none."""

    def probe():
        from text_generation import GPTTextGenerator

        gpt = GPTTextGenerator(30, 8, 1, 2, max_len=16)
        prompt = torch.tensor([[1, 2], [3, 4]])
        return inside.randomness(lambda generator: gpt.generate(prompt, 16, generator=generator))

    check_randomness(check, student.run(probe))


@GPT
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("prompt_length", "max_length", "options", "names"),
    [(4, 4, {}, LENGTHS), (6, 4, {}, LENGTHS), (2, 9, {}, LENGTHS), (2, 6, {"temperature": 0}, "temperature"),
     (2, 6, {"top_k": 0}, ("top_k", "k")), (2, 6, {"top_p": 1.2}, ("top_p", "p"))],
)  # fmt: skip
def test_generate_refuses_bad_arguments(student, prompt_length, max_length, options, names):
    """Bad lengths are ValueErrors before the model is called; so are bad settings."""

    def probe(prompt_length, max_length, options):
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(7, 8, 1, 2, max_len=8)
        if not options:
            generator.model.forward = inside.unasked()
        generator.generate(torch.ones(2, prompt_length, dtype=torch.long), max_length, **options)

    student.raises(ValueError, probe, prompt_length, max_length, options, says=names)


# ---------------------------------------------------------------------------------------------- Hugging Face

CONFIG = {"vocab_size": 257, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64, "tie_word_embeddings": False}
PROMPT = "hi , you"  # 8 bytes; a blank before a comma, which a decoder may clean away


def steady(logits):
    """Weights of a GPT-2 that gives these logits {token: logit} after every context, and others never."""
    head = torch.full((257, 8), 0.0)
    head[:, 0] = -200.0
    for token, logit in logits.items():
        head[token, 0] = logit
    return {"transformer.ln_f.bias": torch.eye(8)[0], "lm_head.weight": head}


def printable(rng, count):
    """Some printable bytes, none of which needs more than one token."""
    return [33 + int(i) for i in torch.randperm(94, generator=rng)[:count]]


@HUGGING_FACE
@pytest.mark.points(3)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.5])
def test_hugging_face_samples_from_the_full_distribution(student, check, rng, temperature):
    """Tokens are drawn from softmax(logits / temperature) of the whole vocabulary, none of which is cut away."""
    bytes_, logits = printable(rng, 90), -0.04 * torch.arange(90, dtype=torch.float64)

    def probe(config, weights, prompt, temperature):
        from text_generation import HuggingFaceTextGenerator

        generator = HuggingFaceTextGenerator(inside.saved_gpt2(config, weights))
        return generator.generate_text(prompt, max_length=14, temperature=temperature, num_return_sequences=150)

    weights = steady(dict(zip(bytes_, logits.tolist(), strict=True)))
    texts = student.run(probe, CONFIG, weights, PROMPT, temperature)

    check(len(texts), 150)
    judge(
        check,
        all(type(text) is str and text.startswith(PROMPT) for text in texts),
        "the strings do not begin with the prompt",
    )
    check(sorted({len(text) for text in texts}), [14], mistakes={
        "max_length is taken as the number of new tokens: it counts the prompt": [22],
    })  # fmt: skip
    letters = torch.tensor([ord(letter) for text in texts for letter in text[8:]])
    groups = (letters[:, None] == torch.tensor(bytes_)).sum(0).view(9, 10).sum(1)

    def grouped(logits):
        return logits.softmax(-1).view(9, 10).sum(1)

    fifty = torch.where(torch.arange(90) < 50, logits / temperature, -INF)
    check_drawn(check, groups, grouped(logits / temperature), {
        "only the 50 likeliest tokens are drawn, by transformers' default top_k=50: switch it off": grouped(fifty),
        "the likeliest token is taken: do_sample=True is missing": law(1, *[0] * 8),
        "the temperature is not used": grouped(logits),
        "only the 50 likeliest tokens are drawn, and the temperature is not used": grouped(fifty * temperature),
        "the logits are multiplied by the temperature": grouped(logits * temperature),
    })  # fmt: skip


@HUGGING_FACE
@pytest.mark.points(2)
def test_hugging_face_strings_hold_the_prompt_and_no_special_tokens(student, check, rng):
    """Strings end where the model says <|endoftext|>, which they do not hold; the model draws anew at each call."""
    a, b = printable(rng, 2)
    weights = steady({a: 0.0, b: 0.0, 256: -0.5})

    def probe(config, weights, prompt):
        from text_generation import HuggingFaceTextGenerator

        generator = HuggingFaceTextGenerator(model_name=inside.saved_gpt2(config, weights))
        several = [generator.generate_text(prompt, 30, num_return_sequences=40) for _ in range(2)]
        return *several, generator.generate_text(prompt, 40), generator.generate_text(prompt)

    prompt = " né , " + chr(a)
    texts, again, *ones = student.run(probe, CONFIG, weights, prompt)

    judge(check, all(isinstance(one, list) and len(one) == 1 for one in ones), "the result is no list of one string")
    everything = [*texts, *(text for one in ones for text in one)]
    judge(
        check, not any("endoftext" in text for text in everything), "a string holds <|endoftext|>: skip special tokens"
    )
    judge(check, all(prompt in text for text in everything), "the prompt is not in the string, letter for letter")
    tails = [text[len(prompt) :] for text in texts]
    judge(check, all(set(tail) <= {chr(a), chr(b)} for tail in tails), "a string holds what the model did not say")
    judge(check, texts != again, "every call draws the same: no seed may be set")
    judge(check, len(set(tails)) > 3, "the sequences of a call are all the same: each is drawn for itself")
    counts = torch.tensor([len(tail) for tail in tails]).clamp(max=3).bincount(minlength=4)
    end = math.exp(-0.5) / (2 + math.exp(-0.5))
    check_drawn(check, counts, law(end, (1 - end) * end, (1 - end) ** 2 * end, (1 - end) ** 3), {
        "strings go on after <|endoftext|>": law(0, 0, 0, 1),
    }, "strings do not end where the model says <|endoftext|>")  # fmt: skip


def bigram(rng, words):
    """Weights of a GPT-2 whose next token depends on the last one alone, and a table of log-probabilities."""
    embedding, head = randn(rng, 257, 8), torch.full((257, 8), 0.0)
    head[:, 0] = -200.0
    head[words] = 0.4 * randn(rng, len(words), 8)
    weights = {
        "transformer.wte.weight": embedding, "transformer.ln_f.weight": torch.ones(8),
        "transformer.ln_f.bias": 3 * torch.eye(8)[0], "lm_head.weight": head,
    }  # fmt: skip
    hidden = torch.nn.functional.layer_norm(embedding[words].double(), (8,)) + 3 * torch.eye(8)[0]
    table = (hidden @ head[words].double().T).log_softmax(-1)
    return weights, table.expand(len(words), -1, -1).numpy()


@HUGGING_FACE
@pytest.mark.points(2)
def test_hugging_face_beam_search_gives_the_best_beam(student, check, rng):
    """The best of num_beams beams, as a list of one string with the prompt."""
    words, table, prompts = printable(rng, 12), None, []
    while len(prompts) < 2:
        weights, table = bigram(rng, words)
        ends = [
            last
            for last in range(12)
            if len({tuple(beams(table, [0, last], n, 8, None, 1.0)[1:2]) for n in (1, 2, 5)}) == 3
        ]
        prompts = ["".join(chr(words[i]) for i in (*tokens(rng, 12, 4), last)) for last in ends[:2]]

    model = GPT2LMHeadModel(GPT2Config(**CONFIG, bos_token_id=256, eos_token_id=256, pad_token_id=256)).eval()
    model.load_state_dict({name: torch.zeros_like(weight) for name, weight in model.state_dict().items()} | weights)

    def best(prompt, num_beams, length):
        ids = torch.tensor([list(prompt.encode())])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_length=length, num_beams=num_beams, do_sample=False
        )
        return bytes(output[0].tolist()).decode()

    def probe(config, weights, prompts):
        from text_generation import HuggingFaceTextGenerator

        generator = HuggingFaceTextGenerator(inside.saved_gpt2(config, weights))
        beam = generator.generate_with_beam_search
        return [[beam(prompt, 11), beam(prompt, max_length=11, num_beams=2)] for prompt in prompts]

    results = student.run(probe, CONFIG, weights, prompts)

    for prompt, (five, two) in zip(prompts, results, strict=True):
        mistakes = {
            "the result is a string: it is a list of one": best(prompt, 5, 11),
            "the prompt is not in the string": [best(prompt, 5, 11)[5:]],
            "num_beams is not used": [best(prompt, 1, 11)],
            "max_length is taken as the number of new tokens: it counts the prompt": [best(prompt, 5, 16)],
        }
        check(five, [best(prompt, 5, 11)], mistakes=mistakes)
        check(two, [best(prompt, 2, 11)], mistakes={"num_beams is not used": five, **mistakes})


@HUGGING_FACE
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("name", "options", "names"),
    [("generate_text", {"max_length": 8}, LENGTHS), ("generate_text", {"max_length": 3}, LENGTHS),
     ("generate_with_beam_search", {"max_length": 8}, LENGTHS),
     ("generate_text", {"max_length": 20, "temperature": 0.0}, "temperature")],
)  # fmt: skip
def test_hugging_face_refuses_bad_arguments(student, name, options, names):
    """A prompt of max_length tokens or more and a temperature that is not positive are ValueErrors."""

    def probe(name, config, weights, prompt, options):
        from text_generation import HuggingFaceTextGenerator

        generator = HuggingFaceTextGenerator(inside.saved_gpt2(config, weights))
        getattr(generator, name)(prompt, **options)

    student.raises(ValueError, probe, name, CONFIG, steady({65: 0.0}), PROMPT, options, says=(*LENGTHS, "input_ids")
                   if names is LENGTHS else names)  # fmt: skip


# ---------------------------------------------------------------------------------------------- CreativeTextGenerator


def check_text(check, text, prompt, length, max_length):
    """What holds for every text; length: that of the encoded text."""
    judge(check, type(text) is str, "the text is no string")
    judge(check, text.startswith(prompt), "the text does not start with the prompt")
    judge(check, length <= max_length, "the text has more than max_length tokens when it is encoded")


def check_said(check, tail, said):
    """said: the letters that the model says; tail: the text after the prompt, without the phrases."""
    judge(check, set(tail) & set(said), "nothing of what the model says is in the text, though there is room")


STYLED, PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"


@CREATIVE
@pytest.mark.points(4)
@pytest.mark.parametrize(
    "style", ["%49%", "48 7 " * 20, "93 é–ü", "40\n 50"], ids=["short", "longer than the text", "not ASCII", "blanks"]
)
def test_the_model_sees_the_style_and_the_text_does_not_hold_it(student, check, style):
    """The model goes on from style and prompt; the text is the prompt and what the model said."""

    def probe(prompt, style, max_length, styled, plain):
        from text_generation import CreativeTextGenerator

        def say(context):
            letters = styled if style.encode() in bytes(context) else plain
            return ord(letters[len(context) % 26])

        model = inside.Speaker(say)
        text = CreativeTextGenerator(model).generate_with_style_transfer(prompt, style, max_length)
        prompted = any(prompt.encode() in bytes(row) for row in model.contexts)
        return text, prompted, any(style.encode() in bytes(row) for row in model.contexts)

    text, prompted, styled = student.run(probe, "12 – 3", style, 30, STYLED, PLAIN)

    judge(check, style not in text, "the text holds the style")
    check_text(check, text, "12 – 3", len(text.encode()), 30)
    judge(check, styled, "the model does not see the style, letter for letter")
    judge(check, prompted, "the model does not see the prompt")
    check_said(check, text[6:], STYLED + PLAIN)
    judge(
        check, not set(text) & set(PLAIN), "the model goes on without the style: each token is to be generated after it"
    )


@CREATIVE
@pytest.mark.points(1)
def test_a_style_may_be_empty(student, check):
    """Any string is a style, the empty one too; the model is called as it is."""

    def probe():
        from text_generation import CreativeTextGenerator

        table = (100.0 * (torch.arange(256) == ord("a"))).expand(256, 256, 256)
        before, during, after = [], [], []
        for name, argument in (("generate_with_style_transfer", ""), ("generate_with_constraints", ["xyz"])):
            model = inside.TableModule(table).train()
            model.one.eval()
            before.append(inside.modes(model))
            text = getattr(CreativeTextGenerator(model), name)("1 2 3", argument, 20)
            during.append((text, bool(model.calls)))
            after.append(inside.modes(model))
        return before, during, after

    before, during, after = student.run(probe)

    judge(check, before == after, "the model is left in another mode than it was in")
    for text, called in during:
        judge(check, called, "the model is not called")
        check_text(check, text, "1 2 3", len(text.encode()), 20)
        check_said(check, text, "a")


@CREATIVE
@pytest.mark.points(3)
@pytest.mark.parametrize("max_length", [12, 13, 24])
def test_bytes_that_are_no_text_do_not_make_it_too_long(student, check, max_length):
    """Without a tokenizer ids are UTF-8 bytes; what is cut in the middle of a letter, or is no UTF-8, does no harm."""

    def probe(max_length):
        from text_generation import CreativeTextGenerator

        def letters(context):
            return 0xA9 if context[-1] == 0xC3 else 0xC3  # é, again and again

        def noise(context):
            return (context[-1] * 37 + 53 * len(context) + 128) % 256

        results = []
        for say in (letters, noise):
            creative = CreativeTextGenerator(inside.Speaker(say))
            for text in (
                creative.generate_with_style_transfer("né", "ß", max_length),
                creative.generate_with_constraints("né", ["ö"], max_length),
            ):
                results.append((text, len(text.encode())))
        return results

    results = student.run(probe, max_length)

    for text, length in results:
        check_text(check, text, "né", length, max_length)
    judge(check, "ö" in results[1][0] and "ö" in results[3][0], "a phrase of constraints is not in the text")
    check_said(check, results[0][0][2:], "é")


@CREATIVE
@pytest.mark.points(2)
def test_the_tokenizer_encodes_and_counts(student, check):
    """Ids come from tokenizer.encode; texts count as it encodes them, which may be more than was generated."""

    def probe():
        from text_generation import CreativeTextGenerator

        plain, pieces = inside.Characters(), inside.Pieces()

        def say(context):
            return 127 - ord("ABCDEFGH"[len(context) % 8])

        def say_pieces(context):  # "a" and "bcd" make "abcd": "ab", "c", "d" for the tokenizer
            return 129 if context[-1] == 127 - ord("a") else 127 - ord("a")

        results = []
        for tokenizer, model in ((plain, say), (pieces, say_pieces)):
            creative = CreativeTextGenerator(inside.Speaker(model, 130), tokenizer)
            texts = (
                creative.generate_with_style_transfer("12 3", "#4#", 17),
                creative.generate_with_constraints("12 3", ["567"], max_length=17),
            )
            results += [(text, len(tokenizer.encode(text))) for text in texts]
        return results

    results = student.run(probe)

    for i, (text, length) in enumerate(results):
        check_text(check, text, "12 3", length, 17)
        check_said(check, text[4:], "ABCDEFGH" if i < 2 else "abcd")
        judge(check, i % 2 == 0 or "567" in text, "a phrase of constraints is not in the text")


def constrained(student, prompt, constraints, max_length):
    """(text or None where a ValueError was raised, len(encode(text)), are the constraints as they were?)."""

    def probe(prompt, constraints, max_length, letters):
        from text_generation import CreativeTextGenerator

        creative, before = (
            CreativeTextGenerator(inside.Speaker(lambda seen: ord(letters[len(seen) % 26]))),
            [*constraints],
        )
        try:
            text = creative.generate_with_constraints(prompt, constraints, max_length)
        except ValueError:
            return None, 0, constraints == before
        return text, len(text.encode()), constraints == before

    return student.run(probe, prompt, constraints, max_length, PLAIN)


@CREATIVE
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("constraints", "max_length"),
    [([], 20), (["#12"], 30), (["Ä 1", "4 5 6", "789", "(0)"], 60), (["#12", "X?", "#12"], 21), (["É:", "1"], 30)],
    ids=["none", "one", "four", "twice the same", "as the prompt, but in capitals"],
)
def test_every_phrase_is_in_the_text(student, check, constraints, max_length):
    """The text holds every phrase, after the prompt, and words of the model where there is room."""
    text, length, kept = constrained(student, "1 é:", constraints, max_length)

    judge(check, text is not None, "a ValueError is raised where there is room for all phrases")
    judge(check, kept, "the list of constraints is changed in place")
    check_text(check, text, "1 é:", length, max_length)
    judge(check, all(phrase in text for phrase in constraints), "a phrase of constraints is not in the text")
    check_said(check, text, PLAIN)


@CREATIVE
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("prompt", "constraints", "max_length", "room"),
    [("12 3", ["456"], 8, True), ("12 3", ["45", "67", "8"], 12, True), ("12 3", ["2 3", "45"], 7, True),
     ("é ü", ["ö9", "ß"], 12, True), ("12 3", ["12", "3"], 5, True), ("12 3", ["456"], 7, None),
     ("12 3", ["45", "67"], 8, None), ("12 3", ["45", "67"], 9, None), ("12 3", ["456"], 6, False),
     ("12 3", ["45", "67"], 7, False), ("é ü", ["ö9", "ß"], 9, False), ("12 3456", [], 6, False),
     ("12 3456", ["12"], 6, False)],
)  # fmt: skip
def test_room_for_the_phrases(student, check, prompt, constraints, max_length, room):
    """The phrases that the prompt lacks must fit behind it; too little room is a ValueError."""
    text, length, kept = constrained(student, prompt, constraints, max_length)

    judge(check, kept, "the list of constraints is changed in place")
    if room is False:
        judge(
            check, text is None, "no ValueError is raised where prompt and missing phrases are longer than max_length"
        )
        return
    judge(
        check,
        text is not None or room is None,
        "a ValueError is raised where there is room: only what the prompt lacks counts",
    )
    if text is not None:
        check_text(check, text, prompt, length, max_length)
        judge(check, all(phrase in text for phrase in constraints), "a phrase of constraints is not in the text")


@CREATIVE
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("name", "argument", "max_length", "max_len"),
    [("generate_with_style_transfer", "old", 5, None), ("generate_with_style_transfer", "old", 3, None),
     ("generate_with_style_transfer", "old", 20, 19), ("generate_with_constraints", ["x"], 20, 19),
     ("generate_with_constraints", ["1"], 4, None), ("generate_with_constraints", ["old", "new"], 9, None)],
)  # fmt: skip
def test_creative_generation_refuses_lengths(student, name, argument, max_length, max_len):
    """Too long prompts and phrases, and a max_length above the model's max_len, are ValueErrors before it is called."""

    def probe(name, argument, max_length, max_len):
        from text_generation import CreativeTextGenerator

        creative = CreativeTextGenerator(inside.unasked(max_len))
        getattr(creative, name)("1 2 3", argument, max_length)

    student.raises(ValueError, probe, name, argument, max_length, max_len, says=(*LENGTHS, "constraints"))


# ---------------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@SAMPLE
@pytest.mark.points(1)
def test_generation_stays_on_the_gpu(student, check, rng, device):
    """Results are on the device of the inputs; bfloat16 logits are drawn from; generator may be one of the device."""
    ids, table = tokens(rng, 6, 3, 2), torch.rand(6, 6, 6, generator=rng).argsort(dim=-1).float()  # no ties in bfloat16

    def probe(table, ids):
        from text_generation import GPTTextGenerator, beam_search, greedy_search, sample_next_token, speculative_sample

        model, generator = inside.Table(table), torch.Generator(ids.device).manual_seed(3)
        gpt = GPTTextGenerator(6, 8, 1, 2, max_len=9).to(ids.device)
        return [
            sample_next_token(table[0].bfloat16(), 0.7, 1, 0.9, generator),
            greedy_search(model, ids, 9, eos_id=1),
            beam_search(model, ids, 3, 9, eos_id=1)[0],
            speculative_sample(model, model, ids, 9, generator=generator),
            gpt.generate(ids, 9, top_k=3, generator=generator),
        ]

    first, greedy, *others = student.on(device=device).run(probe, table, ids)

    check(first, table[0].bfloat16().argmax(-1))
    check(greedy, argmaxes(table, ids, 9, 1))
    judge(
        check, all(result.came_from == torch.device(device).type for result in others), "a result is on another device"
    )


# ---------------------------------------------------------------------------------------------- defaults


@pytest.mark.question("Defaults")
@pytest.mark.points(1)
def test_arguments_have_their_defaults(student, check):
    """Arguments that are left out are those of the handout, wherever a signature names them."""
    drawing = {"temperature": 1.0, "top_k": None, "top_p": None, "generator": None}
    expected = {
        "sample_next_token": drawing,
        "greedy_search": {"eos_id": None},
        "beam_search": {"eos_id": None, "length_penalty": 1.0},
        "speculative_sample": {"num_draft_tokens": 4, "generator": None, "return_stats": False},
        "GPTTextGenerator": {"d_model": 512, "num_layers": 6, "num_heads": 8, "max_len": 1024},
        "GPTTextGenerator.generate": {**drawing, "eos_id": None},
        "HuggingFaceTextGenerator": {"model_name": "gpt2"},
        "HuggingFaceTextGenerator.generate_text": {"max_length": 50, "temperature": 1.0, "num_return_sequences": 1},
        "HuggingFaceTextGenerator.generate_with_beam_search": {"max_length": 50, "num_beams": 5},
        "CreativeTextGenerator": {"tokenizer": None},
    }

    def probe(names):
        import functools
        import inspect

        import text_generation

        text_generation.filter_top_k(torch.tensor([[1.0, 2.0]]), 1)  # a signature alone is worth nothing
        found = {}
        for name, keys in names.items():
            function = functools.reduce(getattr, name.split("."), text_generation)
            parameters = inspect.signature(function).parameters
            found[name] = {key: parameters[key].default for key in keys if key in parameters}
        return found

    found = student.run(probe, {name: list(defaults) for name, defaults in expected.items()})
    for name, defaults in expected.items():
        judge(check, found[name], f"the arguments of {name} have other names than in the handout")
        for key, value in found[name].items():
            known = isinstance(value, (type(None), bool, int, float, str)) and value == defaults[key]
            judge(check, known, f"{key} of {name} has another default than in the handout")
