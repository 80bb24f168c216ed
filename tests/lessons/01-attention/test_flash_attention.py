"""Hidden tests of flash_attention.

Truth is plain attention in float64, its gradients by autograd. Mistakes are the same formulas with a slip in them:
`online` walks over the tiles as a student does, `plain_gradients` is the backward written out. What is measured inside
the student's process (memory) is counted by operation, see inside.py; a submission could falsify it.
"""

import math

import pytest
import torch

FORWARD = pytest.mark.question("flash_attention_forward")
BACKWARD = pytest.mark.question("flash_attention")
LAYER = pytest.mark.question("FlashAttention")

# (B, H, Tq, Tk, Dh, block_size): tiles that fit, that leave a rest, that are larger than the sequence, of one element
SIZES = [
    (2, 3, 8, 8, 4, 4),
    (1, 2, 7, 5, 6, 3),
    (2, 1, 5, 9, 3, 4),
    (2, 2, 6, 11, 5, 1),
    (3, 2, 9, 4, 2, 64),
    (1, 1, 1, 1, 4, 8),
]
CAUSAL_SIZES = [(2, 3, 7, 7, 4, 3), (1, 2, 5, 9, 6, 4), (2, 1, 9, 5, 3, 2), (2, 2, 6, 6, 5, 64)]


# -------------------------------------------------------------------------------- the truth


def qkv(rng, B, H, Tq, Tk, Dh, dtype=torch.float32):
    """q, k, v and a gradient of the output; the scores are large enough for the running maximum to move."""
    q, g = 2 * torch.randn(2, B, H, Tq, Dh, generator=rng, dtype=dtype)
    k, v = 1.5 * torch.randn(2, B, H, Tk, Dh, generator=rng, dtype=dtype)
    return q, k, v, g / 2


