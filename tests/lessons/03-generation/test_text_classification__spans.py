"""Hidden tests of text_classification: entities and answers, spans of tokens."""

import math

import pytest
import torch

BIO = pytest.mark.question("decode_bio")
SPAN = pytest.mark.question("best_answer_span")


# ---------------------------------------------------------------------------------------------- decode_bio

# Types that hold what a label's other parts are made of: B, I, O, "I-".
LABELS = ["I-ORG", "O", "B-PER", "I-BIO-I-loc", "B-ORG", "I-PER", "B-BIO-I-loc", "B-BIO", "I-BIO"]
PLAIN_LABELS = ["I-DAY", "B-PER", "O", "B-DAY", "I-PER"]  # of a type any part of which may be cut off, as it has none


def entities(
    labels, *, stray="start", other="start", adjacent="start", kind=lambda label: label[2:], unclosed=True, end=0
):
    """What labels mark. stray, other: what an I-X does after an O, inside another type; adjacent: a B-X after an X."""
    spans, current = [], None
    for t, label in enumerate(labels):
        own = None if label == "O" else kind(label)
        if own is None:
            act = "drop"
        elif label[0] == "B":
            act = adjacent if own == current else "start"
        else:
            act = stray if current is None else "join" if own == current else other
        if act == "start":
            spans.append([own, t, t + 1])
        elif act == "join":
            spans[-1][2] = t + 1
        current = spans[-1][0] if act != "drop" else None
    return [(kind, a, b + end) for kind, a, b in spans if unclosed or b < len(labels)]


BIO_MISTAKES = {  # sentence -> the steps of entities that are wrong
    "an I-X after an O is dropped; it should start an entity": dict(stray="drop"),
    "an I-X inside another type is dropped; it should start an entity": dict(other="drop"),
    "an I-X that continues no X is dropped; it should start an entity": dict(stray="drop", other="drop"),
    "an I-X inside another type continues that entity; it should start its own": dict(other="join"),
    "a B-X after an X continues the entity; it should start a new one": dict(adjacent="join"),
    "an entity that goes on to the last tag is lost": dict(unclosed=False),
    "the end is inclusive; it should be the place after the last token": dict(end=-1),
    "the type is cut at its last hyphen; it should stay whole": dict(kind=lambda label: label.split("-")[-1]),
    "the type is cut at its second hyphen; it should stay whole": dict(
        kind=lambda label: label.split("-")[1] if "-" in label else ""
    ),
    "the type still has its B- or I-": dict(kind=lambda label: label),
}


def decoded(student, labels, sequences):
    """For `check(**…)`: the entities of sequences of labels; and the arguments, which should come back as they were."""

    def probe(sequences, labels):
        from text_classification import decode_bio

        return [decode_bio(tags, labels) for tags in sequences], [sequences, labels]

    arguments = [[[labels.index(label) for label in sequence] for sequence in sequences], labels]
    results, after = student.run(probe, *arguments)
    truth = [entities(sequence) for sequence in sequences]
    mistakes = {text: [entities(seq, **wrong) for seq in sequences] for text, wrong in BIO_MISTAKES.items()} | {
        "an entity is (start, end, type); the type should come first": [
            [(a, b, k) for k, a, b in row] for row in truth
        ],
        "an entity's end is its length; it should be a place": [[(k, a, b - a) for k, a, b in row] for row in truth],
    }
    changed = "decode_bio changes its arguments"
    return [
        {"value": results, "expected": truth, "mistakes": mistakes},
        {"value": after, "expected": arguments, "otherwise": changed},
    ]


@BIO
@pytest.mark.points(2)
def test_well_formed_tags_give_their_entities(student, check):
    """B-X begins an entity, I-X continues it; several in a row, one at the end, types with a hyphen."""
    for case in decoded(student, LABELS, [
        ["O", "B-PER", "I-PER", "O", "B-ORG", "O"],
        ["B-ORG", "I-ORG", "I-ORG", "B-PER", "O", "O", "B-PER", "I-PER"],
        ["B-PER", "B-PER", "I-PER", "B-PER"],
        ["O", "B-BIO-I-loc", "I-BIO-I-loc", "B-BIO", "I-BIO", "O"],
        ["B-ORG"],
        ["O", "O", "O"],
        ["O"],
        [],
    ]):  # fmt: skip
        check(**case)


