"""Hidden tests of translation: bleu, with sacrebleu as the oracle."""

import functools
import math
from collections import Counter

import pytest
import sacrebleu
import torch

question = pytest.mark.question


def truth(hypotheses, references):
    references = [references] if isinstance(references[0], str) else references
    options = {"tokenize": "none", "smooth_method": "none", "force": True}
    return float(sacrebleu.corpus_bleu(hypotheses, references, **options).score)


def grams(tokens, n):
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def closest(hypothesis, lengths):
    return min(lengths, key=lambda length: (abs(length - hypothesis), length))


def bleu_like(
    hypotheses, references, *, split=str.split, orders=4, known=lambda a, b: a | b, clip=True, nearest=closest,
    at_least=0, penalty=lambda c, r: math.exp(min(0.0, 1 - r / c)), mean=lambda p: math.exp(sum(map(math.log, p)) / len(p)), add=0.0,
    each=None, distinct=False, skip=False, scale=100.0,
):  # fmt: skip
    """BLEU with what can go wrong in it. each: how the numbers of single sentences are joined, where that is done."""
    references = [references] if isinstance(references[0], str) else references
    options = {key: value for key, value in locals().items() if key not in ("hypotheses", "references", "each")}
    if each == "joined":
        return bleu_like([" ".join(hypotheses)], [[" ".join(sentences)] for sentences in references], **options)
    if each == "turned":
        return bleu_like(hypotheses, [list(sentences) for sentences in zip(*references, strict=True)], **options)
    if each == "mean":
        singles = [bleu_like([h], [[r] for r in rs], **options) for h, *rs in zip(hypotheses, *references, strict=True)]
        return sum(singles) / len(singles)
    found, total, c, r = [0] * orders, [0] * orders, 0, 0
    pool = [split(other) for sentences in references for other in sentences] if each == "pooled" else None
    for hypothesis, *others in zip(hypotheses, *references, strict=True):
        tokens, others = split(hypothesis), [split(other) for other in others]
        if skip and not tokens:
            continue
        c, r = c + len(tokens), r + nearest(len(tokens), [len(other) for other in others])
        for n in range(orders):
            own = grams(tokens, n + 1)
            own = Counter(set(own)) if distinct else own
            all_known = functools.reduce(known, [grams(other, n + 1) for other in pool or others])
            found[n] += sum(min(k, all_known[g]) if clip else k * (g in all_known) for g, k in own.items())
            total[n] += max(at_least, sum(own.values()))
    shares = [
        (f + add * (n > 0)) / max(t + add * (n > 0), 1) for n, (f, t) in enumerate(zip(found, total, strict=True))
    ]
    return scale * penalty(c, r) * mean(shares) if all(shares) else 0.0


