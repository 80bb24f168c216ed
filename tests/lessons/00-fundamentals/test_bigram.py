"""Hidden tests of bigram.py.

The truth is counted by `table` with a Counter, a pair at a time; its arguments turn it into the mistakes that are known.
"""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from shared import MANNERS, randomness_facts, wrong_law

PAIRS = pytest.mark.question("training_pairs")
MODEL = pytest.mark.question("BigramLanguageModel.fit and next_token_probabilities")
GENERATE = pytest.mark.question("BigramLanguageModel.generate")
PERPLEXITY = pytest.mark.question("BigramLanguageModel.perplexity")

V = 7


def random_ids(rng, length):
    """Ids below V - 2, some frequent, some rare, and one V - 2 at the very end; V - 1 never occurs.

    So nothing follows the last two tokens, one of which occurs, and p(b | a) is not p(a | b).
    """
    rare = torch.tensor([9.0, 6.0, 4.0, 2.0, 1.0])
    ids = torch.multinomial(rare, length - 1, replacement=True, generator=rng)
    ids[1::3] = (2 * ids[0:-1:3] + 1)[: len(ids[1::3])] % (V - 2)
    return torch.cat([ids, torch.tensor([V - 2])])


def table(
    ids, s, *, pair=lambda a, b: (a, b), starts=lambda ids: ids[:-1], above=None, below=None, empty=1 / V, most=math.inf
):
    """p(b | a) for all a and b: (V, V) float64. `above` and `below` replace the smoothing in the fraction's halves.

    most: counts of pairs start again at it, and those of tokens are their sums then.
    """
    ids = ids.tolist()
    pairs = Counter(pair(a, b) for a, b in pairwise(ids))
    count = Counter(starts(ids))
    if most < math.inf:
        pairs = Counter({key: number % most for key, number in pairs.items()})
        count = {a: sum(pairs[a, b] for b in range(V)) for a in range(V)}
    above = s if above is None else above
    p = torch.empty(V, V, dtype=torch.float64)
    for a in range(V):
        total = count[a] + (s * V if below is None else below)
        for b in range(V):
            p[a, b] = (pairs[a, b] + above) / total if total else empty
    return p


KEEPDIM = "each count is divided by the sum of another row: keep the dimension of the sums (keepdim)"


def table_mistakes(ids, s):
    """What students make of the probabilities."""
    right = table(ids, s)
    unsmoothed = table(ids, 0.0)
    pairs = Counter(pairwise(ids.tolist()))
    counts = torch.tensor([[float(pairs[a, b]) for b in range(V)] for a in range(V)], dtype=torch.float64)
    seen = torch.where(counts > 0, counts + s, 0.0)
    return {
        "the probabilities are those of the token before; they should be those of the token that follows": table(ids, s, pair=lambda a, b: (b, a), starts=lambda ids: ids[1:]),
        "count(a) counts the last token too, which nothing follows; it should count first tokens of pairs only": lambda: table(ids, s, starts=lambda ids: ids),
        "the smoothing is missing": unsmoothed,
        "the smoothing is always 1; it should be the one given": table(ids, 1.0),
        "the smoothing is missing in the denominator": lambda: table(ids, s, below=0.0),
        "the smoothing is missing in the numerator": lambda: table(ids, s, above=0.0),
        "the denominator adds s; it should add s · V": lambda: table(ids, s, below=s),
        "the denominator adds V; it should add s · V": lambda: table(ids, s, below=float(V)),
        "only tokens that were seen after a are smoothed; all V should be": (seen / seen.sum(1, keepdim=True)).nan_to_num(1 / V),
        "counts are returned; probabilities should be returned": counts + s,
        "counts are returned, without smoothing; probabilities should be returned": counts,
        "pairs are divided by all pairs, which gives p(a, b); it should be p(b | a)": (counts + s) / (counts + s).sum(),
        KEEPDIM: (counts + s) / (counts + s).sum(1),
        "the columns sum to 1; the rows should": (counts + s) / (counts + s).sum(0, keepdim=True),
        "the logarithms are returned; the probabilities should be returned": right.log(),
        "a token's own frequency is taken, whatever comes before it; it should depend on the token before": lambda: ((counts.sum(0) + s) / (counts.sum() + s * V)).expand(V, V),
        "a row without any count is all zeros; it should be uniform": lambda: table(ids, s, empty=0.0),
        "a softmax is taken over the counts; they should be divided by their sum": lambda: (counts + s).softmax(1),
    }  # fmt: skip


