"""Hidden tests of summarization: rouge_n and rouge_l, with rouge-score as the oracle.

How texts are split into words is tested apart: there a score is compared with the student's own one of plain words.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

ROUGE_N, ROUGE_L = pytest.mark.question("rouge_n"), pytest.mark.question("rouge_l")
ZEROS = (0.0, 0.0, 0.0)


def rouge_scores(kind, pairs):
    """(precision, recall, f1) of each (candidate, reference)."""
    scorer = RougeScorer([kind], use_stemmer=False)
    return [tuple(map(float, scorer.score(reference, candidate)[kind])) for candidate, reference in pairs]


def random_pairs(rng, count, words="a b c d e f"):
    """Texts of 1 to 12 words; some share a piece."""
    words = words.split()

    def some(most):
        length = int(torch.randint(1, most + 1, (), generator=rng))
        return [words[i] for i in torch.randint(0, len(words), (length,), generator=rng).tolist()]

    pairs = []
    for n in range(count):
        piece = some(6) if n % 2 else []
        one, other = some(9) + piece + some(3), some(3) + piece + some(6)
        pairs.append((" ".join(one), " ".join(other)) if n % 3 else (" ".join(other), " ".join(one)))
    return pairs


# ---------------------------------------------------------------------------------------------- the steps


def lcs(ours, theirs):
    """The length of the longest common subsequence, by its definition."""
    table = {}

    def of(i, j):
        if i == 0 or j == 0:
            return 0
        if (i, j) not in table:
            same = ours[i - 1] == theirs[j - 1]
            table[i, j] = of(i - 1, j - 1) + 1 if same else max(of(i - 1, j), of(i, j - 1))
        return table[i, j]

    return of(len(ours), len(theirs))


def substring(ours, theirs):
    pieces = [ours[i:j] for i in range(len(ours)) for j in range(i + 1, len(ours) + 1)]
    return max(
        (len(p) for p in pieces if any(theirs[k : k + len(p)] == p for k in range(len(theirs)))),
        default=0,
    )


def greedily_matched(ours, theirs):
    """Each of our words takes the next place in the other text where it stands, if there is one."""
    place = found = 0
    for word in ours:
        if word in theirs[place:]:
            place, found = theirs.index(word, place) + 1, found + 1
    return found


def in_both(ours, theirs):
    return (Counter(ours) & Counter(theirs)).total()


def harmonic(p, r):
    return 2 * p * r / (p + r)


@dataclass(frozen=True)
class Rouge:
    """The steps of both scores: what is counted, how often it is in both, and of how many. A mistake replaces one."""

    units: object = lambda words, n: [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    matches: object = in_both
    total: object = lambda units, words: len(units)
    f1: object = harmonic
    last: object = lambda p, r, f: (p, r, f)

    def __call__(self, candidate, reference, n=1):
        words = candidate.split(), reference.split()
        units = [self.units(each, n) for each in words]
        matches = self.matches(*units)
        p, r = (matches / max(1, self.total(*pair)) for pair in zip(units, words, strict=True))
        return self.last(p, r, self.f1(p, r)) if matches else ZEROS


L = replace(Rouge(), units=lambda words, n: words, matches=lcs)
BOTH = {  # sentence -> a step
    "precision and recall are exchanged": {"last": lambda p, r, f: (r, p, f)},
    "f1 is the arithmetic mean; it should be the harmonic one": {"f1": lambda p, r: (p + r) / 2},
    "f1 has half its size: the 2 is missing": {"f1": lambda p, r: p * r / (p + r)},
    "recall counts more than precision in f1": {"f1": lambda p, r: 2.44 * p * r / (r + 1.44 * p)},
    "f1 is the geometric mean; it should be the harmonic one": {"f1": lambda p, r: (p * r) ** 0.5},
    "the scores go from 0 to 100; they should go from 0 to 1": {
        "last": lambda p, r, f: (100 * p, 100 * r, 100 * f),
    },
    "the scores are rounded": {"last": lambda p, r, f: (round(p, 2), round(r, 2), round(f, 2))},
}
N_GRAMS = {
    "each n-gram counts once, however often it occurs": {"units": lambda w, n: sorted(set(Rouge.units(w, n)))},
    "n-grams are not clipped: one counts as often as the candidate has it": {
        "matches": lambda a, b: sum(gram in b for gram in a)
    },
    "n-grams are not clipped: one counts as often as the reference has it": {
        "matches": lambda a, b: sum(gram in a for gram in b)
    },
    "a common n-gram counts once in the matches, however often it is in both": {
        "matches": lambda a, b: len(set(a) & set(b))
    },
    "n is ignored: single words are counted": {"units": lambda words, n: [*words]},
    "n-grams of all lengths up to n are counted": {
        "units": lambda words, n: [gram for k in range(1, n + 1) for gram in Rouge.units(words, k)]
    },
    "n-grams do not overlap; they should": {
        "units": lambda words, n: [tuple(words[i : i + n]) for i in range(0, len(words) - n + 1, n)]
    },
    "the last n-gram of a text is missing": {"units": lambda words, n: Rouge.units(words, n)[:-1]},
    "pieces at the end that are shorter than n count as n-grams": {
        "units": lambda words, n: [tuple(words[i : i + n]) for i in range(len(words))]
    },
    "the order within an n-gram does not count; it should": {
        "units": lambda words, n: [tuple(sorted(gram)) for gram in Rouge.units(words, n)]
    },
    "n-grams of characters are counted; they should be of words": {
        "units": lambda words, n: Rouge.units(list(" ".join(words)), n)
    },
    "matches are divided by the number of words; it should be the number of n-grams": {
        "total": lambda units, words: len(words)
    },
}
SEQUENCES = {
    "gaps are not allowed; they should be": {"matches": substring},
    "the order does not count; it should": {"matches": in_both},
    "the longest subsequence is not found: a word takes the first place that is left": {"matches": greedily_matched},
    "the last words of both texts are never compared": {"matches": lambda a, b: lcs(a[:-1], b[:-1])},
    "the first words of both texts are never compared": {"matches": lambda a, b: lcs(a[1:], b[1:])},
    "characters are compared; it should be words": {"units": lambda words, n: list(" ".join(words))},
    "two words that differ are skipped together; it should be one of them": {
        "matches": lambda a, b: sum(one == other for one, other in zip(a, b, strict=False))
    },
}


def scored_as(right, tables, calls):
    """sentence -> a function that gives the scores of all calls with one step replaced."""
    steps = {text: step for table in tables for text, step in table.items()}
    return {
        text: lambda step=step: [tuple(map(float, replace(right, **step)(*call))) for call in calls]
        for text, step in steps.items()
    }


# ---------------------------------------------------------------------------------------------- words

SPLITS = {  # sentence -> how a text is split
    "upper and lower case differ; the text should be lower-cased": lambda text: re.findall("[a-zA-Z0-9]+", text),
    "capitals separate words; the text should be lower-cased first": lambda text: re.findall("[a-z0-9]+", text),
    "words are what whitespace separates; all but a-z and 0-9 should": lambda text: text.lower().split(),
    "punctuation is removed and separates nothing; it should": lambda text: re.sub(
        r"[^a-z0-9\s]", "", text.lower()
    ).split(),
    "digits are not part of words; they should be": lambda text: re.findall("[a-z]+", text.lower()),
    "letters beyond a-z are part of words; they should separate them": lambda text: re.findall(
        r"[^\W_]+", text.lower()
    ),
    "an underscore is part of a word; it should separate words": lambda text: re.findall("[a-z0-9_]+", text.lower()),
    "an apostrophe is part of a word; it should separate words": lambda text: re.findall("[a-z0-9']+", text.lower()),
    "a hyphen is part of a word; it should separate words": lambda text: re.findall("[a-z0-9-]+", text.lower()),
    "punctuation marks are words": lambda text: re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()),
    "words of one letter are left out": lambda text: re.findall("[a-z0-9]{2,}", text.lower()),
    "stop words are left out; every word should count": lambda text: [
        word for word in re.findall("[a-z0-9]+", text.lower()) if word not in ("the", "a", "on", "is", "it", "and")
    ],
    "only the first line is read": lambda text: re.findall("[a-z0-9]+", text.lower().partition("\n")[0]),
}
WRITTEN = [  # pairs with much that separates words, or does not
    ("The cat SAT on the mat", "the Cat sat here ON the mat"),
    ("CamelCase and eBooks", "amel ase case and e ooks camelcase"),
    ("a cat, a dog; a bird.", "a cat a dog a bird"),
    ("don't sit: it's well-known", "don t sit it s known well dont its"),
    ("in 2024 the 3rd room b2b", "in 2025 the rd room b b b2b 4th"),
    ("naïve café ñandú", "na ve caf and naive naïveté"),
    ("snake_case is_it", "snake case is it snake_case now"),
    ("the cats\nsat on\tthe mat \n", "the cats  sat\non the new mat is"),
    ("yes !! - no ?? - yes", "no !! yes ?? no - yes"),
    ("Straße groß", "strasse gross stra"),
    ("ſun ıt", "sun it un t"),
    ("page ٣ of 3", "page of 3 x"),
    ("the cats run", "the cat runs"),
]


def split_truly(text):
    return re.findall("[a-z0-9]+", text.lower())


def renamed(pairs, split):
    """The same texts, in plain words."""
    names = {}
    return [
        tuple(" ".join("word" + "abcdefghijklmnopqrstuvwxyz"[names.setdefault(w, len(names)) % 26] * 2
                       + "xyzw"[names[w] // 26] for w in split(text)) for text in pair)
        for pair in pairs
    ]  # fmt: skip


def of_words(student, probe):
    """For `check(**…)`: the scores of WRITTEN, which should be those of the same texts in plain words."""
    asked = [WRITTEN, *(renamed(WRITTEN, split) for split in (split_truly, *SPLITS.values()))]
    results = student.run(probe, [pair for pairs in asked for pair in pairs])
    found, right, *wrong = (results[n : n + len(WRITTEN)] for n in range(0, len(results), len(WRITTEN)))
    return {"value": found, "expected": right, "mistakes": dict(zip(SPLITS, wrong, strict=True))}


def is_score(score):
    """Whether it is three floats, of which not all are zero."""
    return (
        isinstance(score, (tuple, list)) and len(score) == 3 and all(isinstance(x, float) for x in score) and any(score)
    )


NOTHING = "texts that have words in common get zeros, or no three numbers"
EMPTY = ["", "...", "a", "a b", "b a", "c", "b a b a"]


# ---------------------------------------------------------------------------------------------- rouge_n


@ROUGE_N
@pytest.mark.points(4)
def test_n_grams_in_common_are_counted(student, check, rng):
    """(precision, recall, f1) of random texts, with n-grams of 1 to 6 words, are those of rouge-score."""

    def probe(calls):
        from summarization import rouge_n

        return [rouge_n(*call) for call in calls]

    pairs = random_pairs(rng, 60)
    calls = [(*pair, n) for n in (1, 2, 3, 4, 6) for pair in pairs]
    results = student.run(probe, calls)

    right = [score for n in (1, 2, 3, 4, 6) for score in rouge_scores(f"rouge{n}", pairs)]
    check(results, right, mistakes=scored_as(Rouge(), (BOTH, N_GRAMS), calls))


@ROUGE_N
@pytest.mark.points(2)
def test_n_grams_are_of_lower_case_letters_and_digits(student, check):
    """Words are runs of a-z and 0-9 of the lower-cased text: with plain words in their place the scores are the same."""

    def probe(pairs):
        from summarization import rouge_n

        return [rouge_n(*pair, 1) for pair in pairs]

    case = of_words(student, probe)

    check.that(all(map(is_score, case["expected"])), NOTHING)
    check(**case)


@ROUGE_N
@pytest.mark.points(1)
def test_an_n_gram_is_no_text_without_gaps(student, check):
    """ "ab c" and "a bc" are different pairs of words; a pair of equal words is a pair."""

    def probe(pairs):
        from summarization import rouge_n

        return [rouge_n(*pair, 2) for pair in pairs]

    pairs = [("ab c d", "a bc d"), ("a a a", "a a"), ("x y a a", "a a x"), ("ab c x y", "a bc x y")]
    results = student.run(probe, pairs)

    glued = replace(Rouge(), units=lambda words, n: ["".join(gram) for gram in Rouge.units(words, n)])
    sets = replace(Rouge(), units=lambda words, n: [tuple(sorted(set(gram))) for gram in Rouge.units(words, n)])
    check(results, rouge_scores("rouge2", pairs), mistakes={
        "the words of an n-gram are joined without a gap, so that different ones are the same": [
            tuple(map(float, glued(*pair, 2))) for pair in pairs
        ],
        "an n-gram is a set of words; it should be their sequence": [
            tuple(map(float, sets(*pair, 2))) for pair in pairs
        ],
    })  # fmt: skip


@ROUGE_N
@pytest.mark.points(1)
def test_texts_without_n_grams_score_zero(student, check):
    """Zeros where a text is empty or shorter than n, or nothing is in common; else as rouge-score."""

    def probe(texts):
        from summarization import rouge_n

        return [rouge_n(one, other, n) for n in (1, 2, 3) for one in texts for other in texts]

    results = student.run(probe, EMPTY)

    pairs = [(one, other) for one in EMPTY for other in EMPTY]
    right = [score for n in (1, 2, 3) for score in rouge_scores(f"rouge{n}", pairs)]
    ones = [(1.0, 1.0, 1.0) if one == other else score for (one, other), score in zip(pairs * 3, right, strict=True)]
    check(results, right, mistakes={"two texts without n-grams get 1; they should get 0": ones})


@ROUGE_N
@pytest.mark.points(1)
@pytest.mark.parametrize("n", [0, -1])
def test_n_is_one_at_least(student, n):
    """ValueError where n is less than 1."""
    student.accepts("summarization.rouge_n", "a b c", "a b", 1)
    student.raises(ValueError, "summarization.rouge_n", "a b c", "a b", n, says="n")


# ---------------------------------------------------------------------------------------------- rouge_l


@ROUGE_L
@pytest.mark.points(4)
def test_the_longest_common_subsequence_counts(student, check, rng):
    """(precision, recall, f1) of random texts are those of rouge-score's rougeL."""

    def probe(pairs):
        from summarization import rouge_l

        return [rouge_l(*pair) for pair in pairs]

    pairs = random_pairs(rng, 240)
    results = student.run(probe, pairs)

    check(results, rouge_scores("rougeL", pairs), mistakes=scored_as(L, (BOTH, SEQUENCES), pairs))


