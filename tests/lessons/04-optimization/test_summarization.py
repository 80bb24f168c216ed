"""Hidden tests of summarization: the summarizer. What it must find is worked out in tests/lessons/searching.py."""

import pytest
import searching
import torch
from searching import BOS, EOS, NEVER, PAD, V

from shared import MANNERS

SUMMARIZER = pytest.mark.question("TransformerSummarizer")

IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
SIZES = {"vocab_size": V, "d_model": 16, "num_layers": 1, "num_heads": 2}


def summaries(options, seed, text, *how):
    """A probe: what the model says, and the summaries; `how` as inside.search_results takes it."""
    from summarization import TransformerSummarizer

    summarizer = TransformerSummarizer(**options)
    return inside.search_results(summarizer, summarizer.summarize, seed, text, *how)


def summarizer_options(size, bos, eos, pad):
    return {**SIZES, "vocab_size": size, "bos_id": bos, "eos_id": eos, "pad_id": pad}


@pytest.fixture
def summarizer(student, rng):
    return searching.Searcher(student, rng, summaries, summarizer_options)


# ---------------------------------------------------------------------------------------------- greedy search


@SUMMARIZER
@pytest.mark.points(4)
def test_a_summary_is_the_argmax_at_each_step(summarizer, check):
    """num_beams=1 is the argmax of model(text, summary) step by step, until eos_id or max_summary_length."""
    check(**searching.greedily(summarizer))


@SUMMARIZER
@pytest.mark.points(2)
def test_bos_may_be_the_token_that_ends(summarizer, check):
    """Where bos_id is eos_id, the bos at the beginning ends nothing."""
    check(**searching.bos_may_end(summarizer))
    check(**searching.bos_may_end_beams(summarizer))


@SUMMARIZER
@pytest.mark.points(1)
def test_the_first_token_may_be_the_one_that_ends(summarizer, check):
    """eos_id may be 0."""
    check(**searching.zero_may_end(summarizer))


@SUMMARIZER
@pytest.mark.points(3)
def test_each_text_of_a_batch_ends_by_itself(summarizer, check):
    """A batch is summarized as its texts are alone; a row that has ended is filled up with pad_id to the longest."""
    check(**searching.in_batches(summarizer))


@SUMMARIZER
@pytest.mark.points(2)
def test_a_text_is_summarized_alike_however_it_is_padded(student, check, rng):
    """A text that is filled up with pad_id, by a little or by much, has the summary that it has alone."""

    def probe(options, text, *how):
        from summarization import TransformerSummarizer

        summarizer = TransformerSummarizer(**options)
        return inside.searched_with_padding(summarizer, summarizer.summarize, text, *how)

    found = student.run(probe, {**SIZES, **IDS}, searching.padded_sources(rng), V, BOS, EOS, PAD, 7, NEVER)

    for case in searching.same_however_padded(*found):
        check(**case)


# ---------------------------------------------------------------------------------------------- conduct


@SUMMARIZER
@pytest.mark.points(2)
def test_max_summary_length_counts_bos_and_has_bounds(student, check, rng):
    """ValueError before anything is generated where max_summary_length leaves no room, or is above the model's max_len."""

    def probe(options, text, lengths, never):
        from summarization import TransformerSummarizer
        from transformer import Transformer

        with inside.noting_instances(Transformer) as made:
            summarizer = TransformerSummarizer(**options)
        longest = next(sizes["max_len"] for one, sizes in made if one is summarizer.model)
        size, eos, words = options["vocab_size"], options["eos_id"], ["max_summary_length"]
        return inside.search_within(summarizer, summarizer.summarize, text, size, eos, longest, lengths, words, never)

    asked_for = [2, 3, 5]
    said, generated, training, found = student.run(probe, {**SIZES, **IDS}, searching.sources(rng, 3), asked_for, NEVER)

    for case in searching.refused(said, "max_summary_length"):
        check(**case)
    check.that(generated is False, "tokens are generated before max_summary_length is checked")
    check.that(training is True, "a refused call leaves the summarizer in eval mode")
    check(**searching.widths(found, asked_for))


@SUMMARIZER
@pytest.mark.points(1)
@pytest.mark.parametrize("num_beams", [0, -1])
def test_there_is_one_beam_at_least(student, rng, num_beams):
    """ValueError where num_beams is less than 1."""

    def probe(options, text, num_beams):
        from summarization import TransformerSummarizer

        return TransformerSummarizer(**options).summarize(text, 4, num_beams)

    text = searching.sources(rng, 2)
    student.accepts(probe, {**SIZES, **IDS}, text, 1)
    student.raises(ValueError, probe, {**SIZES, **IDS}, text, num_beams, says=("num_beams", num_beams))


