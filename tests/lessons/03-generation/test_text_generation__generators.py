"""Hidden tests of text_generation: the classes that hold a model and generate with it."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from shared import law, randn, randomness_facts, tokens, wrong_law
from text_generation_helpers import ENDS, INF, LENGTHS, beams, endings, manners_facts, one_cycle, ranks

GPT = pytest.mark.question("GPTTextGenerator")
HUGGING_FACE = pytest.mark.question("HuggingFaceTextGenerator")
CREATIVE = pytest.mark.question("CreativeTextGenerator")


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
        kinds = *kinds, not torch.equal(GPTTextGenerator(**sizes).model(ids), GPTTextGenerator(**sizes).model(ids))
        return kinds, True, ours.max_len, (theirs(ids) - ours(ids)).abs().max()

    sizes = {"vocab_size": 11, "d_model": 12, "num_layers": 2, "num_heads": 3, "max_len": 20}
    kinds, same, max_len, distance = student.run(probe, sizes)

    check.that(kinds[0], "GPTTextGenerator is not an nn.Module")
    check.that(kinds[1], "the attribute model is not a GPTModel of lesson 2")
    check.that(kinds[2], "model is not a submodule, so that its parameters are not found")
    check(max_len, 20, mistakes={"max_len is not handed on to the model": 1024})
    check.that(
        same,
        "the model's weights do not have the sizes of GPTModel(vocab_size, d_model, num_layers, num_heads, max_len=…)",
    )
    check.that(float(distance) < 1e-5, "the model has the wrong number of heads")
    check.that(kinds[3], "all models start with the same weights: do not set a seed")


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
        result = inside.with_sure_draws(generator.train().generate, prompt, 9, top_k=1)
        ids, first, last = prompt, prompt, prompt
        generator.eval()
        for _ in range(6):
            ids = torch.cat([ids, generator.model(ids)[:, -1:].argmax(-1)], dim=1)
            first = torch.cat([first, generator.model(first)[:, :1].argmax(-1)], dim=1)
            last = torch.cat([last, generator.model(last[:, -1:]).argmax(-1)], dim=1)
        one = inside.with_sure_draws(generator.train().generate, prompt[:1, :1], max_length=2)
        return result, ids, first, last, inside.a_tensor(one).shape

    result, expected, first, last, shape = student.run(probe, tokens(rng, 13, 12, 3))

    check(result, expected, mistakes={
        "the prompt is not in the result": expected[:, 3:],
        "the first position's logits are used; use the last ones, which say what comes next": first,
        "the model sees only the last token; it should see the whole row": last,
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
        return inside.a_tensor(generator.generate(torch.tensor([[4, 2, 1]] * 1000), 5, **options))

    ids = student.run(probe, table, options)

    check.that(ids.shape == (1000, 5), "the result does not have max_length tokens in every row")
    drawn = sum(ranks(ids[:, t], order[ids[:, t - 2], ids[:, t - 1]]) for t in (3, 4))
    name = next(iter(options), "nothing")
    wrong = wrong_law([(drawn, law(*kept), {
        f"{name} is not used": law(*probs),
        "the logits are multiplied by the temperature; they should be divided by it": law(*(p**0.5 for p in probs)),
        "the likeliest token is taken; a token should be drawn": law(1, 0, 0, 0, 0),
    })], "the tokens are not drawn with the right probabilities")  # fmt: skip
    check.that(not wrong, wrong)


@GPT
@pytest.mark.points(2)
def test_generated_rows_end_at_eos(student, check, rng):
    """A row ends with the eos that it generates and is filled with eos_id; the result is as wide as its longest row."""
    table = one_cycle(rng, 7)

    def probe(table, cases):
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(7, 8, 1, 2, max_len=12)
        generator.model.forward = inside.Table(table)
        return [inside.with_sure_draws(generator.generate, ids, length, eos_id=eos) for ids, length, eos in cases]

    for compared in endings(table, student.run(probe, table, ENDS)):
        check(**compared)


LEFT_IN = {  # sentence -> how the model was
    "afterwards the model is in eval mode, although it was in train mode": "train",
    "afterwards the model is in train mode, although it was in eval mode": "eval",
    "afterwards all modules are in one mode; each should be in the mode it was in": "mixed",
}


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
        prompt, seen = torch.tensor([[1, 2], [3, 4]]), {}
        called = inside.manners(inside.with_sure_draws, generator.train().generate, prompt, 8, 0.8, 3, 0.9, 2)
        for start in ("train", "eval", "mixed"):
            generator.train(start != "eval")
            if start == "mixed":
                inner = list(generator.model.children())
                inner[0].eval()
                list(inner[-1].modules())[-1].eval()
                list(generator.model.modules())[4].eval()
            before = inside.modes(generator)
            inside.with_sure_draws(generator.generate, prompt, 5)
            seen[start] = before, inside.modes(generator)
        _, (_, after, *_), rude = called
        return during, seen, torch.equal(after, prompt), rude

    during, seen, kept, rude = student.run(probe)

    check.that(len(during) > 0, "the model is not called")
    check.that(not any(during), "the model is called in train mode; generate should run in eval mode")
    for sentence, start in LEFT_IN.items():
        before, after = seen[start]
        check.that(after == before, sentence)
    for fact in manners_facts(kept, rude):
        check.that(*fact)


@GPT
@pytest.mark.points(1)
def test_the_generator_of_generate_draws(student, check):
    """All randomness comes from generator, or from torch's own if there is none."""

    def probe():
        from text_generation import GPTTextGenerator

        gpt = GPTTextGenerator(30, 8, 1, 2, max_len=16)
        prompt = torch.tensor([[1, 2], [3, 4]])
        return inside.randomness(lambda generator: gpt.generate(prompt, 16, generator=generator))

    for fact in randomness_facts(student.run(probe)):
        check.that(*fact)


