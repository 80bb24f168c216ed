"""Hidden tests of translation.

A translator gets large random weights, and the probe works out, by calling its model, the log-probabilities of what follows
each possible beginning of a target. From this table the tests find what greedy and beam search must give: the search itself
is never the student's. With few beams implementations differ a little in what they keep; there only those rows are
compared in which all of these agree.
"""

import functools
from itertools import combinations

import pytest
import torch

question = pytest.mark.question

VS, V = 9, 5  # tokens of source and target
IDS = {"bos_id": 3, "eos_id": 1, "pad_id": 2}
SIZES = {"src_vocab_size": VS, "tgt_vocab_size": V, "d_model": 16, "num_layers": 1, "num_heads": 2}


def sources(rng, rows, pad, width=4):
    """Rows of random lengths, filled up with pad, which is nowhere else."""
    ids = torch.randint(0, VS - 1, (rows, width), generator=rng)
    ids += ids >= pad
    lengths = torch.randint(1, width + 1, (rows, 1), generator=rng)
    lengths[:2] = torch.tensor([[width], [1]])
    return ids.masked_fill(torch.arange(width) >= lengths, pad)


# ---------------------------------------------------------------------------------------------- what the model says


def translations(options, seed, src, depth, spread, calls):
    """A probe: what the model says, what it says where the decoder sees the source's padding, and the translations.

    options: of the translator. spread: of the logits. calls: (rows of src, max_length, num_beams). What it says is
    (B, V ** depth, depth + 1, V): for each row of src, for all `depth` tokens after bos, the log-probabilities of what
    follows the first 0, 1, … and all of them.
    """
    from translation import TransformerTranslator

    translator = TransformerTranslator(**options).double().eval()
    model, tokens, said = translator.model, torch.arange(options["tgt_vocab_size"]), []
    inside.draw_weights(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        beginnings = torch.cartesian_prod(torch.tensor([options["bos_id"]]), *[tokens] * depth)
        for row in src:
            rows = row.expand(len(beginnings), -1)
            said.append(torch.stack([model(rows, beginnings), model.decode(beginnings, model.encode(rows))]))
        said = torch.stack(said, dim=1)  # (2, B, V ** depth, depth + 1, V)
        # Each token gets logits of the same mean and spread, so that all are chosen, eos as well.
        mean, scale = said[0].mean((0, 1, 2)), spread / said[0].std((0, 1, 2))
        inside.change_logits(model, scale, -mean * scale)
    return *((said - mean) * scale).log_softmax(-1), [translator.translate(src[rows], *call) for rows, *call in calls]


def follow(table):
    """The function tokens after bos -> log-probabilities of the next one, for one row of what the model says."""
    depth, size, rows = table.shape[1] - 1, table.shape[2], table.tolist()
    return lambda tokens: rows[sum(token * size ** (depth - 1 - n) for n, token in enumerate(tokens))][len(tokens)]


def telling(student, rng, options, rows, depth, spread, calls, judge, hidden=()):
    """The judge's (value, expected, mistakes) for weights with which the mistakes show, each as something else than the
    others. Those that begin as `hidden` need not: they are left out where they give the same as another.

    Which weights are such ones depends on how wide the student's model is, so some are tried. judge: (rows of what the model
    says as functions, the same with the source's padding, translations) -> (value, expected, mistakes).
    """
    for _ in range(20):
        src, seed = sources(rng, rows, options["pad_id"]), int(torch.randint(0, 2**31, (), generator=rng))
        said, shown, results = student.run(translations, {**SIZES, **options}, seed, src, depth, spread, calls)
        value, right, mistakes = judge([follow(row) for row in said], [follow(row) for row in shown], results)
        shown = [right, *(wrong() for text, wrong in mistakes.items() if not text.startswith(tuple(hidden)))]
        if all(differs(*pair) for pair in combinations(shown, 2)):
            break
    may_hide = {text: wrong() for text, wrong in mistakes.items() if text.startswith(tuple(hidden))}
    for text, wrong in may_hide.items():
        if not all(differs(wrong, other) for other in [*shown, *may_hide.values()] if other is not wrong):
            del mistakes[text]
    return value, right, mistakes


def differs(wrong, right):
    return len(wrong) != len(right) or not all(
        one.shape == other.shape and torch.equal(one, other) for one, other in zip(wrong, right, strict=True)
    )


def greedy(logp, length, ends, banned=()):
    tokens = []
    while len(tokens) < length - 1 and not set(ends) & set(tokens):
        scores = logp(tokens)
        tokens.append(max((v for v in range(len(scores)) if v not in banned), key=scores.__getitem__))
    return tokens


def hypotheses(logp, length, eos, tokens=(), total=0.0):
    """All (tokens, log-likelihood) that end with their first eos, or have no room for another token."""
    if tokens[-1:] == (eos,) or len(tokens) == length - 1:
        return [(tokens, total)]
    scores = logp(tokens)
    return [h for v, p in enumerate(scores) for h in hypotheses(logp, length, eos, (*tokens, v), total + p)]


def mean_score(tokens, total):
    return total / len(tokens)


def anything(tokens):
    return True


def search(
    logp, length, eos, beams, *, late=False, stop="hopeless", slots=False, score=mean_score, among=anything, revived=False
):  # fmt: skip
    """Beam search as `generate(…, early_stopping=False)` has it, and as others may.

    late: an eos counts also where num_beams better candidates go on. stop: "hopeless" as transformers 5, "candidates"
    as version 4, which hopes for those that end too; "full" when num_beams are
    finished; "first" when one is; "never". slots: what is finished takes a beam for good. among: what may win, if there is
    any. revived: what is finished goes on.
    """
    live, done = [((), 0.0)], []
    for n in range(1, length):
        candidates = [((*tokens, v), total + p) for tokens, total in live for v, p in enumerate(logp(tokens))]
        candidates = sorted(candidates, key=lambda pair: -pair[1])[: beams - len(done) if slots else 2 * beams]
        over = [pair for pair in candidates[: None if late else beams] if pair[0][-1] == eos or n == length - 1]
        done += [pair for pair in over if among(pair[0])]
        done = sorted(done, key=lambda pair: -score(*pair))[:beams]
        live = [pair for pair in candidates if revived or pair[0][-1] != eos][:beams]
        full, hopes = len(done) == beams, {"hopeless": live, "candidates": candidates}.get(stop)
        full = full or (stop == "first" and done)
        if not live or (full and (stop in ("full", "first") or (hopes and hopes[0][1] / n <= score(*done[-1])))):
            break
    return list((done or live)[0][0])


VARIANTS = [
    {}, {"late": True}, {"stop": "never"}, {"stop": "full"}, {"late": True, "stop": "never"}, {"late": True, "stop": "full"},
    {"slots": True, "stop": "never"}, {"stop": "candidates"},
]  # fmt: skip


def joint(logp, length, eos, beams, key):
    """Beam search whose beams hold what is finished and what goes on, the best by `key`, until nothing goes on."""
    kept = [((), 0.0)]
    for _ in range(1, length):
        ended = [pair for pair in kept if pair[0][-1:] == (eos,)]
        live = [pair for pair in kept if pair[0][-1:] != (eos,)]
        longer = [((*tokens, v), total + p) for tokens, total in live for v, p in enumerate(logp(tokens))]
        kept = sorted(ended + longer, key=lambda pair: -key(*pair))[:beams]
    return list(max(kept, key=lambda pair: mean_score(*pair))[0])


@functools.lru_cache(maxsize=500)
def all_of(logp, length, eos):
    return hypotheses(logp, length, eos)


def best(logp, length, eos, score=mean_score, among=anything):
    found = [pair for pair in all_of(logp, length, eos) if among(pair[0])]
    return list(max(found, key=lambda pair: score(*pair))[0])


def filled(rows, ids, fill=None, width=None):
    """The tensor of translations, from the tokens after bos of each row."""
    width = max(map(len, rows)) if width is None else width - 1
    fill = ids["pad_id"] if fill is None else fill
    return torch.tensor([[ids["bos_id"], *row[:width], *[fill] * (width - len(row))] for row in rows])


def expected(logps, calls, ids, find, fill=None, cut=max, full=False):
    """The translations of all calls, find(logp, max_length, num_beams) being the tokens after bos of a row."""
    results = []
    for rows, length, *beams in calls:
        found = [find(logps[row], length, *beams) for row in rows]
        results.append(filled(found, ids, fill, length if full else 1 + cut(map(len, found))))
    return results


# ---------------------------------------------------------------------------------------------- greedy translation


def check_greedy(student, check, rng, ids, hidden):
    """Compares translations of all rows, and of some of them alone, with the argmax of the model at each step."""
    bos, eos, pad = ids.values()
    calls = [(list(range(16)), length) for length in (4, 2, 3)] + [([row], 4) for row in range(8)]

    def by(banned=(), ends=(eos,), more=0):
        return lambda logp, length: greedy(logp, length + more, ends, banned)

    def without_end(logp, length):
        return [token for token in greedy(logp, length, [eos]) if token != eos]

    def judge(said, shown, results):
        def of(find, logps=said, **options):
            return lambda: expected(logps, calls, ids, find, **options)

        right = of(by())()
        return (
            results,
            right,
            {
                "the source's padding is attended to": of(by(), shown),
                "pad_id is never chosen: no token is suppressed": of(by([pad])),
                "bos_id is never chosen: no token is suppressed": of(by([bos])),
                "bos_id and pad_id are never chosen: no token is suppressed": of(by([pad, bos])),
                "pad_id ends a row: only eos_id does": of(by(ends=[eos, pad])),
                "eos_id does not end a row": of(by(ends=[])),
                "an ended row is filled with eos_id: here it is pad_id": of(by(), fill=eos),
                "an ended row is filled with 0: it is pad_id": of(by(), fill=0),
                "all rows end when one of them does": of(by(), cut=min),
                "the result is max_length wide: it is as wide as its longest row": of(by(), full=True),
                "max_length does not count bos": of(by(more=1)),
                "a row is one token shorter than max_length": of(by(more=-1)),
                "bos_id is missing at the beginning": lambda: [result[:, 1:] for result in right],
                "the eos_id is not part of the result": of(without_end),
                "the eos_id that is bos_id ends all rows at once": lambda: [result[:, :1] for result in right],
                "every row is the translation of the first source": of(by(), said[:1] * 16),
            },
        )

    value, right, mistakes = telling(student, rng, ids, 16, 3, 2.0, calls, judge, hidden)
    check(value, right, mistakes=mistakes)


@question("TransformerTranslator")
@pytest.mark.points(6)
def test_a_translation_is_the_argmax_at_each_step(student, check, rng):
    """num_beams=1 is the argmax of model(src, tgt) step by step, until eos_id or max_length; then pad_id follows."""
    check_greedy(student, check, rng, IDS, hidden=())


@question("TransformerTranslator")
@pytest.mark.points(2)
def test_bos_may_be_the_token_that_ends(student, check, rng):
    """Where bos_id is eos_id, the bos at the beginning ends nothing."""
    check_greedy(
        student, check, rng, {"bos_id": 4, "eos_id": 4, "pad_id": 0}, hidden=["an ended row is filled with 0"]
    )  # which is pad_id


@question("TransformerTranslator")
@pytest.mark.points(1)
def test_the_first_token_may_be_the_one_that_ends(student, check, rng):
    """eos_id may be 0."""
    check_greedy(student, check, rng, {"bos_id": 4, "eos_id": 0, "pad_id": 2}, hidden=["an ended row is filled with 0"])


@question("TransformerTranslator")
@pytest.mark.points(1)
def test_a_source_is_translated_alike_however_it_is_padded(student, check, rng):
    """More padding in the source, and a source alone, give the same translation."""

    def probe(options, src, length, pad):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options).double().eval()
        inside.draw_weights(translator.model)
        wide = torch.cat([src, torch.full((len(src), 3), pad)], dim=1)
        results = [inside.a_tensor(translator.translate(ids, length, n)) for ids in (src, wide) for n in (1, 2)]
        alone = [inside.a_tensor(translator.translate(row[row != pad][None], length)) for row in src]
        return *results, alone

    src = sources(rng, 10, IDS["pad_id"], width=5)
    one, two, wide_one, wide_two, alone = student.run(
        probe, {**SIZES, **IDS, "tgt_vocab_size": 23}, src, 9, IDS["pad_id"]
    )

    width = one.shape[1]
    check(one[:, 0], torch.full((len(src),), IDS["bos_id"]), otherwise="bos_id is missing at the beginning")
    check([wide_one, wide_two], [one, two], otherwise="padding of the source changes translations")
    filled_up = [torch.nn.functional.pad(row, (0, width - row.shape[1]), value=IDS["pad_id"]) for row in alone]
    check(torch.cat(filled_up), one, otherwise="a source alone is translated otherwise")


