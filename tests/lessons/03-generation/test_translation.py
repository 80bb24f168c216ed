"""Hidden tests of translation.

A translator gets large random weights, and the probe works out, by calling its model, the log-probabilities of what follows
each possible beginning of a target. From this table the tests find what greedy and beam search must give: the search itself
is never the student's. What is about batches, ends and padding is compared with what the student's translator makes of each
source alone, and only one test has padding in its sources.
"""

import functools
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch

from shared import MANNERS

TRANSLATOR = pytest.mark.question("TransformerTranslator")

V = 5  # tokens of source and target: as many, so that it is for one test alone to say which is which
BOS, EOS, PAD = 3, 1, 2
IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
SIZES = {"src_vocab_size": V, "tgt_vocab_size": V, "d_model": 16, "num_layers": 1, "num_heads": 2}
NEVER = -1000.0  # what the logits of eos get where no row should end


def sources(rng, rows, width=4):
    """Rows of ids that are neither 0 nor PAD, which a model might take for padding."""
    ids = torch.randint(1, V - 1, (rows, width), generator=rng)
    return ids + (ids >= PAD)


# ---------------------------------------------------------------------------------------------- what the model says


def translations(options, seed, src, depth, spread, ends, calls):
    """A probe: what the model says, and the translations.

    options: of the translator. spread: of the logits. ends: what those of eos_id get besides. calls: (rows of src,
    max_length, num_beams). What it says is (B, V ** depth, depth + 1, V): for each row of src, for all `depth` tokens after
    bos, the log-probabilities of what follows the first 0, 1, … and all of them.
    """
    from translation import TransformerTranslator

    translator = TransformerTranslator(**options).double().eval()
    model, tokens = translator.model, torch.arange(options["tgt_vocab_size"])
    inside.draw_weights(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        beginnings = torch.cartesian_prod(torch.tensor([options["bos_id"]]), *[tokens] * depth)
        said = torch.stack([model(row.expand(len(beginnings), -1), beginnings) for row in src])
        # Each token gets logits of the same mean and spread, so that all are chosen, eos as well.
        mean, scale = said.mean((0, 1, 2)), spread / said.std((0, 1, 2))
        shift = ends * (tokens == options["eos_id"]) - mean * scale
        inside.change_logits(model, scale, shift)
    results = [inside.a_tensor(translator.translate(src[rows], *call)) for rows, *call in calls]
    return (said * scale + shift).log_softmax(-1), results


def follow(table):
    """The function tokens after bos -> log-probabilities of the next one, for one row of what the model says."""
    depth, size, rows = table.shape[1] - 1, table.shape[2], table.tolist()
    return lambda tokens: rows[sum(token * size ** (depth - 1 - n) for n, token in enumerate(tokens))][len(tokens)]


def telling(student, rng, options, rows, calls, judge, *, depth, spread, ends=0.0, hidden=(), draws=1):
    """For `check(**…)`: the judge's (value, expected, mistakes) for weights with which the mistakes show, each as something
    else than the others. Those that begin as `hidden` need not: they are left out where they give the same as another.

    Which weights are such ones depends on how wide the student's model is, so some are tried; `draws` of them at a time, what
    is said and found with them one after the other: few rows of many models differ more than many rows of one. judge: (rows
    of what the model says as functions, translations) -> (value, expected, mistakes).
    """
    for _ in range(20):
        said, results = [], []
        for _ in range(draws):
            src, seed = sources(rng, rows), int(torch.randint(0, 2**31, (), generator=rng))
            some, found = student.run(translations, {**SIZES, **options}, seed, src, depth, spread, ends, calls)
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


def differs(wrong, right):
    return [torch.as_tensor(row).tolist() for row in wrong] != [torch.as_tensor(row).tolist() for row in right]


def greedy(logp, length, ends, banned=()):
    tokens = []
    while len(tokens) < length - 1 and not set(ends) & set(tokens):
        scores = logp(tokens)
        tokens.append(max((v for v in range(len(scores)) if v not in banned), key=scores.__getitem__))
    return tokens


def until(row, eos):
    """A row up to its first eos after bos, with it."""
    return row[: row.index(eos, 1) + 1] if eos in row[1:] else row


def filled(rows, fill=PAD, width=max):
    """The tensor of rows; width: a number, or a function of their lengths."""
    width = width if isinstance(width, int) else width(map(len, rows))
    return torch.tensor([[*row[:width], *[fill] * (width - len(row))] for row in rows])


# ---------------------------------------------------------------------------------------------- greedy translation

GREEDY_MISTAKES = {  # sentence -> a row for what the model says, bos_id, eos_id and pad_id; max_length is 4
    "pad_id is never chosen; no token should be suppressed": lambda p, bos, eos, pad: [bos, *greedy(p, 4, [eos], [pad])],
    "bos_id is never chosen; no token should be suppressed": lambda p, bos, eos, pad: [bos, *greedy(p, 4, [eos], [bos])],
    "bos_id and pad_id are never chosen; no token should be suppressed": lambda p, bos, eos, pad: [
        bos, *greedy(p, 4, [eos], [pad, bos]),
    ],
    "pad_id ends a row; only eos_id should": lambda p, bos, eos, pad: [bos, *greedy(p, 4, [eos, pad])],
    "a row is one token shorter than max_length": lambda p, bos, eos, pad: [bos, *greedy(p, 3, [eos])],
    "bos_id is missing at the beginning": lambda p, bos, eos, pad: greedy(p, 4, [eos]),
    "the eos_id is not part of the result": lambda p, bos, eos, pad: [bos, *(t for t in greedy(p, 4, [eos]) if t != eos)],
}  # fmt: skip


def greedily(student, rng, ids, mistakes, keep=lambda row: True, whole=False):
    """For `check(**…)`: each source alone, up to the end of its right translation, or `whole`; of those that are kept."""
    _, eos, _ = ids

    def judge(said, results):
        truth = [[ids[0], *greedy(logp, 4, [eos])] for logp in said]
        kept = [row for row, right in enumerate(truth) if keep(right)]

        def cut(rows):
            return [rows[row] if whole else rows[row][: len(truth[row])] for row in kept]

        def of(wrong):
            return lambda: cut([wrong(logp, *ids) for logp in said])

        found = cut([result[0].tolist() for result in results])
        return found, cut(truth), {text: of(wrong) for text, wrong in mistakes.items()}

    options = dict(zip(IDS, ids, strict=True))
    calls = [([row], 4) for row in range(16)]
    return telling(student, rng, options, 16, calls, judge, depth=3, spread=2.0)


@TRANSLATOR
@pytest.mark.points(4)
def test_a_translation_is_the_argmax_at_each_step(student, check, rng):
    """num_beams=1 is the argmax of model(src, tgt) step by step, until eos_id or max_length."""
    check(**greedily(student, rng, (BOS, EOS, PAD), GREEDY_MISTAKES))


@TRANSLATOR
@pytest.mark.points(2)
def test_bos_may_be_the_token_that_ends(student, check, rng):
    """Where bos_id is eos_id, the bos at the beginning ends nothing."""
    mistakes = {"the eos_id that is bos_id ends all rows at once": lambda p, bos, eos, pad: [bos]}
    check(**greedily(student, rng, (4, 4, 0), mistakes, keep=lambda row: 0 not in row))


@TRANSLATOR
@pytest.mark.points(1)
def test_the_first_token_may_be_the_one_that_ends(student, check, rng):
    """eos_id may be 0."""
    mistakes = {"eos_id does not end a row": lambda p, bos, eos, pad: [bos, *greedy(p, 4, [])]}
    ends = dict(keep=lambda row: 0 in row[:-1] + row[-1:] * (len(row) < 4) and PAD not in row, whole=True)
    check(**greedily(student, rng, (4, 0, PAD), mistakes, **ends))


@TRANSLATOR
@pytest.mark.points(3)
def test_each_source_of_a_batch_ends_by_itself(student, check, rng):
    """A batch is translated as its sources are alone; a row that has ended is filled up with pad_id to the longest."""
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
            "the result is max_length wide; it should be as wide as its longest row": of(width=5),
            "every row is the translation of the first source": of(first),
            "eos_id does not end a row": of(alone),
        }  # fmt: skip

    calls = [(rows, 5) for rows in [*batches, *([row] for row in range(16))]]
    hidden = ["eos_id does not end"]  # it gives the right rows where a row alone has ended
    check(**telling(student, rng, IDS, 16, calls, judge, depth=2, spread=2.0, hidden=hidden))


