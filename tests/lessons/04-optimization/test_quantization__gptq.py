"""Hidden tests of quantization: gptq_quantize and int8_linear.

Rows of a weight are rounded alone, so GPTQ is tested on those rows that are nowhere near halfway between two integers: with
them every precision finds the same codes. What is expected comes from solving for the best change of the columns that are
left, not from a Cholesky factor.
"""

from dataclasses import dataclass

import pytest
import torch

from quantization_helpers import Absmax, conduct_of, from_codes, on_a_grid, rounded, scales_of_rows, worked_out
from shared import MANNERS, dtype_of, has_nan, nearly, randn

GPTQ = pytest.mark.question("gptq_quantize")
INT8 = pytest.mark.question("int8_linear")
BOTH = ("q", "scales")

# ---------------------------------------------------------------------------------------------- gptq_quantize


def correlated(rng, rows, width, rank=5, noise=0.3):
    """Inputs of features that go together and differ in size, with a mean that is not 0."""
    x = randn(rng, rows, rank) @ randn(rng, rank, width) / rank**0.5 + noise * randn(rng, rows, width) + 0.4
    return x * (0.5 + torch.rand(width, generator=rng))


def one_percent(H):
    return 0.01 * H.diagonal().mean()


def best_change(H, i):
    """How the columns after i change best for a change of column i by one."""
    return -torch.linalg.solve(H[i + 1 :, i + 1 :], H[i + 1 :, i])


def by_rows_of(matrix, power=1):
    """The change by the rows of a matrix made from H, divided by the diagonal's power."""
    return lambda H, i: matrix(H)[i, i + 1 :] / matrix(H)[i, i] ** power


def factor(H):
    return torch.linalg.cholesky(torch.linalg.inv(H), upper=True)


@dataclass(frozen=True)
class Columns:
    """gptq_quantize, worked out in float64; late: a group's scale is found when the group is reached, not from the start."""

    late: bool = True
    H: object = lambda x: x.T @ x
    damping: object = one_percent
    change: object = best_change
    error: object = lambda now, was: now
    reach: object = lambda i, width, size: width
    greatest: object = lambda bits: 2 ** (bits - 1) - 1
    codes: object = None  # bits -> the least and the greatest code, where they are not ±greatest
    clamped: bool = True

    def _steps(self, weight, inputs, bits, size):
        W, first, width = weight.double(), weight.double(), weight.shape[1]
        W = W.clone()
        H = self.H(inputs.reshape(-1, width).double())
        H = H + self.damping(H) * torch.eye(width, dtype=torch.float64)
        greatest, scales = self.greatest(bits), []
        for i in range(width):
            if i % size == 0:
                source = W if self.late else first
                scales.append((source[:, i : i + size].abs().amax(1) / greatest).to(weight.dtype))
            steps = W[:, i] / scales[-1].double()
            codes = self.codes(bits) if self.codes else (-greatest, greatest)
            q = steps.round().clamp(*codes) if self.clamped else steps.round()
            off = scales[-1].double() * q - self.error(W[:, i], first[:, i])
            if i + 1 < width:
                end = self.reach(i, width, size)
                W[:, i + 1 : end] += torch.outer(off, self.change(H, i))[:, : end - i - 1]
            yield steps, q, scales

    def __call__(self, weight, inputs, bits=4, size=None):
        found = list(self._steps(weight, inputs, bits, size or weight.shape[1]))
        q = torch.stack([q for _, q, _ in found], dim=1).to(torch.int8)
        return q, torch.stack(found[-1][2], dim=1)

    def sure(self, weight, inputs, bits, size):
        """Rows that are nowhere near halfway between two integers."""
        steps = torch.stack([steps for steps, *_ in self._steps(weight, inputs, bits, size)], dim=1)
        return (((steps - steps.floor()) - 0.5).abs() > 0.015).all(1)


def sure_rows(rng, rows, inputs, bits, size=None):
    """Some weights, those of whose rows are left that every precision and both kinds of scales round in one way."""
    size = size or inputs.shape[-1]
    weight = randn(rng, rows, inputs.shape[-1])
    sure = [Columns(late=late).sure(weight, inputs, bits, size) for late in (True, False)]
    return weight[sure[0] & sure[1]]