def attend(q, k, v, causal=False, *, scale=None, seen=None, over=-1, hidden_score=-math.inf):
    """softmax(q kᵀ / sqrt(Dh)) v and the logsumexp, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    s = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if seen is None:
        seen = torch.ones(s.shape[-2:], dtype=torch.bool)
        seen = seen.tril() if causal else seen
    s = s.masked_fill(~seen, hidden_score)
    return s.softmax(over) @ v, s.logsumexp(-1)


def online(q, k, v, block, slip, causal=False, start=-math.inf, hidden_score=-math.inf):
    """The loop over tiles, in the dtype of q, with a slip: (output, logsumexp)."""
    outputs, sums = [], []
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~(seen.tril() if causal else seen), hidden_score)
    for i in range(0, q.shape[2], block):
        m = torch.full_like(s[:, :, i : i + block, :1], start)
        total, o = torch.zeros_like(m), 0
        for j in range(0, k.shape[2], block):
            tile, v_j = s[:, :, i : i + block, j : j + block], v[:, :, j : j + block]
            if causal and j > i + block - 1:
                break
            m_new = tile.amax((-2, -1) if slip == "tile's maximum" else -1, keepdim=True)
            m_new = m_new if slip == "newest" else torch.maximum(m, m_new)
            p = (tile - m_new).exp() if slip != "no maximum" else tile.exp()
            m_new = torch.zeros_like(m) if slip == "no maximum" else m_new
            fix = (m_new - m).exp() if slip == "upside down" else (m - m_new).exp()
            total = total * (1 if slip in ("sum", "both") else fix) + p.sum(-1, keepdim=True)
            o = o * (1 if slip in ("output", "both") else fix) + p @ v_j
            o = o / total if slip == "each" else o
            m = m_new
        outputs.append(o if slip in ("unnormalised", "each") else o / total)
        sums.append((m + total.log()).squeeze(-1))
    return torch.cat(outputs, dim=2), torch.cat(sums, dim=2)


def tiles(q, k, v, block, part=slice(None)):
    """The outputs of attention over each tile of keys alone."""
    starts = list(range(0, k.shape[2], block))[part]
    return [attend(q, k[:, :, j : j + block], v[:, :, j : j + block])[0] for j in starts]


def forward_mistakes(q, k, v, block):
    """What students make of the output and of the logsumexp: sentence -> a function that gives both."""
    Dh, full = q.shape[-1], k.shape[2] // block * block
    wide = q.double(), k.double(), v.double(), block
    return {
        "the scores are not divided by sqrt(Dh)": lambda: attend(q, k, v, scale=1.0),
        "the scores are divided by Dh: it is sqrt(Dh)": lambda: attend(q, k, v, scale=1 / Dh),
        "the scores are multiplied by sqrt(Dh): they are divided by it": lambda: attend(q, k, v, scale=Dh**0.5),
        "the keys after the last full tile are left out": lambda: attend(q, k[:, :, :full], v[:, :, :full]),
        "the running sum is not rescaled when the maximum grows": lambda: online(*wide, "sum"),
        "the running output is not rescaled when the maximum grows": lambda: online(*wide, "output"),
        "neither the running sum nor the output is rescaled when the maximum grows": lambda: online(*wide, "both"),
        "the correction is upside down: it is exp(old maximum - new maximum)": lambda: online(*wide, "upside down"),
        "the output is not divided by the running sum": lambda: online(*wide, "unnormalised"),
        "the output is divided by the running sum in every tile: once, at the end": lambda: online(*wide, "each"),
        "the softmax runs over the queries: it runs over the keys": lambda: attend(q, k, v, over=-2),
        "each tile of keys has its own softmax, and the results are added": lambda: (sum(tiles(*wide)), None),
        "each tile of keys has its own softmax, and the results are averaged": lambda: (
            torch.stack(tiles(*wide)).mean(0),
            None,
        ),
        "only the last tile of keys counts": lambda: (tiles(*wide)[-1], None),
        "only the first tile of keys counts": lambda: (tiles(*wide)[0], None),
    }


def causal_mistakes(q, k, v, block):
    """What students make of the causal mask: the places that a query sees."""
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    same_tile = i // block == j // block
    seen = {
        "causal has no effect": j >= 0 * i,
        "the causal mask is aligned with the last key: both are counted from the first": j <= i + len(j) - len(i),
        "the causal mask is transposed: it shows the future": j >= i,
        "within a tile the future is seen: the mask is needed inside the tiles on the diagonal": j // block
        <= i // block,
        "the causal mask counts from the start of the tile: add where the tile starts": j % block <= i % block,
        "the causal mask counts from the start of the tile: add where the tiles start": (
            (j // block <= i // block) & (j % block <= i % block)
        ),
        "only the tiles on the diagonal are seen": same_tile & (j <= i),
        "the tiles on the diagonal are left out": (j // block < i // block),
        "a query does not see itself": j < i,
    }
    return {sentence: (lambda seen=seen: attend(q, k, v, seen=seen)) for sentence, seen in seen.items()}


def part(mistakes, index):
    """Of mistakes that give (output, logsumexp), one of both."""
    return {sentence: (lambda wrong=wrong: wrong()[index]) for sentence, wrong in mistakes.items()}


def either(result, index):
    """A part of what flash_attention_forward returned, or all of it where it is no pair."""
    return result[index] if isinstance(result, (tuple, list)) and len(result) == 2 else (result, None)[index]


# -------------------------------------------------------------------------------- flash_attention_forward


@FORWARD
@pytest.mark.points(3)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_output_is_that_of_attention(student, check, rng, size):
    """The output is that of plain attention, whatever the lengths and the size of a tile."""
    q, k, v, _ = qkv(rng, *size[:-1])
    result = student.call("flash_attention.flash_attention_forward", q, k, v, False, size[-1])

    mistakes = part(forward_mistakes(q, k, v, size[-1]), 0)
    mistakes["causal is always on"] = lambda: attend(q, k, v, True)[0]
    check(either(result, 0), attend(q, k, v)[0], dtype=torch.float32, mistakes=mistakes)


@FORWARD
@pytest.mark.points(2)
@pytest.mark.parametrize(("size", "causal"), [(SIZES[0], False), (SIZES[1], False), (CAUSAL_SIZES[0], True)], ids=str)
def test_the_logsumexp_is_that_of_the_visible_scores(student, check, rng, size, causal):
    """The logsumexp is the natural logarithm of the sum of exp(scores) that a query may see, (B, H, Tq)."""
    q, k, v, _ = qkv(rng, *size[:-1])
    result = student.call("flash_attention.flash_attention_forward", q, k, v, causal, size[-1])

    truth = attend(q, k, v, causal)[1]
    s = (q.double() @ k.double().mT / q.shape[-1] ** 0.5).masked_fill(
        ~torch.ones(q.shape[2], k.shape[2]).tril().bool() & causal, -math.inf
    )
    m = s.amax(-1)
    check(either(result, 1), truth, dtype=torch.float32, mistakes={
        "the logsumexp is not returned": None,
        "the logsumexp lacks the maximum: it is m + log(sum)": truth - m,
        "the logsumexp lacks the logarithm: it is m + log(sum)": m + (truth - m).exp(),
        "the running maximum is returned: the logsumexp is m + log(sum)": m,
        "the running sum is returned: the logsumexp is m + log(sum)": (truth - m).exp(),
        "the sum of exponentials is returned: the logsumexp is its logarithm": truth.exp(),
        "the logarithm is taken to base 2": truth / math.log(2),
        "only the logarithm of the sum is to base 2": m + (truth - m) / math.log(2),
        "the logsumexp has the wrong sign": -truth,
        "the logsumexp is m - log(sum): it is m + log(sum)": 2 * m - truth,
        "the logsumexp has a dimension too many: the shape is (B, H, Tq)": truth[..., None],
        "the logsumexp counts keys that the query may not see": attend(q, k, v)[1],
    } | part(forward_mistakes(q, k, v, size[-1]), 1))  # fmt: skip


@FORWARD
@pytest.mark.points(3)
@pytest.mark.parametrize("size", CAUSAL_SIZES, ids=str)
def test_causal_queries_see_the_keys_up_to_their_own_place(student, check, rng, size):
    """With causal, query i sees the keys j <= i, both counted from the first, also where Tq is not Tk."""
    q, k, v, _ = qkv(rng, *size[:-1])
    result = student.call("flash_attention.flash_attention_forward", q, k, v, causal=True, block_size=size[-1])

    mistakes = part(causal_mistakes(q, k, v, size[-1]), 0)
    check(either(result, 0), attend(q, k, v, True)[0], dtype=torch.float32, mistakes=mistakes)


@FORWARD
@pytest.mark.points(1)
@pytest.mark.parametrize("far_below_zero", [False, True])
def test_large_scores_do_not_overflow(student, check, rng, far_below_zero):
    """Scores of some 300, above and below zero, in one tile and growing from tile to tile, give no NaN."""
    # Whole numbers and Dh = 4 make the scores exact in float32. Even queries have growing scores, odd ones falling.
    q, k = torch.randint(-2, 3, (2, 2, 3, 10, 4), generator=rng).float()
    v = torch.randn(2, 3, 10, 5, generator=rng)[..., :4]
    place = torch.arange(10.0)
    q[..., 0] = 20.0 if far_below_zero else 20 * (-1) ** place
    k[..., 0] = -15 - place if far_below_zero else 3 * place
    result = student.call("flash_attention.flash_attention_forward", q, k, v, False, 3)

    mistakes = {
        "the running maximum starts at 0: it starts at -inf": lambda: online(q, k, v, 3, "", start=0.0),
        "exp overflows or vanishes: subtract the running maximum first": lambda: online(q, k, v, 3, "no maximum"),
        "the running maximum is that of the tile: each query has its own": lambda: online(q, k, v, 3, "tile's maximum"),
        "the maximum is that of the newest tile: the running maximum never falls": lambda: online(q, k, v, 3, "newest"),
        "the correction is upside down: it is exp(old maximum - new maximum)": lambda: online(
            q, k, v, 3, "upside down"
        ),
    }
    truth = attend(q, k, v)
    # Where exp2 is used, scores of 300 are rounded once more: 1024 terms let that pass.
    check(either(result, 0), truth[0], dtype=torch.float32, terms=1024, mistakes=part(mistakes, 0))
    check(either(result, 1), truth[1], dtype=torch.float32, terms=1024, mistakes=part(mistakes, 1))


@FORWARD
@pytest.mark.points(1)
def test_no_finite_number_is_below_all_scores(student, check, rng):
    """The running maximum starts below scores of -15000 and less, and what hides the future lies below them too."""
    q, k, v, _ = qkv(rng, 2, 3, 10, 10, 4, dtype=torch.float64)  # float32 would lose half its digits in such scores
    q[..., 0], k[..., 0] = 2000.0, -15 - torch.arange(10.0)
    result = student.call("flash_attention.flash_attention_forward", q, k, v, True, 3)

    hidden = "what hides the future is not low enough: real scores can be lower"
    mistakes = {
        "the running maximum starts at a number that scores can be below: it starts at -inf": lambda: online(
            q, k, v, 3, "", causal=True, start=-1e4
        ),
        hidden: lambda: online(q, k, v, 3, "", causal=True, hidden_score=-1e4),
        hidden + ", in all tiles": lambda: attend(q, k, v, True, hidden_score=-1e4),
    }
    # The scores have 14 bits before the point, and exp2 rounds them once more.
    check(either(result, 0), attend(q, k, v, True)[0], terms=1 << 16, mistakes=part(mistakes, 0))


@FORWARD
@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_output_has_the_dtype_of_q_and_the_logsumexp_at_least_float32(student, check, rng, dtype):
    """The output has the dtype of q; the logsumexp is float32, or float64 where q is."""
    q, k, v, _ = (x.to(dtype) for x in qkv(rng, 1, 2, 5, 7, 4))
    result = student.call("flash_attention.flash_attention_forward", q, k, v, True, 3)

    output, logsumexp = attend(q, k, v, True)
    exact = dtype == torch.float64
    check(
        either(result, 0), output, dtype=dtype, terms=64 if exact else 2, mistakes=part(causal_mistakes(q, k, v, 3), 0)
    )
    named = getattr(either(result, 1), "dtype", None)
    check(named, torch.float64 if exact else torch.float32, mistakes={
        "the logsumexp has the dtype of q: bfloat16 is too coarse for it": torch.bfloat16,
        "the logsumexp is float32 though q is float64": torch.float32,
    })  # fmt: skip
    # The scores themselves may be rounded to bfloat16; 2**16 of float32's eps are one of bfloat16.
    check(either(result, 1), logsumexp, dtype=named, terms=64 if exact else 2 << 16)


@FORWARD
@pytest.mark.points(1)
def test_the_forward_has_its_defaults_and_leaves_its_inputs_alone(student, check, rng):
    """Not causal and tiles of 64 by default; strided inputs work, and nothing besides the result is changed."""

    def probe(q, k, v):
        from flash_attention import flash_attention_forward

        return inside.manners(flash_attention_forward, q, k, v)

    q, k, v, _ = qkv(rng, 2, 2, 70, 67, 4)
    result, after, torch_changed, printed = student.run(probe, q, k, v)

    mistakes = {"causal is on by default": lambda: attend(q, k, v, True)[0]} | part(forward_mistakes(q, k, v, 64), 0)
    check(
        after,
        [q, k, v],
        mistakes={
            "q, k or v is changed in place": lambda: [x.view_as(y) for x, y in zip(after, (q, k, v), strict=True)]
        },
    )
    check(either(result, 0), attend(q, k, v)[0], dtype=torch.float32, mistakes=mistakes)
    assert not torch_changed, "the global state of torch is changed"
    assert not printed, "the function prints"


@FORWARD
@pytest.mark.points(2)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [(2, 2, 32, 32, 3, 8), (1, 2, 32, 64, 3, 8), (1, 2, 256, 256, 4, None)], ids=str)
def test_the_forward_never_holds_the_matrix_of_scores(student, check, rng, size, causal):
    """No operation makes a tensor of B · H · Tq · Tk / 2 elements or more."""

    def probe(q, k, v, causal, options):
        from flash_attention import flash_attention_forward

        return inside.largest_result(flash_attention_forward, q, k, v, causal, **options)

    q, k, v, _ = qkv(rng, *size[:-1])
    largest = student.run(probe, q, k, v, causal, {"block_size": size[-1]} if size[-1] else {})

    B, H, Tq, Tk, *_ = size
    whole = "the forward makes the matrix of scores, or half of it: it must work on one tile at a time"
    check(largest < B * H * Tq * Tk / 2, True, mistakes={whole: False})


# -------------------------------------------------------------------------------- flash_attention: the backward


def plain_gradients(q, k, v, g, causal, slip="", part=slice(None)):
    """The gradients of plain attention at q, k and v, in float64; with a slip, or with a part of the terms of each sum."""
    q, k, v, g = q.double(), k.double(), v.double(), g.double()
    scale = q.shape[-1] ** -0.5
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    seen = seen.tril() if causal else seen
    s, dp = q @ k.mT * scale, g @ v.mT
    p = s.masked_fill(~seen, -math.inf).softmax(-1)
    delta = (p * dp).sum(-1, keepdim=True) * (slip != "delta")
    if slip == "mask":
        p = (s - s.masked_fill(~seen, -math.inf).logsumexp(-1, keepdim=True)).exp()
    elif slip == "sum":
        p = p / p.amax(-1, keepdim=True)
    ds = dp * seen if slip == "softmax" else p * (dp - delta)
    dq = ds[..., part] @ k[:, :, part] * scale
    ds, p, q, g = (x[:, :, part] for x in (ds, p, q, g))
    return dq, ds.mT @ q * scale, p.mT @ g


def gradient_mistakes(q, k, v, g, causal, block, of):
    """What students make of one of the gradients: that of q, k or v for `of` 0, 1 or 2."""
    Tq, Tk, root, name = q.shape[2], k.shape[2], q.shape[-1] ** 0.5, "qkv"[of]
    right = plain_gradients(q, k, v, g, causal)
    full = (Tq, Tk, Tk)[of] // block * block
    last = ((Tk, Tq, Tq)[of] - 1) // block * block

    def slip(name):
        return lambda: plain_gradients(q, k, v, g, causal, name)[of]

    def adding(part):  # only a part of the keys (for q) or of the queries (for k and v)
        return lambda: plain_gradients(q, k, v, g, causal, part=part)[of]

    mistakes = {
        f"no gradient reaches {name}": torch.zeros_like(right[of]),
        "causal is ignored in the backward": slip("mask"),
        "the weights of the backward are not normalised: they are exp(score - logsumexp)": slip("sum"),
        f"the gradient of {name} has the wrong sign": -right[of],
        f"the gradient of {name} holds only the first tile's part: add up all tiles": adding(slice(block)),
        f"the gradient of {name} holds only the last tile's part: add up all tiles": adding(slice(last, None)),
        f"the gradient of {name} lacks the part of the last tile, which is not full": adding(slice(last or None)),
        f"the end of {name}, which fills no tile, gets no gradient": torch.cat(
            [right[of][:, :, :full], torch.zeros_like(right[of][:, :, full:])], dim=2
        ),
    }
    if of < 2:
        mistakes |= {
            "the softmax's backward lacks δ, the row sums of dO * O": slip("delta"),
            "the softmax's backward is missing: dS = P * (dP - δ)": slip("softmax"),
            f"the gradient of {name} is not divided by sqrt(Dh)": right[of] * root,
            f"the gradient of {name} is divided by sqrt(Dh) twice": right[of] / root,
        }
    swapped = {f"the gradient of {'qkv'[i]} is returned for that of {name}": right[i] for i in range(3) if i != of}
    return mistakes | swapped


def backward(q, k, v, g, causal, block):
    """A probe: the output and the gradients at q, k and v."""
    from flash_attention import flash_attention

    leaves = [x.requires_grad_() for x in (q, k, v)]
    output = flash_attention(*leaves, causal, block)
    return [output, *inside.pulled_back(output, g, leaves)]


GRADIENT_CASES = [
    (SIZES[0], False),
    (SIZES[1], False),
    (CAUSAL_SIZES[0], True),
    (CAUSAL_SIZES[1], True),
    (SIZES[5], False),
]


@BACKWARD
@pytest.mark.points(1)
@pytest.mark.parametrize(("size", "causal"), [*GRADIENT_CASES, (CAUSAL_SIZES[2], True)], ids=str)
def test_flash_attention_returns_the_output_alone(student, check, rng, size, causal):
    """flash_attention returns the output of flash_attention_forward, and not its logsumexp."""
    q, k, v, _ = qkv(rng, *size[:-1])
    output = student.call("flash_attention.flash_attention", q, k, v, causal=causal, block_size=size[-1])

    truth = attend(q, k, v, causal)
    mistakes = part(forward_mistakes(q, k, v, size[-1]) | (causal_mistakes(q, k, v, size[-1]) if causal else {}), 0)
    both = {"the logsumexp is returned too": lambda: type(output)(x.float() for x in truth)}
    check(output, truth[0], dtype=torch.float32, mistakes=both | mistakes)


@BACKWARD
@pytest.mark.points(3)
@pytest.mark.parametrize(("size", "causal"), GRADIENT_CASES, ids=str)
def test_the_gradient_of_q(student, check, rng, size, causal):
    """The gradient of the queries is that of plain attention."""
    inputs = qkv(rng, *size[:-1])
    results = student.run(backward, *inputs, causal, size[-1])

    mistakes = gradient_mistakes(*inputs, causal, size[-1], of=0)
    check(results[1], plain_gradients(*inputs, causal)[0], dtype=torch.float32, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(3)
@pytest.mark.parametrize(("size", "causal"), GRADIENT_CASES, ids=str)
def test_the_gradient_of_k(student, check, rng, size, causal):
    """The gradient of the keys is that of plain attention."""
    inputs = qkv(rng, *size[:-1])
    results = student.run(backward, *inputs, causal, size[-1])

    mistakes = gradient_mistakes(*inputs, causal, size[-1], of=1)
    check(results[2], plain_gradients(*inputs, causal)[1], dtype=torch.float32, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(3)
@pytest.mark.parametrize(("size", "causal"), GRADIENT_CASES, ids=str)
def test_the_gradient_of_v(student, check, rng, size, causal):
    """The gradient of the values is that of plain attention."""
    inputs = qkv(rng, *size[:-1])
    results = student.run(backward, *inputs, causal, size[-1])

    mistakes = gradient_mistakes(*inputs, causal, size[-1], of=2)
    check(results[3], plain_gradients(*inputs, causal)[2], dtype=torch.float32, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(1)
def test_float64_gradients_are_exact(student, check, rng):
    """In float64 the output and the gradients are float64, and as exact."""
    q, k, v, g = qkv(rng, 1, 2, 7, 5, 6, dtype=torch.float64)
    results = student.run(backward, q, k, v, g, True, 3)

    truth = [attend(q, k, v, True)[0], *plain_gradients(q, k, v, g, True)]
    names = [getattr(x, "dtype", None) for x in results]
    check(
        names,
        [torch.float64] * 4,
        mistakes={"gradients of float64 inputs are float32": [torch.float64] + [torch.float32] * 3},
    )
    check(results, truth)


@BACKWARD
@pytest.mark.points(1)
def test_bfloat16_gradients_are_as_right_as_bfloat16_is(student, check, rng):
    """In bfloat16 the output and the gradients are bfloat16, and as right as that is."""
    q, k, v, g = (x.bfloat16() for x in qkv(rng, 1, 2, 13, 11, 6))
    results = student.run(backward, q / 4, k, v, g, True, 4)

    truth = [attend(q / 4, k, v, True)[0], *plain_gradients(q / 4, k, v, g, True)]
    check(results, truth, dtype=torch.bfloat16, terms=4)


@BACKWARD
@pytest.mark.points(1)
def test_the_backward_with_large_scores(student, check, rng):
    """Scores of some 300 overflow in the backward no more than in the forward."""
    q, k = torch.randint(-2, 3, (2, 1, 2, 7, 4), generator=rng).float()
    v, g = torch.randn(2, 1, 2, 7, 4, generator=rng)
    q[..., 0], k[..., 0] = 20 * (-1) ** torch.arange(7), 3 * torch.arange(7.0)
    results = student.run(backward, q, k, v, g, False, 3)

    # Most weights are 0 or 1, so gradients of q and k cancel: errors are those of terms as large as k, q and g.
    overflow = "the gradients overflow: the weights are exp(score - logsumexp)"
    for value, truth in zip(results[1:], plain_gradients(q, k, v, g, False), strict=True):
        mistakes = {} if value.isfinite().all() else {overflow: value}
        check(value, truth, dtype=torch.float32, terms=1024, scale=20.0, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(2)
def test_calls_do_not_disturb_each_other(student, check, rng):
    """Two calls may be under way at once, and a backward may be run twice."""

    def probe(first, second, g):
        from flash_attention import flash_attention

        first, second = ([x.requires_grad_() for x in inputs] for inputs in (first, second))
        outputs = flash_attention(*first, False, 3), flash_attention(*second, True, 2)
        twice = [torch.autograd.grad(outputs[0], first, g, retain_graph=True) for _ in range(2)]
        return *twice, torch.autograd.grad(outputs[1], second, g)

    *first, g = qkv(rng, 1, 2, 7, 5, 4)
    *second, _ = qkv(rng, 1, 2, 7, 5, 4)
    once, again, other = student.run(probe, first, second, g)

    truth = plain_gradients(*first, g, False)
    shared = "the backward uses what another call saved: save it on ctx"
    check(once, truth, dtype=torch.float32, mistakes={shared: lambda: plain_gradients(*second, g, True)})
    check(again, truth, dtype=torch.float32, mistakes={
        "a second backward gives other gradients: the first changed what was saved": lambda: tuple(x.view_as(y) for x, y in zip(again, truth, strict=True)),
    })  # fmt: skip
    check(other, plain_gradients(*second, g, True), dtype=torch.float32)


@BACKWARD
@pytest.mark.points(1)
def test_any_inputs_and_cotangents_do(student, check, rng):
    """Strided inputs and gradients, and inputs that need no gradient, all work, and none is changed in place."""

    def probe(q, k, v, g):
        from flash_attention import flash_attention

        result, _, torch_changed, printed = inside.manners(flash_attention, q, k, v)
        inputs = [inside.strided(x).requires_grad_() for x in (q, k, v)]
        g = inside.strided(g)
        gradients = torch.autograd.grad(flash_attention(*inputs, False, 3), inputs, g)
        of_k = torch.autograd.grad(flash_attention(q, inputs[1], v, True, 3).square().sum(), inputs[1])[0]
        return result, gradients, of_k, [*inputs, g], torch_changed, printed

    inputs = qkv(rng, 2, 2, 7, 5, 4)
    result, gradients, of_k, after, torch_changed, printed = student.run(probe, *inputs)

    output, causal_output = attend(*inputs[:3])[0], attend(*inputs[:3], True)[0]
    changed = "q, k, v or the gradient of the output is changed in place"
    check(after, list(inputs), mistakes={changed: lambda: [x.view_as(y) for x, y in zip(after, inputs, strict=True)]})
    check(result, output, dtype=torch.float32, mistakes={"causal is on by default": causal_output})
    check(gradients, plain_gradients(*inputs, False), dtype=torch.float32)
    check(of_k, plain_gradients(*inputs[:3], 2 * causal_output, True)[1], dtype=torch.float32)
    assert not torch_changed, "the global state of torch is changed"
    assert not printed, "the function prints"


@BACKWARD
@pytest.mark.points(3)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [(2, 2, 32, 3, 8), (1, 2, 256, 4, None)], ids=str)
def test_memory_grows_with_the_length_not_its_square(student, check, rng, size, causal):
    """Forward and backward make no tensor of half the scores; at most q, k, v, the output and 2 numbers a row are kept."""

    def probe(q, k, v, g, causal, options):
        from flash_attention import flash_attention

        return inside.memory_use(lambda q, k, v: flash_attention(q, k, v, causal, **options), [q, k, v], g)

    B, H, T, Dh, block = size
    use = student.run(probe, *qkv(rng, B, H, T, T, Dh), causal, {"block_size": block} if block else {})

    matrix, sequence = B * H * T * T, B * H * T
    whole = "the {} makes the matrix of scores, or half of it: it must work on one tile at a time"
    check(
        use["between"] < matrix, True, mistakes={"the weights or scores of all tiles are kept for the backward": False}
    )
    for name in ("forward", "backward"):
        check(use[name] < matrix / 2, True, mistakes={whole.format(name): False})
    more = "more is kept for the backward than q, k, v, the output and two numbers for each query"
    check(use["between"] <= 4 * sequence * Dh + 2 * sequence, True, mistakes={more: False})


@BACKWARD
@pytest.mark.gpu
@pytest.mark.points(1)
def test_flash_attention_in_bfloat16_on_the_gpu(student, check, device, rng):
    """On a GPU, in bfloat16, the output and the gradients stay there and are as right as bfloat16 is."""
    q, k, v, g = (x.bfloat16() for x in qkv(rng, 1, 2, 150, 130, 16))
    results = student.run(backward, q / 4, k, v, g, True, 64)

    truth = [attend(q / 4, k, v, True)[0], *plain_gradients(q / 4, k, v, g, True)]
    check(results, truth, dtype=torch.bfloat16, terms=4)


# -------------------------------------------------------------------------------- FlashAttention


def linear(rng, into, out, dtype=torch.float32):
    """(weight, bias) of a Linear(into, out)."""
    return torch.randn(out, into, generator=rng, dtype=dtype) * 1.5 / into**0.5, torch.randn(
        out, generator=rng, dtype=dtype
    )


def attention_layer(x, qkv, proj, heads, causal=False, *, split=None, order=(0, 1, 2), scale=None, join=None):
    """The layer, in float64; `split` makes q, k and v, each (B, H, T, Dh), of the projection, `join` the way back."""
    x, (w, b), (w_o, b_o) = x.double(), (y.double() for y in qkv), (y.double() for y in proj)
    joined = x @ w.mT + b
    parts = split(joined) if split else [y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in joined.chunk(3, -1)]
    output, _ = attend(*(parts[i] for i in order), causal, scale=scale)
    output = join(output) if join else output.transpose(1, 2).flatten(2)
    return output @ w_o.mT + b_o


def layer_mistakes(x, weights, heads):
    """What students make of the layer's output."""
    (B, T, D), args = x.shape, (x, *weights.values(), heads)
    Dh = D // heads

    def of(**slip):
        return lambda: attention_layer(*args, **slip)

    return {
        "causal has no effect": of(),
        "causal is always on": of(causal=True),
        "q and k are swapped: the rows of qkv are ordered q, k, v": of(order=(1, 0, 2)),
        "k and v are swapped: the rows of qkv are ordered q, k, v": of(order=(0, 2, 1)),
        "q and v are swapped: the rows of qkv are ordered q, k, v": of(order=(2, 1, 0)),
        "the heads come first in the rows of qkv: q, k and v do, and each has its heads": of(
            split=lambda y: y.view(B, T, heads, 3, Dh).permute(3, 0, 2, 1, 4)
        ),
        "a head owns every H-th row: it owns a block of Dh rows": of(
            split=lambda y: y.view(B, T, 3, Dh, heads).permute(2, 0, 4, 1, 3)
        ),
        "the heads are split by a view alone, which mixes places: transpose too": of(
            split=lambda y: [z.reshape(B, heads, T, Dh) for z in y.chunk(3, -1)]
        ),
        "the heads are joined without a transpose, which mixes places": of(join=lambda o: o.reshape(B, T, D)),
        "the heads are interleaved where they are joined": of(join=lambda o: o.permute(0, 2, 3, 1).flatten(2)),
        "attention runs over the heads of a place: its dimensions are (B, H, T, Dh)": of(
            split=lambda y: [z.unflatten(-1, (heads, -1)) for z in y.chunk(3, -1)], join=lambda o: o.flatten(2)
        ),
        "the scores are divided by sqrt(D): it is sqrt(Dh)": of(scale=D**-0.5),
        "the scores are divided by sqrt(Dh) twice": of(scale=1 / Dh),
        "the scores are not divided by sqrt(Dh)": of(scale=1.0),
        "the output is not projected by proj": lambda: attention_layer(
            x, weights["qkv"], (torch.eye(D), torch.zeros(D)), heads
        ),
        "the input is added to the output": lambda: attention_layer(*args) + x,
    }