@question("TransformerTranslator")
@pytest.mark.points(2)
def test_max_length_counts_bos_and_has_bounds(student, check, rng):
    """ValueError before anything is generated where max_length leaves no room, or is above the model's max_len."""

    def probe(options, src, lengths):
        from transformer import Transformer
        from translation import TransformerTranslator

        with inside.built(Transformer) as made:
            translator = TransformerTranslator(**options).train()
        longest = next(sizes["max_len"] for model, sizes in made if model is translator.model)
        scale, shift = torch.ones(options["tgt_vocab_size"]), torch.zeros(options["tgt_vocab_size"])
        shift[options["eos_id"]] = 1e6  # all rows end at once
        calls, refused = inside.change_logits(translator.model, scale, shift), []
        for length in [*lengths, longest + 1]:
            for beams in (1, 2):
                try:
                    translator.translate(src, length, beams)
                    refused.append("accepted")
                except ValueError as error:
                    words = ("max_len", "length", "long", "room", "limit", "position", str(length))
                    refused.append("named" if any(word in str(error).lower() for word in words) else "not named")
        return (
            refused,
            len(calls),
            translator.training,
            translator.translate(src, longest),
            translator.translate(src, 2),
        )

    refused, calls, training, *results = student.run(probe, {**SIZES, **IDS}, sources(rng, 3, 2), [1, 0, -3, 10**9])

    names = ["1", "1", "0", "0", "-3", "-3", "1e9", "1e9", "max_len + 1", "max_len + 1"]
    for name, said in zip(names, refused, strict=True):
        short = name in ("1", "0", "-3")
        text = "a max_length that leaves no room for a token" if short else "a max_length above the model's max_len"
        check(
            said,
            "named",
            mistakes={f"{text} is accepted": "accepted", f"the ValueError for {text} does not name it": "not named"},
        )
    check(calls, 0, otherwise="tokens are generated before max_length is checked")
    check(training, True, mistakes={"a refused call leaves the translator in eval mode": False})
    check(results, [torch.tensor([[3, 1]] * 3)] * 2)


