"""Hidden tests of translation: bleu, with sacrebleu as the oracle.

BLEU is a mean of precisions times a brevity penalty. Where one of them is tested, the other is what it is: hypotheses are as
long as their references, or all that changes is the length of a reference.
"""

import functools
import math
from collections import Counter
from dataclasses import dataclass

import pytest
import sacrebleu
import torch

BLEU = pytest.mark.question("bleu")


def truth(hypotheses, references):
    references = [references] if isinstance(references[0], str) else references
    options = {"tokenize": "none", "smooth_method": "none", "force": True}
    return float(sacrebleu.corpus_bleu(hypotheses, references, **options).score)


def scores(corpora):
    """A probe: the score of each (hypotheses, references), and the corpora afterwards."""
    from translation import bleu

    return [bleu(*corpus) for corpus in corpora], corpora


# ---------------------------------------------------------------------------------------------- the steps


def grams(tokens, n):
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def clipped(count, known):
    return min(count, known)


@dataclass(frozen=True)
class Precisions:
    """The precisions of BLEU as a list of steps, which are right; a mistake replaces one. There is no brevity penalty."""

    split: object = str.split
    orders: int = 4
    known: object = lambda a, b: a | b  # the counts that two references allow
    counted: object = clipped  # of an n-gram that the hypothesis has count times, and the references known times
    own: object = lambda counts: counts
    total: object = lambda total: total  # of a hypothesis
    share: object = lambda matches, total, n: matches / max(total, 1)
    mean: object = lambda p: math.exp(sum(map(math.log, p)) / len(p))
    scale: float = 100.0

    def __call__(self, hypotheses, *references):
        matches, totals = [0] * self.orders, [0] * self.orders
        for hypothesis, *others in zip(hypotheses, *references, strict=True):
            tokens, others = self.split(hypothesis), [self.split(other) for other in others]
            for n in range(self.orders):
                own = self.own(grams(tokens, n + 1))
                known = functools.reduce(self.known, [grams(other, n + 1) for other in others])
                matches[n] += sum(self.counted(count, known[gram]) for gram, count in own.items())
                totals[n] += self.total(sum(own.values()))
        shares = [self.share(*numbers, n) for n, numbers in enumerate(zip(matches, totals, strict=True))]
        return float(self.scale * self.mean(shares)) if all(shares) else 0.0


SPLITS = {  # sentence -> how a text is split
    "characters are counted; it should be tokens": list,
    "upper and lower case are taken for the same; they should differ": lambda text: text.lower().split(),
    "tokens are what single blanks separate; any whitespace should": lambda text: text.split(" "),
    "punctuation is split off; tokens should be what whitespace separates": lambda text: (
        text.replace(",", " , ").replace(".", " . ").split()
    ),
}
PRECISIONS = {  # sentence -> the score of hypotheses and lists of references
    "the scores of the sentences are averaged; matches and lengths should be summed over the corpus": lambda hypotheses, *lists: (
        sum(Precisions()(*([item] for item in row)) for row in zip(hypotheses, *lists, strict=True)) / len(hypotheses)
    ),
    "the sentences are joined to one; n-grams should be counted in each, and clipped by its own references": lambda *lists: (
        Precisions()(*([" ".join(sentences)] for sentences in lists))
    ),
    "n-grams of a sentence are looked for in the references of all sentences; its own should count": lambda hypotheses, *lists: (
        Precisions()(hypotheses, *([other] * len(hypotheses) for sentences in lists for other in sentences))
    ),
    "references[k] is read as the references of sentence k; it should be the k-th reference of each sentence": (
        lambda hypotheses, *lists: Precisions()(hypotheses, *map(list, zip(*lists, strict=True)))
    ),
    # before the next, which it comes near
    "the counts of several references are added; the greatest of them should clip": Precisions(
        known=lambda a, b: a + b
    ),
    "n-grams are not clipped: one counts as often as the hypothesis has it": Precisions(
        counted=lambda n, k: n * (k > 0)
    ),
    "each n-gram counts once, however often it occurs": Precisions(own=lambda counts: Counter(set(counts))),
    "a hypothesis without n-grams of some length counts as one with one n-gram; it should add nothing to the total": (
        Precisions(total=lambda total: max(1, total))
    ),
    "the precisions' arithmetic mean is taken; it should be the geometric one": Precisions(
        mean=lambda p: sum(p) / len(p)
    ),
    "the precisions are multiplied, without the fourth root": Precisions(mean=math.prod),
    "n-grams go up to 3; they should go up to 4": Precisions(orders=3),
    "n-grams go up to 5; they should go up to 4": Precisions(orders=5),
    "only 4-grams count": Precisions(mean=lambda p: p[-1]),
    "only single tokens count": Precisions(mean=lambda p: p[0]),
    "the matches are smoothed: one is added to matches and totals": Precisions(
        share=lambda matches, total, n: (matches + (n > 0)) / max(total + (n > 0), 1)
    ),
    "the score goes from 0 to 1; it should go from 0 to 100": Precisions(scale=1.0),
    **{sentence: Precisions(split=split) for sentence, split in SPLITS.items()},
    "of several references only the first counts": Precisions(known=lambda a, b: a),
    "of several references only what all share counts": Precisions(known=lambda a, b: a & b),
}


