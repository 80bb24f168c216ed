"""Hidden tests of text_generation: greedy and beam search.

Models are tables: the logits of the next token by the last two tokens (inside.Table), so that `transformers`, or a few
lines of this file, can work out in this process what a model in the student's process leads to.
"""

import math
from functools import partial
from itertools import product

import pytest
import torch
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from shared import randn, tokens, when
from text_generation_helpers import (
    AN_EOS_OF_0,
    ENDS,
    ENDS_AT_0,
    EOS,
    VERSION_4,
    argmaxes,
    beams,
    endings,
    facts_of_models,
    grown_by_one,
    one_cycle,
    ranked,
    refuses_lengths,
)

GREEDY = pytest.mark.question("greedy_search")
BEAM = pytest.mark.question("beam_search")


# ---------------------------------------------------------------------------------------------- greedy_search


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
        "max_length counts only new tokens; it should count the prompt too": lambda: argmaxes(table, prompts, 12),
        "the result is one token too short": lambda: argmaxes(table, prompts, 8),
        "the prompt is not in the result": lambda: argmaxes(table, prompts, 9)[:, 3:],
        "the least likely token is taken": lambda: argmaxes(-table, prompts, 9),
    })  # fmt: skip
    check(one, argmaxes(table, prompts[:1, :1], 2))


@GREEDY
@pytest.mark.points(2)
def test_greedy_rows_end_at_eos(student, check, rng):
    """A row ends with the eos that it generates and is filled with eos_id; the result is as wide as its longest row."""
    table = one_cycle(rng, 7)

    def probe(table, cases):
        from text_generation import greedy_search

        return [greedy_search(inside.Table(table), ids, length, eos_id=eos) for ids, length, eos in cases]

    for compared in endings(table, student.run(probe, table, ENDS)):
        check(**compared)


@GREEDY
@pytest.mark.points(1)
def test_greedy_refuses_lengths_before_it_starts(student):
    """A prompt without room and a max_length above the model's max_len are ValueErrors before the model is called."""
    refuses_lengths(student, "greedy_search")


@GREEDY
@pytest.mark.points(1)
def test_greedy_calls_the_model_as_it_is(student, check, rng):
    """The model is called in the mode it is in; nothing that was given changes."""
    for fact in facts_of_models(student, "greedy_search", rng):
        check.that(*fact)


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


def together(log_probs, prompt, num_beams, max_length, eos, penalty, *, padded=False):
    """(sequence, score, margin) as `beams` has it, where ended beams keep their places among the num_beams.

    padded: their lengths grow with those of the others.
    """
    start, kept, length = len(prompt), [(0.0, list(prompt))], len(prompt)

    def ends(beam):
        return eos in beam[1][start:]

    while length < max_length and not all(map(ends, kept)):
        length += 1
        grown = [longer for beam in kept if not ends(beam) for longer in grown_by_one(log_probs, *beam)]
        kept = ranked([*filter(ends, kept), *grown])[:num_beams]
    score, sequence = max((total / ((length if padded else len(s)) - start) ** penalty, s) for total, s in kept)
    return sequence, score, math.inf


def unless_ended(log_probs, prompt, num_beams, max_length, eos, penalty):
    """The same, where an eos of the prompt ends its row."""
    return (prompt, 0.0, math.inf) if eos in prompt else beams(log_probs, prompt, num_beams, max_length, eos, penalty)


def searched(table, ids, *settings, values=lambda table: table.log_softmax(-1), search=beams, **steps):
    """(ids, scores) of all rows; values: what is added up."""
    numbers = values(table.double()).tolist()
    rows = [search(numbers, row, *settings, **steps) for row in ids.tolist()]
    width, eos = max(len(sequence) for sequence, _, _ in rows), settings[2]
    filled = [sequence + [eos or 0] * (width - len(sequence)) for sequence, _, _ in rows]
    return torch.tensor(filled), torch.tensor([score for _, score, _ in rows], dtype=torch.float64)


def widened(table, ids, num_beams, max_length, eos, penalty):
    right, scores = searched(table, ids, num_beams, max_length, eos, penalty)
    return torch.nn.functional.pad(right, (0, max_length - right.shape[1]), value=eos or 0), scores


def with_settings(change):
    """The search with the eos and the penalty that change(eos, penalty) gives."""
    return lambda table, ids, num_beams, max_length, *others: searched(
        table, ids, num_beams, max_length, *change(*others)
    )


