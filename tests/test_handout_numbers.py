"""The figures and examples in the text of handouts, worked out again."""

import importlib.util
import math
import re
from functools import cache

import pytest
import regex
import torch
import torch.nn.functional as F
from conftest import ROOT


@cache
def solution(lesson: str, module: str):
    """A module of a solution, under a name that no other test imports."""
    spec = importlib.util.spec_from_file_location(f"text_{module}", ROOT / "solutions" / lesson / f"{module}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def text_of(lesson: str) -> str:
    return " ".join((ROOT / "assignments" / lesson / "handout.md").read_text("utf-8").split())


# ---------------------------------------------------------------------------------------------- 00-fundamentals


def tokenization():
    return solution("00-fundamentals", "tokenization")


@pytest.mark.lesson("00-fundamentals")
def test_low_low_lower_is_merged_as_the_table_says():
    tokenizer = tokenization().BPETokenizer.train("low low lower", 1000)

    assert [(left + right).decode() for left, right in tokenizer.merges] == ["ow", "low", " low", "er", " lower"]
    assert [tokenizer.decode([id]) for id in tokenizer.encode("low low lower")] == ["low", " low", " lower"]
    assert b"e" > b" low"  # the tie of the fourth merge


@pytest.mark.lesson("00-fundamentals")
def test_the_pattern_in_the_handout_is_the_one_that_is_used():
    assert f" {tokenization().PRE_TOKEN.pattern} " in text_of("00-fundamentals")


@pytest.mark.lesson("00-fundamentals")
def test_hindi_words_are_cut_at_their_vowel_signs():
    gpt2 = tokenization().PRE_TOKEN
    with_marks = regex.compile(gpt2.pattern.replace(r" ?\p{L}+", r" ?[\p{L}\p{M}]+"))

    assert gpt2.findall("सभी") == ["सभ", "ी"]
    assert with_marks.findall("सभी मनुष्य") == ["सभी", " मनुष्य"]


@pytest.mark.parametrize(
    ("characters", "length"), [("aZ~", 1), ("éαяאع", 2), ("日本のनी☕", 3), ("🙂🙃", 4)], ids=lambda value: str(value)
)
@pytest.mark.lesson("00-fundamentals")
def test_characters_take_as_many_bytes_as_the_handout_says(characters, length):
    assert {len(character.encode()) for character in characters} == {length}


@pytest.mark.lesson("00-fundamentals")
def test_half_of_a_surrogate_pair_cannot_be_encoded():
    with pytest.raises(UnicodeEncodeError):
        "\ud83d".encode()


@pytest.mark.lesson("00-fundamentals")
def test_a_product_of_a_few_hundred_probabilities_is_zero():
    assert math.prod([0.05] * 300) == 0
    assert math.fsum([math.log(0.05)] * 300) == pytest.approx(300 * math.log(0.05))


@pytest.mark.lesson("00-fundamentals")
@pytest.mark.parametrize("k", [1, 3, 10])
def test_a_model_that_wavers_between_k_tokens_has_perplexity_k(k):
    ids = torch.arange(k).repeat(2000)[torch.randperm(2000 * k, generator=torch.Generator().manual_seed(k))]
    model = solution("00-fundamentals", "bigram").BigramLanguageModel(k, smoothing=1e12).fit(ids)

    assert model.perplexity(ids) == pytest.approx(k)


# ---------------------------------------------------------------------------------------------- 01-attention


def attention():
    return solution("01-attention", "attention")


def flash():
    return solution("01-attention", "flash_attention")


def positions():
    return solution("01-attention", "positional_encoding")


def wavelength(d_model):
    """Of the slowest pair of columns, read off the table: the angle that one step turns it by."""
    pe = positions().PositionalEncoding(d_model, max_len=2).pe[0].double()
    return 2 * math.pi / math.atan2(pe[1, -2], pe[1, -1])


@pytest.mark.lesson("01-attention")
def test_the_slowest_clock_is_as_slow_as_the_handout_says():
    assert wavelength(2) == pytest.approx(2 * math.pi, rel=1e-3)  # about 6.3
    assert wavelength(64) == pytest.approx(47_000, rel=0.01)
    assert wavelength(512) == pytest.approx(61_000, rel=0.01)
    assert 2 * math.pi * 10_000 == pytest.approx(63_000, rel=0.01)


@pytest.mark.lesson("01-attention")
def test_dot_products_of_codes_depend_on_the_distance_alone():
    pe = positions().PositionalEncoding(64, max_len=200).pe[0].double()
    by_distance = torch.stack([(pe[:-50] * pe[k : k - 50 or None]).sum(-1)[:100] for k in range(50)])

    assert (by_distance.std(dim=1) < 1e-4).all()


@pytest.mark.lesson("01-attention")
def test_angles_in_float32_are_off_by_as_much_as_the_handout_says():
    frequencies = 10_000 ** (-torch.arange(0, 64, 2) / 64)
    near = torch.arange(4900.0, 5000.0)[:, None]
    error = (near * frequencies - near.double() * 10_000 ** (-torch.arange(0, 64, 2).double() / 64)).abs()

    assert 1e-4 < error.max() < 5e-4


@pytest.mark.lesson("01-attention")
def test_alibi_slopes_are_those_of_the_formula():
    for H in (1, 2, 8, 16):
        bias = positions().alibi_bias(H, 2)

        assert torch.allclose(-bias[:, 1, 0], 2.0 ** (-8 * (torch.arange(H) + 1) / H))


@pytest.mark.lesson("01-attention")
def test_a_penalty_by_distance_and_one_by_place_give_the_same_weights():
    scores, slope = torch.randn(5, 5).masked_fill(~attention().causal_mask(5), -torch.inf), 0.25
    i, j = torch.arange(5)[:, None], torch.arange(5)

    assert torch.allclose((scores - slope * (i - j)).softmax(-1), (scores + slope * j).softmax(-1), atol=1e-6)


@pytest.mark.lesson("01-attention")
def test_llama_3_8b_has_16_gb_of_weights_and_1_gib_of_cache():
    V, D, layers, kv, Dh, wide = 128_256, 4096, 32, 8, 128, 14_336
    per_layer = 2 * D * D + 2 * D * kv * Dh + 3 * D * wide + 2 * D

    assert 2 * (2 * V * D + layers * per_layer + D) == pytest.approx(16e9, rel=0.01)
    assert 2 * 8192 * kv * Dh * layers * 2 == 2**30


@pytest.mark.lesson("01-attention")
def test_a_matrix_of_scores_is_as_large_as_the_handout_says():
    operations, bytes_per_second = 989e12, 3.35e12  # of an H100: dense bfloat16, main memory

    assert 32_768**2 * 2 == 2 * 2**30
    assert 32 * 32_768**2 * 2 == 64 * 2**30
    assert operations / bytes_per_second == pytest.approx(300, rel=0.05)


@pytest.mark.lesson("01-attention")
def test_a_score_of_89_overflows_float32():
    assert torch.tensor([88.0, 89.0]).exp().isinf().tolist() == [False, True]


@pytest.mark.lesson("01-attention")
def test_a_nan_that_is_replaced_afterwards_is_in_the_gradients():
    scores = torch.full((1, 3), 1.0, requires_grad=True)
    weights = (scores - torch.inf).softmax(-1)
    torch.where(weights.isnan(), 0.0, weights).sum().backward()

    assert scores.grad.isnan().all()


@pytest.mark.lesson("01-attention")
@pytest.mark.parametrize(("name", "forward", "backward"), [("plain", 4, 8), ("flash", 4, 10)])
def test_the_products_have_as_many_operations_as_the_table_says(name, forward, backward):
    from torch.utils.flop_counter import FlopCounterMode

    T, Dh = 64, 8
    q, k, v = (torch.randn(1, 1, T, Dh, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as first:
        if name == "plain":
            output = ((q @ k.transpose(-2, -1)) / Dh**0.5).softmax(-1) @ v
        else:
            output = flash().flash_attention(q, k, v, block_size=16)
    with FlopCounterMode(display=False) as second:
        output.sum().backward()

    assert first.get_total_flops() == forward * T * T * Dh
    assert second.get_total_flops() == backward * T * T * Dh


@pytest.mark.lesson("01-attention")
def test_flash_keeps_as_much_as_the_table_says():
    T, Dh, kept = 64, 8, []
    q, k, v = (torch.randn(1, 1, T, Dh, requires_grad=True) for _ in range(3))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()), lambda x: x):
        flash().flash_attention(q, k, v, block_size=16)

    assert sum(kept) == 4 * T * Dh + T


@pytest.mark.lesson("01-attention")
def test_causal_masks_of_other_lengths_start_where_the_handout_says():
    from torch.nn.attention.bias import causal_lower_right, causal_upper_left

    q, k, v = torch.randn(1, 1, 2, 4), *torch.randn(2, 1, 1, 5, 4)
    ours = flash().flash_attention(q, k, v, causal=True)

    assert torch.allclose(ours, F.scaled_dot_product_attention(q, k, v, is_causal=True), atol=1e-6)
    assert torch.allclose(ours, F.scaled_dot_product_attention(q, k, v, causal_upper_left(2, 5)), atol=1e-6)
    assert torch.allclose(ours[:, :, 0], v[:, :, 0])
    at_the_end = F.scaled_dot_product_attention(q, k, v, causal_lower_right(2, 5))
    assert torch.allclose(at_the_end[:, :, 1], F.scaled_dot_product_attention(q, k, v)[:, :, 1], atol=1e-6)


# ---------------------------------------------------------------------------------------------- 04-optimization


@pytest.mark.lesson("04-optimization")
def test_sizes_are_those_of_the_sentence():
    gigabytes = [f"{7e9 * bits / 8 / 1e9:g}" for bits in (32, 16, 8, 4)]
    sentence = "{} GB in float32, {} GB in bfloat16, {} GB in int8 and {} GB in int4"

    assert sentence.format(*gigabytes) in text_of("04-optimization")


@pytest.mark.lesson("04-optimization")
def test_activations_are_small_beside_a_layer():
    D, bytes_each = 4096, 2
    activations = 1024 * D * bytes_each / 2**20
    layer = (4 + 8) * D * D * bytes_each / 1e6  # qkv and proj, and two matrices of 4 · D²

    assert (f"it is {activations:g} MiB, while a layer of that width has {round(layer, -2):g} MB of weights"
            in text_of("04-optimization"))  # fmt: skip


@pytest.mark.lesson("04-optimization")
def test_the_bubble_of_four_stages():
    one, eight = (round(100 * (4 - 1) / (pieces + 4 - 1)) for pieces in (1, 8))

    assert f"With 4 stages and one piece that is {one} %, with 8 pieces {eight} %." in text_of("04-optimization")


@pytest.mark.lesson("04-optimization")
def test_a_scale_for_64_weights_is_half_a_bit_a_weight():
    _, scales = solution("04-optimization", "quantization").quantize_groupwise(torch.randn(10, 640))

    assert 8 * scales.nbytes / (10 * 640) == 0.5


@pytest.mark.lesson("04-optimization")
def test_rounding_errors_are_spread_as_the_handout_says():
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    q, scale = solution("04-optimization", "quantization").quantize_absmax(x)

    assert (x - q * scale).std() == pytest.approx(float(scale) / math.sqrt(12), rel=0.02)


@pytest.mark.lesson("04-optimization")
def test_nf4_has_seven_levels_below_zero_and_eight_above():
    levels = solution("04-optimization", "quantization").NF4_LEVELS

    assert [sum(level < 0 for level in levels), sum(level > 0 for level in levels)] == [7, 8]


@pytest.mark.lesson("04-optimization")
def test_the_levels_of_nf4_are_used_about_equally_often():
    quantize_nf4 = solution("04-optimization", "quantization").quantize_nf4
    codes, absmax = quantize_nf4(torch.randn(64_000, generator=torch.Generator().manual_seed(0)))
    share = codes.long().bincount(minlength=16) / codes.numel()

    assert 0.01 < share.min() < share.max() < 0.1
    assert absmax.mean() == pytest.approx(2.6, abs=0.05)


@pytest.mark.lesson("04-optimization")
def test_the_hours_of_lesson_4_add_up():
    rows = re.findall(
        r"^\| `(\w+)\.py` \|(.+)\|$", (ROOT / "assignments/04-optimization/handout.md").read_text("utf-8"), re.M
    )
    hours = {module: sum(map(int, re.findall(r"\((\d+) min\)", row))) / 60 for module, row in rows}

    assert hours == {"quantization": 2.25, "model_parallel": 0.5, "summarization": 1.0}
    assert 3 <= sum(hours.values()) <= 4


# ---------------------------------------------------------------------------------------------- 05-scaling


def laws():
    return solution("05-scaling", "scaling_laws")


@pytest.mark.lesson("05-scaling")
def test_the_formula_of_the_handout_is_that_of_the_solution():
    for params, tokens in ((1e7, 1e12), (1e11, 1e9)):
        assert laws().chinchilla_loss(params, tokens) == 1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28
    assert r"1.69 + \frac{406.4}{N^{0.34}} + \frac{410.7}{D^{0.28}}" in text_of("05-scaling")
    assert f"divide it by $10^{{0.34}} = {10**0.34:.2f}$" in text_of("05-scaling")


@pytest.mark.lesson("05-scaling")
@pytest.mark.parametrize(
    ("params", "tokens", "sentence"),
    [
        (175e9, 300e9, "175 billion parameters and 300 billion tokens has the terms {:.2f} and {:.2f}"),
        (70e9, 1.4e12, "Chinchilla, 70 billion and 1.4 trillion, has {:.2f} and {:.2f}"),
    ],
    ids=["GPT-3", "Chinchilla"],
)
def test_the_terms_of_two_models(params, tokens, sentence):
    assert sentence.format(406.4 / params**0.34, 410.7 / tokens**0.28) in text_of("05-scaling")


def tokens_a_parameter(A, B, alpha, beta, budget=6 * 70e9 * 1.4e12):
    params = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (budget / 6) ** (beta / (alpha + beta))
    return budget / (6 * params) / params


@pytest.mark.lesson("05-scaling")
def test_the_law_and_its_second_fit_say_how_many_tokens_a_parameter():
    text = text_of("05-scaling")

    assert f"for Chinchilla's budget it says {tokens_a_parameter(406.4, 410.7, 0.34, 0.28):.0f}" in text
    assert "(1.82, 482.01, 2085.43, 0.3478, 0.3658) give about 20 tokens a parameter" in text
    assert 17 < tokens_a_parameter(482.01, 2085.43, 0.3478, 0.3658) < 23


@pytest.mark.lesson("05-scaling")
def test_what_a_model_of_seven_billion_takes():
    text, (_, memory) = text_of("05-scaling"), laws().estimate_compute_requirements(7)

    assert f"7 billion parameters needs {memory:g} GB" in text
    assert f"its weights ({laws().weight_bytes(7e9, 16) / 1e9:g} GB in bfloat16)" in text
    all_heads, few_heads = (laws().kv_cache_bytes(32, heads, 128, 1) / 1024 for heads in (32, 8))
    assert f"that is {all_heads:g} KiB a token in 16 bits; with 8 heads for keys and values, {few_heads:g} KiB." in text


@pytest.mark.lesson("05-scaling")
def test_llama_3_saw_1900_tokens_a_parameter():
    assert f"{round(15e12 / 8e9, -2):,.0f} a parameter" in text_of("05-scaling")


@pytest.mark.lesson("05-scaling")
def test_a_decoder_of_spans_writes_seven_tokens():
    rows = re.findall(
        r"^(text|targets) {2,}(.+)$", (ROOT / "assignments/05-scaling/handout.md").read_text("utf-8"), re.M
    )
    words = {name: len(row.split()) for name, row in rows}

    assert words == {"text": 10, "targets": 7}


@pytest.mark.lesson("05-scaling")
def test_the_buckets_of_the_formula_are_those_of_transformers():
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(300)
    for h, bidirectional in ((16, True), (32, False)):
        rest = h // 2 + ((2 * distances / h).log() / math.log(256 / h) * h / 2).floor()
        buckets = torch.where(distances < h // 2, distances, rest.clamp(max=h - 1)).long()
        theirs = T5Attention._relative_position_bucket(-distances, bidirectional=bidirectional)

        assert torch.equal(buckets, theirs)


@pytest.mark.lesson("05-scaling")
def test_the_hours_of_lesson_5_add_up():
    text = (ROOT / "assignments/05-scaling/handout.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)\.py` \|(.+)\|$", text, re.M)
    hours = {module: sum(map(int, re.findall(r"\((\d+) min\)", row))) / 60 for module, row in rows}

    assert hours == {
        "scaling_laws": 0.5,
        "llm_architectures": 1.5,
        "pretraining_objectives": 1.0,
        "training_techniques": 1.0,
    }
    assert "**Time to plan:** 4 hours: ½ h" in text
