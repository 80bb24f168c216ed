"""Greedy and beam search of an encoder-decoder, as translation and summarization have it: `from searching import …`.

A searcher gets large random weights, and a probe (inside.search_results) works out, by calling its model, the log-probabilities of
what follows each possible beginning of a target. From this table the tests find what greedy and beam search must give: the
search itself is never the student's. What is about batches, ends and padding is compared with what the student's searcher
makes of each source alone. As in shared.py, nothing takes `check`: a function gives what the test is to check.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch

V = 5  # tokens of source and target: as many, so that it is for one test alone to say which is which
BOS, EOS, PAD = 3, 1, 2
IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
NEVER = -1000.0  # what the logits of eos get where no row should end


def sources(rng, rows, width=4):
    """Rows of ids that are neither 0 nor PAD, which a model might take for padding."""
    ids = torch.randint(1, V - 1, (rows, width), generator=rng)
    return ids + (ids >= PAD)


@dataclass(frozen=True)
class Searcher:
    """A student's searcher, as `telling` asks it.

    probe: with its options, a seed, rows of sources and what else inside.search_results takes: what that gives. options: the
    constructor's, from the number of tokens and the ids of bos, eos and pad.
    """

    student: object
    rng: torch.Generator
    probe: Callable
    options: Callable

    def telling(self, rows, calls, judge, *, depth, spread, ids=(BOS, EOS, PAD), size=V, ends=0.0, hidden=(), draws=1):
        """For `check(**…)`: the judge's (value, expected, mistakes) for weights with which the mistakes show, each as something
        else than the others. Those that begin as `hidden` need not: they are left out where they give the same as another.

        Which weights are such ones depends on how wide the student's model is, so some are tried; `draws` of them at a time, what
        is said and found with them one after the other: few rows of many models differ more than many rows of one. judge: (rows
        of what the model says as functions, results) -> (value, expected, mistakes).
        """
        how = (size, *ids[:2], depth, spread, ends, calls)
        for _ in range(20):
            said, results = [], []
            for _ in range(draws):
                src, seed = sources(self.rng, rows), int(torch.randint(0, 2**31, (), generator=self.rng))
                some, found = self.student.run(self.probe, self.options(size, *ids), seed, src, *how)
                said, results = [*said, *some], [*results, *found]
            value, right, mistakes = judge([follow(row) for row in said], results)
            shown = [right, *(wrong() for text, wrong in mistakes.items() if not text.startswith(tuple(hidden)))]
            if all(differs(*pair) for pair in combinations(shown, 2)):
                break
        may_hide = {text: wrong() for text, wrong in mistakes.items() if text.startswith(tuple(hidden))}
        for text, wrong in may_hide.items():
            if not all(differs(wrong, other) for other in [*shown, *may_hide.values()] if other is not wrong):
                del mistakes[text]
        return {"value": value, "expected": right, "mistakes": mistakes}


def follow(table):
    """The function tokens after bos -> log-probabilities of the next one, for one row of what the model says."""
    depth, size, rows = table.shape[1] - 1, table.shape[2], table.tolist()
    return lambda tokens: rows[sum(token * size ** (depth - 1 - n) for n, token in enumerate(tokens))][len(tokens)]


def differs(wrong, right):
    return [torch.as_tensor(row).tolist() for row in wrong] != [torch.as_tensor(row).tolist() for row in right]


def until(row, eos):
    """A row up to its first eos after bos, with it."""
    return row[: row.index(eos, 1) + 1] if eos in row[1:] else row


def filled(rows, fill=PAD, width=max):
    """The tensor of rows; width: a number, or a function of their lengths."""
    width = width if isinstance(width, int) else width(map(len, rows))
    return torch.tensor([[*row[:width], *[fill] * (width - len(row))] for row in rows])


# ---------------------------------------------------------------------------------------------- greedy search


def greedy(logp, length, ends, banned=()):
    tokens = []
    while len(tokens) < length - 1 and not set(ends) & set(tokens):
        scores = logp(tokens)
        tokens.append(max((v for v in range(len(scores)) if v not in banned), key=scores.__getitem__))
    return tokens


GREEDY_MISTAKES = {  # sentence -> a row for what the model says, bos_id, eos_id and pad_id; the maximum length is 4
    "pad_id is never chosen; no token should be suppressed": lambda p, bos, eos, pad: [bos, *greedy(p, 4, [eos], [pad])],
    "bos_id is never chosen; no token should be suppressed": lambda p, bos, eos, pad: [bos, *greedy(p, 4, [eos], [bos])],
    "bos_id and pad_id are never chosen; no token should be suppressed": lambda p, bos, eos, pad: [
        bos, *greedy(p, 4, [eos], [pad, bos]),
    ],
    "pad_id ends a row; only eos_id should": lambda p, bos, eos, pad: [bos, *greedy(p, 4, [eos, pad])],
    "a row is one token shorter than it may be": lambda p, bos, eos, pad: [bos, *greedy(p, 3, [eos])],
    "bos_id is missing at the beginning": lambda p, bos, eos, pad: greedy(p, 4, [eos]),
    "the eos_id is not part of the result": lambda p, bos, eos, pad: [bos, *(t for t in greedy(p, 4, [eos]) if t != eos)],
}  # fmt: skip
BOS_ENDS = {"the eos_id that is bos_id ends all rows at once": lambda p, bos, eos, pad: [bos]}
GOES_ON = {"eos_id does not end a row": lambda p, bos, eos, pad: [bos, *greedy(p, 4, [])]}
CHANGED_BY_PADDING = "padding of the source changes the result; it should not"
ATTENDED = "the source's padding is attended to; it should be hidden"


def greedily(searcher, mistakes=None, *, ids=(BOS, EOS, PAD), keep=lambda row: True, whole=False):
    """For `check(**…)`: each source alone, up to the end of its right row, or `whole`; of those that are kept."""
    _, eos, _ = ids
    mistakes = GREEDY_MISTAKES if mistakes is None else mistakes

    def judge(said, results):
        truth = [[ids[0], *greedy(logp, 4, [eos])] for logp in said]
        kept = [row for row, right in enumerate(truth) if keep(right)]

        def cut(rows):
            return [rows[row] if whole else rows[row][: len(truth[row])] for row in kept]

        def of(wrong):
            return lambda: cut([wrong(logp, *ids) for logp in said])

        found = cut([result[0].tolist() for result in results])
        return found, cut(truth), {text: of(wrong) for text, wrong in mistakes.items()}

    calls = [([row], 4) for row in range(16)]
    return searcher.telling(16, calls, judge, depth=3, spread=2.0, ids=ids)


def bos_may_end(searcher):
    """For `check(**…)`: rows where bos is eos, which ends nothing at the beginning."""
    return greedily(searcher, BOS_ENDS, ids=(4, 4, 0), keep=lambda row: 0 not in row)


def bos_may_end_beams(searcher):
    """For `check(**…)`: the widths by 3 beams where bos is eos, which is never said again."""

    def judge(said, results):
        return [result.shape[1] for result in results], [4] * len(results), {}

    calls = [([row], 4, 3) for row in range(6)]
    asked = searcher.telling(6, calls, judge, depth=1, spread=2.0, ids=(4, 4, 0), ends=NEVER)
    return asked | {"otherwise": next(iter(BOS_ENDS))}


def zero_may_end(searcher):
    """For `check(**…)`: rows where eos is token 0."""

    def ended(row):
        return 0 in row[:-1] + row[-1:] * (len(row) < 4) and PAD not in row

    return greedily(searcher, GOES_ON, ids=(4, 0, PAD), keep=ended, whole=True)


def in_batches(searcher):
    """For `check(**…)`: batches, which should be what the searcher makes of each row alone, filled up."""
    batches = [[0, 1], [2, 3], [4, 5], [6, 7, 8], [9, 10, 11], [12, 13, 14, 15]]

    def judge(said, results):
        found, alone = results[: len(batches)], [result[0].tolist() for result in results[len(batches) :]]
        ended = [until(row, EOS) for row in alone]

        def of(rows=ended, **options):
            return lambda: [filled([rows[row] for row in batch], **options) for batch in batches]

        first = [ended[batch[0]] for batch in batches for _ in batch]
        return found, of()(), {
            "an ended row is filled with eos_id; it should be filled with pad_id": of(fill=EOS),
            "an ended row is filled with 0; it should be filled with pad_id": of(fill=0),
            "all rows end when one of them does; each should end by itself": of(width=min),
            "the result is as wide as it may be; it should be as wide as its longest row": of(width=5),
            "every row is that of the first source": of(first),
            "eos_id does not end a row": of(alone),
        }  # fmt: skip

    calls = [(rows, 5) for rows in [*batches, *([row] for row in range(16))]]
    hidden = ["eos_id does not end"]  # it gives the right rows where a row alone has ended
    return searcher.telling(16, calls, judge, depth=2, spread=2.0, hidden=hidden)


def padded_sources(rng):
    """(15, 5): one in five is full, and not the first; the others have 1 to 4 pads at the end."""
    src = sources(rng, 15, width=5)
    src[torch.arange(5) >= torch.tensor([3, 5, 1, 2, 4] * 3)[:, None]] = PAD
    return src


def same_however_padded(padded, alone, attended):
    """For `check(**…)`, what inside.searched_with_padding gives."""
    for n, (value, truth) in enumerate(zip(padded, alone * 2, strict=True)):
        start = torch.full((len(truth),), BOS)
        yield {"value": value[:, 0], "expected": start, "otherwise": "bos_id is missing at the beginning"}
        seen = {ATTENDED: attended[n // 2]}
        yield {"value": value, "expected": truth, "mistakes": seen, "otherwise": CHANGED_BY_PADDING}


# ---------------------------------------------------------------------------------------------- conduct

OUT_OF_BOUNDS = {  # what is asked of the argument that bounds the length -> what is wrong with it
    "1": "a maximum length that leaves no room for a token",
    "0": "a maximum length that leaves no room for a token",
    "-3": "a maximum length that leaves no room for a token",
    "10**9": "a maximum length above the model's max_len",
    "max_len + 1": "a maximum length above the model's max_len",
}


def refused(said, name):
    """For `check(**…)`: each bad value, with 1 and 2 beams, as inside.search_within gives it."""
    for (value, text), answer in zip([item for item in OUT_OF_BOUNDS.items() for _ in range(2)], said, strict=True):
        wrong = {
            f"{text} is accepted": "accepted",
            f"the ValueError for {text} does not name it": "not named",
        }
        yield {"value": answer, "expected": "named", "what": f"{name}={value}", "mistakes": wrong}


def widths(found, asked_for):
    """For `check(**…)`: how wide results are of which no row ends."""
    return {"value": found, "expected": asked_for, "mistakes": {
        "the maximum length does not count bos": [length + 1 for length in asked_for],
        "a row is one token shorter than it may be": [length - 1 for length in asked_for],
    }}  # fmt: skip


def conduct_facts(training, plain, mixed, grads):
    """Facts about inside.conduct_of_search."""
    return [
        (training is False, "the model is not in eval mode meanwhile"),
        (plain, "modules are not in train mode afterwards, as they were"),
        (mixed, "modules that were in different modes are all in the same mode afterwards"),
        (grads is False, "the search leaves gradients, or weights that no longer learn"),
    ]


# ---------------------------------------------------------------------------------------------- beam search


def mean_score(tokens, total):
    return total / len(tokens)


def anything(tokens):
    return True


@dataclass(frozen=True)
class Beams:
    """Beam search as `generate(…, early_stopping=False)` has it; what others do instead is another value.

    late: an eos counts also where num_beams better candidates go on. stop: "hopeless" as transformers 5, "candidates"
    as version 4, which hopes for those that end too; "full" when num_beams are finished; "first" when one is; "never".
    slots: what is finished takes a beam for good. among: what may win, if there is any. revived: what is finished goes on.
    """

    late: bool = False
    stop: str = "hopeless"
    slots: bool = False
    score: object = mean_score
    among: object = anything
    revived: bool = False

    def __call__(self, logp, length, beams):
        """The tokens after bos of the winner."""
        live, done = [((), 0.0)], []
        for n in range(1, length):
            candidates = [((*tokens, v), total + p) for tokens, total in live for v, p in enumerate(logp(tokens))]
            candidates = sorted(candidates, key=lambda pair: -pair[1])
            candidates = candidates[: beams - len(done) if self.slots else 2 * beams]
            over = [
                pair for pair in candidates[: None if self.late else beams] if pair[0][-1] == EOS or n == length - 1
            ]
            done += [pair for pair in over if self.among(pair[0])]
            done = sorted(done, key=lambda pair: -self.score(*pair))[:beams]
            live = [pair for pair in candidates if self.revived or pair[0][-1] != EOS][:beams]
            if not live or self._ends(n, live, done, candidates, beams):
                break
        return list((done or live)[0][0])

    def _ends(self, n, live, done, candidates, beams):
        if self.stop == "first":
            return bool(done)
        hopes = {"hopeless": live, "candidates": candidates}.get(self.stop)
        full = len(done) == beams
        return full and (self.stop == "full" or bool(hopes) and hopes[0][1] / n <= self.score(*done[-1]))


VARIANTS = [
    Beams(), Beams(late=True), Beams(stop="never"), Beams(stop="full"), Beams(late=True, stop="never"),
    Beams(late=True, stop="full"), Beams(slots=True, stop="never"), Beams(stop="candidates"),
]  # fmt: skip


def joint(logp, length, beams, key):
    """Beam search whose beams hold what is finished and what goes on, the best by `key`, until nothing goes on."""
    kept = [((), 0.0)]
    for _ in range(1, length):
        ended = [pair for pair in kept if pair[0][-1:] == (EOS,)]
        live = [pair for pair in kept if pair[0][-1:] != (EOS,)]
        longer = [((*tokens, v), total + p) for tokens, total in live for v, p in enumerate(logp(tokens))]
        kept = sorted(ended + longer, key=lambda pair: -key(*pair))[:beams]
    return list(max(kept, key=lambda pair: mean_score(*pair))[0])


@functools.lru_cache(maxsize=500)
def hypotheses(logp, length, tokens=(), total=0.0):
    """All (tokens, log-likelihood) that end with their first eos, or have no room for another token."""
    if tokens[-1:] == (EOS,) or len(tokens) == length - 1:
        return [(tokens, total)]
    return [
        h for v, p in enumerate(logp(tokens)) for h in hypotheses.__wrapped__(logp, length, (*tokens, v), total + p)
    ]


def best(logp, length, score=mean_score, among=anything):
    found = [pair for pair in hypotheses(logp, length) if among(pair[0])]
    return list(max(found, key=lambda pair: score(*pair))[0])


def surely_found(logp, length, beams):
    """Whether all right searches find the same, and nothing better is missed."""
    right = best(logp, length)
    keys = (mean_score, lambda tokens, total: total)
    return all(variant(logp, length, beams) == right for variant in VARIANTS) and all(
        joint(logp, length, beams, key) == right for key in keys
    )


NO_EOS = "the log-likelihood does not count eos; it should"
GREEDY = "the result is the greedy one; num_beams different beginnings should be kept"
SCORES = {  # sentence -> the score of tokens and their log-likelihood
    "the log-likelihood is not divided by the number of tokens": lambda t, s: s,
    "the number of tokens counts bos; it should not": lambda t, s: s / (len(t) + 1),
    "the number of tokens does not count eos; it should": lambda t, s: s / max(len(t) - (t[-1] == EOS), 1),
}
FINISHED = {  # sentence -> the search
    GREEDY: lambda logp, length, beams: greedy(logp, length, [EOS]),
    **{text: Beams(score=score) for text, score in SCORES.items()},
    NO_EOS: lambda logp, length, beams: Beams(
        score=lambda t, s: (s - (logp(t[:-1])[EOS] if t[-1] == EOS else 0.0)) / len(t)
    )(logp, length, beams),
    "the search ends with the first row that is finished; it should end when no beam can beat the finished ones": (
        Beams(stop="first")
    ),
    "a beam that has ended is continued after its eos; only beams without eos should go on": Beams(revived=True),
    "a row that has the maximum length and no eos cannot win; it should be able to": Beams(
        among=lambda tokens: tokens[-1] == EOS
    ),
    "only rows of the maximum length can win": Beams(among=lambda tokens: tokens[-1] != EOS),
    "the worst row is returned": lambda logp, length, beams: best(logp, length, lambda t, s: -s / len(t)),
    "pad_id is never chosen; no token should be suppressed": Beams(among=lambda tokens: PAD not in tokens),
    "there is one beam fewer than num_beams": lambda logp, length, beams: Beams()(logp, length, beams - 1),
}
KEPT = {  # sentence -> the search
    GREEDY: FINISHED[GREEDY],
    "there is one beam fewer than num_beams": FINISHED["there is one beam fewer than num_beams"],
    "there is one beam more than num_beams": lambda logp, length, beams: Beams()(logp, length, beams + 1),
    "there are always two beams": lambda logp, length, beams: Beams()(logp, length, 2),
    "all beginnings are kept, not the best num_beams": lambda logp, length, beams: best(logp, length),
}


def found_by(searches, said, calls):
    """sentence -> the function that gives the rows of all calls, (row, max_length, num_beams), as a search finds them."""

    def of(search):
        return lambda: [until([BOS, *search(said[row], *call)], EOS) for row, *call in calls]

    return {text: of(search) for text, search in searches.items()}


def best_finished(searcher):
    """For `check(**…)`: the best of the finished rows, where all right searches find it."""
    rows, draws = 15, 8
    calls = [([row], 4, 4) for row in range(rows)]

    def judge(said, results):
        kept = [row for row in range(rows * draws) if surely_found(said[row], 4, 4)]
        found = [until(results[row][0].tolist(), EOS) for row in kept]
        searches = found_by({"": Beams(), **FINISHED}, said, [(row, 4, 4) for row in kept])
        return found, searches.pop("")(), searches

    return searcher.telling(
        rows, calls, judge, depth=2, spread=1.0, size=8, hidden=["there is one beam fewer"], draws=draws
    )


def best_beginnings(searcher):
    """For `check(**…)`: rows of which none ends, by 2 and 3 beams."""
    calls = [(list(range(30)), 4, beams) for beams in (2, 3)]
    each_row = [(row, *call) for rows, *call in calls for row in rows]

    def judge(said, results):
        found = [row for result in results for row in result.tolist()]
        first = {"every row is that of the first source": Beams()}
        searches = found_by({"": Beams(), **KEPT}, said, each_row) | found_by(first, said[:1] * 30, each_row)
        return found, searches.pop("")(), searches

    return searcher.telling(30, calls, judge, depth=2, spread=1.0, size=8, ends=NEVER)


def best_of_all(searcher):
    """For `check(**…)`: the best of all rows by so many beams that nothing is lost. What scores a row is for another test: none
    ends before the maximum length."""
    calls = [([row], 4, 80) for row in range(12)]

    def judge(said, results):
        searches = {"": lambda logp, length, beams: best(logp, length), GREEDY: FINISHED[GREEDY]}
        rows = found_by(searches, said, [(row, 4, 80) for row in range(12)])
        return [result[0].tolist() for result in results], rows.pop("")(), rows

    return searcher.telling(12, calls, judge, depth=2, spread=1.0, ends=NEVER)


TOO_WIDE = "the result is as wide as the maximum length; it should be as wide as its longest row"


def batch_by_more_beams_than_tokens(searcher):
    """For `check(**…)`: rows by so many beams that nothing is lost, in batches as they are alone."""
    batches = [[0, 1], [2, 3], [4, 5], [6, 7], list(range(12))]
    calls = [([row], 4, 80) for row in range(12)] + [(rows, 4, 80) for rows in batches]

    def judge(said, results):
        alone = [until(result[0].tolist(), EOS) for result in results[:12]]
        by_rows = [[alone[row] for row in rows] for rows in batches]
        return (
            results[12:],
            [filled(rows) for rows in by_rows],
            {
                TOO_WIDE: lambda: [filled(rows, width=4) for rows in by_rows],
            },
        )

    return searcher.telling(12, calls, judge, depth=2, spread=1.0, ends=1.0, hidden=[TOO_WIDE])
