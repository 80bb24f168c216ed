"""What the hidden tests of ring_attention share: attention over the whole sequence in float64, and the slips of a ring.

`size` is the number of ranks. A whole sequence (B, H, T, d) is cut into `size` blocks, one a rank; r is the rank of a query, b
that of a key, and in step (r - b) % size of a ring rank r has the block of rank b.
"""

import torch

from shared import attend, is_own, nearly, randn, weigh

EXACT = {torch.float32: 1e-4, torch.float64: 1e-9}  # the contract's tolerances
FEW = 6  # blocks
LOOSE = "a tensor that is not contiguous is sent, or received into, which gloo refuses; it should be contiguous"
NOT_HOME = "the gradients of a block stop one rank before they are home"
TOO_FAR = "the gradients of a block are sent one rank too far"
ELSEWHERE = "the gradients of a block end at the other rank"


def whole(rng, T, Dh=4, Dv=None, B=2, H=3, dtype=torch.float32):
    """q, k, v and a gradient of the output, of a whole sequence; the scores are large enough for the maximum to move."""
    q, k = 1.5 * randn(rng, 2, B, H, T, Dh, dtype=dtype)
    v, g = randn(rng, 2, B, H, T, Dv or Dh, dtype=dtype)
    return q, k, v, g


def gentle_ring(rng, T, size, B=2, H=2, Dh=1, dtype=torch.float32):
    """The same, where rescaling does not matter: each block's first key has the largest score. Nor does the scale, if Dh is 1."""
    q, k, v, g = whole(rng, T, Dh, 3, B, H, dtype)
    k = k.clamp(-2, 2)
    k[:, :, :: T // size] = 2.5
    return q.abs().clamp(max=1.5) / Dh**0.5 + 0.2, k, v, g  # no softmax so steep that dq is all rounding


def sliced(x, size):
    """A whole sequence as the ranks have it."""
    return list(x.chunk(size, dim=2))


def unsliced(slices):
    """What the ranks gave, as the whole sequence; the reply as it is where it is something else."""
    fits = isinstance(slices, list) and all(isinstance(each, torch.Tensor) and each.dim() == 4 for each in slices)
    return torch.cat(slices, dim=2) if fits and len({each.shape for each in slices}) == 1 else slices


def by_rank(mistakes, size):
    """Mistakes that give whole sequences, as the ranks have them."""
    return {sentence: (lambda wrong=wrong: sliced(wrong(), size)) for sentence, wrong in mistakes.items()}


def ranks_and_places(T, size):
    """(r, b, i, j): the rank of each query (T, 1) and of each key (T,), and their places within the block."""
    place, block = torch.arange(T), T // size
    return (place // block)[:, None], place // block, (place % block)[:, None], place % block


# ---------------------------------------------------------------------------------------------- forward


def ring_outputs(student, size, tensors, causal=False):
    """The student's outputs, rank by rank, of whole sequences q, k, v."""

    def probe(q, k, v, causal):
        from ring_attention import ring_attention

        return inside.a_tensor(ring_attention(*inside.ring_inputs(q, k, v), causal=causal)).detach()

    return student.on(ranks=size).run(probe, *tensors, causal)


def often(q, k, v, times):
    """Attention (B, H, T, Dv) in which a query attends to a key as many times as times (T, T) says."""
    scores = q.double() @ k.double().mT / q.shape[-1] ** 0.5 + times.double().log()
    return weigh(scores, (times == 0).expand_as(scores)) @ v.double()


def round_trips(q, k, v, size):
    """What a ring gives in which a block is left out, or comes twice: sentence -> a function."""
    r, b, _, _ = ranks_and_places(q.shape[2], size)
    step = (r - b) % size
    times = {
        "a rank attends to its own block only": step == 0,
        "a rank does not attend to its own block": step > 0,
        "the ring stops one step too early, so that a rank never sees the block of the next rank": step < size - 1,
        "a rank attends to its own block twice": 1 + (step == 0).long(),
        "a rank gets the same block in every step: the previous rank should hand on the block that came to it": (
            (step == 0).long() + (size - 1) * (step == 1)
        ),
    }
    return {sentence: (lambda n=n: often(q, k, v, n.expand(q.shape[2], -1))) for sentence, n in times.items()}


def ring_merged(q, k, v, size, slip):
    """The online softmax over the blocks in the order in which they come, with a slip."""
    outputs = []
    for rank, q_r in enumerate(q.double().chunk(size, 2)):
        m = torch.full_like(q_r[..., :1], -torch.inf)
        total = o = torch.zeros_like(m)
        for step in range(size):
            k_b, v_b = (x.double().chunk(size, 2)[(rank - step) % size] for x in (k, v))
            s = q_r @ k_b.mT / q.shape[-1] ** 0.5
            m_new = torch.maximum(m, s.amax(-1, keepdim=True))
            p = (s - m_new).exp()
            fix = (m_new - m).clamp(max=700).exp() if slip == "upside down" else (m - m_new).exp()
            total = total * (1 if slip == "sum" else fix) + p.sum(-1, keepdim=True)
            o = o * (1 if slip == "output" else fix) + p @ v_b
            m = m_new
        outputs.append(o if slip == "unnormalised" else o / total)
    return torch.cat(outputs, 2)


def of_blocks(q, k, v, size):
    """(size, B, H, T, Dv): attention to each block alone."""
    return torch.stack([attend(q, *block)[0] for block in zip(sliced(k, size), sliced(v, size), strict=True)])


def scale_slips(q, k, v):
    """What comes of other scales than sqrt(Dh): sentence -> a function."""
    scales = {
        "the scores are not divided by sqrt(Dh)": 1.0,
        "the scores are divided by Dh; they should be divided by sqrt(Dh)": q.shape[-1],
        "the scores are divided by sqrt(Dh) twice": q.shape[-1],
        "the scores are divided by sqrt(T); they should be divided by sqrt(Dh)": q.shape[2] ** 0.5,
    }
    return {sentence: (lambda scale=scale: attend(q, k, v, scale=scale)[0]) for sentence, scale in scales.items()}


def half_trips(q, k, v, size):
    """What comes of keys or values that stay at home, and of one head for all: sentence -> a function."""

    def values_stay():
        weights = attend(q, k, v)[1].unflatten(-1, (size, -1)).sum(-2)  # (B, H, T, T / size): a block's places
        return torch.cat([w @ x.double() for w, x in zip(sliced(weights, size), sliced(v, size), strict=True)], 2)

    def keys_stay():
        mean = torch.stack(sliced(v.double(), size)).mean(0)
        return torch.cat([attend(*each, mean)[0] for each in zip(sliced(q, size), sliced(k, size), strict=True)], 2)

    return {
        "only the keys travel; the values should travel with them": values_stay,
        "only the values travel; the keys should travel with them": keys_stay,
        "the scores of the first head are used for all heads": lambda: attend(
            q[:, :1].expand_as(q), k[:, :1].expand_as(k), v
        )[0],
    }


def merge_slips(q, k, v, size):
    """What comes of putting the blocks' results together in other ways: sentence -> a function."""
    slips = {
        "the running sum is not rescaled when the maximum grows": "sum",
        "the running output is not rescaled when the maximum grows": "output",
        "the correction is upside down; it should be exp(old maximum - new maximum)": "upside down",
        "the output is not divided by the running sum": "unnormalised",
    }
    return {sentence: (lambda slip=slip: ring_merged(q, k, v, size, slip)) for sentence, slip in slips.items()} | {
        "each block has its own softmax, and the results are averaged": lambda: of_blocks(q, k, v, size).mean(0),
        "each block has its own softmax, and the results are added": lambda: of_blocks(q, k, v, size).sum(0),
        "only the last block that comes counts": lambda: often(
            q, k, v, (ranks_and_places(q.shape[2], size)[1] - ranks_and_places(q.shape[2], size)[0]) % size == 1
        ),
    }


def blocks_slips(q, k, v, size):
    """All that goes wrong from block to block, where every query sees every key."""
    return round_trips(q, k, v, size) | half_trips(q, k, v, size) | merge_slips(q, k, v, size)


def before(T):
    """(T, T) bool: what a causal query sees."""
    return torch.ones(T, T, dtype=torch.bool).tril()


def causal_masks(T, size):
    """What students make of the causal mask over blocks: sentence -> (T, T) bool, the keys that a query sees."""
    r, b, i, j = ranks_and_places(T, size)
    own, step = (b == r) & (j <= i), (r - b) % size
    return {
        "causal has no effect": (b >= 0) | own,
        "every block is masked as if its first key were at the place of the first query": (j <= i)
        & (b >= 0)
        & (r >= 0),
        "only a rank's own block is masked; the blocks of later ranks are seen": own | (b != r),
        "the blocks of earlier ranks are left out": own,
        "a rank sees the future within its own block": b <= r,
        "the blocks of later ranks are seen, and those of earlier ranks are not": own | (b > r),
        "the mask within a block is transposed, so that it shows the future": (b < r) | ((b == r) & (j >= i)),
        "a block is taken for one of another rank: in step s a rank has the block of rank - s": own
        | ((step > 0) & ((r + step) % size < r)),
        "a rank attends to the block of the previous rank only, and to its own": own | ((b == r - 1) & (b < r)),
        "every block that comes is taken for that of the previous rank": own | ((step > 0) & (r > 0)),
    }


def causal_slips(q, k, v, size):
    """What comes of these masks: sentence -> a function."""
    masks = causal_masks(q.shape[2], size)
    return {sentence: (lambda n=n: often(q, k, v, n)) for sentence, n in masks.items()}


def mask_of(outputs, q, k, v, size):
    """(T, T) bool: what the queries see, by the outputs of the student's causal attention; the truth, where that is not known."""
    fitting = (
        mask
        for mask in causal_masks(q.shape[2], size).values()
        if is_own(outputs, v) and nearly(outputs, often(q, k, v, mask), 1e-3)
    )
    return next(fitting, before(q.shape[2]))


# ---------------------------------------------------------------------------------------------- backward


def ring_gradients(student, size, tensors, causal=False):
    """The student's dq, dk and dv, rank by rank, of whole sequences q, k, v and a gradient of the output."""

    def probe(q, k, v, g, causal):
        from ring_attention import ring_attention

        inputs = inside.ring_inputs(q, k, v)
        return inside.gradients(ring_attention(*inputs, causal=causal), inputs, [inside.own_slice(g, 2)])

    return student.on(ranks=size).run(probe, *tensors, causal)


def true_ring_gradients(q, k, v, g, seen=None, *, own=None, scale=None, delta="all", weights="softmax", shown=None):
    """dq, dk, dv in float64, by the formulas.

    own: (T, T), which weights count in all three. scale: of the scores in dq and dk. delta: what is subtracted from dP: the
    sum over "all" keys, over those of the same "block", where a (T, T) tensor says which, or None. weights: "softmax"; or
    exp of the scores less their "maximum"; or a (T, T) tensor: in which blocks they sum to 1. shown: what the backward
    sees, where it is not what the forward has seen.
    """
    q, k, v, g = (x.double() for x in (q, k, v, g))
    root = q.shape[-1] ** -0.5
    s = q @ k.mT * root
    forward = s if seen is None else s.masked_fill(~seen, -torch.inf)
    least = forward.amax(-1, keepdim=True) if isinstance(weights, str) and weights == "maximum" else None
    least = forward.logsumexp(-1, keepdim=True) if least is None else least
    p = (forward if shown is None else s.masked_fill(~shown, -torch.inf)).sub(least).exp()
    dp = g @ v.mT
    sums = (forward.softmax(-1) * dp).sum(-1, keepdim=True)
    if isinstance(weights, torch.Tensor):
        p = p / (p @ weights.double())
        sums = (p * dp) @ weights.double()
    if isinstance(delta, torch.Tensor):
        sums = (p * dp) @ delta.double()
    ds = p * (dp - sums) if delta is not None else p * dp
    if own is not None:
        p, ds = p * own, ds * own
    scale = root if scale is None else scale
    return ds @ k * scale, ds.mT @ q * scale, p.mT @ g


def gradient_slips(q, k, v, g, size, seen=None):
    """What students make of the gradients: sentence -> a function that gives dq, dk, dv of whole sequences."""
    T = q.shape[2]
    r, b, _, _ = ranks_and_places(T, size)

    def moved(by):
        dq, dk, dv = true_ring_gradients(q, k, v, g, seen)
        return dq, dk.roll(by * T // size, 2), dv.roll(by * T // size, 2)

    def stays():
        """Each rank adds up what its own queries give to the blocks of all."""
        parts = [true_ring_gradients(q, k, v, g, seen, own=r == rank) for rank in range(size)]
        sums = [torch.cat([torch.stack(sliced(part[n], size)).sum(0) for part in parts], 2) for n in (1, 2)]
        return true_ring_gradients(q, k, v, g, seen)[0], *sums

    def blocks_stay():
        """In each step a rank works with its own block, and adds what comes of it to the gradients that are there."""
        dq, dk, dv = true_ring_gradients(q, k, v, g, seen, own=r == b)
        return dq * size, *(torch.stack(sliced(x, size)).sum(0).repeat(1, 1, size, 1) for x in (dk, dv))

    away = {NOT_HOME: lambda: moved(-1), TOO_FAR: lambda: moved(1)} if size > 2 else {ELSEWHERE: lambda: moved(1)}
    return away | {
        "only the part of the rank's own block, or of its own queries, is in the gradient": lambda: true_ring_gradients(
            q, k, v, g, seen, own=r == b
        ),
        "the part of the rank's own block is missing in the gradient": lambda: true_ring_gradients(
            q, k, v, g, seen, own=r != b
        ),
        "the gradients of k and v stay while the blocks travel; each should travel with its block": stays,
        "the derivative of the softmax is P * dP; subtract the sum of P * dP over all keys from dP": lambda: (
            true_ring_gradients(q, k, v, g, seen, delta=None)
        ),
        "the sum of P * dP is that of one block; it should run over the keys of all ranks": lambda: true_ring_gradients(
            q, k, v, g, seen, delta=r == b
        ),
        "backward makes the weights of each block sum to 1; they should sum to 1 over the blocks of all ranks": lambda: (
            true_ring_gradients(q, k, v, g, seen, weights=r == b)
        ),
        "backward makes the weights with the maximum alone; it needs the logsumexp": lambda: true_ring_gradients(
            q, k, v, g, seen, weights="maximum"
        ),
        "the blocks stay in backward while their gradients travel; both should travel": blocks_stay,
        "the gradient of the output is not used": lambda: true_ring_gradients(q, k, v, torch.ones_like(g), seen),
        "no gradient comes through to q, k and v": lambda: [
            torch.zeros_like(x, dtype=torch.float64) for x in (q, k, v)
        ],
    }


def causal_gradient_slips(q, k, v, g, size):
    """What a backward gives that does not see what the forward has seen."""
    r, b, i, j = ranks_and_places(q.shape[2], size)
    own, step = (b == r) & (j <= i), (r - b) % size
    shown = {
        "the backward ignores causal": (b >= 0) | own,
        "the backward sees the future within a rank's own block": b <= r,
        "the backward sees the blocks of later ranks": own | (b != r),
        "the backward takes a block for one of another rank: in step s a rank has the block of rank - s": own
        | ((step > 0) & ((r + step) % size < r)),
    }
    seen = before(q.shape[2])
    return {
        sentence: (lambda n=n: true_ring_gradients(q, k, v, g, seen, shown=n.expand(q.shape[2], -1)))
        for sentence, n in shown.items()
    }


def gradient_scales(q, k, v, g):
    """Slips of the scale in dq and dk."""
    Dh = q.shape[-1]
    return {
        "the gradients of q and k are not divided by sqrt(Dh)": lambda: true_ring_gradients(q, k, v, g, scale=1.0),
        "the gradients of q and k are divided by Dh; they should be divided by sqrt(Dh)": lambda: true_ring_gradients(
            q, k, v, g, scale=1 / Dh
        ),
    }


def one_of(mistakes, index, size):
    """Of mistakes that give dq, dk and dv of whole sequences, one of them as the ranks have it."""
    return {sentence: (lambda wrong=wrong: sliced(wrong()[index], size)) for sentence, wrong in mistakes.items()}


def three_whole(results):
    """dq, dk and dv of whole sequences, of what the ranks gave."""
    return [unsliced([each[n] for each in results]) for n in range(3)]


# ---------------------------------------------------------------------------------------------- what the student's own gives


def expected_like(own, truth, dtype):
    """(the truth, the contract's tolerance) where the student's own result of the plainer thing is right; else (own, 1e-3).

    Own results that are none of a ring, zeros or a copy of an input, say nothing.
    """
    if not is_own(own, truth) or nearly(own, truth, 1e-3):
        return truth, EXACT[dtype]
    return own.double(), 1e-3


def expected_there(own, plain, there, truths):
    """(what is expected, its tolerance) in a harder case: the truth; or the slip that the student's plainer result shows.

    A mistake costs the tests that are about it. Where the plainer result `own` is not the truth but what one of its slips
    gives, the harder case may show the same slip.

    Args:
        plain, there: sentence -> a function that gives what the slip gives in the plainer and in the harder case.
        truths: of the plainer and of the harder case.
    """
    if is_own(own, truths[0]) and not nearly(own, truths[0], 1e-3):
        for sentence, wrong in plain.items():
            if sentence in there and nearly(own, wrong(), 1e-3):
                return there[sentence](), 1e-3
    return truths[1], EXACT[torch.float32]


def gradients_there(own, found, plain, there, truths):
    """The same of dq, dk or dv over more ranks. Where two ranks exchange what should stay, more may hand it on, or back."""
    wanted, within = expected_there(own, plain, there, truths)
    if ELSEWHERE in plain and is_own(own, truths[0]) and nearly(own, plain[ELSEWHERE](), 1e-3):
        return the_nearest(found, [wanted, *(there[sentence]() for sentence in (NOT_HOME, TOO_FAR))]), 1e-3
    return wanted, within


def the_nearest(found, candidates):
    """The one of several results that was found; the first if none was."""
    return next((each for each in candidates if is_own(found, each) and nearly(found, each, 1e-3)), candidates[0])


def each_of(mistakes, index):
    """Of mistakes that give dq, dk and dv, one of them."""
    return {sentence: (lambda wrong=wrong: wrong()[index]) for sentence, wrong in mistakes.items()}


# ---------------------------------------------------------------------------------------------- messages


def elements(message):
    return sum(torch.Size(shape).numel() for shape in message.shapes)


def received(traffic, size):
    """Elements that were sent to each rank."""
    return [sum(elements(m) for m in traffic if m.operation == "send" and m.peer == rank) for rank in range(size)]


def collective_facts(traffic, where):
    """Facts about what is sent in forward or backward (where) where every query sees every key: only neighbours exchange."""
    used = {message.operation for message in traffic}
    sends = [message for message in traffic if message.operation == "send"]
    return [
        (
            "all_gather" not in used,
            f"{where} gathers the blocks of all ranks by all_gather; they should go from neighbour to neighbour",
        ),
        (
            "barrier" not in used,
            f"{where} calls a barrier, which is a collective; who receives a block has waited for its sender",
        ),
        (
            not used - {"send", "recv"},
            f"{where} calls a collective; blocks should be sent to a neighbour, and received from one",
        ),
        (bool(sends), f"nothing is sent in {where}"),
    ]


def neighbour_facts(traffic, size, where):
    sends = [message for message in traffic if message.operation == "send"]
    return [
        (sum(map(elements, sends)) > 0, f"nothing is sent from rank to rank in {where}"),
        (
            all((message.peer - message.rank) % size in (1, size - 1) for message in sends),
            f"a block is sent to a rank that is not a neighbour in {where}: in a ring it goes to rank + 1 or rank - 1",
        ),
        (
            all(
                (m.peer - m.rank) % size in (1, size - 1)
                for m in traffic
                if m.operation == "recv" and m.peer is not None
            ),
            f"a rank receives from one that is not a neighbour in {where}: in a ring a block comes from rank - 1 or rank + 1",
        ),
        (
            all(sum(message.rank == rank for message in traffic) <= 32 * size for rank in range(size)),
            f"far more is sent and received in {where} than a few tensors for each block",
        ),
    ]


def size_facts(traffic, block, where):
    sends = [elements(message) for message in traffic if message.operation == "send"]
    return [
        (sum(sends) > 0, f"nothing is sent from rank to rank in {where}"),
        (max(sends, default=0) <= FEW * block, f"a message of {where} has more than a few blocks"),
    ]


def share_facts(traffic, size, block, where):
    """Facts about how the work is shared: to meet the keys of all ranks, a rank must get something from each.

    The news, in blocks of float32 that each of four ranks sends, and some tenth less: 6 where keys and values go round in one
    direction, or queries and sums; 4 where whole blocks go in both, of which each rank sends its own twice; 3 where the values stay at
    home; 2 where a rank sends its own keys and values over and over; 0 where it sends zeros.
    """
    got = received(traffic, size)
    news = sum(message.news for message in traffic if message.operation == "send") / (size * block * 4)
    return [
        (
            min(got) >= (size - 1) * block,
            f"a rank gets less than a block from each other rank in {where}: the ranks should share the work",
        ),
        (
            news >= 1,
            f"what goes round the ring in {where} is filler, such as zeros; it should be blocks of keys and values, or queries and their sums",
        ),
        (
            news >= 2.3,
            f"a rank sends little but its own block in {where}; it should hand on the blocks that come to it",
        ),
    ]