def precisions(student, corpora):
    """For `check(**…)`, twice: the scores of (hypotheses, references), and the corpora as they are afterwards."""
    results, after = student.run(scores, corpora)
    right = [truth(*corpus) for corpus in corpora]
    lists = [(texts, *([others] if isinstance(others[0], str) else others)) for texts, others in corpora]
    mistakes = {
        sentence: lambda wrong=wrong: [wrong(*corpus) for corpus in lists] for sentence, wrong in PRECISIONS.items()
    }
    rounded = {"the score is rounded": [round(score, 2) for score in right]}
    return [
        {"value": results, "expected": right, "mistakes": mistakes | rounded},
        {"value": after, "expected": corpora, "otherwise": "bleu changes its arguments"},
    ]


def parts_mistakes(*corpus):
    """Whether no two mistakes give the same wrong score: two sentences are few."""
    right = Precisions()(*corpus)
    wrong = [score for score in (mistake(*corpus) for mistake in PRECISIONS.values()) if abs(score - right) > 1e-6]
    return len({round(score, 6) for score in wrong}) == len(wrong)


# ---------------------------------------------------------------------------------------------- precisions

WORDS = "the cat sat on a mat and saw dogs".split()


def sentence(rng, length):
    return [WORDS[i] for i in torch.randint(0, len(WORDS), (length,), generator=rng).tolist()]


def changed(rng, words, swaps):
    """The sentence with some words replaced."""
    for place in torch.randperm(len(words), generator=rng)[:swaps].tolist():
        words = [*words[:place], sentence(rng, 1)[0], *words[place + 1 :]]
    return words


def text(sentences):
    return [" ".join(words) for words in sentences]


@BLEU
@pytest.mark.points(3)
def test_bleu_is_that_of_the_corpus(student, check, rng):
    """Four clipped precisions over all sentences, and their geometric mean. All hypotheses are as long as their references."""
    corpora = []
    for _ in range(4):
        references = [sentence(rng, 12 + 4 * k) for k in range(5)]
        corpora.append((text(changed(rng, words, 2) for words in references), text(references)))
    corpora += [
        # The same word again and again.
        (
            ["the the the the cat sat on a mat", "dogs saw a cat"],
            ["the cat sat on a mat and the dogs", "a cat saw dogs"],
        ),
        (["the cat sat on"], ["the cat sat on"]),
        (["saw dogs", "the cat sat on a mat"], ["saw dogs", "the cat sat on a dog"]),
    ]
    for case in precisions(student, corpora):
        check(**case)