@BIO
@pytest.mark.points(2)
def test_an_i_that_continues_nothing_starts_an_entity(student, check, rng):
    """An I-X after an O, at the beginning, or inside another type starts an entity of its own."""
    sequences = [
        ["I-PER", "I-PER", "O", "I-DAY", "O"],
        ["B-PER", "I-DAY", "I-DAY", "I-PER", "O"],
        ["B-PER", "O", "I-PER", "I-PER", "O"],
        ["I-DAY", "O"],
    ]
    while len(sequences) < 20:  # what the other test is about does not occur: a B-X after an X, an entity at the end
        random = [PLAIN_LABELS[k] for k in torch.randint(0, len(PLAIN_LABELS), (10,), generator=rng)] + ["O"]
        if not any(a[2:] == b[2:] and b[0] == "B" for a, b in zip(random, random[1:], strict=False)):
            sequences.append(random)

    for case in decoded(student, PLAIN_LABELS, sequences):
        check(**case)


# ---------------------------------------------------------------------------------------------- best_answer_span


def spans(start, end, most):
    """All spans with their scores, those with the smallest start first, then those with the smallest end."""
    T = len(start)
    return [((s, e), start[s] + end[e]) for s in range(T) for e in range(s, min(T, s + most))]


def first_best(scored):
    return max(scored or [((0, 0), 0.0)], key=lambda pair: pair[1])[0]  # max keeps the first of equals


def best_span(start, end, most):
    return first_best(spans(start, end, most))


def any_pair(start, end, keep):
    T = len(start)
    return first_best([((s, e), start[s] + end[e]) for s in range(T) for e in range(T) if keep(s, e)])


def argmax(values):
    return max(range(len(values)), key=values.__getitem__)


SPAN_MISTAKES = {  # sentence -> what is found for start_logits, end_logits, max_answer_length
    "start and end are chosen each on its own; their sum should be the greatest": lambda s, e, n: (argmax(s), argmax(e)),
    "the best start is chosen first, and then its best end; their sum should be the greatest": lambda s, e, n: (
        argmax(s), argmax(s) + argmax(e[argmax(s) : argmax(s) + n]),
    ),
    "the end may come before the start; it should not": lambda s, e, n: any_pair(s, e, lambda a, b: b - a < n),
    "max_answer_length is ignored": lambda s, e, n: best_span(s, e, len(s)),
    "a span may be one token longer than max_answer_length": lambda s, e, n: best_span(s, e, n + 1),
    "a span of max_answer_length tokens is refused; it should be allowed": lambda s, e, n: best_span(s, e, n - 1),
    "a span of one token is refused; it should be allowed": lambda s, e, n: any_pair(s, e, lambda a, b: 0 < b - a < n),
    "the end is exclusive; it should be the last token of the answer": lambda s, e, n: (
        best_span(s, e, n)[0], best_span(s, e, n)[1] + 1,
    ),
    "the last of equals is returned, not the first": lambda s, e, n: first_best(spans(s, e, n)[::-1]),
    "of equals the longer span is returned, not the first": lambda s, e, n: max(
        spans(s, e, n), key=lambda pair: (pair[1], -pair[0][0], pair[0][1]))[0],
    "forbidden spans have a score of zero; it should be lower than every other": lambda s, e, n: first_best(
        [((a, b), s[a] + e[b] if a <= b < a + n else 0.0) for a in range(len(s)) for b in range(len(s))]),
    "probabilities are added; it should be the logits": lambda s, e, n: best_span(
        torch.tensor(s).softmax(0).tolist(), torch.tensor(e).softmax(0).tolist(), n),
    "start_logits and end_logits are swapped": lambda s, e, n: best_span(e, s, n),
    "the logits are multiplied; they should be added": lambda s, e, n: first_best(
        [((a, b), s[a] * e[b]) for (a, b), _ in spans(s, e, n)]),
}  # fmt: skip


def answers(cases):
    """A probe: for each (start_logits, end_logits, max_answer_length) the span, and the types of its numbers."""
    from text_classification import best_answer_span

    results = [tuple(best_answer_span(*case)) for case in cases]
    kinds = [[type(item).__name__ for item in result] for result in results]
    return [tuple(int(item) for item in result) for result in results], kinds, cases