def single_table(value):
    """Probabilities may be float32 or float64, which the contract leaves open: compared as float32, in which float64 may
    have been worked out."""
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.float64 else value


def own_table(found, right):
    """The student's own probabilities (V, V) in float64 where they may stand for the right ones, else the right ones.

    Whether generate and perplexity follow the model's probabilities is one question, whether these are right another. What
    is not a table of probabilities, such as zeros, stands for nothing.
    """
    if not isinstance(found, torch.Tensor) or found.shape != right.shape or not found.is_floating_point():
        return right
    found = found.double()
    is_table = bool(found.isfinite().all() and (found >= 0).all() and found.sum() > 0)
    return found if is_table and not torch.allclose(found, right, rtol=1e-5, atol=1e-7) else right


def perplexity(p, ids):
    """exp of the mean negative log probability under p: (V, V)."""
    return float((-p[ids[:-1], ids[1:]].log().mean()).exp())


# ---------------------------------------------------------------------------------------------- training_pairs


@PAIRS
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(9,), (2,), (3, 8), (8, 3), (4, 2), (1, 6)])
def test_targets_are_the_inputs_shifted_by_one(student, check, rng, shape):
    """Inputs are all tokens but the last, targets all but the first, along the last dimension."""
    ids = torch.randint(50, shape, generator=rng)
    pairs = student.call("bigram.training_pairs", ids)

    first, last = ids[..., :1], ids[..., -1:]
    check(pairs, (ids[..., :-1], ids[..., 1:]), names=("inputs", "targets"), mistakes={
        "inputs and targets are swapped": (ids[..., 1:], ids[..., :-1]),
        "the shift runs along the first dimension; it should run along the last": lambda: (ids[:-1], ids[1:]),
        "the targets wrap around; the last token should have no target": (ids, ids.roll(-1, dims=-1)),
        "inputs keep the last token, which has no target": (ids, ids[..., 1:]),
        "targets are the inputs themselves; they should be shifted by one": (ids[..., :-1], ids[..., :-1]),
        "the whole batch is rolled, so that rows run into each other": (ids, ids.flatten().roll(-1).reshape(shape)),
        "targets are padded at the end": (ids, torch.cat([ids[..., 1:], torch.zeros_like(last)], -1)),
        "inputs are padded at the start": (torch.cat([torch.zeros_like(first), ids[..., :-1]], -1), ids),
        "targets are two tokens ahead; they should be one ahead": (ids[..., :-2], ids[..., 2:]),
        "the pairs are flattened": lambda: (ids[..., :-1].flatten(), ids[..., 1:].flatten()),
        "the pairs are stacked; inputs and targets should be returned apart": torch.stack([ids[..., :-1], ids[..., 1:]], -1),
    })  # fmt: skip


@PAIRS
@pytest.mark.points(1)
def test_a_single_token_has_no_pairs(student, check):
    """A single token gives empty inputs and targets, in a batch too; the ids and their dtype are not changed."""

    def probe(*batches):
        from bigram import training_pairs

        found, _, rude = inside.manners(lambda: [training_pairs(ids) for ids in batches])
        return found, batches, rude

    batches = torch.tensor([4]), torch.tensor([[4], [2]]), torch.arange(12).reshape(4, 3).T
    batches += (torch.tensor([3, 1, 2], dtype=torch.int32),)
    found, after, rude = student.run(probe, *batches)

    pairs = [(ids[..., :-1], ids[..., 1:]) for ids in batches]
    check(found, pairs, mistakes={
        "the pairs lose the dtype of the ids": [(inputs.long(), targets.long()) for inputs, targets in pairs],
    })  # fmt: skip
    check(after, batches)
    check(rude, "", mistakes=MANNERS)


# ---------------------------------------------------------------------------------------------- fit and next_token_probabilities