@question("TransformerTranslator")
@pytest.mark.points(3)
def test_translating_is_done_in_eval_mode_and_leaves_no_trace(student, check, rng):
    """Dropout is off while translating; every module has its own mode afterwards; src and torch stay as they were."""

    def probe(options, src):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options).double().train()
        model, facts = translator.model, []
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        ones = torch.ones(options["tgt_vocab_size"], dtype=torch.float64)
        seen = inside.change_logits(model, ones, 0 * ones)
        strided = src.T.contiguous().T
        settings = [torch.initial_seed(), torch.is_grad_enabled(), torch.get_default_dtype()]
        for mixed in (False, True):
            translator.train(not mixed)
            if mixed:
                for module in [translator, *list(model.modules())[1::2]]:
                    module.training = True
            modes = {name: module.training for name, module in translator.named_modules()}
            for beams in (1, 3):
                translator.translate(strided, 5, beams)
                facts.append({name: module.training for name, module in translator.named_modules()} == modes)
        settings = settings == [torch.initial_seed(), torch.is_grad_enabled(), torch.get_default_dtype()]
        grads = any(weight.grad is not None or not weight.requires_grad for weight in model.parameters())
        return any(seen), all(facts[:2]), all(facts[2:]), torch.equal(strided, src), settings, grads

    training, plain, mixed, kept, settings, grads = student.run(probe, {**SIZES, **IDS}, sources(rng, 4, 2))

    check(training, False, mistakes={"the model is not in eval mode while it translates": True})
    check(plain, True, mistakes={"the translator is not in train mode afterwards, as it was": False})
    check(mixed, True, mistakes={"modules that were in other modes are all alike afterwards": False})
    check(kept, True, mistakes={"src is changed": False})
    check(settings, True, mistakes={"translate changes a setting of torch": False})
    check(grads, False, mistakes={"translate leaves gradients, or weights that do not learn any more": True})


