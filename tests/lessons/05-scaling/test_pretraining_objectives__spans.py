"""Hidden tests of pretraining_objectives: spans.

The law of their places is open: each way to place them should be possible, and rows have nothing to do with each other.
A way that is drawn once in 256 rows, the rarest of 35 where kept tokens are dealt out one by one, is missed in 4000 rows
less than once in 6e6 times, and none is missed by work that draws all of them equally often.
"""

import math

import pytest
import torch

from shared import MANNERS, randomness_facts, tokens

SPANS = pytest.mark.question("SpanCorruptionTrainer: create_span_targets")
SENTINELS = pytest.mark.question("SpanCorruptionTrainer: create_sentinel_targets")
IGNORED, MASK, FIRST = -100, 999, 2000  # FIRST sentinel: no id of a text


def hidden_by(calls):
    """A probe: for each (length, mask_prob, span_length, rows) which places of texts 0, 1, 2, … are hidden, (rows, length)."""
    from pretraining_objectives import SpanCorruptionTrainer

    found = []
    for length, prob, width, rows in calls:
        trainer = SpanCorruptionTrainer(None, 1000, 999, width, prob)
        corrupted, _ = inside.listed(trainer.create_span_targets(torch.arange(length).repeat(rows, 1)))
        found.append(corrupted == 999)
    return found


def hidden_by_sentinels(calls):
    """A probe: the same of create_sentinel_targets. A place is hidden if its token is not in the inputs."""
    from pretraining_objectives import SpanCorruptionTrainer

    found = []
    for length, prob, width, rows in calls:
        trainer = SpanCorruptionTrainer(None, 1000, 999, width, prob)
        inputs, _ = inside.listed(trainer.create_sentinel_targets(torch.arange(length).repeat(rows, 1), 2000))
        hidden = torch.ones(rows, length + 1, dtype=torch.bool)
        hidden.scatter_(1, inputs.clamp(max=length), torch.zeros_like(inputs, dtype=torch.bool))
        found.append(hidden[:, :length])
    return found


def runs(row):
    """The lengths of the runs of hidden places in a row, from left to right."""
    edges = torch.cat([torch.zeros(1), row.float(), torch.zeros(1)]).diff()
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten().tolist()


def starts(hidden):
    """At which places a run of hidden ones begins in some row: in order, each once."""
    before = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], dim=1)
    return (hidden & ~before).any(0).nonzero().flatten().tolist()


def ways_of(hidden):
    """Which tuples of places at which runs of hidden ones begin come in some row: in order, each once."""
    before = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], dim=1)
    return sorted(tuple(row.nonzero().flatten().tolist()) for row in (hidden & ~before).unique(dim=0))


def both_ways(test):
    """Cases of a test: the places of both methods."""
    return pytest.mark.parametrize("probe", [hidden_by, hidden_by_sentinels], ids=["masks", "sentinels"])(test)


# ---------------------------------------------------------------------------------------------- how many, how long

SPARSE = [  # length, mask_prob, span_length; round and no other way gives the right number in all of them
    (40, 0.15, 3),  # 2.0
    (33, 0.15, 3),  # 1.65
    (46, 0.15, 3),  # 2.3
    (64, 0.15, 5),  # 1.92
    (100, 0.21, 1),  # 21.0
    (36, 0.12, 4),  # 1.08
    (34, 0.15, 2),  # 5.1 / 2 = 2.55
    (29, 0.1, 2),  # 2.9 / 2 = 1.45
]