@BLEU
@pytest.mark.points(1)
def test_several_references_are_joined(student, check, rng):
    """references may be a list of lists: an n-gram is clipped by the greatest count that one of its references has."""
    for _ in range(50):
        first = [sentence(rng, 14), sentence(rng, 12)]
        lists = [text(first), text(changed(rng, words, 3) for words in first)]  # as many references as sentences
        hypotheses = text(changed(rng, words, 1) for words in first)
        if parts_mistakes(hypotheses, *lists):
            break
    for case in precisions(student, [(hypotheses, lists)]):
        check(**case)

    corpora = [(["a a a a a b c d"], [["a a b c d x y z"], ["a a b c d a q r"]])]
    for _ in range(2):
        first = [sentence(rng, 12 + k) for k in range(4)]
        others = [text(changed(rng, words, swaps) for words in first) for swaps in (3, 4)]
        hypotheses = text(changed(rng, words, 1) for words in first)
        corpora += [(hypotheses, [text(first), *others]), (hypotheses, [text(first)])]
    for case in precisions(student, corpora):
        check(**case)


@BLEU
@pytest.mark.points(1)
def test_tokens_are_what_whitespace_separates(student, check):
    """Any whitespace separates, none of it is a token; case and punctuation stay: with other words the score is the same."""
    corpora = [
        (["  the cat\tsat  on the mat \n"], ["the cat sat\non the   old mat"]),
        (["The cat , it sat on a mat."], ["the cat, it sat on a mat ."]),
        (["Don't sit on it , cat ! Sit here now ."], ["don't sit on it , cat ! sit here now."]),
        (["a\u00a0b c d e f g"], ["a b c d e f g h"]),
    ]

    def renamed(corpus, split):
        names = {}
        return [
            [" ".join(names.setdefault(token, f"w{len(names)}") for token in split(text)) for text in part]
            for part in corpus
        ]

    splits = {"": str.split, **SPLITS}
    asked = [corpora, *([renamed(corpus, split) for corpus in corpora] for split in splits.values())]
    results, _ = student.run(scores, [corpus for corpora in asked for corpus in corpora])

    found, right, *wrong = (results[n : n + len(corpora)] for n in range(0, len(results), len(corpora)))
    check.that(all(isinstance(score, float) and score > 0 for score in right), "a text with matches for each n gets 0")
    check(found, right, mistakes=dict(zip(SPLITS, wrong, strict=True)))


# ---------------------------------------------------------------------------------------------- the brevity penalty

HYPOTHESIS, C = "s t u v w x a b c d e f", 12


def reference(length):
    """Of this length, at least 6; the hypothesis finds in it the same 6 tokens, whatever its length is."""
    return " ".join(HYPOTHESIS.split()[:6] + [f"r{n}" for n in range(length - 6)])


PENALTIES = {  # sentence -> the penalty for lengths c and r
    "there is no brevity penalty": lambda c, r: 1.0,
    "the brevity penalty punishes long hypotheses; it should punish short ones": lambda c, r: math.exp(
        min(0.0, 1 - c / r)
    ),
    "the brevity penalty is exp(1 - c / r) where c < r, which rewards short hypotheses; it should be exp(1 - r / c)": (
        lambda c, r: math.exp(1 - c / r) if c < r else 1.0
    ),
    "hypotheses that are too long are rewarded; the penalty should be 1 at most": lambda c, r: math.exp(1 - r / c),
    "the brevity penalty is c / r; it should be exp(1 - r / c)": lambda c, r: min(1.0, c / r),
}
NO_SCORE = "a hypothesis of which half is right gets 0, or no number"


@BLEU
@pytest.mark.points(2)
def test_a_short_hypothesis_is_penalized(student, check):
    """exp(1 - r / c) where the hypotheses are shorter than the references, and 1 where they are not, over the corpus."""
    lengths = (8, 10, 13, 16, 24)
    corpora = [([HYPOTHESIS], [reference(length)]) for length in (C, *lengths)]
    with_an_empty_one = (["", HYPOTHESIS], ["p q p q", reference(C)])  # r is 16 here
    (plain, *results), _ = student.run(scores, [*corpora, with_an_empty_one])

    check.that(isinstance(plain, float) and plain > 0, NO_SCORE)
    mistakes = {sentence: [penalty(C, r) for r in (*lengths, 16)] for sentence, penalty in PENALTIES.items()}
    right = [math.exp(min(0.0, 1 - r / C)) for r in (*lengths, 16)]
    left_out = "an empty hypothesis is left out; the length of its reference should count"
    check([score / plain for score in results], right, mistakes={**mistakes, left_out: [*right[:-1], 1.0]})