@question("TransformerTranslator")
@pytest.mark.points(2)
def test_the_model_is_a_transformer_of_these_sizes(student, check, rng):
    """`model` is lesson 2's Transformer with the sizes and the pad_id that were given."""

    def probe(options, src, tgt):
        import inspect

        from transformer import Transformer
        from translation import TransformerTranslator

        with inside.built(Transformer) as made:
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

    check(
        seen["kind"],
        True,
        mistakes={"the attribute model is no Transformer of lesson 2, or the translator no module": False},
    )
    given = {**sizes, "pad_id": 2}
    swapped = seen["given"] == {**given, "src_vocab_size": 7, "tgt_vocab_size": 11}
    check(swapped, False, mistakes={"the vocabularies are swapped": True})
    for name, value in given.items():
        check(seen["given"][name], value, otherwise=f"{name} is not handed on to the model")
    check(seen["output"], [1, 2, 7])
    check(seen["seeded"], False, mistakes={"all translators start with the same weights: no seed may be set": True})
    check(seen["same"], True, mistakes={"a translator that loads another one's state_dict is not the same": False})
    right = {"d_model": 512, "num_layers": 6, "num_heads": 8, "bos_id": 1, "eos_id": 2, "pad_id": 0}
    check({key: defaults.get(key, right[key]) for key in right}, right)