@MODEL
@pytest.mark.points(4)
@pytest.mark.parametrize("smoothing", [1.0, 0.25, 3.0])
def test_probabilities_are_smoothed_shares(student, check, rng, smoothing):
    """p(b | a) = (count(a, b) + s) / (count(a) + s · V), where count(a) counts a as a first token only."""
    ids = random_ids(rng, 60)

    def probe(ids, V, smoothing):
        return inside.probabilities(inside.fitted(V, smoothing, ids), V)

    found = student.run(probe, ids, V, smoothing)

    check(single_table(found), table(ids, smoothing), dtype=torch.float32, mistakes=table_mistakes(ids, smoothing))


@MODEL
@pytest.mark.points(1)
def test_counts_have_room(student, check, rng):
    """A pair may occur tens of thousands of times, and there may be hundreds of tokens or one."""
    zeros = torch.zeros(65_601, dtype=torch.int64)  # so many pairs wrap around in two bytes, and in one
    ids = torch.cat([zeros, random_ids(rng, 60)])
    many = torch.cat([torch.randint(256, (200,), generator=rng), torch.tensor([299, 40, 298])])

    def probe(ids, V, many):
        table = inside.probabilities(inside.fitted(V, 1, ids), V)
        rows = [inside.fitted(300, 0, many).next_token_probabilities(token) for token in (40, 299)]
        return table, torch.stack(rows), inside.probabilities(inside.fitted(1, 0, torch.zeros(3, dtype=torch.int64)), 1)

    # No one says how fast fit is: a Python loop that indexes tensors takes four seconds here.
    found, rows, of_one = student.on(timeout=40).run(probe, ids, V, many)

    def rows_of(ids):
        counts = torch.zeros(300, 300, dtype=torch.float64)
        counts.index_put_((ids[:-1], ids[1:]), torch.tensor(1.0, dtype=torch.float64), accumulate=True)
        shares = (counts / counts.sum(1, keepdim=True))[[40, 299]]
        return shares.nan_to_num(1 / 300)  # uniform where nothing was counted

    overflown = "counts overflow: use a larger type of integer"
    row = found[0] if isinstance(found, torch.Tensor) else found  # of so many counts that no smoothing shows
    check(single_table(row), table(ids, 1.0)[0], dtype=torch.float32, within=1e-3, mistakes={
        overflown: lambda: table(ids, 1.0, most=1 << 8)[0],
        overflown + ", of two bytes": lambda: table(ids, 1.0, most=1 << 16)[0],
    })  # fmt: skip
    check(
        single_table(rows),
        rows_of(many),
        dtype=torch.float32,
        mistakes={"ids overflow: use a larger type of integer": rows_of(many % 256)},
    )
    check(single_table(of_one), torch.ones(1, 1, dtype=torch.float64), dtype=torch.float32, mistakes={
        "with one token in the vocabulary the probabilities have the wrong number of dimensions": torch.ones(1, dtype=torch.float64),
    })  # fmt: skip


@MODEL
@pytest.mark.points(2)
def test_without_smoothing_unseen_pairs_are_impossible(student, check, rng):
    """At smoothing 0 a pair that was not seen has probability 0, and a row without any count is uniform."""
    ids = random_ids(rng, 40)

    def probe(ids, V):
        return inside.probabilities(inside.fitted(V, 0, ids), V), inside.probabilities(
            inside.fitted(V, 0.0, ids[:1]), V
        )

    found, of_one_token = student.run(probe, ids, V)

    check(single_table(found), table(ids, 0.0), dtype=torch.float32, mistakes={
        "a row without any count is NaN; it should be uniform": table(ids, 0.0, empty=math.nan),
        "a token that nothing follows repeats itself; its row should be uniform": table(ids, 0.0).index_put(
            (torch.tensor([V - 2, V - 1]),), torch.eye(V, dtype=torch.float64)[V - 2 :]
        ),
    } | table_mistakes(ids, 0.0))  # fmt: skip
    check(single_table(of_one_token), torch.full((V, V), 1 / V, dtype=torch.float64), dtype=torch.float32)


