"""Hidden tests of the exercises in the lab of lesson 00."""

import math

import pytest
import torch

from shared import past, randn, shuffled, weigh

PIECES = {
    "token": ["token"],
    "tokens": ["token", "##s"],
    "unhappy": ["un", "##happy"],
    "retokens": ["re", "##token", "##s"],
}
VOCAB = ["token", "##s", "un", "##happy", "re", "##token"]
WORDS = ["ka", "lo", "mi", "ne", "pu", "ra", "si", "to", "vu"]


def some_of(rng, items, count):
    """Items, drawn with repetition."""
    return [items[place] for place in torch.randint(0, len(items), (count,), generator=rng)]


# ---------------------------------------------------------------------------------------------- Count tokens


@pytest.mark.points(2)
@pytest.mark.question("Count tokens")
@pytest.mark.parametrize(("count", "special"), [(12, True), (9, False), (0, True)])
def test_count_tokens_counts_what_the_model_reads(student, check, rng, count, special):
    """count_tokens counts all ids that the model reads, special tokens too."""
    words = ["retokens", *some_of(rng, list(PIECES), count - 1)] if count else []

    def probe(text, vocab, special):
        import lab

        return lab.count_tokens(text, inside.by_pieces(vocab, special))

    found = student.run(probe, " ".join(words), VOCAB, special)

    ids = [piece for word in words for piece in PIECES[word]]
    around = 2 if special else 0
    check(found, len(ids) + around, mistakes={
        "words are counted; tokens should be counted": len(words),
        "characters are counted; tokens should be counted": len(" ".join(words)),
        "the special tokens are not counted; the model reads them, too": len(ids),
        "each token is counted once; one that occurs again counts again": len(set(ids)) + around,
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- Cosine similarity


@pytest.mark.points(2)
@pytest.mark.question("Cosine similarity")
@pytest.mark.parametrize("width", [2, 7])
def test_the_cosine_is_the_product_of_directions(student, check, rng, width):
    """cosine_similarity is the dot product of the vectors, divided by both lengths."""
    a, b = randn(rng, width) * 3, randn(rng, width) / 2

    found = student.call("lab.cosine_similarity", a, b)

    a, b = a.double(), b.double()
    check(found, a @ b / (a.norm() * b.norm()), dtype=torch.float32, mistakes={
        "this is the dot product; divide it by both lengths": a @ b,
        "the dot product is divided by the first length only": a @ b / a.norm(),
        "the dot product is divided by the second length only": a @ b / b.norm(),
        "the lengths are squared; take the square root of the sum of squares": a @ b / (a.norm() * b.norm()) ** 2,
        "the sign is lost; opposite directions should give -1": (a @ b).abs() / (a.norm() * b.norm()),
        "this is the distance of the vectors; the cosine does not depend on their lengths": (a - b).norm(),
    })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.question("Cosine similarity")
def test_lengths_do_not_matter_and_directions_do(student, check, rng):
    """A vector has cosine 1 with its double, -1 with its opposite and 0 with what is at a right angle."""
    a = randn(rng, 4).abs() + 0.5
    right_angle = torch.stack([a[1], -a[0], a[3], -a[2]])

    found = [student.call("lab.cosine_similarity", a, b) for b in (2 * a, -3 * a, right_angle)]

    check(torch.stack(found), torch.tensor([1, -1, 0], dtype=torch.float64), dtype=torch.float32, mistakes={
        "the sign is lost; opposite directions should give -1": torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64),
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- Attention weights


@pytest.mark.points(3)
@pytest.mark.question("Attention weights")
@pytest.mark.parametrize(("length", "width"), [(5, 3), (2, 8), (1, 4)])
def test_attention_weights_are_a_causal_softmax_of_scaled_scores(student, check, rng, length, width):
    """attention_weights is the softmax of q · k / √d over the positions up to each one."""
    queries, keys = randn(rng, length, width) * 2, randn(rng, length, width)

    found = student.call("lab.attention_weights", queries, keys)

    scores, hidden = queries.double() @ keys.double().T, ~past(length)
    scaled = scores / math.sqrt(width)
    check(found, weigh(scaled, hidden), dtype=torch.float32, mistakes={
        "the scores are not divided by √d": weigh(scores, hidden),
        "the scores are divided by d; they should be divided by √d": weigh(scores / width, hidden),
        "a position sees later ones: hide them before the softmax": scaled.softmax(-1),
        "later positions are hidden after the softmax, so rows do not sum to 1": scaled.softmax(-1).masked_fill(hidden, 0),
        "the softmax is over the queries; each row should sum to 1": scaled.masked_fill(hidden, -math.inf).softmax(0),
        "queries and keys are swapped": weigh(scaled.T, hidden),
        "these are the scores; a softmax makes weights of them": scaled.masked_fill(hidden, -math.inf),
        "the mask shows the future and hides the past": weigh(scaled, hidden.T),
    })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.question("Attention weights")
def test_large_scores_do_not_overflow(student, check, rng):
    """Scores in the thousands give weights, too: no infinity and no NaN."""
    queries, keys = randn(rng, 6, 4) * 300, randn(rng, 6, 4) * 300

    found = student.call("lab.attention_weights", queries, keys)

    check.that(isinstance(found, torch.Tensor) and found.shape == (6, 6), "the weights should be a tensor (T, T)")
    check(found.double().sum(-1), torch.ones(6, dtype=torch.float64), relative=1e-4, mistakes={
        "there is a NaN: exp overflows; use softmax, which takes the maximum off first": check.when(bool(found.isnan().any())),
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- Generate from a prompt


def walk(following, start, steps):
    """The ids that a chain goes through after `start`, up to the end."""
    found = []
    for _ in range(steps):
        start = following[start]
        if start == 0:
            break
        found.append(start)
    return found


def in_words(ids):
    return " ".join(WORDS[id - 1] for id in ids)


@pytest.mark.points(2)
@pytest.mark.question("Generate from a prompt")
@pytest.mark.parametrize(("start", "steps"), [(3, 4), (1, 1)])
def test_generate_continues_the_prompt_greedily(student, check, rng, start, steps):
    """generate gives the prompt and as many of the likeliest next tokens as asked for."""
    ring = shuffled(rng, list(range(1, len(WORDS) + 1)))
    following = [ring[0], *(ring[(ring.index(id) + 1) % len(ring)] for id in range(1, len(ring) + 1))]
    prompt = ring[:start]

    def probe(prompt, words, following, most):
        import lab

        return inside.exactly(str, lab.generate(prompt, inside.by_words(words), inside.chain(following), most))

    found = student.run(probe, in_words(prompt), WORDS, following, steps)

    new = walk(following, prompt[-1], steps + 1)
    check(found, in_words(prompt + new[:steps]), mistakes={
        "the prompt is missing from the result": in_words(new[:steps]),
        "one token too many is generated": in_words(prompt + new),
        "one token too few is generated": in_words(prompt + new[: steps - 1]),
        "max_new_tokens is taken for the length of the whole text: the prompt does not count": in_words(prompt + new[: max(steps - start, 0)]),
    })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.question("Generate from a prompt")
def test_generation_stops_at_the_end_of_the_text(student, check, rng):
    """Nothing is generated after the end-of-text token, and the result does not show it."""
    order = shuffled(rng, list(range(1, len(WORDS) + 1)))
    following = [order[0]] * (len(WORDS) + 1)
    for id, after in zip(order, [*order[1:], 0], strict=True):
        following[id] = after

    def probe(prompt, words, following):
        from lab import generate

        return inside.exactly(str, generate(prompt, inside.by_words(words), inside.chain(following), 5))

    found = student.run(probe, in_words(order[:-2]), WORDS, following)

    check(found, in_words(order), mistakes={
        "the end-of-text token is part of the result; leave special tokens out": in_words(order) + " <end>",
        "it goes on after the end-of-text token": in_words([*order, *order[:2]]),
        "it goes on after the end-of-text token, which is part of the result": in_words(order) + " <end> " + in_words(order[:2]),
    })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.question("Generate from a prompt")
def test_a_model_that_is_set_to_sample_is_decoded_greedily_all_the_same(student, check, rng):
    """A model whose own settings ask for sampling is decoded greedily, too, and keeps these settings."""
    ring = shuffled(rng, list(range(1, len(WORDS) + 1)))
    following = [ring[0], *(ring[(ring.index(id) + 1) % len(ring)] for id in range(1, len(ring) + 1))]

    def probe(prompt, words, following):
        from lab import generate

        model = inside.chain(following)
        model.generation_config.do_sample = True
        text = inside.exactly(str, generate(prompt, inside.by_words(words), model, 8))
        return text, model.generation_config.do_sample, model.training

    text, samples, trains = student.run(probe, in_words(ring[:1]), WORDS, following)

    check(text, in_words(ring), otherwise="the tokens are not the likeliest ones: pass do_sample=False")
    check.that(samples, "the model's own settings are changed; pass do_sample=False to generate() instead")
    check.that(not trains, "the model is in training mode afterwards; leave it as it was")


# ---------------------------------------------------------------------------------------------- Classify sentiment


def judged(rng, names):
    """Texts of the same length, and the numbers of their classes, in which all occur; and the class of each id."""
    kinds = torch.arange(len(WORDS)) % len(names)
    class_of = [0, *(kinds[place].item() for place in torch.randperm(len(WORDS), generator=rng))]
    ids = shuffled(rng, list(range(1, len(WORDS) + 1)))
    return ids, [class_of[id] for id in ids], class_of


@pytest.mark.points(2)
@pytest.mark.question("Classify sentiment")
@pytest.mark.parametrize("names", [["NEGATIVE", "POSITIVE"], ["good", "bad"], ["joy", "anger", "fear"]])
def test_each_text_gets_the_models_label(student, check, rng, names):
    """classify_sentiment gives each text the name of its class, as the model calls it."""
    ids, classes, class_of = judged(rng, names)
    texts = [in_words([*some_of(rng, ids, 2), id]) for id in ids]

    def probe(texts, words, class_of, names):
        import lab

        return inside.exactly(
            list, lab.classify_sentiment(texts, inside.by_words(words), inside.judge(class_of, names))
        )

    found = student.run(probe, texts, WORDS, class_of, names)

    usual = ["NEGATIVE", "POSITIVE", "POSITIVE"]
    check(found, [names[number] for number in classes], mistakes={
        "the numbers of the classes are returned; model.config.id2label has their names": classes,
        "the names are fixed; take those of model.config.id2label": [usual[number] for number in classes],
        "the names are fixed, and the other way round": [usual[1 - min(number, 1)] for number in classes],
        "the label of the smallest logit is given; it should be that of the greatest": check.when(
            len(names) == 2, lambda: [names[1 - number] for number in classes]
        ),
        "only the first text gets a label": [names[classes[0]]],
        "all texts get the label of the first": [names[classes[0]]] * len(ids),
    })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.question("Classify sentiment")
def test_texts_of_different_lengths_can_be_classified_together(student, check, rng):
    """Texts of different lengths keep their order and get their own labels."""
    names = ["NEGATIVE", "POSITIVE"]
    ids, classes, class_of = judged(rng, names)
    texts = [in_words([*some_of(rng, ids, place % 4), id]) for place, id in enumerate(ids)]

    def probe(texts, words, class_of, names):
        from lab import classify_sentiment

        return inside.exactly(list, classify_sentiment(texts, inside.by_words(words), inside.judge(class_of, names)))

    found = student.run(probe, texts, WORDS, class_of, names)

    right = [names[number] for number in classes]
    by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    check(found, right, mistakes={
        "the labels come in the order of the texts' lengths": [right[place] for place in by_length],
        "the labels come in the reverse order": right[::-1],
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- Memory of the weights


@pytest.mark.points(1)
@pytest.mark.question("Memory of the weights")
@pytest.mark.parametrize(("parameters", "bits"), [(70e9, 16), (7e9, 4), (124_000_000, 32)])
def test_weights_take_bits_by_eight_bytes_each(student, check, parameters, bits):
    """weights_gb counts 10**9 bytes as a GB, and 8 bits as a byte."""
    found = student.call("lab.weights_gb", parameters, bits)

    size = parameters * bits / 8
    check(found, size / 1e9, mistakes={
        "bits are taken for bytes; a byte has 8 bits": size * 8 / 1e9,
        "a GB has 2**30 bytes here; it should have 10**9": size / 2**30,
        "this is the memory in bytes; it should be in GB": size,
        "this is the memory in MB; it should be in GB": size / 1e6,
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- Recent messages


def fitting(messages, sizes, room, strict=False):
    """The first messages that fit one after another."""
    kept = []
    for message, size in zip(messages, sizes, strict=True):
        room -= size
        if room < 0 or (strict and room == 0):
            break
        kept.append(message)
    return kept


@pytest.mark.points(2)
@pytest.mark.question("Recent messages")
@pytest.mark.parametrize("room", [0, 5, 9, 10, 11, 12, 30])
def test_the_newest_messages_that_fit_are_kept(student, check, rng, room):
    """recent_messages keeps the newest messages, in their order, up to the first that does not fit."""
    sizes = [1, 2, 7, 1, 4, 5]
    pieces = [shuffled(rng, WORDS)[:size] for size in sizes]
    messages = [" ".join(words) for words in pieces]

    def probe(messages, words, room):
        import lab

        return inside.exactly(list, lab.recent_messages(messages, inside.by_words(words), room))

    found = student.run(probe, messages, WORDS, room)

    newest, back = fitting(messages[::-1], sizes[::-1], room), sizes[::-1]
    skipping, left = [], room
    for message, size in zip(messages[::-1], back, strict=True):
        if size <= left:
            skipping.append(message)
            left -= size
    check(found, newest[::-1], mistakes={
        "the oldest messages are kept; the newest should be": fitting(messages, sizes, room),
        "the messages come in reverse order": newest,
        "a message that does not fit is skipped, and older ones are kept; all older ones should go, too": skipping[::-1],
        "messages that fill max_tokens exactly fit, too": fitting(messages[::-1], back, room, strict=True)[::-1],
        "characters are counted; tokens should be counted": fitting(messages[::-1], [len(text) for text in messages[::-1]], room)[::-1],
        "messages are counted; their tokens should be counted": messages[max(len(messages) - room, 0) :],
    })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.question("Recent messages")
def test_the_conversation_itself_stays_as_it_was(student, check):
    """recent_messages leaves the list of messages alone, and an empty conversation stays empty."""

    def probe(words):
        from lab import recent_messages

        messages, tokenizer = words[:4], inside.by_words(words)
        kept = inside.exactly(list, recent_messages(messages, tokenizer, 2))
        return messages, kept, recent_messages([], tokenizer, 5)

    messages, kept, nothing = student.run(probe, WORDS)

    check(messages, WORDS[:4], otherwise="the list of messages was changed; return a new one")
    check(kept, WORDS[2:4], what="what is kept")
    check(nothing, [], what="what is kept of no messages")
