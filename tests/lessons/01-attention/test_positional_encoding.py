"""Hidden tests of positional_encoding.

Truth is worked out in float64 by `waves`, a column at a time, and by `slopes`, "every second slope of twice as many
heads" as in the authors' code. The codes are fixed, so sizes vary where other suites draw numbers. What is built on the
code, the sum or the bias is compared with the student's own, right or wrong: these have tests of their own.
"""

import pytest
import torch

from shared import (
    MANNERS,
    dropout_facts,
    dtype_of,
    each,
    is_own,
    is_right,
    like_own,
    nearly,
    on_inputs,
    randn,
)

ENCODING = pytest.mark.question("PositionalEncoding")
LEARNED = pytest.mark.question("LearnedPositionalEmbedding")
RELATIVE = pytest.mark.question("relative_positional_encoding")
ALIBI = pytest.mark.question("alibi_bias")


# -------------------------------------------------------------------------------- the truth


def waves(position, d_model, power=None, base=10000.0, sine=lambda j: j % 2 == 0):
    """Sinusoidal codes of positions of any shape: (..., D) float64. Column j turns at base^-power(j)."""
    j = torch.arange(d_model)
    exponent = (j - j % 2).double() / d_model if power is None else power(j.double())
    angle = position.double()[..., None] / base**exponent
    return torch.where(sine(j), angle.sin(), angle.cos())


def with_last_column(position, D, column):
    """The codes with another last column, a function of its angles: for an odd D."""
    last = position.double() / 10000 ** ((D - 1) / D)
    return torch.cat([waves(position, D)[..., :-1], column(last)[..., None]], dim=-1)


