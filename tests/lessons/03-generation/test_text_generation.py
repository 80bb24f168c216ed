"""Hidden tests of text_generation: filters and sample_next_token; the defaults of all arguments; the parts are beside it."""

import pytest
import torch
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from shared import law, on_inputs, randn, randomness_facts, tokens, wrong_law
from text_generation_helpers import INF, argmaxes, manners_facts, ranks

TOP_K = pytest.mark.question("filter_top_k")
TOP_P = pytest.mark.question("filter_top_p")
MIN_P = pytest.mark.question("filter_min_p")
PENALTY = pytest.mark.question("apply_repetition_penalty")
SAMPLE = pytest.mark.question("sample_next_token")


# ---------------------------------------------------------------------------------------------- filters


def filtered(student, name, logits, cases, truth, mistakes):
    """What the function gives and does in each case: pairs of what to `check(**…)` and facts.

    cases: arguments after the logits. truth, and each mistake: (logits, *case) -> logits.
    """

    def probe(name, logits, cases):
        import text_generation

        return [inside.manners(getattr(text_generation, name), logits, *case) for case in cases]

    of_one_row = [[item[:1] if isinstance(item, torch.Tensor) else item for item in case] for case in cases]
    for given, used in ((logits, cases), (logits[:1].float(), of_one_row)):  # in float64; in float32 and B = 1
        for case, (result, after, rude) in zip(used, student.run(probe, name, given, used), strict=True):
            compared = {"expected": truth(given, *case), "mistakes": on_inputs(mistakes, given, *case)}
            yield {"value": result, **compared}, manners_facts(torch.equal(after[0], given), rude)


def where(kept, logits, other=-INF):
    return logits.masked_fill(~kept, other)


@TOP_K
@pytest.mark.points(2)
def test_top_k_keeps_the_k_greatest(student, check, rng):
    """The k greatest logits of each row stay, the others become -inf; k > V keeps all."""
    logits = randn(rng, 5, 11, dtype=torch.float64) * 3

    def top(logits, k):
        return logits >= logits.sort(descending=True).values[:, [k - 1]]

    mistakes = {
        "the k smallest logits stay; the k greatest should": lambda logits, k: -where(top(-logits, k), -logits, INF),
        "k is not used": lambda logits, k: logits,  # first: for k = 1 the next one would be the same
        "one token too few stays; the k-th greatest should stay too": lambda logits, k: where(top(logits, k - 1), logits),
        "one token too many stays": lambda logits, k: where(top(logits, k + 1), logits),
        "what is removed becomes 0; it should become -inf": lambda logits, k: where(top(logits, k), logits, 0),
        "the k greatest of the whole batch stay; k should stay in each row":
            lambda logits, k: where(top(logits.flatten()[None], k), logits.flatten()[None]).view(logits.shape),
        "probabilities are returned; filters should return logits":
            lambda logits, k: where(top(logits, k), logits).softmax(-1),
    }  # fmt: skip
    cases = [(1,), (4,), (10,), (11,), (30,)]
    for compared, facts in filtered(
        student, "filter_top_k", logits, cases, lambda logits, k: TopKLogitsWarper(k)(None, logits), mistakes
    ):
        check(**compared)
        for fact in facts:
            check.that(*fact)


