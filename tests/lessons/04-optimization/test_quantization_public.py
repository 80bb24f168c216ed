"""Public tests of quantization: numbers that you can work out by hand. The hidden tests look closer."""

import pytest
import torch


def test_absmax_of_four_numbers(student, check):
    """The largest magnitude is 1.27, so a step is 0.01."""
    q, scale = student.call("quantization.quantize_absmax", torch.tensor([-1.0, 0.5, 0.251, 1.27]))

    check(q, torch.tensor([-100, 50, 25, 127], dtype=torch.int8), mistakes={
        "the largest magnitude becomes 128, which an int8 cannot hold": torch.tensor([-101, 50, 25, -128], dtype=torch.int8),
    })  # fmt: skip
    check(scale, torch.tensor(0.01))


def test_a_scale_for_each_row(student, check):
    """4 bits go from -7 to 7: steps of 1 and of 0.1; a row of zeros has zeros."""
    x = torch.tensor([[7.0, -3.0], [0.7, 0.2], [0.0, 0.0]])

    q, scale = student.call("quantization.quantize_absmax", x, bits=4, dim=1)

    check(q, torch.tensor([[7, -3], [7, 2], [0, 0]], dtype=torch.int8), mistakes={
        "all rows have the same scale": torch.tensor([[7, -3], [1, 0], [0, 0]], dtype=torch.int8),
    })  # fmt: skip
    check(scale[:2], torch.tensor([[1.0], [0.1]]))


def test_affine_from_below_zero(student, check):
    """From -0.5 to 2.05 are 255 steps of 0.01, and 50 of them are below 0."""
    q, scale, zero_point = student.call("quantization.quantize_affine", torch.tensor([-0.5, 0.0, 0.123, 2.05]))

    check(q, torch.tensor([0, 50, 62, 255], dtype=torch.uint8))
    check(scale, torch.tensor(0.01))
    check(int(zero_point), 50)


def test_the_affine_range_holds_zero(student, check):
    """1.0 to 2.55 becomes 0 to 2.55."""
    q, scale, zero_point = student.call("quantization.quantize_affine", torch.tensor([1.0, 2.55]))

    check(q, torch.tensor([100, 255], dtype=torch.uint8), mistakes={
        "the range is from the least to the greatest number; it should hold 0 too": torch.tensor([0, 255], dtype=torch.uint8),
    })  # fmt: skip
    check(scale, torch.tensor(0.01))
    check(int(zero_point), 0)


def test_the_way_back(student, check):
    """0.01 · (q - 50): a uint8 less than 50 must not wrap around."""
    q = torch.tensor([0, 50, 255], dtype=torch.uint8)

    x = student.call("quantization.dequantize", q, torch.tensor(0.01), 50)

    check(x, torch.tensor([-0.5, 0.0, 2.05]), mistakes={
        "0 - 50 wraps around to 206: convert q before you subtract": torch.tensor([2.06, 0.0, 2.05]),
    })  # fmt: skip


def test_groups_of_two(student, check):
    """Steps of 1, 10 and 1/2; the last group is a single number."""
    q, scales = student.call("quantization.quantize_groupwise", torch.tensor([[1.0, 7.0, 70.0, -20.0, 3.5]]), 4, 2)

    check(q, torch.tensor([[1, 7, 7, -2, 7]], dtype=torch.int8))
    check(scales, torch.tensor([[1.0, 10.0, 0.5]]))


def test_three_numbers_in_two_bytes(student, check):
    """Packed and unpacked again."""
    q = torch.tensor([[-8, 7, 3]], dtype=torch.int8)

    packed = student.call("quantization.pack_int4", q)
    back = student.call("quantization.unpack_int4", packed, (1, 3))

    check((packed.dtype, list(packed.shape)), (torch.uint8, [2]))
    check(back, q)


def test_nf4_of_five_numbers(student, check):
    """2, -2, 0 and 1.2 are 1, -1, 0 and 0.6 of their block's maximum; 0.5 has a block of its own."""
    codes, absmax = student.call("quantization.quantize_nf4", torch.tensor([2.0, -2.0, 0.0, 1.2, 0.5]), 4)
    back = student.call("quantization.dequantize_nf4", codes, absmax, 4)

    check(codes, torch.tensor([15, 0, 7, 13, 15], dtype=torch.uint8))
    check(absmax, torch.tensor([2.0, 0.5]))
    check(back, torch.tensor([2.0, -2.0, 0.0, 1.1252340078353882, 0.5]))