@GPT
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("prompt_length", "max_length", "options", "names", "allowed"),
    [(4, 4, {}, LENGTHS, (5, {})), (6, 4, {}, LENGTHS, (7, {})), (2, 9, {}, LENGTHS, (8, {})),
     (2, 6, {"temperature": 0}, ("temperature",), (6, {"temperature": 1e-3})),
     (2, 6, {"top_k": 0}, ("top_k", "k"), (6, {"top_k": 1})), (2, 6, {"top_p": 1.2}, ("top_p", "p"), (6, {"top_p": 1.0}))],
)  # fmt: skip
def test_generate_refuses_bad_arguments(student, prompt_length, max_length, options, names, allowed):
    """Bad lengths are ValueErrors before the model is called; so are bad settings."""

    def probe(prompt_length, max_length, options):
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(7, 8, 1, 2, max_len=8)
        if not options:
            generator.model.forward = inside.unasked()
        generator.generate(torch.ones(2, prompt_length, dtype=torch.long), max_length, **options)

    def use(prompt_length, max_length, options):
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(7, 8, 1, 2, max_len=8)
        generator.model.forward = inside.Speaker(lambda seen: 3, 7)
        prompt = torch.ones(2, prompt_length, dtype=torch.long)
        inside.with_sure_draws(generator.generate, prompt, max_length, **options)

    student.accepts(use, prompt_length, *allowed)
    names = (*LENGTHS, prompt_length, max_length) if names is LENGTHS else (*names, *options.values())
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
    check.that(
        all(type(text) is str and text.startswith(PROMPT) for text in texts), "the strings do not begin with the prompt"
    )
    check(sorted({len(text) for text in texts}), [14], mistakes={
        "max_length counts only new tokens; it should count the prompt too": [22],
    })  # fmt: skip
    letters = torch.tensor([ord(letter) for text in texts for letter in text[8:]])
    groups = (letters[:, None] == torch.tensor(bytes_)).sum(0).view(9, 10).sum(1)

    def grouped(logits):
        return logits.softmax(-1).view(9, 10).sum(1)

    fifty = torch.where(torch.arange(90) < 50, logits / temperature, -INF)
    wrong = wrong_law([(groups, grouped(logits / temperature), {
        "only the 50 likeliest tokens are drawn, by transformers' default top_k=50: switch it off": grouped(fifty),
        "the likeliest token is taken: do_sample=True is missing": law(1, *[0] * 8),
        "the temperature is not used": grouped(logits),
        "only the 50 likeliest tokens are drawn, and the temperature is not used": grouped(fifty * temperature),
        "the logits are multiplied by the temperature": grouped(logits * temperature),
    })], "the tokens are not drawn with the right probabilities")  # fmt: skip
    check.that(not wrong, wrong)


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

    check.that(all(isinstance(one, list) and len(one) == 1 for one in ones), "the result is not a list of one string")
    everything = [*texts, *(text for one in ones for text in one)]
    check.that(not any("endoftext" in text for text in everything), "a string holds <|endoftext|>: skip special tokens")
    check.that(all(prompt in text for text in everything), "the prompt is not in the string, letter for letter")
    tails = [text[len(prompt) :] for text in texts]
    check.that(all(set(tail) <= {chr(a), chr(b)} for tail in tails), "a string holds what the model did not say")
    check.that(texts != again, "every call draws the same: do not set a seed")
    check.that(len(set(tails)) > 3, "the sequences of a call are all the same; each should be drawn on its own")
    counts = torch.tensor([len(tail) for tail in tails]).clamp(max=3).bincount(minlength=4)
    end = math.exp(-0.5) / (2 + math.exp(-0.5))
    wrong = wrong_law([(counts, law(end, (1 - end) * end, (1 - end) ** 2 * end, (1 - end) ** 3), {
        "strings go on after <|endoftext|>": law(0, 0, 0, 1),
    })], "strings do not end where the model says <|endoftext|>")  # fmt: skip
    check.that(not wrong, wrong)