BLEU_MISTAKES = {
    "the scores of the sentences are averaged: matches and lengths are summed over the corpus first": {"each": "mean"},
    "the sentences are joined to one: n-grams are counted in each, and clipped by its own references": {"each": "joined"},
    "n-grams of a sentence are looked for in the references of all sentences; its own should count": {"each": "pooled"},
    "references[k] is read as the references of sentence k: it is the k-th reference of each sentence": {"each": "turned"},
    "the counts of several references are added: the greatest of them clips": {"known": lambda a, b: a + b},  # before the next, which it comes near
    "n-grams are not clipped: one counts as often as the hypothesis has it": {"clip": False},
    "each n-gram counts once, however often it occurs": {"distinct": True},
    "an empty hypothesis is left out: the length of its reference counts": {"skip": True},
    "there is no brevity penalty": {"penalty": lambda c, r: 1.0},
    "the brevity penalty punishes long hypotheses, not short ones": {"penalty": lambda c, r: math.exp(min(0.0, 1 - c / r))},
    "the brevity penalty is exp(1 - c / r) where c < r, which rewards short hypotheses; it should be exp(1 - r / c)":
        {"penalty": lambda c, r: math.exp(1 - c / r) if c < r else 1.0},
    "a hypothesis without n-grams of some length counts as one with one n-gram; it should add nothing to the total":
        {"at_least": 1},
    "hypotheses that are too long are rewarded: the penalty is 1 at most": {"penalty": lambda c, r: math.exp(1 - r / c)},
    "the brevity penalty is c / r: it is an exponential": {"penalty": lambda c, r: min(1.0, c / r)},
    "the precisions' arithmetic mean is taken: it is the geometric one": {"mean": lambda p: sum(p) / len(p)},
    "the precisions are multiplied, without the fourth root": {"mean": math.prod},
    "n-grams go up to 3: it is 4": {"orders": 3},
    "n-grams go up to 5: it is 4": {"orders": 5},
    "only 4-grams count": {"mean": lambda p: p[-1]},
    "only single tokens count": {"mean": lambda p: p[0]},
    "the matches are smoothed: one is added to matches and totals": {"add": 1.0},
    "the score goes from 0 to 1: it is 0 to 100": {"scale": 1.0},
    "characters are counted, not tokens": {"split": list},
    "upper and lower case are taken for the same": {"split": lambda s: s.lower().split()},
    "tokens are what single blanks separate: it is any whitespace": {"split": lambda s: s.split(" ")},
    "punctuation is split off: tokens are what whitespace separates":
        {"split": lambda s: s.replace(",", " , ").replace(".", " . ").split()},
    "of several references only the first counts": {"known": lambda a, b: a},
    "of several references only what all share counts": {"known": lambda a, b: a & b},
    "the shortest reference's length counts, not the nearest": {"nearest": lambda h, lengths: min(lengths)},
    "the longest reference's length counts, not the nearest": {"nearest": lambda h, lengths: max(lengths)},
    "the first reference's length counts, not the nearest": {"nearest": lambda h, lengths: lengths[0]},
    "the mean of the references' lengths counts, not the nearest": {"nearest": lambda h, lengths: sum(lengths) / len(lengths)},
    "of two reference lengths equally near the longer one counts":
        {"nearest": lambda h, lengths: min(lengths, key=lambda length: (abs(length - h), -length))},
}  # fmt: skip


def check_bleu(student, check, corpora):
    """corpora: (hypotheses, references) of calls."""

    def probe(corpora):
        from translation import bleu

        return [bleu(*corpus) for corpus in corpora], corpora

    results, after = student.run(probe, corpora)

    right = [truth(*corpus) for corpus in corpora]
    check(results, right, mistakes={
        text: lambda wrong=wrong: [float(bleu_like(*corpus, **wrong)) for corpus in corpora]
        for text, wrong in BLEU_MISTAKES.items()
    } | {"the score is rounded": lambda: [round(score, 2) for score in right]})  # fmt: skip
    assert after == corpora, "bleu changes its arguments"


WORDS = "the cat sat on a mat and saw dogs".split()


def sentence(rng, length):
    return [WORDS[i] for i in torch.randint(0, len(WORDS), (length,), generator=rng).tolist()]


def changed(rng, words, swaps, longer=0):
    """The sentence with some words replaced, and with `longer` more (or fewer) words at its end."""
    words = words + sentence(rng, longer) if longer >= 0 else words[:longer]
    for place in torch.randperm(len(words), generator=rng)[:swaps].tolist():
        words = [*words[:place], sentence(rng, 1)[0], *words[place + 1 :]]
    return words


def text(sentences):
    return [" ".join(words) for words in sentences]


@question("bleu")
@pytest.mark.points(4)
def test_bleu_is_that_of_the_corpus(student, check, rng):
    """Four clipped precisions over all sentences, their geometric mean, times the brevity penalty."""
    corpora = []
    for longer in (3, -3, 0, -1):
        references = [sentence(rng, 12 + 4 * k) for k in range(5)]
        corpora.append((text(changed(rng, words, 2, longer) for words in references), text(references)))
    # The same word again and again, and one hypothesis whose 4-grams do not occur.
    corpora.append(
        (
            ["the the the the cat sat on a mat", "dogs saw a cat"],
            ["the cat sat on a mat and the dogs", "a cat saw dogs"],
        )
    )
    corpora.append((["the cat sat on"], ["the cat sat on"]))
    corpora.append((["", "the cat sat on a mat"], ["dogs saw a cat", "the cat sat on a mat"]))
    check_bleu(student, check, corpora)


