"""What the hidden tests of text_generation share: greedy and beam search step by step, and what holds of every function."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import torch

from shared import MANNERS, on_inputs, randn, tokens, when

INF = torch.inf
LENGTHS = ("max_length", "max_len", "ids", "prompt")  # one of these is in the message of a bad length


# ---------------------------------------------------------------------------------------------- any function


def manners_facts(kept, rude):
    """Facts about a call: kept, whether its inputs are as they were; rude, what inside.manners says."""
    return [(kept, "an input tensor is changed in place"), *((rude != said, wrong) for wrong, said in MANNERS.items())]


def refuses_lengths(student, name):
    """The function, called with models that must not be asked, refuses prompts without room and too long results."""

    def probe(name, prompt_length, max_length, max_lens, table=None):
        import text_generation

        models = [inside.unasked(size) if table is None else inside.Table(table, size) for size in max_lens]
        beams = [2] if name == "beam_search" else []
        getattr(text_generation, name)(*models, torch.ones(2, prompt_length, dtype=torch.long), *beams, max_length)

    endless, limits = ([None, None], [[8, None], [None, 8]]) if name == "speculative_sample" else ([None], [[8]])
    for case in [(4, 5, endless), *((2, 8, limit) for limit in limits)]:
        student.accepts(probe, name, *case, torch.zeros(3, 3, 3))
    for case in [(4, 4, endless), (6, 4, endless), *((2, 9, limit) for limit in limits)]:
        student.raises(ValueError, probe, name, *case, says=(*LENGTHS, *case[:2]))


def facts_of_models(student, name, rng):
    """Facts: the function calls models as they are, and changes neither their modes nor its other inputs."""
    table, ids = randn(rng, 5, 5, 5), tokens(rng, 5, 2, 3)

    def probe(name, table, ids):
        import text_generation

        function, count = getattr(text_generation, name), 2 if name == "speculative_sample" else 1
        options = [2] if name == "beam_search" else []
        models = [inside.Table(table)] * count
        # First of all: what a call has changed for good, a second one does not change.
        _, after, rude = inside.manners(function, *models, ids, *options, 7)
        facts = inside.as_it_is(function, table, count, ids, *options, 7)
        return facts, torch.equal(after[count], ids), rude

    (before, during, after), kept, rude = student.run(probe, name, table, ids)

    as_it_was = all(
        len(calls) > 0 and all(call == modes for call in calls) for modes, calls in zip(before, during, strict=True)
    )
    return [
        (as_it_was, "the model's mode is changed; it should be called as it is"),
        (before == after, "the model is left in a different mode"),
        *manners_facts(kept, rude),
    ]


# ---------------------------------------------------------------------------------------------- draws


def ranks(drawn, order):
    """How often probs[0], probs[1], … were drawn."""
    return (order == drawn[:, None]).sum(dim=0)


# ---------------------------------------------------------------------------------------------- greedy search


def argmaxes(table, prompts, max_length, eos=None, *, prompt_ends=False, stops=all, then=lambda token, eos: eos):
    """What greedy search gives. The keywords are steps, which are right; a mistake replaces one.

    prompt_ends: does an eos of the prompt end its row? stops: whether the search does, of which rows have ended. then:
    what follows in an ended row, of the model's token and eos.
    """
    rows = prompts.tolist()
    ended = [prompt_ends and eos in row for row in rows]
    while len(rows[0]) < max_length and not stops(ended):
        for i, row in enumerate(rows):
            token = int(table[row[-2] if len(row) > 1 else 0, row[-1]].argmax())
            row.append(then(token, eos) if ended[i] else token)
            ended[i] = ended[i] or row[-1] == eos
    return torch.tensor(rows)


def one_cycle(rng, vocab_size):
    """A table where token v is almost surely followed by v + 1, and the last one by 0."""
    following = (torch.arange(vocab_size) + 1) % vocab_size
    return 25.0 * torch.nn.functional.one_hot(following, vocab_size) + randn(rng, vocab_size, vocab_size, vocab_size)


EOS = 6
ENDS_AT_0 = torch.tensor([[1, 5], [0, 3], [2, 4]])  # after 2, 4 and 3 tokens
ENDS = [  # (prompts, max_length, eos) of a cycle of 7
    (torch.tensor([[EOS, 3, 1], [2, 0, 4], [0, 5, 5], [1, EOS, 3]]), 12, EOS),  # after 5, 2, 1 and 3 tokens
    (torch.tensor([[1, EOS], [2, 5]]), 12, EOS),
    (torch.tensor([[0, 2]]), 6, EOS),
    (ENDS_AT_0, 12, 0),
]
AN_EOS_OF_0 = "an eos_id of 0 counts as none; only None should switch it off"
SURE_MISTAKES = {
    "a row goes on after its eos; it should be filled with eos_id": dict(then=lambda token, eos: token),
    "a row is filled with 0 after its eos; it should be filled with eos_id": dict(then=lambda token, eos: 0),
    "an eos in the prompt ends its row; only a generated one should": dict(prompt_ends=True),
    "generation stops when one row has ended; it should stop when all have": dict(stops=any),
    "the result is max_length wide; it should be as wide as its longest row": dict(stops=lambda ended: False),
    "eos ends nothing, so that rows go on to max_length": dict(
        stops=lambda ended: False, then=lambda token, eos: token
    ),
}


def endings(table, results):
    """For `check(**…)`, each: what a search made of ENDS, and what greedy search gives."""
    for result, (*case, eos) in zip(results, ENDS, strict=True):
        mistakes = {sentence: partial(argmaxes, **steps) for sentence, steps in SURE_MISTAKES.items()}
        of_zero = {AN_EOS_OF_0: when(eos == 0, partial(argmaxes, table, *case))}
        expected = argmaxes(table, *case, eos)
        yield {"value": result, "expected": expected, "mistakes": of_zero | on_inputs(mistakes, table, *case, eos)}


# ---------------------------------------------------------------------------------------------- beam search


@dataclass(frozen=True)
class Search:
    """Beam search as a list of steps, which are right; a mistake replaces one: {"finishes": lambda rank, num_beams: True}.

    Beams are (log-likelihood, sequence), finished ones (score, log-likelihood, sequence), in lists with the best first.
    count: of generated tokens.
    """

    start: Callable = lambda prompt, num_beams: [(0.0, prompt)]
    join: Callable = lambda grown, count: [beam for beams in grown for beam in beams]  # each beam's -> candidates
    looked_at: int = 2  # the best looked_at · num_beams candidates go on or are finished
    append: Callable = lambda best, running: best  # to the beams before
    score: Callable = lambda total, count, start, penalty: total / count**penalty
    counted: Callable = lambda count, ends: count  # of what is finished, with eos or at max_length
    finishes: Callable = lambda rank, num_beams: rank < num_beams  # a candidate that ends
    cut_counts: Callable = lambda finished: True  # what reaches max_length
    kept: Callable = lambda finished, num_beams: finished[:num_beams]
    goes_on: Callable = lambda over, ends: not (over or ends)
    gives_up: Callable = lambda best, eos: False
    enough: Callable = lambda finished, num_beams: len(finished) >= num_beams  # to stop, if there is no hope
    hope: Callable = lambda score, grown, running, count, most: score(running[0][0], count)
    order: Callable = lambda score, total: score  # by which the best is chosen
    report: Callable = lambda score, total: score


VERSION_4 = dict(hope=lambda score, grown, running, count, most: score(grown[0][0], count))  # of transformers


def beams(log_probs, prompt, num_beams, max_length, eos, penalty, /, **steps):
    """(sequence, score, margin) of one row; margin: the least difference of two scores whose order mattered."""
    do, start, margin = Search(**steps), len(prompt), math.inf
    running, finished = do.start(prompt, num_beams), []

    def score(total, count):
        return do.score(total, count, start, penalty)

    for length in range(start + 1, max_length + 1):
        grown = ranked(do.join([grown_by_one(log_probs, *beam) for beam in running], length - start))
        margin = min(margin, gap(grown[: 2 * num_beams + 1]))
        best, running = do.append(grown[: do.looked_at * num_beams], running), []
        for rank, (total, sequence) in enumerate(best):
            ends = sequence[-1] == eos
            over = (ends or (length == max_length and do.cut_counts(finished))) and do.finishes(rank, num_beams)
            if over:
                hypothesis = score(total, do.counted(length - start, ends)), total, sequence
                finished = do.kept(ranked([*finished, hypothesis]), num_beams)
            if do.goes_on(over, ends) and len(running) < num_beams and length < max_length:
                running.append((total, sequence))
        if not running or do.gives_up(best, eos):
            break
        if do.enough(finished, num_beams):
            hope = do.hope(score, grown, running, length - start, max_length - start)
            margin = min(margin, abs(hope - finished[-1][0]), gap(finished))
            if hope <= finished[-1][0]:
                break
    best_score, total, sequence = max(finished, key=lambda hypothesis: do.order(*hypothesis[:2]))
    return sequence, do.report(best_score, total), min(margin, gap(finished))


def ranked(beams):
    return sorted(beams, key=itemgetter(0), reverse=True)


def gap(beams):
    """The least difference of two that follow each other."""
    return min((one[0] - other[0] for one, other in zip(beams, beams[1:], strict=False)), default=math.inf)


def grown_by_one(log_probs, total, sequence):
    """The beam, longer by each of the tokens. log_probs: nested lists, [last but one][last][next]."""
    return [(total + p, [*sequence, v]) for v, p in enumerate(log_probs[sequence[-2]][sequence[-1]])]