WAVE_MISTAKES = {  # what students make of the codes of positions: sentence -> a function of (position, D)
    "the last column of an odd D is left empty; it should be a sine": lambda position, D: with_last_column(
        position, D, torch.zeros_like
    ),
    "the last column of an odd D is a cosine; it should be a sine": lambda position, D: with_last_column(
        position, D, torch.cos
    ),
    "sines fill the first half of the columns and cosines the second; they should alternate": lambda position, D: waves(
        position, D, lambda j: 2 * (j % ((D + 1) // 2)) / D, sine=lambda j: j < (D + 1) // 2
    ),
    "sine and cosine are swapped; even columns should be sines": lambda position, D: waves(
        position, D, sine=lambda j: j % 2 == 1
    ),
    "all columns are sines; odd columns should be cosines": lambda position, D: waves(
        position, D, sine=lambda j: j >= 0
    ),
    "the exponent is i / D; it should be 2i / D": lambda position, D: waves(position, D, lambda j: (j // 2) / D),
    "the exponent is 4i / D, with the factor 2 twice; it should be 2i / D": lambda position, D: waves(
        position, D, lambda j: 4 * (j // 2) / D
    ),
    "a sine and its cosine have different frequencies; they should share 10000^(-2i / D)": lambda position, D: waves(
        position, D, lambda j: j / D
    ),
    "the exponent is 2j / D for column j; the two columns of a pair should share 10000^(-2i / D)": lambda position, D: (
        waves(position, D, lambda j: 2 * j / D)
    ),
    "positions are multiplied by 10000^(2i / D); they should be divided by it": lambda position, D: waves(
        position, D, lambda j: -2 * (j // 2) / D
    ),
    "the frequencies are spread over D / 2 - 1 steps; the exponent should be 2i / D": lambda position, D: waves(
        position, D, lambda j: (j // 2) / (D // 2 - 1)
    ),
    "positions are counted from 1; the first should be position 0": lambda position, D: waves(position + 1, D),
    "the exponent divides by D + 1 where D is odd": lambda position, D: waves(
        position, D, lambda j: 2 * (j // 2) / (D + 1)
    ),
    "the exponent divides by D - 1 where D is odd": lambda position, D: waves(
        position, D, lambda j: 2 * (j // 2) / (D - 1)
    ),
    "the base is 1000; it should be 10000": lambda position, D: waves(position, D, base=1000.0),
    "the base is 100000; it should be 10000": lambda position, D: waves(position, D, base=100000.0),
    "all columns turn at the same speed; each pair should have its own frequency": lambda position, D: waves(
        position, D, base=1.0
    ),
}


def own(table, max_len, D):
    """The layer's own table (max_len, D), right or wrong: what is in it is for other tests to say."""
    if isinstance(table, torch.Tensor) and table.shape == (1, max_len, D) and table.is_floating_point():
        return table[0].double()
    return waves(torch.arange(max_len), D)


def own_waves(table):
    """The waves of the student's own table for an even D: `waves`, or those of a known mistake, which has its own test."""
    if not isinstance(table, torch.Tensor) or table.dim() < 2:
        return waves
    D, rows = table.shape[-1], flat(table)
    made = on_inputs(WAVE_MISTAKES, torch.arange(len(rows)), D)
    right = nearly(rows, waves(torch.arange(len(rows)), D), 1e-4)
    return next((WAVE_MISTAKES[it] for it in made if not right and nearly(rows, made[it](), 1e-4)), waves)


def flat(table):
    """The rows of a table, whose shape and dtype are the subject of one test only; what is none comes back as it is."""
    fits = isinstance(table, torch.Tensor) and table.is_floating_point() and table.dim() >= 2
    return table.reshape(-1, table.shape[-1]).float() if fits else table


def slopes(heads):
    """ALiBi's slopes in the order of the authors' code."""
    p = max(n for n in (1, 2, 4, 8, 16, 32) if n <= heads)
    of_power = [256.0 ** (-i / p) for i in range(1, p + 1)]
    return of_power + [256.0 ** (-i / (2 * p)) for i in range(1, 2 * p + 1)][0::2][: heads - p]


def bias(slope, length, future=-torch.inf):
    """-slope · (i - j) for a list of slopes, with the future replaced, or left as it is for None."""
    position = torch.arange(length, dtype=torch.float64)
    back = position[:, None] - position
    value = -torch.tensor(slope, dtype=torch.float64)[:, None, None] * back
    return value if future is None else value.masked_fill(back < 0, future)


# -------------------------------------------------------------------------------- PositionalEncoding


def table_of(d_model, max_len):
    """A probe: the layer's table."""
    from positional_encoding import PositionalEncoding

    return PositionalEncoding(d_model, max_len).pe


@ENCODING
@pytest.mark.points(3)
@pytest.mark.parametrize(("d_model", "max_len"), [(6, 11), (16, 9), (2, 5), (4, 1)])
def test_the_table_alternates_sines_and_cosines(student, check, d_model, max_len):
    """pe has sines in its even columns and cosines in its odd ones, at the paper's frequencies."""
    table = student.run(table_of, d_model, max_len)

    position = torch.arange(max_len)
    mistakes = {
        "pe lacks its batch dimension; its shape should be (1, max_len, D)": waves(position, d_model),
        "pe has its batch dimension second; its shape should be (1, max_len, D)": waves(position, d_model)[:, None],
    }
    truth = waves(position, d_model)[None]
    check(
        table,
        truth,
        dtype=torch.float32,
        within=1e-5,
        mistakes=mistakes | each(on_inputs(WAVE_MISTAKES, position, d_model), lambda code: code[None]),
    )


@ENCODING
@pytest.mark.points(1)
@pytest.mark.parametrize("d_model", [1, 5, 7])  # with 3 columns a base of 1000 looks like a division by D + 1
def test_an_odd_d_model_ends_with_a_sine(student, check, d_model):
    """d_model may be odd: the last column is then a sine."""

    def probe(d_model):
        from positional_encoding import PositionalEncoding

        layer, even = PositionalEncoding(d_model, 10).eval(), PositionalEncoding(6, 10).eval()
        return layer.pe, layer(torch.zeros(2, 8, d_model)), even.pe, even(torch.zeros(2, 8, 6))

    table, encoded, even_table, even_encoded = student.run(probe, d_model)

    position, code = torch.arange(10), own_waves(even_table)
    check(
        flat(table),
        code(position, d_model),
        dtype=torch.float32,
        within=1e-5,
        mistakes=on_inputs(WAVE_MISTAKES, position, d_model),
    )
    if is_right(even_encoded, own(even_table, 10, 6)[:8].expand(2, 8, -1)):
        check(encoded, own(table, 10, d_model)[:8].expand(2, 8, -1), dtype=torch.float32, within=1e-5)


@ENCODING
@pytest.mark.points(2)
def test_far_positions_are_as_right_as_near_ones(student, check):
    """The table is right to 1e-5 up to its last position, the 5000th by default."""

    def probe():
        from positional_encoding import PositionalEncoding

        return PositionalEncoding(16).pe, PositionalEncoding(16, 20).pe

    table, short = student.run(probe)

    table, truth = flat(table), own_waves(short)(torch.arange(5000), 16)
    near = slice(0, 50)  # where rounded angles are still good enough: what is wrong here is another mistake
    check(table[near], truth[near], dtype=torch.float32, within=1e-5)
    check(table, truth, dtype=torch.float32, within=0.02)  # rounding does no more
    rounded = "the angles of far positions are not exact enough: work them out in float64"
    check(table, truth, dtype=torch.float32, within=1e-5, otherwise=rounded)


@ENCODING
@pytest.mark.points(2)
def test_the_table_is_a_buffer(student, check):
    """pe is saved with the state, moves with the layer, and is not a parameter."""

    def probe(other):
        from positional_encoding import PositionalEncoding

        layer, x = PositionalEncoding(4, 6).eval(), torch.ones(1, 3, 4)
        is_saved, is_trained = "pe" in layer.state_dict(), len(list(layer.parameters())) > 0
        table, before = layer.pe.clone(), layer(x.clone())
        layer.pe.data.copy_(other.view_as(layer.pe))
        encoded = layer(x.clone())
        return is_trained, layer.to("meta").pe.device.type, is_saved, table, before, encoded

    other = torch.arange(24.0).view(1, 6, 4)
    is_trained, moved_to, is_saved, table, before, encoded = student.run(probe, other)

    check.that(not is_trained, "pe is a parameter, which an optimizer would change; it should be a buffer")
    check(moved_to, "meta", mistakes={"pe does not move with the layer: register it as a buffer": "cpu"})
    check.that(is_saved, "pe is not saved with the state; it should be a persistent buffer")
    again = "forward works the code out again; it should add what the buffer pe holds"
    check.that(not torch.equal(encoded, before), again)
    if is_right(before, 1 + own(table, 6, 4)[None, :3]):  # how it is added is for other tests to say
        check(encoded, 1 + other[:, :3])


@ENCODING
@pytest.mark.points(3)
@pytest.mark.parametrize(("B", "T", "D", "max_len"), [(3, 5, 6, 9), (1, 4, 6, 4), (2, 1, 8, 3), (4, 2, 10, 70)])
def test_forward_adds_the_first_rows(student, check, rng, B, T, D, max_len):
    """forward adds row t of the table to the vector at place t, in every sequence of the batch."""

    def probe(x, max_len):
        from positional_encoding import PositionalEncoding

        layer = PositionalEncoding(d_model=x.shape[-1], max_len=max_len)
        layer(x[:, :1].bfloat16())
        return layer(x), layer.eval()(x), layer.pe

    x = randn(rng, B, T, D)
    encoded, in_eval_mode, table = student.run(probe, x, max_len)

    pe = own(table, max_len, D)
    check(encoded, x + pe[:T], dtype=torch.float32, within=1e-5, mistakes={
        "only the code is returned; it should be added to x": pe[:T].expand(B, T, D),
        "x comes back without the code": x,
        "x is multiplied by the code; the code should be added": x * pe[:T],
        "the code is subtracted; it should be added": x - pe[:T],
        "x is scaled by sqrt(D); the embedding layer should do that": x * D**0.5 + pe[:T],
        "the positions are counted along the batch; they should be counted along the second dimension of x": lambda: x + pe[:B][:, None],
        "every place gets the code of position 0": x + pe[:1],
        "the last rows of the table are added; the first T should be": x + pe[-T:],
        "the codes begin at position 1": lambda: x + pe[1 : T + 1],
    })  # fmt: skip
    check(in_eval_mode, encoded, otherwise="without dropout, eval mode differs from train mode")


@ENCODING
@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_result_has_the_dtype_of_x(student, check, rng, dtype):
    """The sum has the dtype of x, though the table is float32."""

    def probe(x):
        from positional_encoding import PositionalEncoding

        layer = PositionalEncoding(6, 9).eval()
        return layer(x), layer(x.float()), layer.pe

    x = randn(rng, 2, 5, 6, dtype=torch.float64).to(dtype)
    encoded, plain, table = student.run(probe, x)

    named = dtype_of(encoded)
    check(named, dtype, mistakes={"the result is float32 whatever x is; it should have the dtype of x": torch.float32})
    precision = {"within": 1e-5} if dtype == torch.float64 else {"terms": 1}
    check(encoded, like_own(plain, x.double() + own(table, 9, 6)[:5]), dtype=dtype, **precision)


@ENCODING
@pytest.mark.points(1)
@pytest.mark.parametrize("max_len", [1, 7])
def test_a_sequence_longer_than_the_table_is_refused(student, max_len):
    """T > max_len is a ValueError that names max_len."""

    def probe(max_len, length):
        from positional_encoding import PositionalEncoding

        PositionalEncoding(4, max_len)(torch.zeros(1, length, 4))

    student.accepts(probe, max_len, max_len)
    student.raises(ValueError, probe, max_len, max_len + 1, says=("max_len", "x", max_len + 1, max_len))


@ENCODING
@pytest.mark.points(1)
def test_the_encoding_is_dropped_out_in_train_mode_only(student, check, rng):
    """Dropout is off in eval mode, follows the seed in train mode, and is off by default."""

    def probe(x):
        from positional_encoding import PositionalEncoding

        layer = PositionalEncoding(8, 20, dropout=0.5)
        return [*inside.dropout_runs(layer, x), PositionalEncoding(8, 20)(x.clone())]

    x = randn(rng, 4, 9, 8)
    *runs, by_default = student.run(probe, x)

    for fact in dropout_facts(runs):  # 288 numbers at a rate of 0.5
        check.that(*fact)
    check.that(torch.equal(by_default, runs[3][0]), "dropout is active by default; the default should be 0.0")


@ENCODING
@pytest.mark.points(1)
def test_the_encoding_leaves_its_input_alone_and_lets_gradients_through(student, check, rng):
    """forward does not change x in place, and the gradient reaches x as it is."""

    def probe(x, cotangent):
        from positional_encoding import PositionalEncoding

        result, (after,), rude = inside.manners(lambda x: PositionalEncoding(6, 9).eval()(x), x)
        leaf = x.clone().requires_grad_()
        layer = PositionalEncoding(6, 9).eval()
        gradient = inside.gradients(layer(leaf), [leaf], [cotangent])[0]
        return after, result, rude, gradient, layer(x.clone()), layer.pe

    x, cotangent = randn(rng, 2, 3, 5, 6)
    after, encoded, rude, gradient, plain, table = student.run(probe, x, cotangent)

    truth = x + own(table, 9, 6)[:5]
    check(after, x, otherwise="x is changed in place")
    check(encoded, like_own(plain, truth), dtype=torch.float32, within=1e-5)
    check(rude, "", mistakes=MANNERS)
    none = torch.zeros_like(x)
    expected = (
        cotangent if is_right(plain, truth) or nearly(gradient, none) else gradient
    )  # of another sum it is another
    check(gradient, expected, mistakes={"no gradient reaches x": none})


@ENCODING
@pytest.mark.gpu
@pytest.mark.points(1)
@pytest.mark.needs("test_the_result_has_the_dtype_of_x")
def test_positions_on_the_gpu(student, check, rng, device):
    """On a GPU, in bfloat16, the fixed and the learned positions are added there."""

    def probe(x):
        from positional_encoding import LearnedPositionalEmbedding, PositionalEncoding

        learned = LearnedPositionalEmbedding(6, 9).to(x.device)
        return PositionalEncoding(6, 9).to(x.device)(x), learned(x), learned.embedding.weight.data

    x = randn(rng, 2, 5, 6).bfloat16()
    encoded, embedded, weight = student.run(probe, x)

    check(encoded, x.double() + waves(torch.arange(5), 6), dtype=torch.bfloat16, terms=1)
    check(embedded, x.double() + weight[:5].double().cpu(), dtype=torch.bfloat16, terms=1)


# -------------------------------------------------------------------------------- LearnedPositionalEmbedding


def added(x, weight):
    """x (B, T, D) and the first T rows of a table, where it has them and they fit: else x."""
    fits = isinstance(weight, torch.Tensor) and weight.dim() == 2 and weight.shape[1] == x.shape[2] <= len(weight)
    return x.double() + (weight[: x.shape[1]].double() if fits else 0)


@LEARNED
@pytest.mark.points(3)
@pytest.mark.parametrize(("B", "T", "D", "max_len"), [(3, 5, 6, 9), (1, 4, 6, 4), (2, 1, 4, 8), (5, 3, 7, 70)])
def test_learned_vectors_are_added_by_position(student, check, rng, B, T, D, max_len):
    """forward adds row t of the embedding to the vector at place t, in every sequence of the batch."""

    def probe(x, weight):
        from positional_encoding import LearnedPositionalEmbedding

        def make_and_use(x):
            layer = LearnedPositionalEmbedding(d_model=weight.shape[1], max_len=weight.shape[0])
            layer(x[:, :1].clone())  # of which the next calls must know nothing
            layer.embedding.weight.data.copy_(weight)
            return layer(x), layer.eval()(x.clone())

        shape = list(LearnedPositionalEmbedding(weight.shape[1], weight.shape[0]).embedding.weight.shape)
        if shape != list(weight.shape):
            return shape, (None, None), None, ""
        result, (after,), rude = inside.manners(make_and_use, x)
        return shape, result, after, rude

    x, weight = randn(rng, B, T, D), randn(rng, max_len, D)
    shape, (encoded, in_eval_mode), after, rude = student.run(probe, x, weight)

    swapped = "embedding has d_model rows of max_len numbers; it should have a row of d_model numbers for each position"
    check(shape, [max_len, D], mistakes={swapped: [D, max_len]})
    check(encoded, x + weight[:T], mistakes={
        "only the embedding is returned; it should be added to x": weight[:T].expand(B, T, D),
        "only the embedding is returned, without the batch; it should be added to x": weight[:T],
        "x comes back without the embedding": x,
        "the positions are counted along the batch; they should be counted along the second dimension of x": lambda: x + weight[:B][:, None],
        "every place gets the embedding of position 0": x + weight[:1],
        "positions are counted from 1; the first should be position 0": lambda: x + weight[1 : T + 1],
        "positions are counted from the end of the sequence": x + weight[:T].flip(0),
        "the last rows of the table are used; the first T should be": x + weight[-T:],
        "x is multiplied by the embedding; the embedding should be added": x * weight[:T],
        "x is scaled by sqrt(D); the embedding layer should do that": x * D**0.5 + weight[:T],
    })  # fmt: skip
    check(after, x, otherwise="x is changed in place")
    check(in_eval_mode, encoded, otherwise="eval mode differs from train mode")
    check(rude, "", mistakes=MANNERS)


@LEARNED
@pytest.mark.points(1)
def test_learned_positions_are_trained(student, check, rng):
    """Each position that was used gets the sum of the gradients at its place, the others none."""

    def probe(x, cotangent):
        from positional_encoding import LearnedPositionalEmbedding

        layer, leaf = LearnedPositionalEmbedding(6, 9), x.clone().requires_grad_()
        weight = layer.embedding.weight
        is_parameter = any(parameter is weight for parameter in layer.parameters())
        is_free, plain = weight.requires_grad, layer.eval()(x.clone())
        found = inside.gradients(layer.eval()(leaf), [leaf, weight.requires_grad_()], [cotangent])
        return is_parameter, is_free, plain, weight.data, *found

    x, cotangent = randn(rng, 2, 3, 5, 6)
    is_parameter, wants_a_gradient, plain, weight, of_x, of_weight = student.run(probe, x, cotangent)

    check.that(is_parameter, "the embedding is not a parameter of the layer: it would never be trained")
    check.that(wants_a_gradient, "the embedding is frozen: it would never be trained")
    never = "no gradient reaches the embedding: it would never be trained"
    check.that(bool(of_weight.any()), never)
    if is_right(plain, added(x, weight)):  # of another sum, which has its own test, the gradients are others
        check(of_x, cotangent, mistakes={"no gradient reaches x": torch.zeros_like(x)})
        check(
            of_weight,
            torch.cat([cotangent.double().sum(0), torch.zeros(4, 6, dtype=torch.float64)]),
            dtype=torch.float32,
        )


@LEARNED
@pytest.mark.points(1)
@pytest.mark.parametrize("max_len", [1, 7])
def test_a_sequence_longer_than_the_learned_table_is_refused(student, max_len):
    """T > max_len is a ValueError that names max_len."""

    def probe(max_len, length):
        from positional_encoding import LearnedPositionalEmbedding

        LearnedPositionalEmbedding(4, max_len)(torch.zeros(1, length, 4))

    student.accepts(probe, max_len, max_len)
    student.raises(ValueError, probe, max_len, max_len + 1, says=("max_len", "x", max_len + 1, max_len))


@LEARNED
@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_learned_sum_has_the_dtype_of_x(student, check, rng, dtype):
    """The sum has the dtype of x, though the embedding is float32."""

    def probe(x):
        from positional_encoding import LearnedPositionalEmbedding

        layer = LearnedPositionalEmbedding(6, 9).eval()
        return layer.embedding.weight.data, layer(x), layer(x.float())

    x = randn(rng, 2, 5, 6, dtype=torch.float64).to(dtype)
    weight, encoded, plain = student.run(probe, x)

    named = dtype_of(encoded)
    check(named, dtype, mistakes={"the result is float32 whatever x is; it should have the dtype of x": torch.float32})
    truth = added(x, weight)
    expected = like_own(plain, truth)
    precision = {"terms": 64 if dtype == torch.float64 else 1} if expected is truth else {"relative": 0.02}
    check(encoded, expected, dtype=dtype, **precision)


# -------------------------------------------------------------------------------- relative_positional_encoding


def own_codes():
    """A probe: the layer's table, or None where there is none, which other tests say."""
    try:
        from positional_encoding import PositionalEncoding

        return PositionalEncoding(8, 20).pe.detach()
    except Exception:
        return None


@RELATIVE
@pytest.mark.points(3)
@pytest.mark.parametrize(("T", "D", "m"), [(7, 6, 2), (4, 8, 9), (5, 3, 1), (1, 4, 2), (40, 4, None)])
def test_each_pair_gets_the_code_of_its_distance(student, check, T, D, m):
    """[i, j] is the sinusoidal code of the distance j - i, clipped to m and shifted by m; m is 32 by default."""
    code = student.call("positional_encoding.relative_positional_encoding", T, D, *([] if m is None else [m]))

    m = 32 if m is None else m
    i, j = torch.arange(T)[:, None], torch.arange(T)
    place = (j - i).clamp(-m, m) + m
    truth = waves(place, D)
    if not is_right(code, truth):
        truth = own_waves(student.run(own_codes))(place, D)
    check(code, truth, dtype=torch.float32, mistakes={
        "the distance is i - j; it should be j - i": waves((i - j).clamp(-m, m) + m, D),
        "distances are not clipped to max_relative_position": waves(j - i + m, D),
        "distances are not clipped, and shifted by seq_len - 1": waves(j - i + T - 1, D),
        "the clipped distance is not shifted by max_relative_position": waves(place - m, D),
        "distances are neither clipped nor shifted": waves(j - i, D),
        "the distance is not shifted by m, so that negative indices count from the end": waves((place - m) % (2 * m + 1), D),
        "the sign of the distance is lost": waves((j - i).abs().clamp(max=m), D),
        "the sign of the distance is lost before it is shifted": waves((j - i).abs().clamp(max=m) + m, D),
        "distances are clipped to 0..m; the past should have negative ones": waves((j - i).clamp(0, m), D),
        "the shifted distance is clipped to 0..m; it should reach 2m": waves((j - i + m).clamp(0, m), D),
        "distances are clipped to -m..m - 1; m itself should be a distance too": waves((j - i).clamp(-m, m - 1) + m, D),
        "distances are clipped to -(m - 1)..m - 1": waves((j - i).clamp(1 - m, m - 1) + m - 1, D),
        "max_relative_position is ignored": waves((j - i).clamp(-32, 32) + 32, D),
        "the distance is shifted by seq_len - 1; it should be shifted by max_relative_position": waves(place - m + T - 1, D),
        "the code is that of the key's position alone": waves(j.expand(T, T), D),
        "one code per position is returned; there should be one per pair of positions": waves(torch.arange(T), D),
        "one code per distance is returned; there should be one per pair of positions": waves(torch.arange(2 * m + 1), D),
    } | on_inputs(WAVE_MISTAKES, place, D))  # fmt: skip


@RELATIVE
@pytest.mark.points(1)
def test_relative_codes_have_the_default_dtype(student, check):
    """The codes have torch's default dtype, and nothing global is changed."""

    def probe():
        from positional_encoding import relative_positional_encoding

        _, _, rude = inside.manners(relative_positional_encoding, 3, 4, 2)
        plain = inside.a_tensor(relative_positional_encoding(5, 6, 2))
        torch.set_default_dtype(torch.float64)
        code = relative_positional_encoding(seq_len=5, d_model=6, max_relative_position=2)
        torch.set_default_dtype(torch.float32)
        return rude, code, plain

    rude, code, plain = student.run(probe)

    dtype = dtype_of(code)
    check(dtype, torch.float64, mistakes={"the result is float32 whatever the default dtype is": torch.float32})
    check(code, plain.double(), within=1e-5)  # its own: whether that is right is for other tests to say
    check(rude, "", mistakes=MANNERS)


# -------------------------------------------------------------------------------- alibi_bias


BIAS_MISTAKES = {  # what students make of the biases: sentence -> a function of (the right slopes, T)
    "the future is not masked; the bias should be -inf above the diagonal": lambda slope, T: bias(slope, T, None),
    "the future gets -slope · |i - j|; it should get -inf": lambda slope, T: -bias(slope, T, None).abs(),
    "the future gets no bias; it should get -inf": lambda slope, T: bias(slope, T, 0.0),
    "the future gets a large negative number; it should get -inf": lambda slope, T: bias(slope, T, -1e9),
    "the future gets the smallest float; it should get -inf": lambda slope, T: bias(
        slope, T, torch.finfo(torch.float32).min
    ),
    "the sign is wrong; a key far back should get a penalty, not a bonus": lambda slope, T: bias(
        [-s for s in slope], T
    ),
    "the past is masked; the future should be masked": lambda slope, T: (-bias(slope, T, None)).masked_fill(
        bias(slope, T, None) < 0, -torch.inf
    ),
    "the diagonal is masked too; a position should see itself": lambda slope, T: bias(slope, T).masked_fill(
        bias(slope, T) == 0, -torch.inf
    ),
    "the bias is that of the key's position, slope · j; it should be -slope · (i - j)": lambda slope, T: (
        bias(slope, T, None) - bias(slope, T, None)[..., :1]
    ).masked_fill(bias(slope, T).isinf(), -torch.inf),
    "the heads are missing; the shape should be (H, T, T)": lambda slope, T: bias(slope[:1], T)[0],
}
SLOPE_MISTAKES = {  # and of the slopes of H heads: sentence -> a function of (the right slopes, p, H)
    "all heads have the same slope": lambda right, p, H: [right[0]] * H,
    "the slopes begin at i = 0; the first should be 2^(-8 / p)": lambda right, p, H: [
        2.0 ** (-8 * i / p) for i in range(H)
    ],
    "the slopes are 2^-i; they should go from 2^(-8 / p) to 2^-8": lambda right, p, H: [
        2.0**-i for i in range(1, H + 1)
    ],
    "the slopes are 2^(-8i / H) although H is not a power of two": lambda right, p, H: [
        2.0 ** (-8 * i / H) for i in range(1, H + 1)
    ],
    "the slopes are 2^(-8i / p) with the power of two above H": lambda right, p, H: [
        2.0 ** (-4 * i / p) for i in range(1, H + 1)
    ],
    "the slopes beyond p go on with 2^(-8i / p)": lambda right, p, H: [2.0 ** (-8 * i / p) for i in range(1, H + 1)],
    "the slopes beyond p repeat the first ones": lambda right, p, H: (right[:p] * 2)[:H],
    "the slopes beyond p take every slope of 2p heads; they should take every second one": lambda right, p, H: (
        right[:p] + [2.0 ** (-4 * i / p) for i in range(1, H - p + 1)]
    ),
    "the slopes are sorted; those beyond p should come after the first p": lambda right, p, H: sorted(
        right, reverse=True
    ),
    "the slopes beyond p come first; they should come after the first p": lambda right, p, H: right[p:] + right[:p],
    "the slopes are in the wrong order; the first head should have the steepest": lambda right, p, H: (
        right[:p][::-1] + right[p:]
    ),
}


def bias_mistakes(heads, length):
    right, p = slopes(heads), 1 << heads.bit_length() - 1
    of_slopes = each(on_inputs(SLOPE_MISTAKES, right, p, heads), lambda wrong: bias(wrong, length))
    return on_inputs(BIAS_MISTAKES, right, length) | of_slopes


@ALIBI
@pytest.mark.points(2)
@pytest.mark.parametrize(("heads", "length"), [(8, 5), (4, 6), (2, 3), (1, 4), (16, 1), (32, 3)])
def test_the_penalty_grows_with_the_distance(student, check, heads, length):
    """The bias is -slope · (i - j) for the past and -inf for the future, for a power of two of heads."""
    value = student.call("positional_encoding.alibi_bias", heads, length)

    check(value, bias(slopes(heads), length), dtype=torch.float32, mistakes=bias_mistakes(heads, length))


@ALIBI
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("heads", "length"), [(20, 3), (3, 4), (6, 5), (7, 3), (12, 4)]
)  # with 20 no two mistakes agree
def test_slopes_of_other_numbers_of_heads_lie_in_between(student, check, heads, length):
    """Where H is not a power of two, the slopes beyond p follow after the first p and are between them."""
    value = student.call("positional_encoding.alibi_bias", heads, length)

    p = 1 << heads.bit_length() - 1
    truth = bias(slopes(heads), length)
    if not is_right(value, truth):  # its own biases of p and of 2p heads may be wrong already
        of_p, of_2p = (student.call("positional_encoding.alibi_bias", n, length) for n in (p, 2 * p))
        if all(is_own(own, bias(slopes(n), length)) for own, n in ((of_p, p), (of_2p, 2 * p))):
            truth = torch.cat([of_p, of_2p[0::2][: heads - p]]).double()
    check(value, truth, dtype=torch.float32, mistakes=bias_mistakes(heads, length))


@ALIBI
@pytest.mark.points(1)
def test_the_bias_has_the_default_dtype(student, check):
    """The bias has torch's default dtype, and nothing global is changed."""

    def probe():
        from positional_encoding import alibi_bias

        _, _, rude = inside.manners(alibi_bias, 2, 3)
        plain = inside.a_tensor(alibi_bias(6, 4))
        torch.set_default_dtype(torch.float64)
        value = alibi_bias(num_heads=6, seq_len=4)
        torch.set_default_dtype(torch.float32)
        return rude, value, plain

    rude, value, plain = student.run(probe)

    dtype = dtype_of(value)
    check(dtype, torch.float64, mistakes={"the result is float32 whatever the default dtype is": torch.float32})
    check(value, plain.double(), within=1e-5)  # its own: whether that is right is for other tests to say
    check(rude, "", mistakes=MANNERS)