@TOP_K
@pytest.mark.points(1)
def test_top_k_refuses_a_k_below_one(student):
    """A k below 1 is a ValueError."""
    student.accepts("text_generation.filter_top_k", torch.zeros(2, 3), 1)
    student.raises(ValueError, "text_generation.filter_top_k", torch.zeros(2, 3), 0, says=("k", "top_k", 0))


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

    mistakes = {
        "the token that crosses p is removed; it should stay":
            lambda logits, p: where(nucleus(logits, p, lambda before, own: first(before + own < p)), logits),
        "the token that crosses p is removed, even if it is the only one; it should stay":
            lambda logits, p: where(nucleus(logits, p, lambda before, own: before + own < p), logits),
        "a token more than needed stays": lambda logits, p: where(one_more(logits, p), logits),
        "the mask is for the sorted tokens: bring it back into the order of the ids":
            lambda logits, p: where(unsorted(logits, p), logits),
        "the logits come back sorted, so that the order of the ids is lost":
            lambda logits, p: where(right(logits, p), logits).sort(descending=True).values,
        "the least likely tokens are added up first; the most likely ones should be":
            lambda logits, p: where(least(logits, p), logits),
        "p is compared with the probability of each token alone":
            lambda logits, p: where(logits.softmax(-1) >= p, logits),
        "what is removed becomes 0; it should become -inf": lambda logits, p: where(right(logits, p), logits, 0),
        "the mass that stays is 1 - p": lambda logits, p: where(right(logits, 1 - p), logits),
        "probabilities are returned; filters should return logits":
            lambda logits, p: where(right(logits, p), logits).softmax(-1),
        "p is not used": lambda logits, p: logits,
    }  # fmt: skip
    cases = [(p,) for p in ps]
    for compared, facts in filtered(
        student, "filter_top_p", logits, cases, lambda logits, p: TopPLogitsWarper(p)(None, logits), mistakes
    ):
        check(**compared)
        for fact in facts:
            check.that(*fact)


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
        "a tiny p leaves no token; the likeliest should always stay": torch.full_like(logits, -INF),
    })  # fmt: skip
    check(all_of_them, [logits, logits])


@TOP_P
@pytest.mark.points(1)
@pytest.mark.parametrize("p", [0.0, -0.1, 1.1])
def test_top_p_refuses_a_p_outside_0_to_1(student, p):
    """A p that is not in (0, 1] is a ValueError."""
    student.accepts("text_generation.filter_top_p", torch.zeros(2, 3), 1.0 if p > 1 else 1e-3)
    student.raises(ValueError, "text_generation.filter_top_p", torch.zeros(2, 3), p, says=("p", "top_p", p))


@MIN_P
@pytest.mark.points(2)
def test_min_p_compares_with_the_likeliest(student, check, rng):
    """The tokens with at least p times the greatest probability of their row stay."""
    ps = [0.3, 0.08, 0.7]
    logits = clear_of(rng, ps, lambda probs: probs / probs[:, :1], (6, 9), 0.8)
    logits[0] = torch.tensor([0.285, 0.28, 0.275, 0.05, 0.04, 0.03, 0.02, 0.01, 0.01], dtype=torch.float64).log()
    logits[1] = torch.tensor([0.01, 0.02, 0.8, 0.03, 0.03, 0.03, 0.05, 0.02, 0.01], dtype=torch.float64).log()
    logits[2:4] += torch.tensor([[2000.0], [-2000.0]])  # their exponentials are infinite, and zero

    def kept(logits, p, probs):
        return where(probs >= p * probs.amax(-1, keepdim=True), logits)

    mistakes = {
        "with p = 1 no token stays; the likeliest, which has p times its own probability, should":
            lambda logits, p: where(logits.softmax(-1) > p * logits.softmax(-1).amax(-1, keepdim=True), logits),
        "the threshold is p; it should be p times the greatest probability of the row":
            lambda logits, p: where(logits.softmax(-1) >= p, logits),
        "p times the greatest logit is the threshold of the logits; min-p should compare probabilities":
            lambda logits, p: kept(logits, p, logits),
        "the greatest probability is that of the whole batch; each row should use its own":
            lambda logits, p: where(logits.softmax(-1) >= p * logits.softmax(-1).max(), logits),
        "the less likely tokens stay":
            lambda logits, p: where(logits.softmax(-1) < p * logits.softmax(-1).amax(-1, keepdim=True), logits),
        "what is removed becomes 0; it should become -inf":
            lambda logits, p: where(kept(logits, p, logits.softmax(-1)) > -INF, logits, 0),
        "probabilities are returned; filters should return logits":
            lambda logits, p: kept(logits, p, logits.softmax(-1)).softmax(-1),
        "p is not used": lambda logits, p: logits,
    }  # fmt: skip
    cases = [(p,) for p in (*ps, 1.0)]
    for compared, facts in filtered(
        student, "filter_min_p", logits, cases, lambda logits, p: MinPLogitsWarper(p)(None, logits), mistakes
    ):
        check(**compared)
        for fact in facts:
            check.that(*fact)