@HUGGING_FACE
@pytest.mark.points(1)
def test_hugging_face_draws_rare_tokens(student, check, rng):
    """Tokens beyond the most likely 90 % are drawn, too: there is no top-p. A right one fails once in 10⁷ times."""
    bytes_, probs = printable(rng, 4), [0.86, 0.06, 0.05, 0.03]

    def probe(config, weights, prompt):
        from text_generation import HuggingFaceTextGenerator

        generator = HuggingFaceTextGenerator(inside.saved_gpt2(config, weights))
        return generator.generate_text(prompt, max_length=11, num_return_sequences=200)

    texts = student.run(probe, CONFIG, steady(dict(zip(bytes_, map(math.log, probs), strict=True))), PROMPT)

    drawn = {ord(letter) for text in texts for letter in text[len(PROMPT) :]}
    check.that(drawn == set(bytes_), "rare tokens are never drawn: use the full distribution, without top-p")


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
    return weights, table.expand(len(words), -1, -1).tolist()


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
            "the result is a string; it should be a list of one": best(prompt, 5, 11),
            "the prompt is not in the string": [best(prompt, 5, 11)[5:]],
            "num_beams is not used": [best(prompt, 1, 11)],
            "max_length counts only new tokens; it should count the prompt too": [best(prompt, 5, 16)],
        }
        check(five, [best(prompt, 5, 11)], mistakes=mistakes)
        check(two, [best(prompt, 2, 11)], mistakes={"num_beams is not used": [best(prompt, 5, 11)], **mistakes})


@HUGGING_FACE
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("name", "options", "names"),
    [("generate_text", {"max_length": 8}, LENGTHS), ("generate_text", {"max_length": 3}, LENGTHS),
     ("generate_with_beam_search", {"max_length": 8}, LENGTHS),
     ("generate_text", {"max_length": 20, "temperature": 0.0}, ("temperature",))],
)  # fmt: skip
def test_hugging_face_refuses_bad_arguments(student, name, options, names):
    """A prompt of max_length tokens or more and a temperature that is not positive are ValueErrors."""

    def probe(name, config, weights, prompt, options):
        from text_generation import HuggingFaceTextGenerator

        generator = HuggingFaceTextGenerator(inside.saved_gpt2(config, weights))
        getattr(generator, name)(prompt, **options)

    says = (*names, *options.values())
    allowed = {"max_length": 9} if names is LENGTHS else options | {"temperature": 1e-3}
    student.accepts(probe, name, CONFIG, steady({65: 0.0}), PROMPT, allowed)
    student.raises(ValueError, probe, name, CONFIG, steady({65: 0.0}), PROMPT, options, says=says)


# ---------------------------------------------------------------------------------------------- CreativeTextGenerator


def text_facts(text, prompt, length, max_length):
    """Facts that hold for every text; length: that of the encoded text."""
    return [
        (type(text) is str, "the text is not a string"),
        (str(text).startswith(prompt), "the text does not start with the prompt"),
        (length <= max_length, "the text has more than max_length tokens when it is encoded"),
    ]


