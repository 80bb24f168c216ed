"""Hidden tests of translation: the translator. What it must find is worked out in tests/lessons/searching.py."""

import pytest
import searching
import torch
from searching import BOS, EOS, NEVER, PAD, V

from shared import MANNERS

TRANSLATOR = pytest.mark.question("TransformerTranslator")

IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
SIZES = {"src_vocab_size": V, "tgt_vocab_size": V, "d_model": 16, "num_layers": 1, "num_heads": 2}


def translations(options, seed, src, *how):
    """A probe: what the model says, and the translations; `how` as inside.search_results takes it."""
    from translation import TransformerTranslator

    translator = TransformerTranslator(**options)
    return inside.search_results(translator, translator.translate, seed, src, *how)


def options_of(size, bos, eos, pad):
    sizes = {**SIZES, "src_vocab_size": max(size, V), "tgt_vocab_size": size}
    return {**sizes, "bos_id": bos, "eos_id": eos, "pad_id": pad}


@pytest.fixture
def translator(student, rng):
    return searching.Searcher(student, rng, translations, options_of)


@TRANSLATOR
@pytest.mark.points(4)
def test_a_translation_is_the_argmax_at_each_step(translator, check):
    """num_beams=1 is the argmax of model(src, tgt) step by step, until eos_id or max_length."""
    check(**searching.greedily(translator))


@TRANSLATOR
@pytest.mark.points(2)
def test_bos_may_be_the_token_that_ends(translator, check):
    """Where bos_id is eos_id, the bos at the beginning ends nothing."""
    check(**searching.bos_may_end(translator))
    check(**searching.bos_may_end_beams(translator))


@TRANSLATOR
@pytest.mark.points(1)
def test_the_first_token_may_be_the_one_that_ends(translator, check):
    """eos_id may be 0."""
    check(**searching.zero_may_end(translator))


@TRANSLATOR
@pytest.mark.points(3)
def test_each_source_of_a_batch_ends_by_itself(translator, check):
    """A batch is translated as its sources are alone; a row that has ended is filled up with pad_id to the longest."""
    check(**searching.in_batches(translator))


@TRANSLATOR
@pytest.mark.points(2)
def test_a_source_is_translated_alike_however_it_is_padded(student, check, rng):
    """A source that is filled up with pad_id, by a little or by much, has the translation that it has alone."""

    def probe(options, src, *how):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options)
        return inside.searched_with_padding(translator, translator.translate, src, *how)

    found = student.run(probe, {**SIZES, **IDS}, searching.padded_sources(rng), V, BOS, EOS, PAD, 7, NEVER)

    for case in searching.same_however_padded(*found):
        check(**case)


@TRANSLATOR
@pytest.mark.points(2)
def test_max_length_counts_bos_and_has_bounds(student, check, rng):
    """ValueError before anything is generated where max_length leaves no room, or is above the model's max_len."""

    def probe(options, src, lengths, never):
        from transformer import Transformer
        from translation import TransformerTranslator

        with inside.noting_instances(Transformer) as made:
            translator = TransformerTranslator(**options)
        longest = next(sizes["max_len"] for one, sizes in made if one is translator.model)
        size, eos, names = options["tgt_vocab_size"], options["eos_id"], ["max_length"]
        return inside.search_within(translator, translator.translate, src, size, eos, longest, lengths, names, never)

    asked_for = [2, 3, 5]
    said, generated, training, found = student.run(probe, {**SIZES, **IDS}, searching.sources(rng, 3), asked_for, NEVER)

    for case in searching.refused(said, "max_length"):
        check(**case)
    check.that(generated is False, "tokens are generated before max_length is checked")
    check.that(training is True, "a refused call leaves the translator in eval mode")
    check(**searching.widths(found, asked_for))


@TRANSLATOR
@pytest.mark.points(3)
def test_translating_is_done_in_eval_mode_and_leaves_no_trace(student, check, rng):
    """Dropout is off while translating; every module has its own mode afterwards; src and torch stay as they were."""

    def probe(options, src):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options)
        return inside.conduct_of_search(translator, translator.translate, src, options["tgt_vocab_size"])

    training, plain, mixed, polite, grads = student.run(probe, {**SIZES, **IDS}, searching.sources(rng, 4))

    for fact in searching.conduct_facts(training, plain, mixed, grads):
        check.that(*fact)
    for same, rude in polite:
        check.that(same, "src is changed")
        check(rude, "", mistakes=MANNERS)


