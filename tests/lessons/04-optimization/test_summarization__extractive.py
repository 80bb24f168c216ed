"""Hidden tests of summarization: extractive_summary, with PageRank by a linear system as the oracle.

Documents are random, and so chosen that no score decides by a little: between equal scores either sentence is right.
"""

import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from shared import MANNERS

pytestmark = pytest.mark.question("extractive_summary")

WORDS = "rain river town flood bridge police street night school mayor".split()


@dataclass(frozen=True)
class TextRank:
    """The steps from words to the order of the sentences. A mistake replaces one."""

    unique: object = lambda words: list(dict.fromkeys(words))
    weight: object = lambda a, b: len(set(a) & set(b)) / (math.log(len(a)) + math.log(len(b)))
    itself: bool = False  # whether a sentence is joined with itself
    share: object = lambda w: w / w.sum(0).where(w.sum(0) > 0, torch.ones(()).double())  # [i, j]: of what j gives, i's
    damping: float = 0.85
    steps: int | None = None  # of the equation; None: until the scores stay
    sign: float = 1.0

    def __call__(self, sentences):
        """The scores."""
        words = [self.unique(sentence.lower().rstrip(".").split()) for sentence in sentences]
        n = len(sentences)
        w = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                if (i != j or self.itself) and set(words[i]) & set(words[j]) and max(len(words[i]), len(words[j])) > 1:
                    w[i, j] = self.weight(words[i], words[j])
        share, score = self.damping * self.share(w), torch.ones(n, dtype=torch.float64)
        for _ in range(self.steps or 0):
            score = (1 - self.damping) + share @ score
        if self.steps is None:
            score = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - share, (1 - self.damping) * score)
        return self.sign * score


def chosen(scores, count):
    """The places of the greatest scores, in their order; of equal ones the first."""
    return sorted(sorted(range(len(scores)), key=lambda i: -round(float(scores[i]), 9))[:count])


def is_clear(scores):
    """Whether no two scores are nearly the same."""
    return bool((scores.sort().values.diff() > 1e-3).all())


def log_sizes(a, b):
    return math.log(len(a)) + math.log(len(b))


DEGREE = TextRank(share=lambda w: w, steps=1, damping=0.5)
MISTAKES = {  # sentence -> a function of scores
    "similarities are not divided by the logarithms of the sizes": TextRank(weight=lambda a, b: len(set(a) & set(b))),
    "similarities are divided by the sizes; it should be their logarithms": TextRank(
        weight=lambda a, b: len(set(a) & set(b)) / (len(a) + len(b))
    ),
    "the logarithms of the sizes are multiplied; they should be added": TextRank(
        weight=lambda a, b: len(set(a) & set(b)) / (math.log(len(a)) * math.log(len(b)) or 1.0)
    ),
    "the logarithms are of sizes plus one": TextRank(
        weight=lambda a, b: len(set(a) & set(b)) / (math.log(len(a) + 1) + math.log(len(b) + 1))
    ),
    "the similarity is that of Jaccard: common words over all words": TextRank(
        weight=lambda a, b: len(set(a) & set(b)) / len(set(a) | set(b))
    ),
    "the similarity is the cosine of the counts of words": TextRank(
        unique=list,
        weight=lambda a, b: sum(Counter(a)[w] * Counter(b)[w] for w in set(a)) / math.sqrt(
            sum(n * n for n in Counter(a).values()) * sum(n * n for n in Counter(b).values())
        ),
    ),
    "each word counts in the size as often as it occurs; it should count once": TextRank(unique=list),
    "a word that is twice in both sentences counts twice; it should count once": TextRank(
        unique=list, weight=lambda a, b: (Counter(a) & Counter(b)).total() / (math.log(len(set(a))) + math.log(len(set(b))) or 1.0)
    ),
    "all similarities are 1: only whether there is a common word counts": TextRank(weight=lambda a, b: 1.0),
    "a sentence is joined with itself": TextRank(itself=True),
    "the score is the sum of the similarities; it should be that of PageRank": DEGREE,
    "the equation is used once; it should be repeated until the scores stay": TextRank(steps=1),
    "the damping is 0.15; it should be 0.85": TextRank(damping=0.15),
    "the damping is 0.5; it should be 0.85": TextRank(damping=0.5),
    "the least central sentences are taken": TextRank(sign=-1.0),
    "the first sentences are taken": lambda sentences: -torch.arange(len(sentences)),
    "the last sentences are taken": lambda sentences: torch.arange(len(sentences)),
    "the longest sentences are taken": lambda sentences: torch.tensor([len(set(s[:-1].split())) for s in sentences]),
}  # fmt: skip