LAYER_SIZES = [(2, 7, 12, 3, False, 3), (1, 5, 8, 2, True, 2), (3, 6, 6, 1, True, 64), (2, 1, 6, 3, False, 4)]


@LAYER
@pytest.mark.points(4)
@pytest.mark.parametrize(("B", "T", "D", "heads", "causal", "block"), LAYER_SIZES)
def test_the_layer_is_multi_head_attention(student, check, rng, B, T, D, heads, causal, block):
    """The layer projects by qkv, attends in each head, joins the heads in order and projects by proj."""

    def probe(x, weights, heads, causal, block):
        from flash_attention import FlashAttention

        def make_and_use(x, *causal):
            return inside.loaded(FlashAttention(x.shape[-1], heads, 0.1, block), weights)(x, *causal)

        return inside.manners(make_and_use, x, *([True] if causal else []))

    x = 1.5 * torch.randn(B, T, D, generator=rng)
    weights = {"qkv": linear(rng, D, 3 * D), "proj": linear(rng, D, D)}
    output, (after, *_), torch_changed, printed = student.run(probe, x, weights, heads, causal, block)

    truth = attention_layer(x, *weights.values(), heads, causal)
    check(after, x, mistakes={"x is changed in place": lambda: after.view_as(x)})
    both = {"a pair is returned: the layer returns the output alone": lambda: (output[0].view_as(x), *output[1:])}
    pair = both if isinstance(output, (tuple, list)) else {}
    check(output, truth, dtype=torch.float32, mistakes=pair | layer_mistakes(x, weights, heads))
    assert not torch_changed, "the global state of torch is changed"
    assert not printed, "the layer prints"


