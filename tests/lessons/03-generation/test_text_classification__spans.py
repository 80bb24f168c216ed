"""Hidden tests of text_classification: entities and answers, spans of tokens."""

import math

import pytest
import torch

question = pytest.mark.question


# ---------------------------------------------------------------------------------------------- decode_bio

# Types that hold what a label's other parts are made of: B, I, O, "I-".
LABELS = ["I-ORG", "O", "B-PER", "I-BIO-I-loc", "B-ORG", "I-PER", "B-BIO-I-loc", "B-BIO", "I-BIO"]
ID = {label: number for number, label in enumerate(LABELS)}


def entities(
    tags, *, stray="start", other="start", adjacent="start", kind=lambda label: label[2:], unclosed=True, end=0
):
    """What the tags mark. stray, other: what an I-X does after an O, inside another type; adjacent: a B-X after an X."""
    spans, current = [], None
    for t, tag in enumerate(tags):
        own = None if LABELS[tag] == "O" else kind(LABELS[tag])
        if own is None:
            act = "drop"
        elif LABELS[tag][0] == "B":
            act = adjacent if own == current else "start"
        else:
            act = stray if current is None else "join" if own == current else other
        if act == "start":
            spans.append([own, t, t + 1])
        elif act == "join":
            spans[-1][2] = t + 1
        current = spans[-1][0] if act != "drop" else None
    return [(kind, a, b + end) for kind, a, b in spans if unclosed or b < len(tags)]


BIO_MISTAKES = {
    "an I-X after an O is dropped: it starts an entity": {"stray": "drop"},
    "an I-X inside another type is dropped: it starts an entity": {"other": "drop"},
    "an I-X that continues no X is dropped: it starts an entity": {"stray": "drop", "other": "drop"},
    "an I-X inside another type continues it: it starts an entity of its own": {"other": "join"},
    "a B-X after an X continues it: it starts a new entity": {"adjacent": "join"},
    "an entity that goes on to the last tag is lost": {"unclosed": False},
    "the end is inclusive: it is the place after the last token": {"end": -1},
    "the type is cut at its last hyphen": {"kind": lambda label: label.split("-")[-1]},
    "the type is cut at its second hyphen": {"kind": lambda label: label.split("-")[1] if "-" in label else ""},
    "the type still has its B- or I-": {"kind": lambda label: label},
}


def check_bio(student, check, sequences):
    sequences = [[ID[name] for name in names] for names in sequences]

    def probe(sequences, labels):
        from text_classification import decode_bio

        return [decode_bio(tags, labels) for tags in sequences], sequences, labels

    results, after, labels = student.run(probe, sequences, LABELS)

    check(results, [entities(tags) for tags in sequences], mistakes={
        text: [entities(tags, **wrong) for tags in sequences] for text, wrong in BIO_MISTAKES.items()
    } | {
        "an entity is (start, end, type): the type comes first": [[(a, b, k) for k, a, b in entities(tags)] for tags in sequences],
        "an entity's end is its length": [[(k, a, b - a) for k, a, b in entities(tags)] for tags in sequences],
    })  # fmt: skip
    check([after, labels], [sequences, LABELS], mistakes={})


@question("decode_bio")
@pytest.mark.points(2)
def test_well_formed_tags_give_their_entities(student, check, rng):
    """B-X begins an entity, I-X continues it; several in a row, one at the end, types with a hyphen."""
    check_bio(student, check, [
        ["O", "B-PER", "I-PER", "O", "B-ORG", "O"],
        ["B-ORG", "I-ORG", "I-ORG", "B-PER", "O", "O", "B-PER", "I-PER"],
        ["B-PER", "B-PER", "I-PER", "B-PER"],
        ["O", "B-BIO-I-loc", "I-BIO-I-loc", "B-BIO", "I-BIO", "O"],
        ["B-ORG"],
        ["O", "O", "O"],
        ["O"],
        [],
    ])  # fmt: skip


@question("decode_bio")
@pytest.mark.points(2)
def test_an_i_that_continues_nothing_starts_an_entity(student, check, rng):
    """An I-X after an O, at the beginning, or inside another type starts an entity of its own."""
    random = torch.randint(0, len(LABELS), (12, 14), generator=rng).tolist()
    check_bio(student, check, [
        ["I-PER", "I-PER", "O", "I-ORG", "O"],
        ["B-PER", "I-ORG", "I-ORG", "I-PER", "O"],
        ["B-PER", "O", "I-PER", "I-PER"],
        ["I-ORG"],
        ["O", "B-BIO", "I-BIO-I-loc", "I-BIO"],
        *[[LABELS[tag] for tag in tags] for tags in random],
    ])  # fmt: skip


# ---------------------------------------------------------------------------------------------- best_answer_span


def spans(start, end, most):
    """All spans with their scores, those with the smallest start first, then those with the smallest end."""
    T = len(start)
    return [((s, e), start[s] + end[e]) for s in range(T) for e in range(s, min(T, s + most))]


def first_best(scored):
    return max(scored or [((0, 0), 0.0)], key=lambda pair: pair[1])[0]  # max keeps the first of equals


def any_pair(start, end, keep):
    T = len(start)
    return first_best([((s, e), start[s] + end[e]) for s in range(T) for e in range(T) if keep(s, e)])


def argmax(values):
    return max(range(len(values)), key=values.__getitem__)


def zeros_for_forbidden(start, end, most):
    T = len(start)
    cells = [((s, e), start[s] + end[e] if s <= e < s + most else 0.0) for s in range(T) for e in range(T)]
    return first_best(cells)