@MODEL
@pytest.mark.points(1)
def test_the_smoothing_is_1_by_default(student, check, rng):
    """Without an argument the smoothing is 1."""
    ids = random_ids(rng, 30)

    def probe(ids, V):
        from bigram import BigramLanguageModel

        with_1, model = inside.probabilities(inside.fitted(V, 1.0, ids), V), BigramLanguageModel(V)
        model.fit(ids)
        return inside.probabilities(model, V), with_1

    found, with_1 = student.run(probe, ids, V)

    right = own_table(with_1, table(ids, 1.0))
    check(
        single_table(found),
        right,
        dtype=torch.float32,
        mistakes={"the smoothing is 0 by default; it should be 1": table(ids, 0.0)},
    )


@MODEL
@pytest.mark.points(2)
def test_fit_starts_from_empty_counts_and_returns_the_model(student, check, rng):
    """fit forgets what was counted before, and returns the model; the ids are not changed."""
    first, second = random_ids(rng, 50), random_ids(rng, 40)

    def probe(first, second, V):
        model = inside.fitted(V, 0.5, first)
        returned = model.fit(second)
        fresh = inside.probabilities(inside.fitted(V, 0.5, second), V)
        return inside.probabilities(model, V), fresh, returned is model, returned is None, (first, second)

    found, fresh, is_model, is_none, after = student.run(probe, first, second, V)

    both = torch.cat([table(first, 0.0)[None], table(second, 0.0)[None]])
    n = torch.stack([torch.tensor([float((ids[:-1] == a).sum()) for a in range(V)]) for ids in (first, second)])[
        ..., None
    ]
    check(single_table(found), own_table(fresh, table(second, 0.5)), dtype=torch.float32, mistakes={
        "fit adds to the counts of the last fit; it should start from empty counts": ((both * n).sum(0) + 0.5) / (n.sum(0) + 0.5 * V),
        "fit adds to the counts of the last fit, and counts a pair across the two; it should start from empty counts": table(torch.cat([first, second]), 0.5),
        "the second fit is ignored": table(first, 0.5),
    })  # fmt: skip
    check((is_model, is_none), (True, False), mistakes={
        "fit returns None; it should return the model": (False, True),
        "fit returns another model; it should return this one": (False, False),
    })  # fmt: skip
    check(after, (first, second))


@MODEL
@pytest.mark.points(1)
def test_answers_follow_the_last_fit(student, check, rng):
    """However often a model is asked, it answers by the counts of the last fit; it prints nothing and leaves torch alone."""
    first, second, text = random_ids(rng, 50), random_ids(rng, 40), random_ids(rng, 30)
    order = (torch.randperm(V - 1, generator=rng) + 1).tolist()
    order.insert(3, 0)  # neither the first nor the last, so that zeros are no answer
    orders = [order, order[::-1]]

    def probe(first, second, text, cycles, V):
        from bigram import BigramLanguageModel

        def work():
            model, sure = BigramLanguageModel(V, smoothing=0.5), BigramLanguageModel(V, smoothing=0.0)
            tables, perplexities, generated = [], [], []
            for ids, cycle in ((first, cycles[0]), (second, cycles[1])):
                own = ids.clone()
                model.fit(own)
                tables += [inside.probabilities(model, V), inside.probabilities(model, V)]
                perplexities += [model.perplexity(text)]
                own.zero_()  # of the caller, who may do with it what he likes
                tables += [inside.probabilities(model, V)]
                sure.fit(cycle)
                generated += [sure.generate(cycle[:1], 12)]
            return tables, perplexities, generated

        def new(smoothing, ids):
            model = BigramLanguageModel(V, smoothing=smoothing)
            model.fit(ids)
            return model

        answers, _, rude = inside.manners(work)
        models = [new(0.5, ids) for ids in (first, second)]
        tables = [inside.probabilities(model, V) for model in models]
        runs = [new(0.0, cycle).generate(cycle[:1], 12) for cycle in cycles]
        return answers, rude, tables, [model.perplexity(text) for model in models], runs

    # What a new model answers is right enough: what is asked here is whether an old one answers the same.
    (tables, perplexities, generated), rude, fresh, new_perplexities, new_runs = student.run(
        probe, first, second, text, [cycle(order, ROUNDS) for order in orders], V
    )

    after = [dict(pairwise(cycle(order).tolist())) for order in orders]
    right = [own_table(p, table(ids, 0.5)) for p, ids in zip(fresh, (first, second), strict=True)]

    def walk(after, token):
        return torch.tensor([token] + [token := after[token] for _ in range(12)])

    if not all(isinstance(x, float) and x > 0 for x in new_perplexities) or len(set(new_perplexities)) == 1:
        new_perplexities = [perplexity(p, text) for p in right]
    starts = [run[:1].tolist() if isinstance(run, torch.Tensor) and run.dim() == 1 else None for run in new_runs]
    if starts != [order[:1] for order in orders]:
        new_runs = [walk(after[i], orders[i][0]) for i in range(2)]
    stale = "results of the last fit are returned after the next fit: compute them anew"
    check(single_table(torch.stack(tables[:3])), right[0].expand(3, V, V), dtype=torch.float32, mistakes={
        "the smoothing is added to the stored counts at each call; the counts should stay as they are": lambda: torch.stack(
            [table(first, s) for s in (0.5, 1.0, 1.5)]
        ),
        "the model keeps the ids, so that changing them changes the model; it should keep counts": lambda: torch.stack(
            [right[0], right[0], table(torch.zeros_like(first), 0.5)]
        ),
    })  # fmt: skip
    check(
        single_table(torch.stack(tables[3:])),
        right[1].expand(3, V, V),
        dtype=torch.float32,
        mistakes={stale: right[0].expand(3, V, V)},
    )
    check(perplexities, new_perplexities, dtype=torch.float32, mistakes={stale: [new_perplexities[0]] * 2})
    check(generated, new_runs, mistakes={
        stale: [walk(after[0], order[0]) for order in orders],
    })  # fmt: skip
    check(rude, "", mistakes=MANNERS)


