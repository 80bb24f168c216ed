"""Hidden tests of quantization: QuantizedLinear. Sizes are measured: all tensors that can be reached from a layer count."""

import pytest
import torch

from quantization_helpers import NOTHING, agree, in_groups, rounded
from shared import MANNERS, dtype_of, on_right_parts, randn

LAYER = pytest.mark.question("QuantizedLinear")


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("bits", "size", "bias"),
    [(8, None, True), (4, 16, True), (3, None, False), (8, 8, True), (2, 40, False), (5, 7, True)],
)
def test_a_layer_multiplies_by_the_rounded_weight(student, check, rng, bits, size, bias):
    """x Ŵᵀ + bias for x (..., in), where Ŵ is what quantize_groupwise makes of the weight; weight is Ŵ."""

    def probe(weight, bias, bits, size, xs, right):
        from quantization import QuantizedLinear

        def use():
            options = [] if (bits, size) == (8, None) else [bits, size]  # those are the defaults
            layer = QuantizedLinear.from_linear(inside.linear_with(weight, bias), *options)
            return [*(inside.a_tensor(layer(x)) for x in xs), inside.weight_of(layer)]

        return inside.use_of(use, "quantization", "QuantizedLinear", right)

    weight, b = in_groups(rng, 7, 40, size or 40, bits), randn(rng, 7) if bias else None
    xs = [randn(rng, 3, 40), randn(rng, 2, 3, 40), randn(rng, 40)]

    def truth(w, b=b):
        return [*(torch.nn.functional.linear(x.double(), w, None if b is None else b.double()) for x in xs), w]

    def single(values):
        return [value.float() for value in values]

    right = truth(rounded(weight, bits, size))
    inputs = (weight, b, bits, size, xs)
    found = on_right_parts(student, probe, *inputs, fine=lambda found: agree(found, right))

    check(found, right, dtype=torch.float32, mistakes={
        "the weight is not rounded: the layer is that of floating point": lambda: single(truth(weight.double())),
        "the result is that of the old weight; it should be that of the rounded one": lambda: [
            *single(truth(weight.double())[:-1]),
            rounded(weight, bits, size).float(),
        ],
        "the bias is missing": lambda: single(truth(rounded(weight, bits, size), None)),
        "group_size is not used": lambda: single(truth(rounded(weight, bits))),
        "the bits are not used, and there are always 8": lambda: single(truth(rounded(weight, 8, size))),
        "the bits are not used, and there are always 4": lambda: single(truth(rounded(weight, 4, size))),
    })  # fmt: skip


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize(("bits", "size"), [(8, None), (4, 64), (3, 32), (2, None)])
def test_a_layer_holds_no_weight_in_floating_point(student, check, bits, size):
    """Codes take a byte each, those of 4 bits and fewer half a byte: measured when it is made, and after it was used."""

    def probe(bits, size):
        def use():
            from quantization import QuantizedLinear

            layer = QuantizedLinear.from_linear(torch.nn.Linear(192, 128), bits, size)
            first, used = inside.bytes_held(layer), [inside.weight_of(layer)]
            used += [layer.train(mode)(torch.ones(2, 192)) for mode in (True, False)]
            with torch.no_grad():
                used.append(layer(torch.ones(2, 192)))
            zeros = any(not inside.a_tensor(value).any() for value in used)
            del used
            return first, inside.bytes_held(layer), zeros

        return inside.use_of(use, "quantization", "QuantizedLinear", False)

    first, used, zeros = student.run(probe, bits, size)

    check.that(not zeros, NOTHING)
    numbers, scales = 128 * 192, 4 * 128 * (192 // (size or 192))
    room = scales + 4 * 128 + 1024  # of scales, bias, and some more
    floating = "the weight is still there in floating point: no tensor that the layer holds should be so large"
    check.that(first < 2 * numbers, floating)
    check.that(
        used <= first + 1024, "the layer keeps the dequantized weight when it was used; it should be made for each call"
    )
    check.that(first <= numbers + room, "codes take more than a byte each")
    if bits <= 4:
        check.that(
            first <= numbers // 2 + room, "each code of 4 bits or fewer has a byte of its own; two should share one"
        )


@LAYER
@pytest.mark.points(1)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_layer_is_saved_and_loaded(student, check, rng, bits):
    """A layer of the same sizes and bits that loads the state_dict of another gives what that one gives."""

    def probe(weights, bits, x):
        def use():
            from quantization import QuantizedLinear

            one, other = (QuantizedLinear.from_linear(inside.linear_with(*pair), bits, 8) for pair in weights)
            own = inside.weight_of(one)
            other.load_state_dict(one.state_dict())
            return *inside.listed([other(x), one(x)]), inside.weight_of(other), own

        return inside.use_of(use, "quantization", "QuantizedLinear", False)

    weights = [(randn(rng, 6, 20), randn(rng, 6)) for _ in range(2)]
    loaded, own, weight, own_weight = student.run(probe, weights, bits, randn(rng, 3, 20))

    check.that(bool(own.any()), NOTHING)
    check(weight, own_weight, otherwise="the state_dict does not hold the codes and scales of the weight")
    check(loaded, own, otherwise="a layer that loads the state_dict of another gives something else")


@LAYER
@pytest.mark.points(1)
@pytest.mark.parametrize("bits", [8, 4])
def test_codes_stay_as_they_are_in_another_dtype(student, check, rng, bits):
    """The result has the dtype of x, whatever that of the layer is. .double() and .half() leave the codes as they are."""

    def probe(weight, bias, bits, x):
        def use():
            from quantization import QuantizedLinear

            layer = QuantizedLinear.from_linear(inside.linear_with(weight, bias), bits)
            own, wide = inside.weight_of(layer), inside.a_tensor(layer(x.double()))
            before, huge = inside.bytes_held(layer), inside.a_tensor(layer(1e60 * x.double()))
            doubled = inside.weight_of(layer.double()), inside.a_tensor(layer(x.double()))
            after = inside.bytes_held(layer)
            half = inside.weight_of(layer.half())
            return own, wide, doubled, half, inside.a_tensor(layer.float()(x)), huge, after - before

        return inside.use_of(use, "quantization", "QuantizedLinear", False)

    weight, bias, x = in_groups(rng, 16, 64, 64, bits), randn(rng, 16), randn(rng, 3, 64)
    own, wide, doubled, half, single, huge, more = student.run(probe, weight, bias, bits, x)

    truth = torch.nn.functional.linear(x.double(), own.double(), bias.double())
    dtypes = [dtype_of(value) for value in (own, wide, *doubled, half, single)]
    single_, double_ = torch.float32, torch.float64
    check(
        dtypes,
        [single_, double_, double_, double_, torch.float16, single_],
        otherwise="a dtype is not that of x, or not that of the layer",
    )
    check(wide, truth, relative=1e-6, what="the result for float64")
    check(doubled, (own.double(), truth), relative=1e-6, what="after .double()")
    check(huge, 1e60 * (truth - bias.double()), relative=1e-6, what="the result for numbers that float32 does not have")
    check(half.double(), own.double(), within=4e-3 * float(own.abs().max()), what="the weight after .half()")
    check(single.double(), truth, relative=1e-2, what="the result after .half()")
    check.that(more <= 4 * 2 * 16 + 64, "codes become larger with .double(); they should be integers in a buffer")


@LAYER
@pytest.mark.points(1)
def test_gradients_reach_the_input_of_a_layer(student, check, rng):
    """The gradient at x is that of a Linear with the weight Ŵ."""

    def probe(weight, bias, x):
        def use():
            from quantization import QuantizedLinear

            layer = QuantizedLinear.from_linear(inside.linear_with(weight, bias), 4, 8)
            x.requires_grad_()
            return inside.gradients(layer(x), [x], [torch.ones(2, 3, 6)])[0], inside.weight_of(layer)

        return inside.use_of(use, "quantization", "QuantizedLinear", False)

    grad, weight = student.run(probe, randn(rng, 6, 20), randn(rng, 6), randn(rng, 2, 3, 20))

    check.that(bool(weight.any()), NOTHING)
    check(grad, weight.double().sum(0).expand(2, 3, 20), dtype=torch.float32, mistakes={
        "no gradient reaches x": torch.zeros(2, 3, 20),
    })  # fmt: skip


@LAYER
@pytest.mark.points(1)
def test_a_layer_is_no_linear_and_shares_nothing_with_one(student, check, rng):
    """It has sizes, mode and bias of the Linear, which stays as it was, and whose later changes do not matter."""

    def probe(weight, bias, x):
        def use():
            from quantization import QuantizedLinear

            linear = inside.linear_with(weight, bias).eval()
            layer, rude = inside.manners(QuantizedLinear.from_linear, linear)[::2]
            same = torch.equal(linear.weight, weight) and torch.equal(linear.bias, bias)
            kinds = isinstance(layer, torch.nn.Module), isinstance(layer, torch.nn.Linear)
            modes = layer.training, QuantizedLinear.from_linear(linear.train()).training
            sizes = [layer.in_features, layer.out_features]
            own_bias, before = inside.a_tensor(layer.bias, "the bias").detach().clone(), inside.a_tensor(layer(x))
            with torch.no_grad():
                linear.weight.zero_(), linear.bias.zero_()
            plain = QuantizedLinear.from_linear(torch.nn.Linear(5, 3, bias=False)).bias
            after = inside.a_tensor(layer(x))
            return kinds, modes, sizes, same and linear.weight.requires_grad, own_bias, plain, (before, after), rude

        return inside.use_of(use, "quantization", "QuantizedLinear", False)

    bias = randn(rng, 6)
    kinds, modes, sizes, same, own_bias, plain, (before, after), rude = student.run(
        probe, randn(rng, 6, 9), bias, randn(rng, 2, 9)
    )

    check.that(kinds[0] is True, "a QuantizedLinear is not an nn.Module")
    check.that(kinds[1] is False, "a QuantizedLinear is an nn.Linear; it should not be, so that no weight is left")
    check(modes, (False, True), otherwise="the mode of the layer is not that of the Linear")
    check(
        sizes,
        [9, 6],
        what="in_features and out_features",
        mistakes={"in_features and out_features are swapped": [6, 9]},
    )
    check(own_bias, bias, what="the bias")
    check(plain, None, what="the bias without one")
    check.that(same, "the Linear is changed")
    check(after, before, otherwise="the layer shares a tensor with the Linear, and changes with it")
    check(rude, "", mistakes=MANNERS)


@LAYER
@pytest.mark.points(1)
def test_a_layer_refuses_bits_and_sizes(student):
    """bits outside 2..8 or a group_size below 1 is a ValueError."""

    def make(bits, size):
        from quantization import QuantizedLinear

        QuantizedLinear.from_linear(torch.nn.Linear(6, 2), bits, size)

    for bits, size in ((8, None), (2, 2), (4, 1)):
        student.accepts(make, bits, size)
    for bits, size, says in ((9, None, ("bits", 9)), (1, 2, ("bits", 1)), (4, 0, ("group_size", 0))):
        student.raises(ValueError, make, bits, size, says=says)