@LAYER
@pytest.mark.points(1)
def test_the_layer_has_two_linear_layers(student, check, rng):
    """qkv is Linear(D, 3D) and proj Linear(D, D), both with bias; float64 and the device of x are kept."""

    def probe(x):
        from flash_attention import FlashAttention

        layer = FlashAttention(6, 2)
        shapes, dtype = inside.linear_shapes(layer, ("qkv", "proj")), layer.double()(x.double()).dtype
        return shapes, dtype, inside.on_meta(layer.to("meta"), x.double(), True)

    shapes, dtype, on_meta = student.run(probe, torch.randn(2, 5, 6, generator=rng))

    check(shapes, [(6, 18, True), (6, 6, True)], mistakes={
        "qkv and proj have no bias": [(6, 18, False), (6, 6, False)],
        "qkv has no bias": [(6, 18, False), (6, 6, True)],
        "proj has no bias": [(6, 18, True), (6, 6, False)],
    })  # fmt: skip
    elsewhere = "the layer makes tensors on another device than that of x"
    check(on_meta, "", mistakes={elsewhere: "mixes devices", elsewhere + ", and returns one": "leaves the device"})
    check(dtype, torch.float64, mistakes={"the layer does not keep float64": torch.float32})


@LAYER
@pytest.mark.points(2)
def test_the_layer_is_trained(student, check, rng):
    """Right gradients reach x and all weights."""

    def probe(x, g, weights):
        from flash_attention import FlashAttention

        layer, leaf = inside.loaded(FlashAttention(8, 2, 0.0, 3), weights), x.requires_grad_()
        tensors = [leaf, layer.qkv.weight, layer.qkv.bias, layer.proj.weight, layer.proj.bias]
        return inside.pulled_back(layer(leaf, causal=True), g, tensors)

    x, g = torch.randn(2, 2, 5, 8, generator=rng, dtype=torch.float64)
    weights = {name: linear(rng, 8, out, torch.float64) for name, out in (("qkv", 24), ("proj", 8))}
    gradients = student.run(probe, x, g, weights)

    leaves = [tensor.requires_grad_() for tensor in (x, *weights["qkv"], *weights["proj"])]
    output = attention_layer(x, *weights.values(), 2, causal=True)
    # Keys gain nothing from their bias: that gradient is zero up to the rounding of its terms.
    truth = list(torch.autograd.grad((output * g).sum(), leaves))
    stopped = [torch.zeros_like(t) if i < 3 else t for i, t in enumerate(truth)]
    check(gradients, truth, mistakes={"no gradient passes through flash_attention: x and qkv get none": stopped})


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize(("B", "T", "block", "causal"), [(2, 32, 8, False), (2, 32, 8, True), (1, 256, None, False)])
def test_the_layer_never_holds_the_matrix_of_scores(student, check, rng, B, T, block, causal):
    """The layer uses flash_attention with its block_size, 64 by default: no tensor has half of all scores."""

    def probe(x, causal, options):
        from flash_attention import FlashAttention

        layer = FlashAttention(6, 2, dropout=0.0, **options)
        return inside.memory_use(lambda x: layer(x, causal), [x], torch.ones_like(x))

    use = student.run(probe, torch.randn(B, T, 6, generator=rng), causal, {"block_size": block} if block else {})

    whole = "the layer makes the matrix of scores: call flash_attention with block_size"
    check(max(use["forward"], use["backward"]) < B * 2 * T * T / 2, True, mistakes={whole: False})