@PENALTY
@pytest.mark.points(3)
def test_a_repeated_token_becomes_less_likely(student, check, rng):
    """A positive logit of a token in ids is divided by the penalty, a negative one multiplied; a token counts once."""
    logits = randn(rng, 4, 9, dtype=torch.float64) * 2
    logits[:, 2], logits[:, 5] = 1.5, -1.5
    ids = torch.cat([torch.tensor([[2, 5, 5, 2, 5]] * 4), tokens(rng, 9, 4, 2)], dim=1)
    ids[:, -1] = torch.tensor([0, 1, 3, 4])  # each row has one that the first does not have
    ids[0, -2] = 2
    ids[:, 0], ids[:, 1:-1] = 8, ids[:, 1:-1] % 8  # one that only comes first

    def count(logits, ids):
        return torch.zeros_like(logits).scatter_add(1, ids, torch.ones_like(ids, dtype=logits.dtype))

    def lowered(logits, penalty):
        return torch.where(logits > 0, logits / penalty, logits * penalty)

    def where_seen(new, logits, ids):
        return torch.where(count(logits, ids) > 0, new, logits)

    mistakes = {
        "negative logits are divided too, which makes them likelier; they should be multiplied":
            lambda logits, ids, penalty: where_seen(logits / penalty, logits, ids),
        "positive logits are multiplied too; they should be divided":
            lambda logits, ids, penalty: where_seen(logits * penalty, logits, ids),
        "the penalty makes tokens likelier: divide positive logits, multiply negative ones":
            lambda logits, ids, penalty: where_seen(lowered(logits, 1 / penalty), logits, ids),
        "a token that occurs twice is punished twice; it should count once":
            lambda logits, ids, penalty: lowered(logits, penalty ** count(logits, ids)),
        "all rows are punished for the tokens of all; each should be punished for its own":
            lambda logits, ids, penalty: where_seen(
                lowered(logits, penalty), logits, ids.flatten().expand(len(ids), -1)
            ),
        "all rows are punished for the tokens of the first; each should be punished for its own":
            lambda logits, ids, penalty: where_seen(lowered(logits, penalty), logits, ids[:1].expand_as(ids)),
        "only the last token of ids counts; all of them should":
            lambda logits, ids, penalty: where_seen(lowered(logits, penalty), logits, ids[:, -1:]),
        "all logits are punished; only those of the tokens in ids should be":
            lambda logits, ids, penalty: lowered(logits, penalty),
        "the penalty is subtracted": lambda logits, ids, penalty: where_seen(logits - penalty, logits, ids),
        "the penalty is not used": lambda logits, ids, penalty: logits,
    }  # fmt: skip
    cases = [(ids, 1.3), (ids, 0.6), (ids, 1.0)]
    for compared, facts in filtered(
        student,
        "apply_repetition_penalty",
        logits,
        cases,
        lambda logits, ids, penalty: RepetitionPenaltyLogitsProcessor(penalty)(ids, logits),
        mistakes,
    ):
        check(**compared)
        for fact in facts:
            check.that(*fact)


# ---------------------------------------------------------------------------------------------- sample_next_token

DRAWS = 3000
WRONG_LAW = "the tokens are not drawn with the right probabilities"


def laid_out(rng, rows, probs):
    """(logits (rows, V), order): the probabilities in another order in each row; probs[i] is that of order[:, i]."""
    order = torch.rand(rows, len(probs), generator=rng).argsort(dim=1)
    logits = torch.log(torch.tensor(probs, dtype=torch.float64)).float() + 2 * randn(rng, rows, 1)
    return torch.zeros(rows, len(probs)).scatter(1, order, logits), order


@SAMPLE
@pytest.mark.points(2)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_are_drawn_from_the_softmax(student, check, rng, temperature):
    """Tokens are drawn with probabilities softmax(logits / temperature), each row by itself."""
    probs = [0.4, 0.25, 0.2, 0.1, 0.05, 0.0]
    logits, order = laid_out(rng, DRAWS, probs)

    def probe(logits, temperature):
        from text_generation import sample_next_token

        return inside.a_tensor(sample_next_token(logits, temperature=temperature))

    drawn = student.run(probe, logits, temperature)

    check.that(drawn.shape == (DRAWS,), "the shape of the tokens is not (B,)")
    wrong = wrong_law([(ranks(drawn, order), law(*(p ** (1 / temperature) for p in probs)), {
        "the temperature is not used": law(*probs),
        "the logits are multiplied by the temperature; they should be divided by it":
            lambda: law(*(p**temperature for p in probs)),
        "the likeliest token is taken; a token should be drawn": law(1, 0, 0, 0, 0, 0),
        "all tokens are drawn with the same probability": law(1, 1, 1, 1, 1, 1),
    })], WRONG_LAW)  # fmt: skip
    check.that(not wrong, wrong)