def test_gptq_makes_up_for_its_errors(student):
    """On inputs that go together the output's error is smaller than with rounding to nearest."""

    def probe():
        from quantization import dequantize, gptq_quantize, quantize_groupwise

        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(8, 32, generator=generator)
        inputs = torch.randn(200, 6, generator=generator) @ torch.randn(6, 32, generator=generator)
        inputs = inputs + 0.1 * torch.randn(200, 32, generator=generator)
        pairs = gptq_quantize(weight, inputs), quantize_groupwise(weight, 4, 32)
        return [float((inputs @ (weight - dequantize(*pair)).T).norm()) for pair in pairs]

    gptq, nearest = student.run(probe)

    assert gptq < 0.8 * nearest, "gptq_quantize should have a smaller error than rounding to nearest"


def test_an_outlier_goes_its_own_way(student, check):
    """Feature 2 has a 10 in it: 10 · 0.2 in floating point, and the rest in steps of 0.01."""
    x = torch.tensor([[1.27, 0.5, 10.0], [-1.27, 0.3, 0.0]])
    q_weight, scale = torch.tensor([[100, 50, 20]], dtype=torch.int8), torch.tensor([[0.01]])

    y = student.call("quantization.int8_linear", x, q_weight, scale)

    step = 10 / 127
    check(y, torch.tensor([[3.52], [-1.12]]), terms=1024, mistakes={
        "the outlier is quantized with the rest of its row": torch.tensor([[16 * step + 3 * step + 2.0], [-1.12]]),
        "the outliers are left out": torch.tensor([[1.52], [-1.12]]),
    })  # fmt: skip


def test_a_quantized_linear_is_nearly_the_linear(student, check):
    """8 bits: the same to 1 %. No parameter or buffer holds the weight in floating point."""

    def probe():
        from quantization import QuantizedLinear

        linear = torch.nn.Linear(128, 128)
        quantized = QuantizedLinear.from_linear(linear)
        x = torch.randn(4, 128)
        held = [*quantized.parameters(), *quantized.buffers()]
        return quantized(x), linear(x), isinstance(quantized, torch.nn.Linear), [t.element_size() for t in held if t.numel() > 9000]  # fmt: skip

    result, truth, is_linear, widths = student.run(probe)

    check(result, truth, within=0.03)
    check(is_linear, False)
    check(widths, [1])


@pytest.mark.parametrize(("quantization_type", "share"), [("int8", 0.30), ("int4", 0.20), ("nf4", 0.20)])
def test_a_model_is_smaller_and_the_old_one_stays(student, check, quantization_type, share):
    """Both Linears are replaced in the copy, none in the model."""

    def probe(quantization_type):
        from quantization import ModelQuantizer, model_size_bytes
        from torch.nn import Linear, ReLU, Sequential

        model = Sequential(Linear(128, 256), ReLU(), Sequential(Linear(256, 128)))
        new = ModelQuantizer().quantize_model(model, quantization_type)
        count = [sum(isinstance(module, Linear) for module in each.modules()) for each in (model, new)]
        return count, model_size_bytes(model), model_size_bytes(new) / model_size_bytes(model)

    count, size, new_share = student.run(probe, quantization_type)

    check(count, [2, 0])
    check(size, 263680)  # 4 · (128 · 256 + 256 + 256 · 128 + 128)
    assert new_share <= share, f"the new model has {new_share:.0%} of the bytes; it should have at most {share:.0%}"


def test_the_output_head_is_not_quantized(student, check):
    """The Linear that shares its weight with the embedding stays; without one, lm_head."""

    def probe():
        from quantization import QuantizedTransformer
        from torch import nn

        class Model(nn.Module):
            def __init__(self, tied):
                super().__init__()
                self.embedding, self.layer = nn.Embedding(20, 8), nn.Linear(8, 8)
                self.unembed, self.lm_head = nn.Linear(8, 20, bias=False), nn.Linear(8, 3)
                if tied:
                    self.unembed.weight = self.embedding.weight

            def forward(self, ids):
                return self.unembed(self.layer(self.embedding(ids)))

        left = []
        for tied in (True, False):
            wrapped = QuantizedTransformer(Model(tied))
            shape = list(wrapped(torch.tensor([[1, 2, 3]])).shape)
            left.append((shape, [name for name, part in wrapped.model.named_modules() if isinstance(part, nn.Linear)]))
        return left

    check(student.run(probe), [([1, 3, 20], ["unembed"]), ([1, 3, 20], ["lm_head"])])