@MODEL
@pytest.mark.points(2)
def test_bad_arguments_are_refused(student, rng):
    """A negative smoothing, and ids outside [0, V) in fit and next_token_probabilities, are ValueErrors."""

    def fit(V, ids):
        inside.fitted(V, 1.0, ids)

    def ask(V, ids, token):
        inside.fitted(V, 1.0, ids).next_token_probabilities(token)

    ids = random_ids(rng, 20)
    student.accepts("bigram.BigramLanguageModel", V, kwargs={"smoothing": 0.0})
    student.accepts(ask, V, torch.tensor([0, V - 1, 0]), V - 1)
    for smoothing in (-0.5, -1e-3, -1):
        student.raises(
            ValueError, "bigram.BigramLanguageModel", V, says=("smoothing", smoothing), kwargs={"smoothing": smoothing}
        )
    for wrong in (V, -1, V + 40):
        student.raises(ValueError, ask, V, ids, wrong, says=("token", wrong))
        for place in (0, 7, 19):
            student.raises(ValueError, fit, V, ids.index_fill(0, torch.tensor([place]), wrong), says=("ids", wrong))
    student.raises(ValueError, fit, V, torch.tensor([V]), says=("ids", V))


# ---------------------------------------------------------------------------------------------- generate


ROUNDS = 2000  # of a cycle: so many that whoever smooths it by mistake still goes round


def cycle(order, rounds=1):
    """Ids in which every token has one follower."""
    return torch.tensor(order * rounds + order[:1])


def followers(p, order):
    """token -> the one that follows it in a cycle: by the student's own probabilities p, where each has one follower."""
    right = dict(pairwise(order + order[:1]))
    first, second = (own_table(p, table(cycle(order), 0.0)) > 0.5).nonzero().unbind(1)
    found = dict(zip(first.tolist(), second.tolist(), strict=True))
    return (
        found if len(first) == V and len(set(found.values())) == V and all(a != b for a, b in found.items()) else right
    )