@SPANS
@pytest.mark.points(2)
def test_the_number_of_spans_is_rounded(student, check):
    """round(T · mask_prob / span_length) spans, told by the number of hidden tokens."""
    found = student.run(hidden_by, [(*case, 5) for case in SPARSE])

    numbers = [(hidden.sum(1) / width).tolist() for hidden, (_, _, width) in zip(found, SPARSE, strict=True)]
    shares = [length * prob / width for length, prob, width in SPARSE]

    def all_rows(number):
        return [[float(number(share, width))] * 5 for share, (_, _, width) in zip(shares, SPARSE, strict=True)]

    check(numbers, all_rows(lambda share, _: round(share)), mistakes={
        "the number of spans is rounded down; it should be rounded to the nearest": all_rows(lambda share, _: int(share + 1e-9)),
        "the number of spans is rounded up; it should be rounded to the nearest": all_rows(lambda share, _: math.ceil(share - 1e-9)),
        "there are round(T · mask_prob) spans; divide by span_length": all_rows(lambda share, width: round(share * width)),
        "there is always one span": all_rows(lambda *_: 1),
        "T · mask_prob is rounded before it is divided by span_length; only the number of spans should be rounded": all_rows(
            lambda share, width: round(round(share * width) / width)
        ),
        "round(T · mask_prob) tokens are hidden; each span should have span_length": [
            [round(length * prob) / width] * 5 for length, prob, width in SPARSE
        ],
        "nothing is hidden": all_rows(lambda *_: 0),
    }, what="the number of spans (hidden tokens / span_length)")  # fmt: skip


@SPANS
@pytest.mark.points(1)
def test_halves_are_rounded_as_python_does(student, check):
    """2.5 becomes 2, 3.5 becomes 4."""
    cases = [(10, 0.5, 2), (14, 0.5, 2), (18, 0.5, 2)]
    found = student.run(hidden_by, [(*case, 3) for case in cases])

    check([(hidden.sum(1) / 2).tolist() for hidden in found], [[2.0] * 3, [4.0] * 3, [4.0] * 3], mistakes={
        "halves are rounded up; round takes them to the even number": [[3.0] * 3, [4.0] * 3, [5.0] * 3],
        "the number is rounded down": [[2.0] * 3, [3.0] * 3, [4.0] * 3],
    }, what="the number of spans (hidden tokens / span_length)")  # fmt: skip


@SPANS
@pytest.mark.points(1)
def test_there_is_at_least_one_span(student, check):
    """max(1, …): also a text of 5 tokens has one, and a mask_prob of 0 changes nothing about that."""
    found = student.run(hidden_by, [(5, 0.15, 3, 4), (3, 0.15, 1, 4), (9, 0.0, 2, 4)])

    check([hidden.sum(1).tolist() for hidden in found], [[3] * 4, [1] * 4, [2] * 4], mistakes={
        "short texts have no span; each text should have one at least": [[0] * 4] * 3,
        "nothing is hidden where mask_prob is 0; each text should have one span at least": [[3] * 4, [1] * 4, [0] * 4],
    }, what="the number of hidden tokens")  # fmt: skip


@SPANS
@pytest.mark.points(2)
def test_a_span_is_span_length_long(student, check):
    """One span in each text: a run of exactly span_length hidden tokens, also at the end of the text."""
    cases = [(8, 0.375, 3), (8, 0.5, 4), (8, 0.25, 2)]
    found = student.run(hidden_by, [(*case, 300) for case in cases])

    lengths = [sorted({number for row in hidden for number in runs(row)}) for hidden in found]
    widths = [width for *_, width in cases]
    varied = [[*range(1, width + 1)] for width in widths]
    short_at_the_end = all(bool(rows[rows.sum(1) < width, -1].all()) for rows, width in zip(found, widths, strict=True))
    check(lengths, [[width] for width in widths], mistakes={
        "spans at the end of the text are cut off; they should begin early enough": check.when(short_at_the_end, varied),
        "spans are one token too long": [[width, width + 1] for width in widths],  # but at the end of the text
        "spans have 3 tokens whatever span_length is": [[3]] * len(cases),
        "spans are from 1 to span_length long; all should be span_length long": varied,
        "all tokens are hidden": [[length] for length, *_ in cases],
    }, what="the lengths of the spans")  # fmt: skip