@SAMPLE
@pytest.mark.points(2)
@pytest.mark.parametrize(
    # Each filter alone comes first: both together, one that is not used looks like the wrong order.
    ("temperature", "top_k", "top_p"),
    [(1.0, 4, None), (0.5, None, 0.8), (2.0, 3, 0.7), (2.0, 3, 0.45), (1.0, 50, 1.0)],
)
def test_temperature_then_top_k_then_top_p(student, check, rng, temperature, top_k, top_p):
    """The temperature comes first, then top-k, then top-p of what top-k has left."""
    tempered = [0.3, 0.25, 0.2, 0.12, 0.08, 0.05]
    logits, order = laid_out(rng, DRAWS, [p**temperature for p in tempered])

    def probe(logits, temperature, top_k, top_p):
        from text_generation import sample_next_token

        return inside.a_tensor(sample_next_token(logits, temperature, top_k, top_p))

    drawn = student.run(probe, logits, temperature, top_k, top_p)

    def top(weights, k):
        return weights if k is None else law(*weights[:k], *[0.0] * len(weights[k:]))

    def nucleus(weights, p):
        weights = law(*weights)
        return weights if p is None else torch.where(weights.cumsum(0) - weights < p, weights, 0.0)

    def warmed(weights, power=1 / temperature):
        return law(*(weight**power for weight in weights))

    plain = [p**temperature for p in tempered]
    wrong = wrong_law([(ranks(drawn, order), law(*nucleus(top(warmed(plain), top_k), top_p)), {
        "top-p comes before top-k, or counts what top-k removed; it should come after it and count what is left":
            law(*top(nucleus(warmed(plain), top_p), top_k)),
        "the temperature comes after the filters; it should come first":
            law(*warmed(nucleus(top(law(*plain), top_k), top_p))),
        "top_k is not used": law(*nucleus(warmed(plain), top_p)),
        "top_p is not used": law(*top(warmed(plain), top_k)),
        "neither top_k nor top_p is used": warmed(plain),
    })], WRONG_LAW)  # fmt: skip
    check.that(not wrong, wrong)


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

    manners = [fact for _, after, rude in calls for fact in manners_facts(torch.equal(after[0], logits), rude)]
    for fact in [*randomness_facts(facts), *manners]:
        check.that(*fact)


@SAMPLE
@pytest.mark.points(1)
def test_one_candidate_is_sure(student, check, rng):
    """With top_k=1, or a tiny top_p, the likeliest token of each row comes out, as int64."""
    logits = randn(rng, 9, 12)

    def probe(logits):
        from text_generation import sample_next_token

        return [sample_next_token(logits, top_k=1), sample_next_token(logits[:1].double(), 0.1, top_p=1e-6)]

    first, second = student.run(probe, logits)

    check(
        first, logits.argmax(-1), mistakes={"the shape is (B, 1); it should be (B,)": logits.argmax(-1, keepdim=True)}
    )
    check(second, logits[:1].argmax(-1))


@SAMPLE
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", 0.0, 1e-3),
        ("temperature", -1.0, 1e-3),
        ("top_k", 0, 1),
        ("top_p", 0.0, 1e-3),
        ("top_p", 1.5, 1.0),
    ],
)
def test_bad_settings_are_refused(student, name, value, allowed):
    """temperature <= 0, top_k < 1 and a top_p outside (0, 1] are ValueErrors."""
    names = (name, name.removeprefix("top_"), value)
    student.accepts("text_generation.sample_next_token", torch.zeros(2, 4), kwargs={name: allowed})
    student.raises(ValueError, "text_generation.sample_next_token", torch.zeros(2, 4), says=names, kwargs={name: value})


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
    check.that(
        all(result.came_from == torch.device(device).type for result in others), "a result is on the wrong device"
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
        check.that(bool(found[name]), f"the arguments of {name} have names that differ from those in the handout")
        for key, value in found[name].items():
            known = isinstance(value, (type(None), bool, int, float, str)) and value == defaults[key]
            check.that(known, f"the default of {key} of {name} differs from the one in the handout")