@GENERATE
@pytest.mark.points(3)
def test_each_new_token_follows_the_token_before_it(student, check, rng):
    """The prompt and the new tokens come back in one; where each token has one follower, they follow."""
    order = torch.randperm(V, generator=rng).tolist()

    def probe(ids, V, prompts, count):
        model = inside.fitted(V, 0.0, ids)
        found = [model.generate(prompt, count) for prompt in prompts]
        return found, model.generate(prompts[0], 0), prompts, inside.probabilities(model, V)

    prompts = [torch.tensor(order[:1]), torch.tensor([order[3], order[0], order[4], order[1]])]
    found, nothing_new, after, p = student.run(probe, cycle(order, ROUNDS), V, prompts, 10)

    after_token = followers(p, order)

    def follow(prompt, start=-1, count=10):
        ids, token = prompt.tolist(), int(prompt[start])
        for _ in range(count):
            token = after_token[token]
            ids.append(token)
        return torch.tensor(ids)

    def each(make):
        return [make(prompt) for prompt in prompts]

    check(found, each(follow), mistakes={
        "the new tokens are returned without the prompt; the prompt should come first": each(lambda prompt: follow(prompt)[len(prompt) :]),
        "the first token of the prompt is continued; the last should be": each(lambda prompt: follow(prompt, start=0)),
        "max_new_tokens counts the prompt too; it should count new tokens only": each(lambda prompt: follow(prompt)[:10]),
        "one token too many is generated": each(lambda prompt: follow(prompt, count=11)),
        "one token too few is generated": each(lambda prompt: follow(prompt, count=9)),
        "every token is drawn from the row of the prompt's last token; it should be drawn from that of the token before": each(
            lambda prompt: torch.cat([prompt, torch.full((10,), after_token[int(prompt[-1])])])
        ),
        "the result has a batch dimension": each(lambda prompt: follow(prompt)[None]),
        "the result is a list; it should be a tensor": each(lambda prompt: follow(prompt).tolist()),
    })  # fmt: skip
    check(nothing_new, prompts[0])
    check(after, prompts)


@GENERATE
@pytest.mark.points(3)
def test_new_tokens_are_drawn_from_the_probabilities(student, check, rng):
    """New tokens are drawn from p(b | token before), with a generator and without (chi-square tests)."""
    ids = random_ids(rng, 61)

    def probe(ids, V, seed):
        model, prompt = inside.fitted(V, 0.5, ids), torch.tensor([2, 1])
        runs = model.generate(prompt, 4000), model.generate(prompt, 4000, torch.Generator().manual_seed(seed))
        return [inside.a_tensor(run, "what generate returns") for run in runs], inside.probabilities(model, V)

    runs, p = student.run(probe, ids, V, int(torch.randint(2**31, (), generator=rng)))

    p = own_table(p, table(ids, 0.5))
    p = p / p.sum(1, keepdim=True)
    laws = {
        "the most probable token is always taken; it should be drawn": torch.nn.functional.one_hot(p.argmax(1), V).double(),
        "new tokens are drawn uniformly; they should be drawn from the model's probabilities": torch.full((V, V), 1 / V, dtype=torch.float64),
        "new tokens are drawn without the smoothing": table(ids, 0.0),
        "every token is drawn from the row of the prompt's last token; it should be drawn from that of the token before": p[1].expand(V, V),
        "every token is drawn from the row of the prompt's first token; it should be drawn from that of the token before": p[2].expand(V, V),
        "a softmax is taken over the probabilities": p.softmax(1),
        "new tokens are drawn from the probabilities of the token before; they should be drawn from those of the token that follows": table_mistakes(ids, 0.5)[
            "the probabilities are those of the token before; they should be those of the token that follows"
        ],
    }  # fmt: skip
    counts = []
    for run in runs:
        shape = (run.shape, run.dtype) == ((4002,), torch.int64)
        check.that(shape, "generate does not return a LongTensor of prompt and new tokens")
        transitions = torch.zeros(V, V, dtype=torch.float64)
        transitions.index_put_((run[1:-1], run[2:]), torch.tensor(1.0, dtype=torch.float64), accumulate=True)
        counts.append(transitions)
    cases = [(transitions, p, laws) for transitions in (sum(counts), *counts)]  # all draws together tell best
    wrong = wrong_law(cases, "new tokens are drawn from another distribution")
    check.that(not wrong, wrong)