def answered(student, cases):
    """For `check(**…)`, twice: the spans, and the cases as they are afterwards. Sums of the logits must be exact."""
    results, _, after = student.run(answers, cases)
    lists = [(start.tolist(), end.tolist(), most) for start, end, most in cases]
    table = {text: lambda wrong=wrong: [wrong(*case) for case in lists] for text, wrong in SPAN_MISTAKES.items()}
    return [
        {"value": results, "expected": [best_span(*case) for case in lists], "mistakes": table},
        {"value": after, "expected": cases, "otherwise": "best_answer_span changes its arguments"},
    ]


def sixty_fourths(rng, T, shift=0.0):
    return torch.randint(-256, 257, (T,), generator=rng) / 64 + shift


def with_peaks(rng, T, starts, ends):
    """Start and end logits, below 4 but for some that are 5."""
    start, end = sixty_fourths(rng, T), sixty_fourths(rng, T)
    start[starts], end[ends] = 5.0, 5.0
    return start, end


@SPAN
@pytest.mark.points(3)
def test_the_best_span_has_the_greatest_sum(student, check, rng):
    """start <= end, at most max_answer_length tokens, the greatest start_logits + end_logits."""
    cases = []
    while len(cases) < 40:
        T, most = 3 + len(cases) % 9, 1 + len(cases) % 5
        start, end = (sixty_fourths(rng, T, shift=-5.0 if len(cases) % 2 else 1.0) for _ in range(2))
        scores = sorted((score for _, score in spans(start.tolist(), end.tolist(), most)), reverse=True)
        if scores[0] > scores[1]:
            cases.append((start, end.double() if len(cases) % 4 == 3 else end, most))
    cases = [(start.to(end.dtype), end, most) for start, end, most in cases]
    # A start that fits no end, an answer that is too long, one token alone, and sums below any modest filler.
    cases += [
        (torch.tensor([0.0, 1.0, 9.0]), torch.tensor([9.0, 2.0, 0.0]), 3),
        (torch.tensor([9.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 2.0, 9.0]), 2),
        (torch.tensor([-3.0]), torch.tensor([-4.0]), 1),
        (torch.tensor([-3.0, 2.0]), torch.tensor([-4.0, 5.0]), 99),
        (torch.tensor([-900.0, -300.0, -500.0]), torch.tensor([-200.0, -700.0, -400.0]), 2),
        # In float64: sums that float32 does not tell apart, and lower than most fillers.
        (torch.tensor([1.0, 3.0, 2.0]).double() - 2e10, torch.tensor([1.0, 9.0, 2.0]).double() - 2e10, 2),
    ]
    for case in answered(student, cases):
        check(**case)


@SPAN
@pytest.mark.points(1)
def test_start_and_end_are_python_ints(student, check, rng):
    """Two ints, not tensors."""
    results, kinds, _ = student.run(answers, [(*with_peaks(rng, 6, place, place), 3) for place in (2, 5)])

    tensors = "start and end are tensors; they should be Python ints"
    check(kinds, [["int", "int"]] * 2, mistakes={tensors: [["Tensor", "Tensor"]] * 2})
    check(results, [(2, 2), (5, 5)])


@SPAN
@pytest.mark.points(1)
def test_the_first_of_equal_spans_is_returned(student, check, rng):
    """Of spans with equal scores the first is returned."""
    cases = [(torch.zeros(5), torch.zeros(5), 3)]
    while len(cases) < 30:
        # Starts s <= t and ends e <= f that stand out: (s, e) is the first by its start and by its end, and nothing but
        # the order is to be seen: the best start with the best end is one of the best spans.
        T, most = 6 + len(cases) % 4, 1 + len(cases) % 4
        s, t = torch.randint(0, T - most + 1, (2,), generator=rng).sort().values.tolist()
        e, f = (x + int(torch.randint(0, most, (), generator=rng)) for x in (s, t))
        if (s, e) != (t, f) and e <= f:
            cases.append((*with_peaks(rng, T, [s, t], [e, f]), most))

    for case in answered(student, cases):
        check(**case)


@SPAN
@pytest.mark.points(1)
def test_places_with_minus_infinity_are_in_no_answer(student, check, rng):
    """-inf says that an answer may not start or end there: tokens of the question, padding."""
    cases = []
    for n in range(12):
        T = 7 + n % 4
        start, end = with_peaks(rng, T, 3 + n % 2, 3 + n % 2 + n % 3)  # at most 3 tokens
        start[: 2 + n % 2], end[:2], start[-1] = -math.inf, -math.inf, -math.inf
        cases.append((start, end, 3))
    for case in answered(student, cases):
        check(**case)