@TRANSLATOR
@pytest.mark.points(2)
def test_the_model_is_a_transformer_of_these_sizes(student, check):
    """`model` is lesson 2's Transformer with the sizes and the pad_id that were given."""

    def probe(options, src, tgt):
        import inspect

        from transformer import Transformer
        from translation import TransformerTranslator

        with inside.noting_instances(Transformer) as made:
            translator = TransformerTranslator(*options.values()).eval()
        model = translator.model
        given = next((given for one, given in made if one is model), {})
        other = TransformerTranslator(**options).eval()
        seeded = torch.equal(model(src, tgt), other.model(src, tgt))
        other.load_state_dict(translator.state_dict())
        parameters = inspect.signature(TransformerTranslator).parameters
        return {
            "kind": isinstance(translator, torch.nn.Module) and isinstance(model, Transformer),
            "given": {name: given.get(name) for name in (*list(options)[:5], "pad_id")},
            "seeded": seeded,
            "output": list(model(src, tgt).shape),
            "same": torch.equal(model(src, tgt), other.model(src, tgt)),
        }, {key: parameter.default for key, parameter in parameters.items() if isinstance(parameter.default, int)}

    sizes = {"src_vocab_size": 11, "tgt_vocab_size": 7, "d_model": 16, "num_layers": 3, "num_heads": 4}
    seen, defaults = student.run(probe, {**sizes, **IDS}, torch.tensor([[5, 6, 4]]), torch.tensor([[3, 6]]))

    kind = "the attribute model is not a Transformer of lesson 2, or the translator is not a module"
    check.that(seen["kind"], kind)
    given = {**sizes, "pad_id": PAD}
    swapped = {**given, "src_vocab_size": 7, "tgt_vocab_size": 11}
    check.that(seen["given"] != swapped, "the vocabularies are swapped")
    for name, value in given.items():
        check(seen["given"][name], value, otherwise=f"{name} is not handed on to the model")
    check(seen["output"], [1, 2, 7])
    check.that(not seen["seeded"], "all translators start with the same weights: do not set a seed")
    check.that(seen["same"], "a translator that loads the state_dict of another does not say what it says")
    right = {"d_model": 512, "num_layers": 6, "num_heads": 8, "bos_id": 1, "eos_id": 2, "pad_id": 0}
    check({key: defaults.get(key, right[key]) for key in right}, right)


@TRANSLATOR
@pytest.mark.points(4)
def test_the_best_finished_translation_wins(translator, check):
    """The score is log-likelihood / number of tokens after bos, of those that got eos_id or reached max_length."""
    check(**searching.best_finished(translator))


@TRANSLATOR
@pytest.mark.points(2)
def test_few_beams_keep_the_best_beginnings(translator, check):
    """After each token the num_beams most probable beginnings go on, those of each source apart. None of them ends."""
    check(**searching.best_beginnings(translator))


@TRANSLATOR
@pytest.mark.points(2)
def test_there_may_be_more_beams_than_tokens(translator, check):
    """With more beams than there are beginnings the best of all translations is found, in a batch as for one source."""
    check(**searching.best_of_all(translator))
    check(**searching.batch_by_more_beams_than_tokens(translator))


@pytest.mark.gpu
@TRANSLATOR
@pytest.mark.points(1)
def test_translations_are_where_the_source_is(student, check, rng, device):
    """On the GPU, in bfloat16 as well, translations are made there."""

    def probe(options, src):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options).to(src.device)
        results = [translator.translate(src, 5, beams) for beams in (1, 2)]
        return results + [translator.to(torch.bfloat16).translate(src, 5, beams) for beams in (1, 2)]

    results = student.on(device=device, timeout=60).run(probe, {**SIZES, **IDS}, searching.sources(rng, 3))

    for result in results:
        check(result[:, 0], torch.full((3,), BOS))
        check.that(result.shape[1] <= 5, "a row is longer than max_length")