@GENERATE
@pytest.mark.points(2)
def test_randomness_comes_from_the_generator(student, check, rng):
    """The same generator state gives the same tokens; without a generator torch's global one is used."""

    def probe(ids, V):
        model, prompt = inside.fitted(V, 20.0, ids), ids[:2]
        return inside.randomness(lambda generator: model.generate(prompt, 60, generator=generator))

    for fact in randomness_facts(student.run(probe, random_ids(rng, 40), V)):
        check.that(*fact)


@GENERATE
@pytest.mark.points(1)
def test_generation_goes_on_where_nothing_was_counted(student, check, rng):
    """Without smoothing, only pairs that were seen are generated, and any token behind one that nothing followed."""
    ids = random_ids(rng, 30)

    def probe(ids, V):
        model = inside.fitted(V, 0.0, ids)
        before = inside.probabilities(model, V)
        runs = [model.generate(torch.tensor([token]), 40) for token in range(V)]
        runs = [inside.a_tensor(run, "what generate returns") for run in runs]
        return torch.stack(runs), torch.equal(before, inside.probabilities(model, V)), before

    runs, unchanged, p = student.run(probe, ids, V)

    seen = own_table(p, table(ids, 0.0))[runs[:, :-1], runs[:, 1:]] > 0
    check.that(bool(seen.all()), "pairs are generated that were never seen, without smoothing")
    check.that(unchanged, "generate changes the counts")


@GENERATE
@pytest.mark.points(1)
def test_a_bad_prompt_is_refused(student, rng):
    """A prompt with an id outside [0, V), at any place, or without any, is a ValueError."""

    def probe(ids, V, prompt, count):
        return inside.fitted(V, 1.0, ids).generate(prompt, count)

    ids = random_ids(rng, 20)
    student.accepts(probe, ids, V, torch.tensor([0, V - 1]), 3)
    for prompt in ([V], [0, -1], [-1, 0], [1, V + 2, 3], []):
        says = ("prompt", *(token for token in prompt if not 0 <= token < V))
        for count in (0, 3):
            student.raises(ValueError, probe, ids, V, torch.tensor(prompt, dtype=torch.int64), count, says=says)


# ---------------------------------------------------------------------------------------------- perplexity


@PERPLEXITY
@pytest.mark.points(4)
@pytest.mark.parametrize("length", [2, 3, 40, 4000])
def test_perplexity_is_the_exponential_of_the_mean_loss(student, check, rng, length):
    """Perplexity is exp of the mean negative log probability of the T - 1 transitions, for long texts too."""
    ids, text = random_ids(rng, 60), random_ids(rng, length)

    def probe(ids, text, V):
        model = inside.fitted(V, 0.5, ids)
        p = inside.probabilities(model, V)
        return model.perplexity(text), model.perplexity(text), text, p

    found, again, after, p = student.run(probe, ids, text, V)

    first, second = text[:-1], text[1:]

    def exp(x):  # inf where math.exp raises
        return float(torch.tensor(x, dtype=torch.float64).exp())

    def mean_loss(p):
        return float(-p[first, second].log().mean())

    loss = mean_loss(own_table(p, table(ids, 0.5)))
    unigram = (torch.bincount(ids, minlength=V) + 0.5).double() / (len(ids) + 0.5 * V)
    check.that(not isinstance(found, torch.Tensor), "a tensor is returned; it should be a float")
    check(found, exp(loss), dtype=torch.float32, mistakes={
        "the mean loss is returned; its exponential should be returned": loss,
        "the mean is over T tokens; it should be over the T - 1 transitions": exp(loss * (length - 1) / length),
        **({"the product of the probabilities underflows; their logarithms should be summed": math.inf} if length > 1000 else {}),
        KEEPDIM: exp(mean_loss(table_mistakes(ids, 0.5)[KEEPDIM])),
        "the losses are summed; they should be averaged": exp(loss * (length - 1)),
        "the inverse is returned: the sign of the log probability is wrong": exp(-loss),
        "the logarithm is to base 2 and the exponential to base e; both should have the same base": exp(loss / math.log(2)),
        "the exponential is to base 2 and the logarithm to base e; both should have the same base": 2**loss,
        "the losses are exponentiated before the mean is taken; the mean should come first": float((1 / table(ids, 0.5)[first, second]).mean()),
        "the probabilities are averaged before the logarithm is taken; the logarithm should come first": 1 / float(table(ids, 0.5)[first, second].mean()),
        "the smoothing is missing": exp(mean_loss(table(ids, 0.0))),
        "perplexity fits the model to the text; it should use the model as it is": exp(mean_loss(table(text, 0.5))),
        "the transitions are read backwards": exp(float(-table(ids, 0.5)[second, first].log().mean())),
        "a token's own frequency is taken, whatever comes before it; it should depend on the token before": exp(float(-unigram[second].log().mean())),
    })  # fmt: skip
    check((again, after), (found, text))