def documents(rng, count):
    """(sentences, how many to choose): 6 to 8 different sentences, in which a word may be twice.

    They are of 2 to 4 words, where few share one and PageRank is far from the sum of the similarities, and in each third
    document of 2 to 9, where the size of a sentence matters.
    """
    found = []
    while len(found) < count:
        longest = 4 if len(found) % 3 else 9
        sizes = torch.randint(2, longest + 1, (int(torch.randint(6, 9, (), generator=rng)),), generator=rng).tolist()
        words = [[WORDS[i] for i in torch.randint(0, len(WORDS), (size,), generator=rng).tolist()] for size in sizes]
        sentences, k = [" ".join(each) + "." for each in words], 1 + len(found) // 3 % 3
        ranks = (TextRank(), DEGREE, *list(MISTAKES.values())[:3])  # these give equal scores more often than others
        different = len(set(sentences)) == len(sentences) and all(len(set(each)) > 1 for each in words)
        if different and all(is_clear(rank(sentences)) for rank in ranks):
            found.append((sentences, k))
    return found


def summarized(documents):
    """A probe: the summaries, and the documents as they are afterwards."""
    from summarization import extractive_summary

    results, rudeness = [], []
    for sentences, count in documents:
        summary, _, rude = inside.manners(extractive_summary, sentences, count)
        results.append(summary)
        rudeness.append(rude)
    return results, documents, sorted(set(rudeness))[-1] if rudeness else ""


@pytest.mark.points(5)
def test_the_sentences_with_the_greatest_scores_are_chosen(student, check, rng):
    """TextRank of 120 random documents, of which one, two or three sentences are taken in the document's order."""
    asked = documents(rng, 120)
    results, after, rude = student.run(summarized, asked)

    def by(scores):
        return lambda: [[sentences[i] for i in chosen(scores(sentences), k)] for sentences, k in asked]

    ranks = [TextRank()(sentences) for sentences, _ in asked]
    ordered = [
        [sentences[i] for i in sorted(chosen(rank, k), key=lambda i: -rank[i])]
        for rank, (sentences, k) in zip(ranks, asked, strict=True)
    ]
    places = [chosen(rank, k) for rank, (_, k) in zip(ranks, asked, strict=True)]
    more = [[sentences[i] for i in chosen(rank, k + 1)] for rank, (sentences, k) in zip(ranks, asked, strict=True)]
    fewer = [[sentences[i] for i in chosen(rank, k - 1)] for rank, (sentences, k) in zip(ranks, asked, strict=True)]
    check(results, by(TextRank())(), mistakes={
        "the sentences are in the order of their scores; they should be in the order of the text": ordered,
        "the places of the sentences are returned; it should be the sentences": places,
        "the sentences are joined to one text; they should be a list": [" ".join(summary) for summary in by(TextRank())()],
        "one sentence too many is returned": more,
        "one sentence is missing": fewer,
        **{text: by(scores) for text, scores in MISTAKES.items()},
    })  # fmt: skip
    check(after, asked, otherwise="the list of sentences is changed")
    check(rude, "", mistakes=MANNERS)


@pytest.mark.points(2)
def test_words_are_of_lower_case_letters_and_digits(student, check, rng):
    """However words are written, the choice is that for plain words: case, punctuation and other letters do not count."""
    plain = documents(rng, 40)
    ways = [
        ("capitals", str.title),
        ("capitals", str.upper),
        ("punctuation", lambda word: f"({word}),"),
        ("punctuation", lambda word: f"{word}!"),
        ("punctuation", lambda word: f'"{word}"'),
    ]

    def written(how):
        def one(word):
            fitting = [way for name, way in ways if name == how]
            return fitting[int(torch.randint(0, len(fitting), (), generator=rng))](word)

        return [([" ".join(map(one, text.rstrip(".").split())) for text in sentences], k) for sentences, k in plain]

    def glued(joint):
        """Two words at a time with something between them that separates them."""
        pairs = [text.rstrip(".").split() for sentences, _ in plain for text in sentences]
        texts = iter([" ".join(joint.join(words[i : i + 2]) for i in range(0, len(words), 2)) for words in pairs])
        return [([next(texts) for _ in sentences], k) for sentences, k in plain]

    def numbered(number):
        return [
            ([text.replace("rain", number(3)).replace("town", number(4)) for text in sentences], k)
            for sentences, k in plain
        ]

    asked = {
        "upper and lower case differ; the text should be lower-cased": written("capitals"),
        "punctuation is part of words; it should separate them": written("punctuation"),
        "what stands between two words joins them; all but a-z and 0-9 should separate words": glued("-"),
        "an underscore is part of a word; it should separate words": glued("_"),
        "an apostrophe is part of a word; it should separate words": glued("'"),
        "letters beyond a-z are part of words; they should separate them": glued("é"),
        "digits are not part of words; they should be": numbered(lambda n: f"202{n}"),
        "words of one letter are left out": numbered(lambda n: "abcdef"[n]),
        "stop words are left out; every word should count": numbered(lambda n: ["the", "and"][n - 3]),
    }
    results, _, _ = student.run(summarized, [*plain, *(case for cases in asked.values() for case in cases)])

    found = [results[n : n + len(plain)] for n in range(0, len(results), len(plain))]
    places = [[sentences.index(text) if text in sentences else -1 for text in summary]
              for summary, (sentences, _) in zip(found[0], plain, strict=True)]  # fmt: skip
    check.that(
        len({tuple(each) for each in places}) > 5, "all documents get the same places, or no sentences of theirs"
    )
    for (text, cases), summaries in zip(asked.items(), found[1:], strict=True):
        right = [[sentences[i] for i in each] for each, (sentences, _) in zip(places, cases, strict=True)]
        check(summaries, right, otherwise=text)