@LAYER
@pytest.mark.points(1)
@pytest.mark.parametrize("options", [{"dropout": 0.5}, {}], ids=str)
def test_the_layer_drops_out_in_train_mode_only(student, check, rng, options):
    """Dropout is off in eval mode, follows the seed in train mode, and is on by default."""

    def probe(x, weights, options):
        from flash_attention import FlashAttention

        return inside.seeded_runs(inside.loaded(FlashAttention(12, 3, **options), weights), x)

    x, weights = torch.randn(4, 9, 12, generator=rng), {"qkv": linear(rng, 12, 36), "proj": linear(rng, 12, 12)}
    first, same_seed, other_seed, quiet, quiet_again = student.run(probe, x, weights, options)

    check(torch.equal(quiet, quiet_again), True, mistakes={"dropout is active in eval mode too": False})
    check(torch.equal(first, same_seed), True, mistakes={"dropout does not follow torch's seed": False})
    # 432 outputs, each dropped out with probability 0.1, are dropped alike in two calls with a probability of 0.82^432.
    check(torch.equal(first, other_seed), False, mistakes={"there is no dropout in train mode": True})
    check(quiet, attention_layer(x, *weights.values(), 3), dtype=torch.float32)


@LAYER
@pytest.mark.points(1)
def test_heads_that_do_not_divide_the_width_are_refused(student):
    """d_model not divisible by num_heads is a ValueError that names one of them."""

    def probe(d_model, num_heads):
        from flash_attention import FlashAttention

        FlashAttention(d_model, num_heads)

    student.raises(ValueError, probe, 8, 3, says=("num_heads", "d_model"))
    student.raises(ValueError, probe, 6, 4, says=("num_heads", "d_model"))