@PERPLEXITY
@pytest.mark.points(2)
def test_perplexity_of_sure_and_of_clueless_models(student, check, rng):
    """A sure model has perplexity 1, a clueless one V, and one that meets an impossible transition inf."""
    order = torch.randperm(V, generator=rng).tolist()
    impossible = torch.tensor([*order, order[-1], order[0], order[1]])

    def probe(ids, V, impossible):
        sure, clueless = inside.fitted(V, 0.0, ids), inside.fitted(V, 0.0, ids[:1])
        tables = inside.probabilities(sure, V), inside.probabilities(clueless, V)
        return (sure.perplexity(ids), clueless.perplexity(ids)), sure.perplexity(impossible), tables

    found, infinite, (sure, clueless) = student.run(probe, cycle(order), V, impossible)

    right = (
        own_table(sure, table(cycle(order), 0.0)),
        own_table(clueless, torch.full((V, V), 1 / V, dtype=torch.float64)),
    )
    check(found, tuple(perplexity(p, cycle(order)) for p in right), dtype=torch.float32, mistakes={
        "the mean loss is returned; its exponential should be returned": (0.0, math.log(V)),
        "the inverse is returned: the sign of the log probability is wrong": (1.0, 1 / V),
    })  # fmt: skip
    expected = perplexity(right[0], impossible)  # inf, where the probabilities are right
    finite = type(infinite) is float and math.isfinite(infinite)
    large = "an impossible transition makes the perplexity large; it should be infinite"
    check.that(not finite or math.isfinite(expected), large)
    check(infinite, expected, dtype=torch.float32, mistakes={
        "an impossible transition makes the perplexity NaN; it should be infinite": math.nan,
    })  # fmt: skip


@PERPLEXITY
@pytest.mark.points(1)
def test_texts_without_perplexity_are_refused(student, rng):
    """Fewer than two ids, or an id outside [0, V) at any place, are a ValueError."""

    def probe(ids, V, text):
        return inside.fitted(V, 1.0, ids).perplexity(text)

    ids = random_ids(rng, 20)
    student.accepts(probe, ids, V, torch.tensor([V - 1, 0]))
    for text in ([], [1], [0, V], [V, 0], [2, -1, 3], [-1, 2]):
        says = ("ids", *(token for token in text if not 0 <= token < V), *([len(text)] if len(text) < 2 else []))
        student.raises(ValueError, probe, ids, V, torch.tensor(text, dtype=torch.int64), says=says)


# ---------------------------------------------------------------------------------------------- device


@MODEL
@pytest.mark.gpu
@pytest.mark.needs("test_perplexity_is_the_exponential_of_the_mean_loss")
@pytest.mark.points(1)
def test_it_works_where_its_inputs_are(student, check, rng):
    """Ids on a GPU are counted and continued: pairs and generated tokens stay there."""
    ids = random_ids(rng, 40)

    def probe(ids, V):
        from bigram import training_pairs

        model = inside.fitted(V, 0.5, ids)
        return training_pairs(ids), model.generate(ids, 20), model.perplexity(ids)

    pairs, generated, perplexity = student.run(probe, ids, V)

    check(pairs, (ids[:-1], ids[1:]))
    check(generated, torch.cat([ids, generated[40:60]]))  # which device it comes from, and the prompt
    p = table(ids, 0.5)
    check(perplexity, math.exp(float(-p[ids[:-1], ids[1:]].log().mean())), dtype=torch.float32)