STOPS_AT_ONCE = dict(hope=lambda *_: -math.inf)
SUBTLE_MISTAKES = {  # which few inputs show: sentence -> the steps that are wrong
    "the search stops as soon as num_beams hypotheses have ended, although better ones may come": STOPS_AT_ONCE,
    "the search stops when the best candidate is eos; it should stop when no beam can beat the finished ones":
        dict(gives_up=lambda best, eos: best[0][1][-1] == eos),
    "the search goes on for longer than early_stopping=False does":
        dict(hope=lambda score, grown, running, count, most: score(running[0][0], most)),
    "all hypotheses that end are kept, so that the worst of them lets the search go on: keep the best num_beams":
        dict(kept=lambda finished, num_beams: finished),
    "beams that end take the places of others; num_beams that do not end should go on": dict(looked_at=1),
    "a hypothesis that ends outside of the best num_beams counts; it should not": dict(finishes=lambda rank, num_beams: True),
    "a beam that ends outside of the best num_beams goes on after its eos": dict(goes_on=lambda over, ends: not over),
    "a beam that has ended is continued after its eos; only beams without eos should go on":
        dict(goes_on=lambda over, ends: True),
    "beams that reach max_length do not count where others have ended; they should":
        dict(cut_counts=lambda finished: not finished),
    "the best hypothesis is chosen by its log-likelihood alone": dict(order=lambda score, total: total),
}  # fmt: skip
BEAM_MISTAKES = {  # sentence -> what it makes of (table, ids, num_beams, max_length, eos, penalty)
    AN_EOS_OF_0: with_settings(lambda eos, penalty: (eos or None, penalty)),
    "the result is max_length wide; it should be as wide as the longest of the best hypotheses": widened,
    "the scores are not divided by the length": partial(searched, report=lambda score, total: total),
    "the score of a hypothesis is divided by its length with the prompt; only generated tokens should count":
        partial(searched, score=lambda total, count, start, penalty: total / (start + count) ** penalty),
    "hypotheses are compared by their log-likelihood; divide it by their number of tokens ** length_penalty":
        partial(searched, score=lambda total, count, start, penalty: total),
    "eos does not count in the length of a hypothesis; it should":
        partial(searched, score=lambda total, count, start, penalty: total / max(count - 1, 1) ** penalty),
    "eos does not count in the length of what it ends, but counts while a beam runs; it should count in both":
        partial(searched, counted=lambda count, ends: max(count - ends, 1)),
    "the length of a hypothesis is one too great":
        partial(searched, score=lambda total, count, start, penalty: total / (count + 1) ** penalty),
    "the log-likelihood is multiplied by the length ** length_penalty; it should be divided":
        partial(searched, score=lambda total, count, start, penalty: total * count**penalty),
    "length_penalty is not used": with_settings(lambda eos, penalty: (eos, 1.0)),
    "eos ends no beam": with_settings(lambda eos, penalty: (None, penalty)),
    "logits are added up; log-probabilities should be": partial(searched, values=lambda table: table),
    "probabilities are added up; their logarithms should be": partial(searched, values=lambda table: table.softmax(-1)),
    "an eos in the prompt ends its row; only a generated one should": partial(searched, search=unless_ended),
    "the search stops at the first hypothesis that ends, although better ones may come":
        partial(searched, enough=lambda finished, num_beams: len(finished) > 0, **STOPS_AT_ONCE),
    **{sentence: partial(searched, **steps) for sentence, steps in SUBTLE_MISTAKES.items()},
    "ended beams keep their places among the num_beams; they should make room for beams that go on":
        partial(searched, search=together),
    "the length of an ended beam grows with the others; it should be the number of tokens up to eos":
        partial(searched, search=partial(together, padded=True)),
    "all beams start with the prompt's score, so that they stay the same":
        partial(searched, start=lambda prompt, num_beams: [(0.0, prompt)] * num_beams),
    "a token is appended to the beam at its own place; it should be appended to the beam that it continues":
        partial(searched, append=lambda best, running: [
            (total, [*running[place % len(running)][1], sequence[-1]]) for place, (total, sequence) in enumerate(best)
        ]),
    "each beam is continued by itself; the best of all beams' continuations should go on":
        partial(searched, join=lambda grown, count: [max(one) for one in grown] if count > 1 else grown[0]),
}  # fmt: skip


AFTER_EOS = [sentence for sentence in BEAM_MISTAKES if "after its eos" in sentence]


def but_for_filling(value, wrong, cases):
    """Whether value is a wrong result, but for its width and the eos at the ends of rows: what follows an eos is cut in many ways."""
    return all(
        ids.shape[1] <= max_length
        and unfilled(ids, eos) == unfilled(wrong_ids[:, : ids.shape[1]], eos)
        and torch.allclose(scores, wrong_scores, rtol=0, atol=1e-4)
        for (ids, scores), (wrong_ids, wrong_scores), (*_, max_length, eos, _) in zip(value, wrong, cases, strict=True)
    )


def unfilled(ids, eos):
    """The rows without what they end with, where that is eos."""
    return [row[: max((at + 1 for at, token in enumerate(row) if token != eos), default=0)] for row in ids.tolist()]


def agreed(log_probs, prompt, *settings):
    """The sequence that versions 4 and 5 of transformers both find, by no near tie that rounding could decide; or None."""
    (one, _, margin), (other, _, gap) = (beams(log_probs, prompt, *settings, **steps) for steps in ({}, VERSION_4))
    return one if one == other and min(margin, gap) > 2e-4 else None