@SPANS
@pytest.mark.points(2)
@both_ways
def test_a_token_is_kept_between_two_spans(student, check, probe):
    """No two spans touch or overlap."""
    length, prob, width, rows, count = 30, 0.4, 3, 400, 4
    (hidden,) = student.run(probe, [(length, prob, width, rows)])

    check.that(bool(hidden.any()), "nothing is hidden")
    lengths = [runs(row) for row in hidden]
    longest = max(number for row in lengths for number in row)
    less = any(sum(row) < width * count for row in lengths)
    check.that(not (longest > width and less), "spans overlap, so that fewer tokens are hidden")
    check.that(longest <= width, "two spans touch; at least one token should be kept between them")
    check(lengths, [[width] * count] * rows, what="the lengths of the spans in each row")


@SPANS
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("length", "prob", "width", "kept"), [(11, 9 / 11, 3, [3, 7]), (5, 0.6, 1, [1, 3]), (7, 6 / 7, 3, [3])]
)
def test_spans_may_fill_the_text(student, check, length, prob, width, kept):
    """Where there is only one way to place the spans, it is found."""
    (hidden,) = student.run(hidden_by, [(length, prob, width, 20)])

    expected = torch.ones(length, dtype=torch.bool)
    expected[kept] = False
    check(hidden, expected.repeat(20, 1), what="hidden places", mistakes={
        "there are fewer spans than find room": check.when(bool((hidden.sum(1) < expected.sum()).any())),
        "everything is hidden; a token should be kept between two spans": torch.ones(20, length, dtype=torch.bool),
    })  # fmt: skip


@SPANS
@pytest.mark.points(1)
def test_there_are_as_many_spans_as_find_room(student, check):
    """Of 3 spans of 3 in 9 tokens there are 2, as one has to be kept between two."""

    def probe(roomy, crowded):
        from pretraining_objectives import SpanCorruptionTrainer

        def hidden(length, prob, width, rows):
            trainer = SpanCorruptionTrainer(None, 1000, 999, width, prob)
            corrupted, _ = inside.listed(trainer.create_span_targets(torch.arange(length).repeat(rows, 1)))
            return corrupted == 999

        hidden(*roomy)  # an error that has nothing to do with room comes here
        try:
            return [hidden(*case) for case in crowded], ""
        except NotImplementedError:
            raise
        except Exception as error:
            return [], type(error).__name__

    crowded = [(9, 1.0, 3, 4), (6, 1.0, 1, 4), (10, 0.9, 2, 4)]
    found, error = student.run(probe, (9, 0.6, 3, 4), crowded)

    check(
        error,
        "",
        otherwise="where more spans are wanted than find room an error is raised; there should be as many as find room",
    )
    check([hidden.sum(1).tolist() for hidden in found], [[6] * 4, [3] * 4, [6] * 4], mistakes={
        "all tokens are hidden although spans need a kept token between them": [[9] * 4, [6] * 4, [10] * 4],
    }, what="the number of hidden tokens")  # fmt: skip