def end_after_start(start, end, most):
    s = argmax(start)
    return s, s + argmax(end[s : s + most])


def of_probabilities(start, end, most):
    start, end = (torch.tensor(x).softmax(0).tolist() for x in (start, end))
    return first_best(spans(start, end, most))


SPAN_MISTAKES = {
    "start and end are chosen each on its own": lambda s, e, n: (argmax(s), argmax(e)),
    "the best start is chosen first, and then its best end": end_after_start,
    "the end may come before the start": lambda s, e, n: any_pair(s, e, lambda a, b: b - a < n),
    "max_answer_length is ignored": lambda s, e, n: first_best(spans(s, e, len(s))),
    "a span may be one token longer than max_answer_length": lambda s, e, n: first_best(spans(s, e, n + 1)),
    "a span of max_answer_length tokens is refused": lambda s, e, n: first_best(spans(s, e, n - 1)),
    "a span of one token is refused": lambda s, e, n: any_pair(s, e, lambda a, b: 0 < b - a < n),
    "the end is exclusive: it is the last token of the answer": lambda s, e, n: (
        first_best(spans(s, e, n))[0], first_best(spans(s, e, n))[1] + 1,
    ),
    "the last of equals is returned, not the first": lambda s, e, n: first_best(spans(s, e, n)[::-1]),
    "of equals the longer span is returned, not the first": lambda s, e, n: max(
        spans(s, e, n), key=lambda pair: (pair[1], -pair[0][0], pair[0][1]))[0],
    "forbidden spans have a score of zero: it must be lower than every other": zeros_for_forbidden,
    "probabilities are added: logits are to be added": of_probabilities,
    "start_logits and end_logits are swapped": lambda s, e, n: first_best(spans(e, s, n)),
    "the logits are multiplied, not added": lambda s, e, n: first_best(
        [((a, b), s[a] * e[b]) for (a, b), _ in spans(s, e, n)]),
}  # fmt: skip


def check_spans(student, check, cases):
    """cases: (start_logits, end_logits, max_answer_length), the logits being such that sums are exact."""

    def probe(cases):
        from text_classification import best_answer_span

        results = [best_answer_span(*case) for case in cases]
        return results, [[type(item).__name__ for item in result] for result in results], cases

    results, kinds, after = student.run(probe, cases)

    lists = [(start.tolist(), end.tolist(), most) for start, end, most in cases]
    expected = [first_best(spans(*case)) for case in lists]
    mistakes = {text: lambda wrong=wrong: [wrong(*case) for case in lists] for text, wrong in SPAN_MISTAKES.items()}
    check(
        kinds,
        [["int", "int"]] * len(cases),
        mistakes={"start and end are tensors: Python ints are asked for": [["Tensor"] * 2] * len(cases)},
    )
    check(results, expected, mistakes=mistakes)
    check(after, cases, mistakes={})


def sixty_fourths(rng, T, shift=0.0):
    return torch.randint(-256, 257, (T,), generator=rng) / 64 + shift


@question("best_answer_span")
@pytest.mark.points(3)
def test_the_best_span_has_the_greatest_sum(student, check, rng):
    """start <= end, at most max_answer_length tokens, the greatest start_logits + end_logits; Python ints."""
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
    check_spans(student, check, cases)


@question("best_answer_span")
@pytest.mark.points(2)
def test_the_first_of_equal_spans_is_returned(student, check, rng):
    """Of spans with equal scores the first is returned."""
    cases = [(torch.zeros(5), torch.zeros(5), 3), (-torch.ones(4), -torch.ones(4), 2)]
    while len(cases) < 30:
        T, most = 4 + len(cases) % 6, 1 + len(cases) % 4
        start, end = (torch.randint(-2, 2, (T,), generator=rng).float() for _ in range(2))
        best = first_best(spans(start.tolist(), end.tolist(), most))
        scored = spans(start.tolist(), end.tolist(), most)
        top = max(score for _, score in scored)
        # The first by its start must be the first by its end as well: the contract does not say which of the two counts.
        if min((pair for pair, score in scored if score == top), key=lambda pair: pair[::-1]) == best:
            cases.append((start, end, most))
    check_spans(student, check, cases)


@question("best_answer_span")
@pytest.mark.points(1)
def test_places_with_minus_infinity_are_in_no_answer(student, check, rng):
    """-inf says that an answer may not start or end there: tokens of the question, padding."""
    cases = []
    while len(cases) < 12:
        T = 6 + len(cases) % 4
        start, end = sixty_fourths(rng, T, shift=-4.0), sixty_fourths(rng, T, shift=-4.0)
        start[: 2 + len(cases) % 2], end[:2], start[-1], end[-2:] = -math.inf, -math.inf, -math.inf, -math.inf
        scores = sorted((score for _, score in spans(start.tolist(), end.tolist(), 3)), reverse=True)
        if scores[0] > scores[1]:
            cases.append((start, end, 3))
    # The best start and the best end are too far apart for a span; with an end before its start the sum is greater.
    start, end = torch.full((12,), -9.0), torch.full((12,), -9.0)
    start[[2, 7]], end[[5, 9]] = torch.tensor([5.0, 4.0]), torch.tensor([4.5, 5.0])
    start[[0, -1]], end[[0, -1]] = -math.inf, -math.inf
    cases.append((start, end, 3))
    check_spans(student, check, cases)