@ROUGE_L
@pytest.mark.points(2)
def test_subsequences_are_of_lower_case_letters_and_digits(student, check):
    """Words are runs of a-z and 0-9 of the lower-cased text: with plain words in their place the scores are the same."""

    def probe(pairs):
        from summarization import rouge_l

        return [rouge_l(*pair) for pair in pairs]

    case = of_words(student, probe)

    check.that(all(map(is_score, case["expected"])), NOTHING)
    check(**case)


@ROUGE_L
@pytest.mark.points(1)
def test_texts_without_words_score_zero(student, check):
    """Zeros where a text has no words, or nothing is in common; else as rouge-score."""

    def probe(texts):
        from summarization import rouge_l

        return [rouge_l(one, other) for one in texts for other in texts]

    results = student.run(probe, EMPTY)

    pairs = [(one, other) for one in EMPTY for other in EMPTY]
    right = rouge_scores("rougeL", pairs)
    ones = [(1.0, 1.0, 1.0) if one == other else score for (one, other), score in zip(pairs, right, strict=True)]
    check(results, right, mistakes={"two texts without words get 1; they should get 0": ones})


@ROUGE_L
@pytest.mark.points(1)
def test_long_texts_are_compared_in_time(student, check, rng):
    """Two texts of 500 words: the time grows with the product of the lengths, not with the number of subsequences."""
    ((one, other),) = [
        (" ".join(pair[0] for pair in random_pairs(rng, 60)), " ".join(pair[1] for pair in random_pairs(rng, 60)))
    ]
    pair = " ".join(one.split()[:500]), " ".join(other.split()[:500])

    result = student.on(timeout=5.0).call("summarization.rouge_l", *pair)

    check.that(is_score(result), NOTHING)
    check(result, rouge_scores("rougeL", [pair])[0], what="the scores of long texts")