@SPANS
@pytest.mark.points(1)
@pytest.mark.parametrize(("length", "width"), [(3, 3), (2, 3), (1, 3), (4, 9), (1, 1)])
def test_a_text_shorter_than_a_span_is_one_span(student, check, length, width):
    """All of its tokens are hidden."""

    def probe(ids, width):
        from pretraining_objectives import SpanCorruptionTrainer

        return inside.listed(SpanCorruptionTrainer(None, 1000, 999, width).create_span_targets(ids))

    ids = torch.arange(2 * length).view(2, length)
    results = student.run(probe, ids, width)

    check(results, [torch.full_like(ids, MASK), ids], names=("corrupted", "labels"), mistakes={
        "nothing is hidden in a text that is shorter than a span": [ids, torch.full_like(ids, IGNORED)],
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- where


@SPANS
@pytest.mark.points(2)
@pytest.mark.parametrize(("length", "prob", "width"), [(8, 0.375, 3), (4, 0.25, 1), (12, 0.5, 2)])
def test_a_span_may_begin_anywhere(student, check, length, prob, width):
    """Each place from which span_length tokens fit, and each way to place three spans, comes in some of 4000 texts."""
    (hidden,) = student.run(hidden_by, [(length, prob, width, 4000)])

    check(starts(hidden), [*range(length - width + 1)], what="the places where spans begin", mistakes={
        "the last span_length tokens are hidden in no text": [*range(length - width)],
        "the first token is hidden in no text": [*range(1, length - width + 1)],
        "the first and the last token are hidden in no text": [*range(1, length - width)],
        "spans begin at multiples of span_length; each place should be possible": [*range(0, length - width + 1, width)],
        "spans are at the beginning of the text; their places should be random": [0],
        "spans are at the end of the text; their places should be random": [length - width],
        "each span stays in its own part of the text; each place should be possible": check.when(
            length == 12, [0, 1, 4, 5, 8, 9, 10]
        ),
        "spans are at the same places in all texts": check.when(length != 12 and len(starts(hidden)) == 1),
    })  # fmt: skip
    if length == 12:
        ways = [(a, b, c) for a in range(5) for b in range(a + 3, 8) for c in range(b + 3, 11)]
        check(ways_of(hidden), ways, what="the ways to place three spans", mistakes={
            "spans follow each other with one kept token between two; more should be possible": [(a, a + 3, a + 6) for a in range(5)],
            "spans stand at equal distances; each way should be possible": [(a, b, c) for a, b, c in ways if b - a == c - b],
        })  # fmt: skip


@SPANS
@pytest.mark.points(2)
def test_rows_are_drawn_independently(student, check):
    """Of two spans of one row and the next all pairs of places come."""
    (hidden,) = student.run(hidden_by, [(4, 0.5, 2, 5000)])

    check.that(not (hidden == hidden[:1]).all(), "all rows of a batch have their spans at the same places")
    places = hidden.int().argmax(1).view(-1, 2)
    pairs = {tuple(pair) for pair in places.tolist()}
    check.that(len(pairs) == 9, "the places in one row depend on those in the row before")


@SPANS
@pytest.mark.points(1)
def test_each_call_draws_anew(student, check):
    """Texts of one row, one after the other, have their spans at different places; one trainer takes all lengths."""

    def probe(lengths):
        from pretraining_objectives import SpanCorruptionTrainer

        trainer = SpanCorruptionTrainer(None, 1000, 999)
        return [trainer.create_span_targets(torch.arange(length)[None])[0] == 999 for length in lengths]

    found = student.run(probe, [40] * 20 + [20, 60])

    check.that(len({str(hidden.tolist()) for hidden in found[:20]}) > 1, "each call hides the same places")
    check([int(hidden.sum()) for hidden in found], [6] * 20 + [3, 9], what="the number of hidden tokens", mistakes={
        "the number of spans is that of the first text; each length has its own": [6] * 22,
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- masks and labels


def targets_of_spans(ids, prob):
    """A probe: corrupted and labels, for spans of 3."""
    from pretraining_objectives import SpanCorruptionTrainer

    return inside.listed(SpanCorruptionTrainer(None, 1000, 999, 3, prob).create_span_targets(ids))


@SPANS
@pytest.mark.points(2)
def test_labels_are_the_hidden_ids(student, check, rng):
    """Hidden tokens become mask_token_id and have their id as label; all others stay and have -100."""
    ids = tokens(rng, 998, 20, 60) + 1
    corrupted, labels = student.run(targets_of_spans, ids, 0.3)

    hidden, hole = corrupted != ids, torch.full_like(ids, IGNORED)
    check.that(bool(hidden.any()), "no token is hidden")
    check(corrupted[hidden], torch.full_like(ids[hidden], MASK), what="hidden tokens", mistakes={
        "hidden tokens become 0; they should become mask_token_id": torch.zeros_like(ids[hidden]),
        "some hidden tokens become a random id; all should become mask_token_id": check.when(
            MASK in corrupted and len(corrupted[hidden].unique()) > 9
        ),
    })  # fmt: skip
    check(labels, ids.where(hidden, hole), what="labels", mistakes={
        "all tokens have a label; those that are not hidden should have -100": ids,
        "labels of tokens that are not hidden are 0; they should be -100": ids * hidden,
        "labels are where tokens are kept; they should be where they are hidden": ids.where(~hidden, hole),
        "labels hold what the model reads; they should hold the original ids": hole.masked_fill(hidden, MASK),
    })  # fmt: skip

    # Tokens that are mask_token_id already, hidden ones and kept ones: 3 spans of 3 find room in 11 tokens in one
    # way only; that it is found has its own test.
    plain, place = tokens(rng, 998, 2, 11) + 1, torch.arange(11).expand(2, -1)
    ids, hidden = plain.clone(), (place != 3) & (place != 7)
    ids[0, [1, 3, 9]] = ids[1, [0, 7]] = MASK
    if torch.equal(student.run(targets_of_spans, plain, 9 / 11)[0] != plain, hidden):
        _, labels = student.run(targets_of_spans, ids, 9 / 11)
        hole = torch.full_like(ids, IGNORED)
        right = ids.where(hidden, hole)
        check(labels, right, what="labels of a text that has mask_token_id in it", mistakes={
            "hidden tokens that were mask_token_id have no label; all hidden tokens should have one": right.where(ids != MASK, hole),
            "kept tokens that are mask_token_id have a label; only hidden tokens should have one": right.where(ids != MASK, ids),
        })  # fmt: skip


@SPANS
@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(41,), (1, 7), (1,)])
def test_a_single_text_has_spans(student, check, rng, shape):
    """Results have the shape of input_ids, which may be one text (T,)."""
    ids = tokens(rng, 998, *shape) + 1
    corrupted, labels = student.run(targets_of_spans, ids, 0.15)

    check([list(corrupted.shape), list(labels.shape)], [list(shape)] * 2, names=("corrupted", "labels"), what="the shapes", mistakes={
        "a text without a batch gets one; results should have the shape of input_ids": [[1, *shape]] * 2,
    })  # fmt: skip
    check([corrupted.dtype, labels.dtype], [torch.int64] * 2, names=("corrupted", "labels"), what="the dtypes")
    expected = min(shape[-1], 3 * max(1, round(shape[-1] * 0.15 / 3)))
    check(int((corrupted == MASK).sum()), expected, what="the number of hidden tokens")


@SPANS
@pytest.mark.points(2)
def test_spans_draw_from_the_generator(student, check, rng):
    """All randomness comes from generator, or from torch's own if there is none."""

    def probe(ids):
        from pretraining_objectives import SpanCorruptionTrainer

        def draw(generator):  # by a new trainer: what is kept from call to call is tested elsewhere
            return SpanCorruptionTrainer(None, 1000, 999).create_span_targets(ids.clone(), generator=generator)[0]

        return inside.randomness(draw)

    for fact in randomness_facts(student.run(probe, tokens(rng, 998, 20, 60)), "places"):
        check.that(*fact)


@SPANS
@pytest.mark.points(1)
def test_spans_leave_input_ids_alone(student, check, rng):
    """input_ids, (B, T) or (T,), stay as they are; nothing is printed, torch is not seeded."""

    def probe(*texts):
        from pretraining_objectives import SpanCorruptionTrainer

        trainer = SpanCorruptionTrainer(None, 1000, 999)
        called = [inside.manners(trainer.create_span_targets, ids) for ids in texts]
        some = all(bool(inside.listed(pair)[0].any()) for pair, *_ in called)
        return [after for _, (after, *_), _ in called], [rude for *_, rude in called], some

    texts = tokens(rng, 998, 5, 30), tokens(rng, 998, 30)
    after, rude, some = student.run(probe, *texts)

    check.that(some, "the result is all zeros")
    check(after, list(texts), what="input_ids after the call", otherwise="input_ids are changed in place")
    check(max(rude), "", mistakes=MANNERS)


@SPANS
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("name", "options"),
    [("span_length", [0, 0.15]), ("span_length", [-2, 0.15]), ("mask_prob", [3, 1.5]), ("mask_prob", [3, -0.1])],
)
def test_spans_that_cannot_be_are_refused(student, name, options):
    """span_length below 1, and mask_prob below 0 or above 1, are a ValueError."""
    value, (span_length, mask_prob) = options[name == "mask_prob"], options
    path = "pretraining_objectives.SpanCorruptionTrainer"
    student.accepts(path, None, 10, 9, max(span_length, 1), min(max(mask_prob, 0.0), 1.0))
    student.raises(ValueError, path, None, 10, 9, *options, says=(name, value))


# ---------------------------------------------------------------------------------------------- sentinels


def with_sentinels(ids, width, prob, *others):
    """A probe: inputs and targets of create_sentinel_targets, whose first sentinel is 2000, and the inputs of other texts."""
    from pretraining_objectives import SpanCorruptionTrainer

    trainer = SpanCorruptionTrainer(None, 1000, 999, width, prob)
    pairs = [inside.listed(trainer.create_sentinel_targets(text, 2000)) for text in (ids, *others)]
    return [*pairs[0], *(inputs for inputs, _ in pairs[1:])]


WIDTH, COUNT = 2, 3  # as many spans as 8 tokens have room for: only one way to place them


def only_way(rng):
    """(4, 8) ids, of which all but those at 2 and 5 are hidden; the spans (4, 3, 2)."""
    ids = torch.randperm(900, generator=rng)[:32].view(4, 8)
    return ids, ids[:, [0, 1, 3, 4, 6, 7]].view(4, COUNT, WIDTH)


NUMBERS = {  # sentence -> the sentinels of 4 rows
    "sentinels count from sentinel_start_id + 1; the first should be sentinel_start_id": lambda n: FIRST + 1 + n,
    "sentinels count down; they should count up": lambda n: FIRST - n,
    "sentinels are numbered from the right; they should be from the left": lambda n: FIRST + n.flip(1),
    "all spans have the same sentinel; span i should have sentinel_start_id + i": lambda n: FIRST + 0 * n,
    "sentinels go on from row to row; each row should begin with sentinel_start_id": lambda n: FIRST + n + COUNT * torch.arange(4)[:, None],
    "spans become mask_token_id; they should become sentinels": lambda n: MASK + 0 * n,
}  # fmt: skip


def sentinel_inputs(ids, sentinels):
    return torch.stack([sentinels[:, 0], ids[:, 2], sentinels[:, 1], ids[:, 5], sentinels[:, 2]], dim=1)


def sentinel_targets(spans, sentinels):
    return torch.cat([sentinels[..., None], spans], dim=2).flatten(1)


@SENTINELS
@pytest.mark.points(2)
def test_each_span_becomes_one_sentinel(student, check, rng):
    """The inputs are what is kept, with sentinel_start_id + i for span i from the left."""
    ids, _ = only_way(rng)
    masks = ids.clone()
    masks[1, [1, 2]] = masks[3, [5, 6]] = MASK  # at the edges of spans
    near = ids.clone()  # of the sentinels, as where they are not the last ids of the vocabulary
    near[0, [1, 2]], near[1, [2, 4]], near[2, [5, 7]], near[3, [4, 5]] = FIRST - 1, FIRST + COUNT, 2 * FIRST, 0
    inputs, _, again, of_masks, of_near = student.run(with_sentinels, ids, WIDTH, 0.75, ids, masks, near)

    numbers = torch.arange(COUNT).expand(4, -1)
    marks = FIRST + numbers
    doubled = marks.repeat_interleave(WIDTH, 1)
    check(inputs, sentinel_inputs(ids, marks), what="inputs", mistakes={
        **{sentence: sentinel_inputs(ids, change(numbers)) for sentence, change in NUMBERS.items()},
        "each hidden token becomes a sentinel; a span should become one": inputs_of_each(ids, doubled),
        "spans are left out without a sentinel": ids[:, [2, 5]],
        "sentinels stand behind the kept tokens; each should be where its span was": torch.cat([ids[:, [2, 5]], marks], 1),
        "inputs are filled up to T; they should have T - n · span_length + n tokens": check.when(inputs.shape[-1] == 8),
    })  # fmt: skip
    check(again, inputs, otherwise="a second call gives other sentinels; each should begin with sentinel_start_id")
    check(
        of_masks,
        sentinel_inputs(masks, marks),
        otherwise="tokens that are mask_token_id already are taken for hidden ones",
    )
    check(
        of_near,
        sentinel_inputs(near, marks),
        otherwise="tokens with ids before or behind those of the sentinels, or with 0, are taken for something else",
    )


def inputs_of_each(ids, marks):
    """With a sentinel for each hidden token."""
    return torch.stack([*marks[:, :2].T, ids[:, 2], *marks[:, 2:4].T, ids[:, 5], *marks[:, 4:].T], dim=1)


@SENTINELS
@pytest.mark.points(2)
def test_targets_are_sentinels_and_spans(student, check, rng):
    """sentinel, span, sentinel, span, … without a closing sentinel."""
    ids, spans = only_way(rng)
    _, targets = student.run(with_sentinels, ids, WIDTH, 0.75)

    numbers = torch.arange(COUNT).expand(4, -1)
    marks = FIRST + numbers
    right, closing = sentinel_targets(spans, marks), torch.full((4, 1), FIRST + COUNT)
    check(targets, right, what="targets", mistakes={
        **{sentence: sentinel_targets(spans, change(numbers)) for sentence, change in NUMBERS.items()},
        "targets end with a closing sentinel; they should end with the last span": torch.cat([right, closing], 1),
        "targets are the spans without sentinels": spans.flatten(1),
        "each sentinel stands behind its span; it should stand before it": torch.cat([spans, marks[..., None]], 2).flatten(1),
        "all sentinels stand before all spans; each should stand before its own": torch.cat([marks, spans.flatten(1)], 1),
        "only the first token of each span is in the targets": sentinel_targets(spans[..., :1], marks),
        "each token of a span has a sentinel": torch.stack([marks.repeat_interleave(2, 1), spans.flatten(1)], 2).flatten(1),
    })  # fmt: skip


@SENTINELS
@pytest.mark.points(2)
def test_inputs_and_targets_restore_the_text(student, check, rng):
    """Spans at random places: with those of the targets in the place of the sentinels, the inputs are the text."""
    ids = tokens(rng, 900, 50, 60)
    inputs, targets = student.run(with_sentinels, ids, 3, 0.25)

    count = 5
    check([list(inputs.shape), list(targets.shape)], [[50, 60 - 3 * count + count], [50, 4 * count]],
          names=("inputs", "targets"), what="the shapes", mistakes={
        "targets end with a closing sentinel; they should end with the last span": [[50, 50], [50, 4 * count + 1]],
    })  # fmt: skip
    order = FIRST + torch.arange(count).expand(50, -1)
    for sequence, name in ((inputs, "inputs"), (targets, "targets")):
        marks = [row[row >= FIRST] for row in sequence]
        check.that(
            all(len(row) == count for row in marks), f"a row of the {name} does not have one sentinel for each span"
        )
        check(torch.stack(marks), order, what=f"the sentinels in the {name}", mistakes={
            "sentinels are not in order from the left": check.when(bool((torch.stack(marks).sort(1).values == order).all())),
        })  # fmt: skip
    spans = targets.view(50, count, 4)
    restored = [
        [token for kept in row for token in (told[kept - FIRST, 1:].tolist() if kept >= FIRST else [kept])]
        for row, told in zip(inputs.tolist(), spans, strict=True)
    ]
    check(restored, ids.tolist(), otherwise="inputs and targets together do not give the text")


@SENTINELS
@pytest.mark.points(2)
@pytest.mark.parametrize(("length", "prob", "width"), [(8, 0.375, 3), (12, 0.5, 3)])
def test_a_sentinel_may_be_anywhere(student, check, length, prob, width):
    """Each place from which span_length tokens fit is hidden in some of 4000 texts, and rows differ."""
    (hidden,) = student.run(hidden_by_sentinels, [(length, prob, width, 4000)])

    check.that(not (hidden == hidden[:1]).all(), "all rows of a batch have their spans at the same places")
    check(starts(hidden), [*range(length - width + 1)], what="the places where spans begin", mistakes={
        "the last span_length tokens are hidden in no text": [*range(length - width)],
        "the first token is hidden in no text": [*range(1, length - width + 1)],
        "the first and the last token are hidden in no text": [*range(1, length - width)],
    })  # fmt: skip


@SENTINELS
@pytest.mark.points(1)
@pytest.mark.parametrize(("shape", "width"), [((2, 3), 3), ((2, 2), 3), ((1, 1), 3), ((2,), 5), ((1,), 1)])
def test_a_short_text_is_one_sentinel(student, check, rng, shape, width):
    """All tokens of a text that is not longer than a span are in the targets."""
    ids = tokens(rng, 900, *shape)
    results = student.run(with_sentinels, ids, width, 0.15)

    marks = torch.full((*shape[:-1], 1), FIRST)
    check(results, [marks, torch.cat([marks, ids], -1)], names=("inputs", "targets"), mistakes={
        "a text without a batch gets one; (T,) should give 1-D": [marks[None], torch.cat([marks, ids], -1)[None]],
        "nothing is hidden in a text that is shorter than a span": [ids, ids[..., :0]],
        "targets end with a closing sentinel; they should end with the last span": [marks, torch.cat([marks, ids, marks + 1], -1)],
    })  # fmt: skip


@SENTINELS
@pytest.mark.points(1)
def test_a_single_text_has_sentinels(student, check, rng):
    """(T,) gives two tensors of one dimension."""
    inputs, targets = student.run(with_sentinels, tokens(rng, 900, 41), 3, 0.15)

    check.that(bool(inputs.any()), "inputs are all zeros")
    check([list(inputs.shape), list(targets.shape)], [[41 - 6 + 2], [8]], names=("inputs", "targets"), what="the shapes", mistakes={
        "a text without a batch gets one; (T,) should give 1-D": [[1, 37], [1, 8]],
    })  # fmt: skip


@SENTINELS
@pytest.mark.points(2)
def test_sentinels_draw_from_the_generator(student, check, rng):
    """All randomness comes from generator, or from torch's own if there is none."""

    def probe(ids):
        from pretraining_objectives import SpanCorruptionTrainer

        def draw(generator):  # by a new trainer
            return SpanCorruptionTrainer(None, 1000, 999).create_sentinel_targets(
                ids.clone(), 2000, generator=generator
            )

        return inside.randomness(draw)

    for fact in randomness_facts(student.run(probe, tokens(rng, 900, 20, 60)), "places"):
        check.that(*fact)


@SENTINELS
@pytest.mark.points(1)
def test_sentinels_leave_input_ids_alone(student, check, rng):
    """input_ids, (B, T) or (T,), stay as they are; nothing is printed, torch is not seeded."""

    def probe(*texts):
        from pretraining_objectives import SpanCorruptionTrainer

        trainer = SpanCorruptionTrainer(None, 1000, 999)
        called = [inside.manners(trainer.create_sentinel_targets, ids, 2000) for ids in texts]
        some = all(bool(inside.listed(pair)[0].any()) for pair, *_ in called)
        return [after for _, (after, *_), _ in called], [rude for *_, rude in called], some

    texts = tokens(rng, 900, 5, 30), tokens(rng, 900, 30)
    after, rude, some = student.run(probe, *texts)

    check.that(some, "the result is all zeros")
    check(after, list(texts), what="input_ids after the call", otherwise="input_ids are changed in place")
    check(max(rude), "", mistakes=MANNERS)