def telling_prompts(rng, table, count, settings, unseen):
    """Prompts in which right searches agree, and the mistakes that none of them shows."""
    log_probs, found = table.double().log_softmax(-1).tolist(), []
    for _ in range(100):
        prompt = tokens(rng, len(log_probs), 3).tolist()
        right = agreed(log_probs, prompt, *settings)
        if right is None:
            continue
        shown = [wrong for wrong in unseen if beams(log_probs, prompt, *settings, **wrong)[0] != right]
        unseen = [wrong for wrong in unseen if wrong not in shown]
        if shown or len(found) < count:
            found.append(prompt)
        if len(found) >= count and not unseen:
            break
    return torch.tensor(found), unseen


def beam_cases(rng, eos, all_settings):
    """For `searches`: 30 prompts with each of the settings; with eos, what shows all subtle mistakes or those that 60 tables can show."""
    unseen = [*SUBTLE_MISTAKES.values()] if eos is not None else []
    cases, count = [], 30
    for _ in range(60):
        table = randn(rng, 9, 9, 9) * 1.5
        if eos is not None:
            table[:, :, eos] += 1.0
        for settings in ((num_beams, max_length, eos, penalty) for num_beams, max_length, penalty in all_settings):
            ids, unseen = telling_prompts(rng, table, count, settings, unseen)
            cases += [(table, ids, *settings)] * (len(ids) > 0)
        count = 0  # further tables have what is not shown yet
        if not unseen:
            break
    return cases


def searches(student, cases):
    """For `check(**…)`: what beam_search gives in all cases (table, ids, num_beams, max_length, eos, length_penalty)."""

    def probe(cases):
        from text_generation import beam_search

        results = []
        for table, ids, num_beams, max_length, eos_id, length_penalty in cases:
            model = inside.Table(table, max_len=max_length)
            found = beam_search(model, ids, num_beams, max_length, eos_id=eos_id, length_penalty=length_penalty)
            results.append((found[0], inside.a_tensor(found[1], "the scores").double()))
        return results

    def of_all(search):  # in a single case, some mistakes give the same
        return [search(*case) for case in cases]

    value, right = student.run(probe, cases), of_all(generated)

    def after_eos(search):
        wrong = of_all(search)
        return when(but_for_filling(value, wrong, cases) and not but_for_filling(right, wrong, cases))

    mistakes = {sentence: partial(of_all, search) for sentence, search in BEAM_MISTAKES.items()}
    mistakes |= {sentence: partial(after_eos, BEAM_MISTAKES[sentence]) for sentence in AFTER_EOS}
    return {"value": value, "expected": right, "within": 1e-4, "mistakes": mistakes}


@BEAM
@pytest.mark.points(3)
def test_beams_agree_with_transformers_without_eos(student, check, rng):
    """Without eos_id the likeliest of num_beams beams is found, for each row, with its score."""
    check(**searches(student, beam_cases(rng, None, [(3, 8, 1.0), (2, 7, 0.5), (8, 6, 1.0)])))


@BEAM
@pytest.mark.points(4)
def test_beams_agree_with_transformers_with_eos(student, check, rng):
    """Hypotheses end with eos_id and are compared by log-likelihood / number of tokens ** length_penalty."""
    settings = [(3, 10, 1.0), (3, 8, 0.0), (2, 9, 1.0), (4, 8, 2.0), (2, 9, 3.0)]
    check(**searches(student, beam_cases(rng, 2, settings)))


@BEAM
@pytest.mark.points(1)
def test_the_best_hypotheses_fill_the_width(student, check, rng):
    """The ids are as wide as the longest best hypothesis, filled with eos_id; an eos in the prompt ends nothing."""
    ends = torch.tensor([[EOS, 3, 4], [2, 0, 4], [0, 5, 5], [1, EOS, 4]])
    one = torch.tensor([[2, EOS]])
    cases = [(ends, 2, 9, EOS, 1.0), (one, 3, 10, EOS, 1.0), (ENDS_AT_0, 2, 9, 0, 1.0)]
    for _ in range(100):
        table = one_cycle(rng, 7)
        log_probs = table.double().log_softmax(-1).tolist()
        if all(agreed(log_probs, prompt, *settings) for ids, *settings in cases for prompt in ids.tolist()):
            break
    check(**searches(student, [(table, *case) for case in cases]))


@BEAM
@pytest.mark.points(1)
def test_many_beams_find_the_likeliest_sequence(student, check, rng):
    """With so many beams that none is lost the result is the likeliest of all sequences; one beam is greedy search."""
    table = randn(rng, 4, 4, 4)
    prompt = torch.tensor([[1, 3], [2, 0]])

    def probe(table, prompt):
        from text_generation import beam_search

        ids, scores = beam_search(inside.Table(table), prompt, num_beams=16, max_length=5)
        return ids, inside.a_tensor(scores, "the scores").double(), beam_search(inside.Table(table), prompt, 1, 7)[0]

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
    for fact in facts_of_models(student, "beam_search", rng):
        check.that(*fact)