NOTHING_SAID = "nothing of what the model says is in the text, though there is room"
NO_PHRASE = "a phrase of constraints is not in the text"
IN_PLACE = "the list of constraints is changed in place"


STYLED, PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"


@CREATIVE
@pytest.mark.points(4)
@pytest.mark.parametrize(
    ("style", "max_len"),
    [("%49%", None), ("48 7 " * 20, None), ("93 é–ü", None), ("40\n 50", None), ("%49%", 30)],
    ids=["short", "longer than the text", "not ASCII", "blanks", "a model with max_len"],
)
def test_the_model_sees_the_style_and_the_text_does_not_hold_it(student, check, style, max_len):
    """The model goes on from style and prompt, the style before each token; the text is the prompt and what it said."""

    def probe(prompt, style, max_length, styled, plain, max_len):
        from text_generation import CreativeTextGenerator

        def say(context):
            letters = styled if style.encode() in bytes(context) else plain
            return ord(letters[(letters.find(chr(context[-1])) + 1) % 26])  # A, B, C, … while it sees what it said last

        model = inside.Speaker(say)
        if max_len is not None:
            model.max_len = max_len  # no window drops the style
        creative = CreativeTextGenerator(model)
        text = inside.with_sure_draws(creative.generate_with_style_transfer, prompt, style, max_length)
        contexts = [bytes(row) for row in model.contexts if style.encode() in bytes(row)]
        prompted = [prompt.encode() in context for context in contexts]
        return inside.a_text(text), prompted, max(map(len, model.contexts), default=0)

    text, prompted, longest = student.run(probe, "12 – 3", style, 30, STYLED, PLAIN, max_len)

    check.that(style not in text, "the text holds the style")
    for fact in text_facts(text, "12 – 3", len(text.encode()), 30):
        check.that(*fact)
    check.that(len(prompted) > 0, "the model does not see the style, letter for letter")
    check.that(any(prompted), "the model does not see the prompt")
    check.that(not set(text[6:]).isdisjoint(STYLED + PLAIN), NOTHING_SAID)
    check.that(set(text).isdisjoint(PLAIN), "the model goes on without the style: generate each token after it")
    if max_len is None:
        check.that(all(prompted), "the model sees a part of the prompt only, though it has no max_len")
    else:
        check.that(longest <= max_len, "the model gets more tokens than its max_len: cut what follows the style")
    check.that(
        STYLED.startswith(text[6:]), "the model does not see the last token that it said: cut the context elsewhere"
    )


@CREATIVE
@pytest.mark.points(1)
def test_a_style_may_be_empty(student, check):
    """Any string is a style or a prompt, the empty one too; the model is called as it is."""

    def probe():
        from text_generation import CreativeTextGenerator

        table = (100.0 * (torch.arange(256) == ord("a"))).expand(256, 256, 256)
        before, during, after = [], [], []
        for name, prompt, argument in (
            ("generate_with_style_transfer", "1 2 3", ""),
            ("generate_with_style_transfer", "", "old"),
            ("generate_with_constraints", "1 2 3", ["xyz"]),
        ):
            model = inside.TableModule(table).train()
            model.one.eval()
            before.append(inside.modes(model))
            text = inside.with_sure_draws(getattr(CreativeTextGenerator(model), name), prompt, argument, 20)
            during.append((prompt, inside.a_text(text), bool(model.calls)))
            after.append(inside.modes(model))
        return before, during, after

    before, during, after = student.run(probe)

    check.that(before == after, "the model is left in a different mode")
    for prompt, text, called in during:
        check.that(called, "the model is not called")
        for fact in text_facts(text, prompt, len(text.encode()), 20):
            check.that(*fact)
        check.that("a" in text, NOTHING_SAID)