@SUMMARIZER
@pytest.mark.points(3)
def test_summarizing_is_done_in_eval_mode_and_leaves_no_trace(student, check, rng):
    """Dropout is off while summarizing; every module has its own mode afterwards; text and torch stay as they were."""

    def probe(options, text):
        from summarization import TransformerSummarizer

        summarizer = TransformerSummarizer(**options)
        return inside.conduct_of_search(summarizer, summarizer.summarize, text, options["vocab_size"])

    training, plain, mixed, polite, grads = student.run(probe, {**SIZES, **IDS}, searching.sources(rng, 4))

    for fact in searching.conduct_facts(training, plain, mixed, grads):
        check.that(*fact)
    for same, rude in polite:
        check.that(same, "text is changed")
        check(rude, "", mistakes=MANNERS)


@SUMMARIZER
@pytest.mark.points(2)
def test_the_model_is_a_transformer_of_these_sizes(student, check):
    """`model` is lesson 2's Transformer with the sizes, the pad_id and one vocabulary for texts and summaries."""

    def probe(options, text, summary):
        import inspect

        from summarization import TransformerSummarizer
        from transformer import Transformer

        with inside.noting_instances(Transformer) as made:
            first = TransformerSummarizer(*options.values()).eval()
        given = next((given for one, given in made if one is first.model), {})
        other = TransformerSummarizer(**options).eval()
        seeded = torch.equal(first.model(text, summary), other.model(text, summary))
        texts = torch.randint(3, options["vocab_size"], (40, 5), generator=torch.Generator().manual_seed(0))
        for seed, summarizer in enumerate((first, other)):
            inside.draw_weights(summarizer.model, torch.Generator().manual_seed(seed))
            summarizer.summarize(texts, 8)
        other.load_state_dict(first.state_dict())
        summaries = [each.summarize(texts, 8) for each in (first, other)]
        return {
            "fresh": torch.equal(*map(inside.a_tensor, summaries)),
            "kind": isinstance(first, torch.nn.Module) and isinstance(first.model, Transformer),
            "given": {name: given.get(name) for name in ("src_vocab_size", "tgt_vocab_size", *options, "max_len")},
            "seeded": seeded,
            "same": torch.equal(first.model(text, summary), other.model(text, summary)),
            "defaults": {
                key: parameter.default
                for key, parameter in inspect.signature(TransformerSummarizer).parameters.items()
                if isinstance(parameter.default, int)
            },
        }

    sizes = {"vocab_size": 11, "d_model": 16, "num_layers": 2, "num_heads": 4}
    seen = student.run(probe, {**sizes, **IDS}, torch.tensor([[5, 6, 4]]), torch.tensor([[3, 10]]))

    check.that(seen["kind"], "the attribute model is not a Transformer of lesson 2, or the summarizer is not a module")
    given = {"src_vocab_size": 11, "tgt_vocab_size": 11, **{name: sizes[name] for name in list(sizes)[1:]}}
    for name, value in {**given, "pad_id": PAD, "max_len": 5000}.items():
        check(seen["given"][name], value, otherwise=f"{name} is not handed on to the model")
    check.that(not seen["seeded"], "all summarizers start with the same weights: do not set a seed")
    check.that(seen["same"], "a summarizer that loads the state_dict of another does not say what it says")
    check.that(seen["fresh"], "a summary is that of weights which the summarizer had before")
    right = {"d_model": 512, "num_layers": 6, "num_heads": 8, "bos_id": 1, "eos_id": 2, "pad_id": 0}
    check({key: seen["defaults"].get(key, right[key]) for key in right}, right, what="the defaults")


# ---------------------------------------------------------------------------------------------- beams


@SUMMARIZER
@pytest.mark.points(4)
def test_the_best_finished_summary_wins(summarizer, check):
    """The score is log-likelihood / number of tokens after bos, of those that got eos_id or reached max_summary_length."""
    check(**searching.best_finished(summarizer))


@SUMMARIZER
@pytest.mark.points(2)
def test_few_beams_keep_the_best_beginnings(summarizer, check):
    """After each token the num_beams most probable beginnings go on, those of each text apart. None of them ends."""
    check(**searching.best_beginnings(summarizer))


@SUMMARIZER
@pytest.mark.points(2)
def test_there_may_be_more_beams_than_tokens(summarizer, check):
    """With more beams than there are beginnings the best of all summaries is found, in a batch as for one text."""
    check(**searching.best_of_all(summarizer))
    check(**searching.batch_by_more_beams_than_tokens(summarizer))


@pytest.mark.gpu
@SUMMARIZER
@pytest.mark.points(1)
def test_summaries_are_where_the_text_is(student, check, rng, device):
    """On the GPU, in bfloat16 as well, summaries are made there."""

    def probe(options, text):
        from summarization import TransformerSummarizer

        summarizer = TransformerSummarizer(**options).to(text.device)
        results = [summarizer.summarize(text, 5, beams) for beams in (1, 2)]
        return results + [summarizer.to(torch.bfloat16).summarize(text, 5, beams) for beams in (1, 2)]

    results = student.on(device=device, timeout=60).run(probe, {**SIZES, **IDS}, searching.sources(rng, 3))

    for result in results:
        check(result[:, 0], torch.full((3,), BOS))
        check.that(result.shape[1] <= 5, "a row is longer than max_summary_length")