NEAREST = {  # sentence -> the length that counts for a hypothesis of length c and the references' lengths
    "the shortest reference's length counts; it should be the nearest": lambda c, lengths: min(lengths),
    "the longest reference's length counts; it should be the nearest": lambda c, lengths: max(lengths),
    "the first reference's length counts; it should be the nearest": lambda c, lengths: lengths[0],
    "the mean of the references' lengths counts; it should be the nearest": lambda c, lengths: (
        sum(lengths) // len(lengths)
    ),
    "of two reference lengths equally near the longer one counts; it should be the shorter": (
        lambda c, lengths: min(lengths, key=lambda length: (abs(length - c), -length))
    ),
}


@BLEU
@pytest.mark.points(2)
def test_the_length_of_the_nearest_reference_counts(student, check):
    """Of several references the one counts that is nearest in length, the shorter of two equally near."""
    several = [(14, 8), (8, 14), (20, 14), (14, 20), (24, 9, 15), (14, 10), (10, 14), (16, 8), (8, 16)]
    corpora = [([HYPOTHESIS], [[reference(length)] for length in lengths]) for lengths in several]
    single = [([HYPOTHESIS], [reference(length)]) for length in range(8, 25)]
    results, _ = student.run(scores, [*single, *corpora])

    found, of_length = results[len(single) :], dict(zip(range(8, 25), results, strict=False))
    check.that(isinstance(of_length[C], float) and of_length[C] > 0, NO_SCORE)

    def of(nearest):
        return [of_length[nearest(C, lengths)] for lengths in several]

    right = of(lambda c, lengths: min(lengths, key=lambda length: (abs(length - c), length)))
    check(found, right, mistakes={sentence: of(nearest) for sentence, nearest in NEAREST.items()})


# ---------------------------------------------------------------------------------------------- nothing to count


@BLEU
@pytest.mark.points(2)
def test_without_a_match_bleu_is_zero(student, check):
    """0.0 where some n has no match, where no hypothesis has four tokens, and for empty input."""
    corpora = [
        (["the cat is on the mat"], ["the cat sat on the mat"]), (["a b c"], ["a b c"]), (["a"], ["a"]), (["x y z w"], ["a b c d"]),
        ([""], ["a b c d"]), (["", ""], ["", ""]), (["a b c d"], [""]), (["", "a b c"], [["a b c d", "a b c"], ["", "b c d"]]),
        ([], []), ([], [[]]), ([], [[], []]), ([" \t"], ["a b c d"]),
    ]  # fmt: skip
    (*results, of_equals), _ = student.run(scores, [*corpora, (["a b c d e"], ["a b c d e"])])

    check.that(
        not (isinstance(of_equals, (int, float)) and of_equals == 0),
        "every text gets 0, even one that equals its reference",
    )
    for value in results:
        smoothed = "a count of zero is replaced by another number; there should be no smoothing"
        check.that(not (isinstance(value, float) and value > 0), smoothed)
        check(value, 0.0)


@BLEU
@pytest.mark.points(1)
def test_every_hypothesis_needs_its_reference(student):
    """Lists of different lengths are a ValueError."""
    names = ("hypotheses", "references")
    student.accepts("translation.bleu", ["a b c d", "e"], ["a b c d", "e"])
    student.accepts("translation.bleu", ["a b c d"], [["a b c d"], ["a b"]])
    for hypotheses, references in [
        (["a b c d", "e"], ["a b c d"]), (["a b c d"], ["a b c d", "e"]), (["a b c d"], []), ([], ["a"]), ([], [["a"]]),
        (["a b c d", "e"], [["a b c d", "e"], ["a b c d"]]), (["a b c d"], [["a b c d"], ["a b", "c d"]]),
    ]:  # fmt: skip
        student.raises(ValueError, "translation.bleu", hypotheses, references, says=names)