@CREATIVE
@pytest.mark.points(3)
@pytest.mark.parametrize("max_length", [12, 13, 24])
def test_bytes_that_are_no_text_do_not_make_it_too_long(student, check, max_length):
    """Without a tokenizer ids are UTF-8 bytes; what is cut in the middle of a letter, or is not UTF-8, does no harm."""

    def probe(max_length):
        from text_generation import CreativeTextGenerator

        def letters(context):
            return 0xA9 if context[-1] == 0xC3 else 0xC3  # é, again and again

        def noise(context):
            return (context[-1] * 37 + 53 * len(context) + 128) % 256

        results = []
        for say in (letters, noise):
            creative = CreativeTextGenerator(inside.Speaker(say))
            for call in (
                (creative.generate_with_style_transfer, "né", "ß", max_length),
                (creative.generate_with_constraints, "né", ["ö"], max_length),
            ):
                text = inside.a_text(inside.with_sure_draws(*call))
                results.append((text, len(text.encode())))
        return results

    results = student.run(probe, max_length)

    for fact in [fact for text, length in results for fact in text_facts(text, "né", length, max_length)]:
        check.that(*fact)
    check.that("ö" in results[1][0] and "ö" in results[3][0], NO_PHRASE)
    check.that("é" in results[0][0][2:], NOTHING_SAID)


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
                inside.with_sure_draws(creative.generate_with_style_transfer, "12 3", "#4#", 17),
                inside.with_sure_draws(creative.generate_with_constraints, "12 3", ["567"], max_length=17),
            )
            results += [(text, len(tokenizer.encode(inside.a_text(text)))) for text in texts]
        return results

    results = student.run(probe)

    for i, (text, length) in enumerate(results):
        for fact in text_facts(text, "12 3", length, 17):
            check.that(*fact)
        check.that(not set(text[4:]).isdisjoint("ABCDEFGH" if i < 2 else "abcd"), NOTHING_SAID)
        check.that(i % 2 == 0 or "567" in text, NO_PHRASE)


def constrained(student, prompt, constraints, max_length):
    """(text or None where a ValueError was raised, len(encode(text)), are the constraints as they were?)."""

    def probe(prompt, constraints, max_length, letters):
        from text_generation import CreativeTextGenerator

        creative, before = (
            CreativeTextGenerator(inside.Speaker(lambda seen: ord(letters[len(seen) % 26]))),
            [*constraints],
        )
        try:
            text = inside.with_sure_draws(creative.generate_with_constraints, prompt, constraints, max_length)
            inside.a_text(text)
        except ValueError:
            return None, 0, constraints == before
        return text, len(text.encode()), constraints == before

    return student.run(probe, prompt, constraints, max_length, PLAIN)


@CREATIVE
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("constraints", "max_length"),
    [
        ([], 20),
        (["#12"], 30),
        (["Ä 1", "4 5 6", "789", "(0)"], 60),
        (["#12", "X?", "#12"], 21),
        (["É:", "1"], 30),
        (["  9\n", " 8 "], 30),
    ],
    ids=["none", "one", "four", "twice the same", "as the prompt, but in capitals", "with blanks"],
)
def test_every_phrase_is_in_the_text(student, check, constraints, max_length):
    """The text holds every phrase, after the prompt, and words of the model where there is room."""
    text, length, kept = constrained(student, "1 é:", constraints, max_length)

    check.that(text is not None, "a ValueError is raised where there is room for all phrases")
    check.that(kept, IN_PLACE)
    for fact in text_facts(text, "1 é:", length, max_length):
        check.that(*fact)
    check.that(all(phrase in text for phrase in constraints), NO_PHRASE)
    check.that(not set(text).isdisjoint(PLAIN), NOTHING_SAID)


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

    check.that(kept, IN_PLACE)
    if room is False:
        check.that(text is None, "no ValueError is raised where prompt and missing phrases are longer than max_length")
        return
    check.that(
        text is not None or room is None,
        "a ValueError is raised where there is room; only what the prompt lacks should count",
    )
    if text is not None:
        for fact in text_facts(text, prompt, length, max_length):
            check.that(*fact)
        check.that(all(phrase in text for phrase in constraints), NO_PHRASE)


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

    def use(name, argument, max_length):
        from text_generation import CreativeTextGenerator

        model = inside.Speaker(lambda seen: 120)
        model.max_len = max_length
        inside.with_sure_draws(getattr(CreativeTextGenerator(model), name), "1 2 3", argument, max_length)

    student.accepts(use, name, argument, 20)
    student.raises(
        ValueError,
        probe,
        name,
        argument,
        max_length,
        max_len,
        says=(*LENGTHS, "constraints", max_length, max_len or max_length),
    )