@pytest.mark.points(1)
def test_the_scores_are_those_at_which_the_equation_stays(student, check):
    """Chains of sentences, where a few repetitions of the equation choose another one."""
    asked = [
        (["d h.", "f j.", "a h.", "b g.", "g f.", "i g.", "i e.", "c d."], 1),
        (["e b.", "i f.", "f c.", "b a.", "b h.", "i g.", "d h."], 1),
    ]
    results, _, _ = student.run(summarized, asked)

    otherwise = "another sentence is chosen than by the scores at which the equation stays: is it repeated too seldom?"
    check(
        results,
        [[sentences[i] for i in chosen(TextRank()(sentences), k)] for sentences, k in asked],
        otherwise=otherwise,
    )


@pytest.mark.points(2)
def test_short_sentences_harm_nobody(student, check):
    """Sentences of one word, without words, or with nothing in common have their place among the others."""
    hub = "rain river town flood."
    asked = [
        (["rain.", "rain", "Rain!", hub, "town flood bridge.", "flood town."], 1),
        (["", "...", "rain river.", "rain river town.", "river town bridge.", "?"], 2),
        (["night.", "night.", "night.", "night.", hub, "rain mayor.", "rain town school."], 3),
        (["rain.", "river.", "rain river bridge.", "town."], 1),
    ]
    results, _, _ = student.run(summarized, asked)

    def scores(sentences, one=0.0):
        w = torch.zeros(len(sentences), len(sentences), dtype=torch.float64)
        words = [set("".join(c for c in text.lower() if c.isalpha() or c == " ").split()) for text in sentences]
        for i, a in enumerate(words):
            for j, b in enumerate(words):
                if i != j and a & b:
                    w[i, j] = len(a & b) / log_sizes(a, b) if log_sizes(a, b) else one
        total, score = w.sum(0), torch.ones(len(words), dtype=torch.float64)
        for _ in range(200):
            score = 0.15 + 0.85 * (w / total.where(total > 0, torch.ones_like(total))) @ score
        return score

    def by(one):
        return [[text[i] for i in chosen(scores(text, one), k)] for text, k in asked]

    check(results, by(0.0), mistakes={
        "two sentences of one word, the same, are joined; their weight should be 0": by(1.0),
        "two sentences of one word, the same, get a huge weight; it should be 0": by(1e9),
    })  # fmt: skip


@pytest.mark.points(1)
def test_there_may_be_fewer_sentences_than_asked_for(student, check):
    """All sentences come back where num_sentences is their number or more; of no sentences, none."""
    text = [" rain town. ", "bridge river.", "rain river town.", "", "mayor."]
    results, _, _ = student.run(summarized, [(text, 5), (text, 6), (text, 50), (text[:1], 1), (text[3:4], 2), ([], 3)])

    check(results, [text, text, text, text[:1], text[3:4], []])


@pytest.mark.points(1)
def test_sentences_with_nothing_in_common_are_as_good_as_each_other(student, check):
    """Where all scores are equal, any are right, as many as asked for, in the document's order."""
    text = ["rain.", "river bridge.", "town night flood.", "...", "mayor"]
    results, _, _ = student.run(summarized, [(text, count) for count in (1, 2, 4)])

    for count, summary in zip((1, 2, 4), results, strict=True):
        check.that(isinstance(summary, list) and len(summary) == count, "the wrong number of sentences is chosen")
        check(summary, [each for each in text if each in summary], otherwise="the order is not that of the text")


@pytest.mark.points(1)
def test_a_sentence_may_occur_twice(student, check):
    """Equal sentences are sentences of their own, each at its place."""
    twice = "rain river town flood."
    asked = [
        ([twice, "rain town bridge.", "night mayor.", twice, "school."], 3),
        (["night.", twice, "rain river town bridge flood.", twice, "school."], 3),
        ([twice, "rain town bridge.", twice, "school."], 1),
    ]
    results, _, _ = student.run(summarized, asked)

    right = [[twice, asked[0][0][1], twice], [twice, asked[1][0][2], twice], [twice]]
    check(results, right, mistakes={
        "equal sentences come back once; each should count": [[twice, asked[0][0][1]], [twice, asked[1][0][2]], [twice]],
        "equal sentences are all put at the place of the first one": [
            [twice, twice, asked[0][0][1]], [twice, twice, asked[1][0][2]], [twice],
        ],
        "all sentences that are equal to a chosen one come back": [*right[:2], [twice, twice]],
    })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.parametrize("num_sentences", [0, -1])
def test_one_sentence_is_the_least(student, num_sentences):
    """ValueError where num_sentences is less than 1, however many sentences there are."""
    student.accepts("summarization.extractive_summary", ["rain town.", "town bridge."], 1)
    for sentences in (["rain town.", "town bridge."], []):
        says = ("num_sentences", num_sentences)
        student.raises(ValueError, "summarization.extractive_summary", sentences, num_sentences, says=says)