# ---------------------------------------------------------------------------------------------- beams


def check_beams(student, check, rng, calls, rows, hidden, unlike=None):
    """Compares beam search with the truth; calls are (rows, max_length, num_beams).

    With `unlike` only the rows are compared in which all VARIANTS and joint beams find the same; "best" says that it must also be the best of
    all translations. hidden: the beginnings of those mistakes that need not show.
    """
    ids, (_, eos, pad) = IDS, IDS.values()

    def by(score=mean_score, among=anything):
        return lambda logp, length, beams: best(logp, length, eos, score, among)

    def beams_of(count, **options):
        return lambda logp, length, beams: search(logp, length, eos, count(beams), **options)

    def without_end(logp, length, beams):
        def score(tokens, total):
            return (total - (logp(tokens[:-1])[eos] if tokens[-1] == eos else 0.0)) / len(tokens)

        return search(logp, length, eos, beams, score=score)

    def agreed(logp, length, beams):
        answers = [search(logp, length, eos, beams, **variant) for variant in VARIANTS]
        answers += [joint(logp, length, eos, beams, key) for key in (mean_score, lambda tokens, total: total)]
        answers += [best(logp, length, eos)] * (unlike == "best")
        return all(answer == answers[0] for answer in answers)

    def judge(said, shown, results):
        for (numbers, length, _), result in zip(calls, results, strict=True):
            shaped = isinstance(result, torch.Tensor) and result.dim() == 2
            right = shaped and len(result) == len(numbers) and result.shape[1] <= length
            assert right, "the result has no row for each source, of at most max_length tokens"
        usable = [[row for row in numbers if agreed(said[row], *call)] for numbers, *call in calls] if unlike else []

        def kept(results):
            if not unlike:
                return results
            widened = [fit(result, length, pad) for result, (_, length, _) in zip(results, calls, strict=True)]
            return [result[keep] for result, keep in zip(widened, usable, strict=True)]

        def of(find, logps=said, **options):
            return lambda: kept(expected(logps, calls, ids, find, **options))

        def find(score=mean_score, among=anything):
            return beams_of(int, score=score, among=among) if unlike else by(score, among)

        return (
            kept(results),
            of(find())(),
            {
                "the translation is the greedy one; num_beams different beginnings should be kept": of(
                    lambda logp, length, _: greedy(logp, length, [eos])
                ),
                "the log-likelihood is not divided by the number of tokens": of(find(lambda t, s: s)),
                "the number of tokens counts bos": of(find(lambda t, s: s / (len(t) + 1))),
                "the number of tokens does not count eos": of(find(lambda t, s: s / max(len(t) - (t[-1] == eos), 1))),
                # With so many beams that nothing is lost, both end with eos at once.
                **({"the log-likelihood does not count eos": of(without_end)} if unlike else {}),
                (FIRST if unlike else ONLY_EOS): of(beams_of(int, stop="first")),
                "a beam that has ended is continued after its eos; only beams without eos should go on": of(
                    beams_of(int, revived=True)
                ),
                "a translation that reached max_length without eos cannot win": of(find(among=lambda t: t[-1] == eos)),
                "only translations as long as max_length can win": of(find(among=lambda t: t[-1] != eos)),
                "the worst translation is returned": of(by(lambda t, s: -s / len(t))),
                "there is one beam fewer than num_beams": of(beams_of(lambda beams: beams - 1)),
                "there is one beam more than num_beams": of(beams_of(lambda beams: beams + 1)),
                "there are always two beams": of(beams_of(lambda beams: 2)),
                "all beginnings are kept, not the best num_beams": of(by()),
                "the source's padding is attended to": of(find(), shown),
                "an ended row is filled with eos_id: here it is pad_id": of(find(), fill=eos),
                "pad_id is never chosen: no token is suppressed": of(by(among=lambda t: pad not in t)),
                "every row is the translation of the first source": of(find(), said[:1] * rows),
                "the result is max_length wide: it is as wide as its longest row": of(find(), full=True),
            },
        )

    value, right, mistakes = telling(student, rng, {**ids, "tgt_vocab_size": 8}, rows, 2, 1.0, calls, judge, hidden)
    check(value, right, mistakes=mistakes)


