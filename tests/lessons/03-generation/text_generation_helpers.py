"""What the hidden tests of text_generation share: draws and the chi-square test for them, models of sure next tokens.

A test of drawn tokens is a chi-square test at 1e-9: all of them together fail a right solution less than once in 10^6.
A mistake is named where its own law passes at 1e-5, and no other is a hundred times as likely.
"""

import math

import torch

INF = torch.inf


def randn(rng, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=rng, dtype=dtype)


def tokens(rng, vocab_size, *shape):
    return torch.randint(0, vocab_size, shape, generator=rng)


def judge(check, fact, wrong):
    """Something that is so or not, and what it means if it is not."""
    check(bool(fact), True, mistakes={wrong: False})


def chance(counts, probs):
    """How often draws with these probabilities lie as far from them as counts do: Pearson's test. Rare cells are one."""
    counts, probs = counts.double().flatten(), probs.double().flatten()
    if counts[probs == 0].sum() > 0:
        return 0.0
    expected = counts.sum() * probs
    common = expected >= 10
    counts, expected = (torch.cat([cells[common], cells[~common].sum()[None]]) for cells in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    if len(counts) == 1:
        return 1.0
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2, dtype=torch.float64), statistic / 2))


def check_drawn(check, counts, probs, mistakes, other="the tokens are not drawn with the right probabilities"):
    """mistakes: sentence -> the probabilities that this mistake gives, or a function of them."""
    check_all_drawn(check, [(counts, probs, mistakes)], other)


def check_all_drawn(check, cases, other):
    """Judges each (counts, probs, mistakes), and names the mistake that fits the draws of all cases together best.

    In one case two mistakes may come near each other; in all of them they do not. A mistake that fits no case that is
    wrong is not named.
    """
    wrong = [chance(counts, probs) <= 1e-9 for counts, probs, _ in cases]
    found = None
    if any(wrong):
        fits = {sentence: _fit(cases, wrong, sentence) for sentence in cases[0][2]}
        best = max(fits.values(), default=-math.inf)
        near = best - math.log(100)  # the first of those that are about as likely
        found = next(sentence for sentence in fits if fits[sentence] >= near) if best > -math.inf else other
    check(found, None, mistakes={found: found} if found else None)


def _fit(cases, wrong, sentence):
    """The logarithm of the chance of all draws, of which no single case decides alone."""
    laws = [(counts, mistakes[sentence]) for counts, _, mistakes in cases]
    chances = [chance(counts, law() if callable(law) else law) for counts, law in laws]
    if not any(fits > 1e-5 for fits, is_wrong in zip(chances, wrong, strict=True) if is_wrong):
        return -math.inf
    return sum(math.log(max(fits, 1e-6)) for fits in chances)


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


# ---------------------------------------------------------------------------------------------- sample_next_token


def ranks(drawn, order):
    """How often probs[0], probs[1], … were drawn."""
    return (order == drawn[:, None]).sum(dim=0)


def law(*weights):
    """The weights as probabilities."""
    weights = torch.tensor(weights, dtype=torch.float64)
    return weights / weights.sum()


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
        student.raises(ValueError, probe, name, *case, says=("max_length", "max_len", "ids", "prompt", *case[:2]))


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


# ---------------------------------------------------------------------------------------------- beam_search


def beams(log_probs, prompt, num_beams, max_length, eos, penalty, *,
          norm="generated", stop="heuristic", keep=2, among="best", eos_ends=True,
          first=True, own=False, last=True, prompt_ends=False, choose="normalized", revived="none", parents=True):  # fmt: skip
    """(sequence, score, margin) of one row; the keywords are what one can get wrong.

    margin: the least difference of two scores whose order mattered. stop: "version 4" stops as transformers 4 does.
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
        without_eos = norm == "finished without eos" and sequence[-1] == eos and len(sequence) > start + 1
        kept = sorted([*done, (scored(total, len(sequence) - without_eos), sequence)], key=lambda item: -item[0])
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
        best, before, running = grown[: keep * num_beams], running, []
        if not parents:  # each token is appended to the beam that was at its place
            best = [(total, [*before[i % len(before)][1], sequence[-1]]) for i, (total, sequence) in enumerate(best)]
        for rank, (total, sequence) in enumerate(best):
            ends = eos_ends and sequence[-1] == eos
            over = (ends or (length == max_length and (last or not done))) and (rank < num_beams or among == "all")
            if over:
                done = finish(total, sequence)
            goes_on = revived == "all" or (not over and (not ends or revived == "outside"))
            if goes_on and len(running) < num_beams and length < max_length:
                running.append((total, sequence))
        if length == max_length or not running or (stop == "best ends" and best[0][1][-1] == eos):
            break
        if len(done) >= num_beams or (stop == "first" and done):
            # Version 4 of transformers hopes for the best of all candidates, version 5 for the best that goes on.
            hope = grown[0][0] if stop == "version 4" else running[0][0]
            hope = scored(hope, max_length if stop == "never" and penalty > 0 else length)
            margin = min(margin, abs(hope - done[-1][0]), gap([score for score, _ in done]))
            if stop in ("full", "first") or hope <= done[-1][0]:
                break
    if choose == "likeliest":
        done = sorted(done, key=lambda item: -item[0] * (len(item[1]) - start) ** penalty)
    margin = min(margin, gap([score for score, _ in done]))
    if not done:
        return running[0][1], scored(*running[0][:1], len(running[0][1])), margin
    return done[0][1], done[0][0], margin


def together(log_probs, prompt, num_beams, max_length, eos, penalty, *, padded=False):
    """(sequence, score, margin) as `beams` has it, where ended beams keep their places among the num_beams.

    padded: their lengths grow with those of the others.
    """
    start, kept, length = len(prompt), [(0.0, list(prompt))], len(prompt)
    while length < max_length and not all(eos in sequence[start:] for _, sequence in kept):
        length += 1
        ended = [(total, sequence) for total, sequence in kept if eos in sequence[start:]]
        grown = [
            (total + float(p), [*sequence, v])
            for total, sequence in kept
            if eos not in sequence[start:]
            for v, p in enumerate(log_probs[sequence[-2], sequence[-1]])
        ]
        kept = sorted(ended + grown, key=lambda item: -item[0])[:num_beams]
    scored = [(total / ((length if padded else len(s)) - start) ** penalty, s) for total, s in kept]
    score, sequence = max(scored, key=lambda item: item[0])
    return sequence, score, math.inf