COLUMNS = {  # sentence -> gptq_quantize with a mistake
    "the columns are rounded to nearest, and their errors are not spread": Columns(
        change=lambda H, i: 0 * best_change(H, i)
    ),
    "the factor is that of H; it should be that of the inverse of H": Columns(
        change=by_rows_of(lambda H: torch.linalg.cholesky(H, upper=True))
    ),
    "the errors are spread by H; they should be spread by the Cholesky factor of its inverse": Columns(
        change=by_rows_of(lambda H: H)
    ),
    "the errors are spread by the inverse of H; they should be spread by its Cholesky factor": Columns(
        change=by_rows_of(torch.linalg.inv)
    ),
    "the error is not divided by U[i, i]": Columns(change=by_rows_of(factor, 0)),
    "the error is divided by U[i, i] twice": Columns(change=by_rows_of(factor, 2)),
    "the errors are added to the columns that are left; they should be subtracted": Columns(
        change=lambda H, i: -best_change(H, i)
    ),
    "the error is that of the old weight; it should be that of the column as it is when it is rounded": Columns(
        error=lambda now, was: was
    ),
    "only the next column makes up for an error; all that are left should": Columns(reach=lambda i, width, size: i + 2),
    "the diagonal of H gets nothing or too little; it should get 1 % of its mean": Columns(damping=lambda H: 0.0),
    "the diagonal of H gets all of its mean; it should get 1 % of it": Columns(damping=lambda H: H.diagonal().mean()),
    "the mean of the inputs is taken out; H should be that of the inputs as they are": Columns(
        H=lambda x: (x - x.mean(0)).T @ (x - x.mean(0))
    ),
    "bits is not used; 4 should only be its default": Columns(greatest=lambda bits: 7),
    "codes are not clamped to ±(2^(bits - 1) - 1)": Columns(clamped=False),
    "the grid has 2^bits integers, one more below 0 than above; it should be symmetric": Columns(
        greatest=lambda bits: (2**bits - 1) / 2, codes=lambda bits: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    ),
    "the scale is max |w| / 2^(bits - 1); it should be max |w| / (2^(bits - 1) - 1)": Columns(
        greatest=lambda bits: 2 ** (bits - 1)
    ),
}
IN_GROUPS = {
    "errors end with their group; they should be spread over all columns that are left": Columns(
        reach=lambda i, width, size: min(width, (i // size + 1) * size)
    ),
    "each row has one scale; each group of a row should have one": lambda w, x, bits, size: Columns()(w, x, bits),
}


def mistaken(mistakes, *inputs, **options):
    """Their values; those that depend on when scales are found, for both."""
    return {sentence: lambda wrong=wrong: [wrong(*inputs, **options)] for sentence, wrong in mistakes.items()}


@GPTQ
@pytest.mark.points(3)
@pytest.mark.parametrize(("width", "bits", "count"), [(16, 4, 200), (12, 3, 200), (5, 8, 200), (2, 2, 200), (9, 4, 9)])
def test_each_column_makes_up_for_those_before_it(student, check, rng, width, bits, count):
    """Codes and scales with one group a row, column by column; scale · q is as in quantize_groupwise."""
    inputs = correlated(rng, count, width)
    weight = sure_rows(rng, 120, inputs, bits)
    truth = Columns()(weight, inputs, bits)

    call = (weight, inputs) if bits == 4 else (weight, inputs, bits)
    found = worked_out(student, "gptq_quantize", [call], [truth])

    check(found, [truth], mistakes=mistaken(COLUMNS, weight, inputs, bits))


@GPTQ
@pytest.mark.points(2)
@pytest.mark.parametrize(("width", "size"), [(15, 5), (14, 6), (6, 8), (4, 1)])
def test_groups_have_scales_of_their_own_and_share_errors(student, check, rng, width, size):
    """Scales of the weights as they are or as they are when their group is reached; the last group may be short."""
    inputs = correlated(rng, 150, width)
    weight = sure_rows(rng, 160, inputs, 4, size)
    late, early = (Columns(late=late)(weight, inputs, 4, size) for late in (True, False))

    found = worked_out(student, "gptq_quantize", [(weight, inputs, 4, size)], [late])

    as_they_are = isinstance(found[0], (tuple, list)) and len(found[0]) == 2 and nearly(found[0][1:], early[1:], 1e-4)
    truth = early if as_they_are else late
    check(found, [truth], mistakes={
        "the scales are (groups, out); they should be (out, groups)": [(truth[0], truth[1].T)],
    } | mistaken(IN_GROUPS | COLUMNS, weight, inputs, 4, size))  # fmt: skip


@GPTQ
@pytest.mark.points(2)
@pytest.mark.parametrize(("bits", "size", "rows"), [(4, None, 300), (3, 16, 300), (2, 20, 60), (4, None, 20)])
def test_the_output_is_nearer_than_with_rounding_to_nearest(student, check, rng, bits, size, rows):
    """On correlated inputs, also where there are fewer of them than features, and one that is 0 in all. All is finite."""
    weight, inputs = randn(rng, 40, 48), correlated(rng, rows, 48, rank=4, noise=0.1)
    inputs[:, 5] = 0
    truth = Columns()(weight, inputs, bits, size)

    ((q, scales),) = worked_out(student, "gptq_quantize", [(weight, inputs.view(2, -1, 48), bits, size)], [truth])

    check((dtype_of(q), dtype_of(scales)), (torch.int8, torch.float32), names=BOTH)
    check(
        (list(q.shape), list(scales.shape)), ([40, 48], list(truth[1].shape)), names=("shape of q", "shape of scales")
    )
    check.that(bool(scales.isfinite().all()), "some scales are not finite")
    x = inputs.double()
    errors = [
        float(((weight.double() - new) @ x.T).norm())
        for new in (from_codes(q, scales, size or 48), rounded(weight, bits, size))
    ]
    check.that(errors[0] < 0.9 * errors[1], "the error of the output is not lower than with rounding to nearest")


@GPTQ
@pytest.mark.points(1)
def test_gptq_leaves_weight_and_inputs_as_they_are(student, check, rng):
    """In float32 and float64, of any layout; inputs may have any number of dimensions. Scales have the dtype of weight."""
    inputs = correlated(rng, 60, 8)
    for dtype in (torch.float32, torch.float64):
        weight = sure_rows(rng, 30, inputs, 4).to(dtype)
        whole = student.call("quantization.gptq_quantize", weight, inputs.to(dtype))
        parts = student.call("quantization.gptq_quantize", weight, inputs.to(dtype).view(3, 4, 5, 8))

        _, scales = whole
        check(dtype_of(scales), dtype, what="the scales", otherwise="scales do not have the dtype of weight")
        check(parts, whole, names=BOTH, otherwise="inputs of more dimensions give something else than their rows")
        one, alone = (student.call("quantization.gptq_quantize", weight, x.to(dtype)) for x in (inputs[:1], inputs[0]))
        _, _ = one  # two, as what is compared with it
        check(alone, one, names=BOTH, otherwise="one input, of shape (in,), gives something else than (1, in)")
        same, rude = conduct_of(student, "gptq_quantize", weight, inputs.to(dtype).view(3, 4, 5, 8))
        check.that(same, f"weight or inputs of {str(dtype)[6:]} are changed")
        check(rude, "", mistakes=MANNERS)


@GPTQ
@pytest.mark.points(1)
def test_gptq_of_a_row_of_zeros(student, check, rng):
    """A row of zeros stays zeros, with a finite scale."""
    inputs = correlated(rng, 60, 8)
    weight = sure_rows(rng, 30, inputs, 4)
    weight[1] = 0

    ((q, scales),) = worked_out(
        student, "gptq_quantize", [(weight, inputs)], [Columns()(weight + 1e-20 * (weight == 0), inputs)]
    )

    check.that(bool(scales.isfinite().all()), "the scale of a row of zeros is not finite")
    check(q[1], torch.zeros(8, dtype=torch.int8), otherwise="a row of zeros does not stay zeros")


@GPTQ
@pytest.mark.points(1)
def test_gptq_refuses_what_does_not_fit(student):
    """bits outside 2..8, a group_size below 1 and inputs of another width are a ValueError."""
    weight, inputs = torch.ones(2, 6), torch.eye(9, 6)
    name = "quantization.gptq_quantize"
    for bits, size in ((8, None), (2, None), (4, 1)):
        student.accepts(name, weight, inputs, bits, size)
    student.raises(ValueError, name, weight, inputs, 9, says=("bits", 9))
    student.raises(ValueError, name, weight, inputs, 1, says=("bits", 1))
    student.raises(ValueError, name, weight, inputs, 4, 0, says=("group_size", 0))
    for wrong in ((9, 5), (6, 9)):
        student.raises(ValueError, name, weight, torch.ones(wrong), says=("inputs", "input", "features", wrong[1]))


# ---------------------------------------------------------------------------------------------- int8_linear


def reached(rows, threshold):
    return (rows.abs() >= threshold).any(0)


@dataclass(frozen=True)
class Int8:
    """int8_linear, worked out in float64."""

    outlier: object = reached  # (in,), or (n, in)
    rest: object = lambda rows, outlier: rows.masked_fill(outlier, 0)
    quantize: object = lambda rows, rest: Absmax()(rows, 8, 1)
    exact: object = lambda rows, outlier: rows * outlier
    sums: object = lambda q, weight: q @ weight.T
    weights: object = lambda q, scale: q * scale  # for the outliers
    scaled: object = lambda sums, scale: sums * scale.T

    def __call__(self, x, q_weight, scale, threshold=6.0):
        rows, weight, scale = x.double().reshape(-1, x.shape[-1]), q_weight.double(), scale.double()
        outlier = self.outlier(rows, threshold)
        rest = self.rest(rows, outlier)
        q, row_scale = self.quantize(rest, rows)
        result = self.exact(rows, outlier) @ self.weights(weight, scale).T
        result = result + self.scaled(self.sums(q.double(), weight) * row_scale, scale)
        return result.view(*x.shape[:-1], len(weight))


def unrounded(rows, rest=None):
    return rows, torch.ones(len(rows), 1, dtype=torch.float64)


def without_row_scale(rows, rest):
    q, _ = Absmax()(rows, 8, 1)
    return q, torch.ones(len(rows), 1, dtype=torch.float64)


ROWS = {  # sentence -> int8_linear with a mistake
    "x is not quantized; the rest of each row should go through int8": Int8(quantize=unrounded),
    "all rows of x have the same scale; each should have its own": Int8(quantize=lambda rows, rest: Absmax()(rows)),
    "the features of x have a scale each; the rows should": Int8(
        quantize=lambda rows, rest: (Absmax()(rows, 8, 0)[0] * Absmax()(rows, 8, 0)[1], 1.0)
    ),
    "the result is not multiplied by the scales of x": Int8(quantize=without_row_scale),
    "the result is not multiplied by the scale of the weight": Int8(scaled=lambda sums, scale: sums),
    "scale belongs to the rows of the weight; it is used for the rows of x": Int8(
        scaled=lambda sums, scale: sums * (scale if len(scale) == len(sums) else scale.T)
    ),
    "the sums do not fit into int8: sum up in int32 or in floating point": Int8(
        sums=lambda q, weight: (q.long() @ weight.long().T).to(torch.int8).double()
    ),
    "the sums are rounded to int16": Int8(sums=lambda q, weight: (q.long() @ weight.long().T).to(torch.int16).double()),
    "x / scale is cut off; it should be rounded to the nearest integer": Int8(
        quantize=lambda rows, rest: Absmax(whole=torch.trunc)(rows, 8, 1)
    ),
}


def linear_of_int8(rng, width_out, width_in):
    """q_weight and scale as quantize_absmax(weight, dim=1) gives them."""
    weight = on_a_grid(rng, width_out, width_in, scale=scales_of_rows(rng, width_out))
    return Absmax()(weight, 8, 1)


def with_outliers(rng, rows, width, every=True):
    """Rows whose features 1, 4 and the last reach 6 in one of them: exactly, by far, and below 0. every: another does in all."""
    x = on_a_grid(rng, rows, width, scale=scales_of_rows(rng, rows) / 10)
    columns = torch.stack([randn(rng, rows).clamp(-5.5, 5.5) for _ in range(3)], dim=1)
    columns[0] = torch.tensor([6.0, 1.0, 5.0])
    columns[1] = torch.tensor([-0.5, 60.0, 0.25])
    columns[2] = torch.tensor([5.9, 5.9, -7.0])
    always = 6.5 + 2 * torch.rand(rows, 1, generator=rng)
    return torch.cat(
        [always[:, : int(every)], columns[:, :1], x[:, :2], columns[:, 1:2], x[:, 2:], columns[:, 2:]], dim=1
    )


NOT_USED = "outlier_threshold is not used; 6 should only be its default"
OUTLIERS = {  # sentence -> int8_linear with a mistake
    "outliers are quantized with the rest of their row": Int8(
        outlier=lambda rows, t: torch.zeros(rows.shape[1], dtype=torch.bool)
    ),
    "outliers are left out; they should be added in floating point": Int8(exact=lambda rows, outlier: 0 * rows),
    "outliers are added in floating point, and are quantized with their row too": Int8(rest=lambda rows, outlier: rows),
    "the scale of a row is taken before its outliers are out": Int8(
        quantize=lambda rows, rest: (
            (rows / (rest.abs().amax(1, keepdim=True) / 127)).round(),
            rest.abs().amax(1, keepdim=True) / 127,
        )
    ),
    "each row has outliers of its own; a feature that is one in any row should be one in all": Int8(
        outlier=lambda rows, t: rows.abs() >= t
    ),
    "a feature that is exactly at the threshold is not an outlier; it should be": Int8(
        outlier=lambda rows, t: (rows.abs() > t).any(0)
    ),
    "only great numbers are outliers; small ones below -threshold should be too": Int8(
        outlier=lambda rows, t: (rows >= t).any(0)
    ),
    "a feature is an outlier if it reaches the threshold in all rows; one row should be enough": Int8(
        outlier=lambda rows, t: (rows.abs() >= t).all(0)
    ),
    "a feature is an outlier if its mean magnitude reaches the threshold; one number should be enough": Int8(
        outlier=lambda rows, t: rows.abs().mean(0) >= t
    ),
    "a row that has an outlier goes through floating point; only the feature should": Int8(
        outlier=lambda rows, t: (rows.abs() >= t).any(1, keepdim=True).expand_as(rows)
    ),
    "the weight of the outliers is not multiplied by its scale": Int8(weights=lambda q, scale: q),
    "all of x goes through floating point as soon as there is an outlier": Int8(
        outlier=lambda rows, t: (rows.abs() >= t).any().expand(rows.shape[1])
    ),
    NOT_USED: Int8(outlier=lambda rows, t: reached(rows, 6.0)),
}


def rows_wrong(mistakes, calls):
    return {
        sentence: lambda wrong=wrong: [wrong(*call).float() for call in calls] for sentence, wrong in mistakes.items()
    }


@INT8
@pytest.mark.points(2)
def test_each_row_of_x_is_quantized_with_a_scale_of_its_own(student, check, rng):
    """Without outliers: integers are multiplied and summed up, then multiplied by both scales."""
    calls = [
        (on_a_grid(rng, 5, 40, scale=scales_of_rows(rng, 5) / 10), *linear_of_int8(rng, 5, 40)),
        (on_a_grid(rng, 3, 7, scale=scales_of_rows(rng, 3) / 10), *linear_of_int8(rng, 6, 7)),
    ]
    truth = [Int8()(*call) for call in calls]

    found = worked_out(student, "int8_linear", calls, truth)

    check(found, truth, dtype=torch.float32, mistakes=rows_wrong(ROWS, calls))


@INT8
@pytest.mark.points(2)
def test_outlier_features_go_through_floating_point(student, check, rng):
    """A feature that reaches 6 in any row, by its magnitude, is taken out of all rows before these are quantized."""
    calls = [(with_outliers(rng, 6, 20, every), *linear_of_int8(rng, 6, 23 + every)) for every in (True, False)]
    truth = [Int8()(*call) for call in calls]

    found = worked_out(student, "int8_linear", calls, truth)

    check(found, truth, dtype=torch.float32, mistakes=rows_wrong(OUTLIERS | ROWS, calls))


@INT8
@pytest.mark.points(1)
@pytest.mark.parametrize("threshold", [2.0, float("inf"), 0.0, 100.0])
def test_the_threshold_may_be_another(student, check, rng, threshold):
    """0 takes all features out, inf none; a row of which nothing is left gives no NaN."""
    q_weight, scale = linear_of_int8(rng, 4, 24)
    x = with_outliers(rng, 6, 20)
    if threshold > 6:  # the outliers are quantized here, and must not be near halfway between two integers
        x = on_a_grid(rng, 6, 24, scale=scales_of_rows(rng, 6))
    elif threshold == 2.0:
        x = x / 3
    call = (x, q_weight, scale, threshold)
    truth = [Int8()(*call)]

    found = worked_out(student, "int8_linear", [call], truth)

    mistakes = {NOT_USED: OUTLIERS[NOT_USED]} | OUTLIERS | ROWS
    check(found, truth, dtype=torch.float32, mistakes={
        "a row of which nothing is left is divided by a scale of 0": check.when(has_nan(found)),
    } | rows_wrong(mistakes, [call]))  # fmt: skip


def sequences_alone(x, q_weight, scale):
    return torch.stack([Int8()(part, q_weight, scale) for part in x])


@INT8
@pytest.mark.points(1)
def test_rows_may_stand_in_any_shape(student, check, rng):
    """x may be (B, T, in), whose outliers count in all of B and T, or (in,); a row of zeros gives zeros."""
    q_weight, scale = linear_of_int8(rng, 3, 24)
    rows = with_outliers(rng, 6, 20)[[0, 3, 1, 4, 2, 5]]
    zeros = rows.clone()
    zeros[1] = 0
    calls = [(rows.view(3, 2, 24), q_weight, scale), (rows[4], q_weight, scale), (zeros, q_weight, scale)]
    truth = [Int8()(*call) for call in calls]

    found = worked_out(student, "int8_linear", calls, truth)

    check(found, truth, dtype=torch.float32, mistakes={
        "each sequence has outliers of its own; a feature that is one in any row should be one in all": lambda: [
            sequences_alone(*calls[0]).float(), *(one.float() for one in truth[1:])
        ],
    })  # fmt: skip


@INT8
@pytest.mark.points(1)
def test_the_integers_are_summed_up_exactly(student, check, rng):
    """Sums of wide layers are exact: in float64 the result is, too. x has any layout and stays as it is."""
    width = 1300
    steps = torch.randint(115, 127, (8, width), generator=rng).double()
    steps[:, 0] = 127
    q_weight = torch.randint(115, 128, (2, width), generator=rng).to(torch.int8)
    x, scale = 0.04 * steps, torch.tensor([[0.01], [0.3]], dtype=torch.float64)
    call = (x, q_weight, scale)
    rising = steps.repeat(1, 8)
    mirrored = torch.cat([rising, rising.flip(1)], dim=1)  # of which the second half takes back nearly all of the first
    back = torch.cat([q_weight.repeat(1, 8), -q_weight.repeat(1, 8).flip(1)], dim=1)
    back[:, 1] = 0
    single = ((0.04 * mirrored).float(), back, scale.float())
    truth = [Int8()(*call)]

    found = worked_out(student, "int8_linear", [call], truth)
    canceled = worked_out(student, "int8_linear", [single], [Int8()(*single)])
    same, rude = conduct_of(
        student, "int8_linear", x.view(2, 4, width), *call[1:], 5.0
    )  # the first feature is an outlier

    check(found, truth, relative=1e-10, mistakes={
        "the integers are summed up in float32, which rounds sums above 2^24": check.when(
            dtype_of(found[0]) is torch.float64 and nearly(found, truth, 1e-6)
        ),
        "the result is float32; it should have the dtype of x": [truth[0].float()],
    })  # fmt: skip
    check(canceled, [Int8()(*single).float()], relative=1e-4, what="the result of sums that cancel")
    check.that(same, "x, q_weight or scale is changed")
    check(rude, "", mistakes=MANNERS)


@INT8
@pytest.mark.points(1)
def test_an_outlier_costs_no_accuracy(student, check, rng):
    """With a feature sixty times as large as the others the error is a small part of what rounding all of x costs."""
    weight, x = randn(rng, 16, 64) / 8, randn(rng, 30, 64).clamp(-4, 4)
    x[:, 9] *= 60
    q_weight, scale = Absmax()(weight, 8, 1)
    exact = x.double() @ (q_weight.double() * scale.double()).T
    truth = [Int8()(x, q_weight, scale)]

    (found,) = worked_out(student, "int8_linear", [(x, q_weight, scale)], truth)

    check((dtype_of(found), list(found.shape)), (torch.float32, [30, 16]), names=("dtype", "shape"))
    errors = [float((y.double() - exact).norm()) for y in (found, Int8()(x, q_weight, scale, 1e9))]
    check.that(errors[0] < 0.2 * errors[1], "the error is as large as if the outliers were quantized")
    check.that(errors[0] > 1e-3 * errors[1], "nothing is quantized: the result is that of floating point")