def fit(result, width, pad):
    """The translations, as wide as they may be."""
    return torch.nn.functional.pad(result, (0, width - result.shape[1]), value=pad)


FIRST = (
    "the search ends with the first sentence that is finished; it should end when no beam can beat the finished ones"
)
ONLY_EOS = "eos alone wins: the search ends with the first finished sentence, or the log-likelihood does not count eos"
SCORES = [
    "the number of tokens",
    "the log-likelihood does not",
    "a translation that reached",
    "only translations as long",
    FIRST,
]
COUNTS = ["there is one beam", "all beginnings are kept"]


@question("TransformerTranslator")
@pytest.mark.points(5)
def test_the_best_finished_translation_wins(student, check, rng):
    """The score is log-likelihood / number of tokens after bos, of those that got eos_id or reached max_length."""
    hidden = [*COUNTS, "there are always two", "the result is max_length wide"]
    check_beams(student, check, rng, [(list(range(60)), 4, 4)], 60, hidden, unlike="best")


@question("TransformerTranslator")
@pytest.mark.points(3)
def test_few_beams_keep_the_best_beginnings(student, check, rng):
    """After each token the num_beams most probable beginnings go on, those of each source apart."""
    hidden = [*SCORES, "the result is max_length wide", "pad_id is never chosen"]
    check_beams(student, check, rng, [(list(range(40)), 4, beams) for beams in (2, 3)], 40, hidden, unlike="others")


@question("TransformerTranslator")
@pytest.mark.points(2)
def test_there_may_be_more_beams_than_tokens(student, check, rng):
    """With more beams than there are beginnings the best of all translations is found; it is as wide as its longest row."""
    hidden = [*COUNTS, *SCORES, "there are always two"]
    calls = [(list(range(12)), 4, 80), *[([row], 4, 80) for row in range(8)]]
    check_beams(student, check, rng, calls, 12, hidden)


@pytest.mark.gpu
@question("TransformerTranslator")
@pytest.mark.points(1)
def test_translations_are_where_the_source_is(student, check, rng, device):
    """On the GPU, in bfloat16 as well, translations are made there."""

    def probe(options, src):
        from translation import TransformerTranslator

        translator = TransformerTranslator(**options).to(src.device)
        results = [translator.translate(src, 5, beams) for beams in (1, 2)]
        return results + [translator.to(torch.bfloat16).translate(src, 5, beams) for beams in (1, 2)]

    results = student.on(device=device, timeout=60).run(probe, {**SIZES, **IDS}, sources(rng, 3, 2))

    for result in results:
        check(result[:, 0], torch.full((3,), 3))
        assert result.shape[1] <= 5, "a row is longer than max_length"