@TRANSLATOR
@pytest.mark.points(2)
def test_a_source_is_translated_alike_however_it_is_padded(student, check, rng):
    """A source that is filled up with pad_id, by a little or by much, has the translation that it has alone."""

    def probe(options, src, pad, length, never):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options).double().eval()
        model, tokens = translator.model, torch.arange(options["tgt_vocab_size"])
        bos = torch.tensor([options["bos_id"]])
        inside.draw_weights(model)
        wide = torch.cat([src, torch.full((len(src), 4), pad)], dim=1)
        with torch.no_grad():
            beginnings = torch.cartesian_prod(bos, tokens, tokens)
            said = torch.stack([model(row[row != pad].expand(len(beginnings), -1), beginnings) for row in src])
            mean, scale = said.mean((0, 1, 2)), 2 / said.std((0, 1, 2))
            inside.change_logits(model, scale, never * (tokens == options["eos_id"]) - mean * scale)
            attended = [bos.expand(len(src), 1) for _ in (src, wide)]
            for _ in range(length - 1):
                logits = [model.decode(ids, model.encode(x)) for ids, x in zip(attended, (src, wide), strict=True)]
                attended = [torch.cat([ids, x[:, -1:].argmax(-1)], 1) for ids, x in zip(attended, logits, strict=True)]
        padded = [inside.a_tensor(translator.translate(ids, length, n)) for ids in (src, wide) for n in (1, 2)]
        alone = [[translator.translate(row[row != pad][None], length, n)[0].tolist() for row in src] for n in (1, 2)]
        return padded, [torch.tensor(rows) for rows in alone], attended

    src = sources(rng, 15, width=5)
    src[torch.arange(5) >= torch.tensor([5, 1, 2, 3, 4] * 3)[:, None]] = PAD
    padded, alone, attended = student.run(probe, {**SIZES, **IDS}, src, PAD, 7, NEVER)

    changes = "padding of the source changes translations; it should not"
    for n, (value, truth) in enumerate(zip(padded, alone * 2, strict=True)):
        check(value[:, 0], torch.full((15,), BOS), otherwise="bos_id is missing at the beginning")
        seen = {"the source's padding is attended to; it should be hidden": attended[n // 2]}
        check(value, truth, mistakes=seen, otherwise=changes)


# ---------------------------------------------------------------------------------------------- conduct

REFUSED = {  # what is wrong with a max_length that should be refused
    "max_length=1": "a max_length that leaves no room for a token",
    "max_length=0": "a max_length that leaves no room for a token",
    "max_length=-3": "a max_length that leaves no room for a token",
    "max_length=10**9": "a max_length above the model's max_len",
    "max_length=max_len + 1": "a max_length above the model's max_len",
}


@TRANSLATOR
@pytest.mark.points(2)
def test_max_length_counts_bos_and_has_bounds(student, check, rng):
    """ValueError before anything is generated where max_length leaves no room, or is above the model's max_len."""

    def probe(options, src, lengths, never):
        import contextlib

        from transformer import Transformer
        from translation import TransformerTranslator

        with inside.noting_instances(Transformer) as made:
            translator = TransformerTranslator(**options).train()
        model = translator.model
        longest, refused = next(sizes["max_len"] for one, sizes in made if one is model), []
        shift = torch.zeros(options["tgt_vocab_size"])
        shift[options["eos_id"]] = never
        made_logits = inside.change_logits(model, torch.ones_like(shift), -shift)  # all rows end at once
        for length in [1, 0, -3, 10**9, longest + 1]:
            for beams in (1, 2):
                try:
                    translator.translate(src, length, beams)
                    refused.append("accepted")
                except ValueError as error:
                    words = ("max_len", "length", "long", "room", "limit", "position", str(length))
                    refused.append("named" if any(word in str(error).lower() for word in words) else "not named")
        generated, training = len(made_logits) > 0, translator.training
        inside.change_logits(model, torch.ones_like(shift), 2 * shift)  # no row ends
        widths = [inside.a_tensor(translator.translate(src, length)).shape[1] for length in lengths]

        def asked(*_):
            raise InterruptedError("the model is asked: max_length was accepted")

        for module in model.modules():
            module.register_forward_pre_hook(asked)
        with contextlib.suppress(InterruptedError):
            translator.translate(src, longest)
        return refused, generated, training, widths

    asked_for = [2, 3, 5]
    refused, generated, training, widths = student.run(probe, {**SIZES, **IDS}, sources(rng, 3), asked_for, NEVER)

    for (name, text), said in zip([item for item in REFUSED.items() for _ in range(2)], refused, strict=True):
        check(said, "named", what=name, mistakes={
            f"{text} is accepted": "accepted",
            f"the ValueError for {text} does not name it": "not named",
        })  # fmt: skip
    check.that(generated is False, "tokens are generated before max_length is checked")
    check.that(training is True, "a refused call leaves the translator in eval mode")
    check(widths, asked_for, mistakes={
        "max_length does not count bos": [3, 4, 6],
        "a row is one token shorter than max_length": [1, 2, 4],
    })  # fmt: skip


@TRANSLATOR
@pytest.mark.points(3)
def test_translating_is_done_in_eval_mode_and_leaves_no_trace(student, check, rng):
    """Dropout is off while translating; every module has its own mode afterwards; src and torch stay as they were."""

    def probe(options, src):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options).double().train()
        model, kept, manners = translator.model, [], []
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        ones = torch.ones(options["tgt_vocab_size"], dtype=torch.float64)
        seen = inside.change_logits(model, ones, 0 * ones)
        for mixed in (False, True):
            translator.train(not mixed)
            if mixed:
                for module in [translator, *list(model.modules())[1::2]]:
                    module.training = True
            modes = {name: module.training for name, module in translator.named_modules()}
            for beams in (1, 2):
                _, (after, *_), rude = inside.manners(translator.translate, src, 5, beams)
                manners.append((torch.equal(after, src), rude))
                kept.append({name: module.training for name, module in translator.named_modules()} == modes)
        grads = any(weight.grad is not None or not weight.requires_grad for weight in model.parameters())
        return any(seen), all(kept[:2]), all(kept[2:]), manners, grads

    training, plain, mixed, manners, grads = student.run(probe, {**SIZES, **IDS}, sources(rng, 4))

    check.that(training is False, "the model is not in eval mode while it translates")
    check.that(plain, "the translator is not in train mode afterwards, as it was")
    check.that(mixed, "modules that were in different modes are all in the same mode afterwards")
    check.that(grads is False, "translate leaves gradients, or weights that no longer learn")
    for same, rude in manners:
        check.that(same, "src is changed")
        check(rude, "", mistakes=MANNERS)


@TRANSLATOR
@pytest.mark.points(2)
def test_the_model_is_a_transformer_of_these_sizes(student, check):
    """`model` is lesson 2's Transformer with the sizes and the pad_id that were given."""

    def probe(options, src, tgt):
        import inspect

        from transformer import Transformer
        from translation import TransformerTranslator

        with inside.noting_instances(Transformer) as made:
            translator = TransformerTranslator(*options.values()).eval()
        model = translator.model
        given = next((given for one, given in made if one is model), {})
        other = TransformerTranslator(**options).eval()
        seeded = torch.equal(model(src, tgt), other.model(src, tgt))
        other.load_state_dict(translator.state_dict())
        parameters = inspect.signature(TransformerTranslator).parameters
        return {
            "kind": isinstance(translator, torch.nn.Module) and isinstance(model, Transformer),
            "given": {name: given.get(name) for name in (*list(options)[:5], "pad_id")},
            "seeded": seeded,
            "output": list(model(src, tgt).shape),
            "same": torch.equal(model(src, tgt), other.model(src, tgt)),
        }, {key: parameter.default for key, parameter in parameters.items() if isinstance(parameter.default, int)}

    sizes = {"src_vocab_size": 11, "tgt_vocab_size": 7, "d_model": 16, "num_layers": 3, "num_heads": 4}
    seen, defaults = student.run(probe, {**sizes, **IDS}, torch.tensor([[5, 6, 4]]), torch.tensor([[3, 6]]))

    kind = "the attribute model is not a Transformer of lesson 2, or the translator is not a module"
    check.that(seen["kind"], kind)
    given = {**sizes, "pad_id": PAD}
    swapped = {**given, "src_vocab_size": 7, "tgt_vocab_size": 11}
    check.that(seen["given"] != swapped, "the vocabularies are swapped")
    for name, value in given.items():
        check(seen["given"][name], value, otherwise=f"{name} is not handed on to the model")
    check(seen["output"], [1, 2, 7])
    check.that(not seen["seeded"], "all translators start with the same weights: do not set a seed")
    check.that(seen["same"], "a translator that loads the state_dict of another does not say what it says")
    right = {"d_model": 512, "num_layers": 6, "num_heads": 8, "bos_id": 1, "eos_id": 2, "pad_id": 0}
    check({key: defaults.get(key, right[key]) for key in right}, right)


# ---------------------------------------------------------------------------------------------- beams


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
GREEDY = "the translation is the greedy one; num_beams different beginnings should be kept"
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
    "the search ends with the first sentence that is finished; it should end when no beam can beat the finished ones": (
        Beams(stop="first")
    ),
    "a beam that has ended is continued after its eos; only beams without eos should go on": Beams(revived=True),
    "a translation that reached max_length without eos cannot win; it should be able to": Beams(
        among=lambda tokens: tokens[-1] == EOS
    ),
    "only translations as long as max_length can win": Beams(among=lambda tokens: tokens[-1] != EOS),
    "the worst translation is returned": lambda logp, length, beams: best(logp, length, lambda t, s: -s / len(t)),
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


@TRANSLATOR
@pytest.mark.points(4)
def test_the_best_finished_translation_wins(student, check, rng):
    """The score is log-likelihood / number of tokens after bos, of those that got eos_id or reached max_length."""
    rows, draws = 15, 8
    calls = [([row], 4, 4) for row in range(rows)]

    def judge(said, results):
        kept = [row for row in range(rows * draws) if surely_found(said[row], 4, 4)]
        found = [until(results[row][0].tolist(), EOS) for row in kept]
        searches = found_by({"": Beams(), **FINISHED}, said, [(row, 4, 4) for row in kept])
        return found, searches.pop("")(), searches

    hidden = ["there is one beam fewer"]
    options = {**IDS, "src_vocab_size": 8, "tgt_vocab_size": 8}
    check(**telling(student, rng, options, rows, calls, judge, depth=2, spread=1.0, hidden=hidden, draws=draws))


@TRANSLATOR
@pytest.mark.points(2)
def test_few_beams_keep_the_best_beginnings(student, check, rng):
    """After each token the num_beams most probable beginnings go on, those of each source apart. None of them ends."""
    calls = [(list(range(30)), 4, beams) for beams in (2, 3)]
    each_row = [(row, *call) for rows, *call in calls for row in rows]

    def judge(said, results):
        found = [row for result in results for row in result.tolist()]
        first = {"every row is the translation of the first source": Beams()}
        searches = found_by({"": Beams(), **KEPT}, said, each_row) | found_by(first, said[:1] * 30, each_row)
        return found, searches.pop("")(), searches

    options = {**IDS, "tgt_vocab_size": 8}
    check(**telling(student, rng, options, 30, calls, judge, depth=2, spread=1.0, ends=NEVER))


@TRANSLATOR
@pytest.mark.points(2)
def test_there_may_be_more_beams_than_tokens(student, check, rng):
    """With more beams than there are beginnings the best of all translations is found, in a batch as for one source."""
    alone, together = [([row], 4, 80) for row in range(12)], [(list(range(12)), 4, 80)]

    def judge(said, results):
        searches = {"": lambda logp, length, beams: best(logp, length), GREEDY: FINISHED[GREEDY]}
        rows = found_by(searches, said, [(row, 4, 80) for row in range(12)])
        return [result[0].tolist() for result in results], rows.pop("")(), rows

    # What scores a translation is for another test: none of these ends before max_length.
    check(**telling(student, rng, IDS, 12, alone, judge, depth=2, spread=1.0, ends=NEVER))

    def judge_batch(said, results):
        rows = [until(result[0].tolist(), EOS) for result in results[:-1]]
        return results[-1], filled(rows), {}

    check(**telling(student, rng, IDS, 12, alone + together, judge_batch, depth=2, spread=1.0))


@pytest.mark.gpu
@TRANSLATOR
@pytest.mark.points(1)
def test_translations_are_where_the_source_is(student, check, rng, device):
    """On the GPU, in bfloat16 as well, translations are made there."""

    def probe(options, src):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options).to(src.device)
        results = [translator.translate(src, 5, beams) for beams in (1, 2)]
        return results + [translator.to(torch.bfloat16).translate(src, 5, beams) for beams in (1, 2)]

    results = student.on(device=device, timeout=60).run(probe, {**SIZES, **IDS}, sources(rng, 3))

    for result in results:
        check(result[:, 0], torch.full((3,), BOS))
        check.that(result.shape[1] <= 5, "a row is longer than max_length")