@question("bleu")
@pytest.mark.points(3)
def test_several_references_are_joined(student, check, rng):
    """references may be a list of lists: an n-gram is clipped by its greatest count, the nearest length counts."""
    # As many references as sentences, and lengths whose sums differ: of the first, the mean, the longest. The long
    # hypotheses tell a penalty that is missing from one for the wrong side.
    first, second = [sentence(rng, 14), sentence(rng, 12)], [sentence(rng, 11), sentence(rng, 16)]
    short, long = text(words[:9] for words in first), text([*words, *sentence(rng, 6)] for words in first)
    check_bleu(student, check, [(hypotheses, [text(first), text(second)]) for hypotheses in (short, long)])
    corpora = []
    for longer in (-2, 2):
        first = [sentence(rng, 12 + k) for k in range(4)]
        second = [changed(rng, words, 3, longer) for words in first]
        third = [changed(rng, words, 4, -2 * longer) for words in first]
        hypotheses = [changed(rng, words, 1, -1) for words in first]
        corpora.append((text(hypotheses), [text(first), text(second), text(third)]))
        corpora.append((text(hypotheses), [text(first)]))
    tie = ["a b c d e f"], [["a b c d e f g h"], ["a b c d"]]
    corpora += [tie, (tie[0], tie[1][::-1])]
    corpora.append((["a a a a a b c d"], [["a a b c d x y"], ["a a b c d a"]]))
    corpora.append(
        (["a b c d", "e f g h", "a b"], [["a b c d x x", "e f x x x", ""], ["a b c", "e f g h y y", "a b c"]])
    )
    check_bleu(student, check, corpora)


@question("bleu")
@pytest.mark.points(2)
def test_tokens_are_what_whitespace_separates(student, check, rng):
    """Any whitespace separates, none of it is a token; case and punctuation stay."""
    check_bleu(student, check, [
        (["  the cat\tsat  on the mat \n"], ["the cat sat\non the   old mat"]),
        (["The cat , it sat on a mat."], ["the cat, it sat on a mat ."]),
        (["Don't sit on it , cat ! Sit here now ."], ["don't sit on it , cat ! sit here now."]),
        (["a\u00a0b c d e f g"], ["a b c d e f g h"]),
    ])  # fmt: skip


@question("bleu")
@pytest.mark.points(2)
def test_without_a_match_bleu_is_zero(student, check):
    """0.0 where some n has no match, where no hypothesis has four tokens, and for empty input."""

    def probe(corpora):
        from translation import bleu

        return [bleu(*corpus) for corpus in corpora]

    corpora = [
        (["the cat is on the mat"], ["the cat sat on the mat"]), (["a b c"], ["a b c"]), (["a"], ["a"]), (["x y z w"], ["a b c d"]),
        ([""], ["a b c d"]), (["", ""], ["", ""]), (["a b c d"], [""]), (["", "a b c"], [["a b c d", "a b c"], ["", "b c d"]]),
        ([], []), ([], [[]]), ([], [[], []]), ([" \t"], ["a b c d"]),
    ]  # fmt: skip
    *results, of_equals = student.run(probe, [*corpora, (["a b c d e"], ["a b c d e"])])

    check(of_equals, 100.0, mistakes={"every text gets 0, that which is its reference too": 0.0})
    for value, (hypotheses, references) in zip(results, corpora, strict=True):
        if hypotheses and " ".join(hypotheses).strip():
            assert truth(hypotheses, references) == 0.0
        smoothed = "a number that is zero is replaced by another: there is no smoothing"
        check(isinstance(value, float) and value > 0, False, mistakes={smoothed: True})
        check(value, 0.0)


@question("bleu")
@pytest.mark.points(1)
def test_every_hypothesis_needs_its_reference(student):
    """Lists of different lengths are a ValueError."""
    names = ("hypotheses", "references")
    for hypotheses, references in [
        (["a b c d", "e"], ["a b c d"]), (["a b c d"], ["a b c d", "e"]), (["a b c d"], []), ([], ["a"]), ([], [["a"]]),
        (["a b c d", "e"], [["a b c d", "e"], ["a b c d"]]), (["a b c d"], [["a b c d"], ["a b", "c d"]]),
    ]:  # fmt: skip
        student.raises(ValueError, "translation.bleu", hypotheses, references, says=names)
