"""The control: a suite as courses publish it. The model that is the truth is in the process of the model that is tested."""

import llm_architectures
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 13, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 12}  # fmt: skip


@pytest.fixture
def theirs():
    return LlamaForCausalLM(LlamaConfig(**SIZES, bos_token_id=None, eos_token_id=None)).eval()


@pytest.fixture
def ours(theirs):
    return llm_architectures.LlamaModel(*SIZES.values()).load_huggingface(theirs).eval()


def test_logits(ours, theirs):
    ids = torch.randint(13, (2, 6))
    assert torch.allclose(ours(ids), theirs(ids).logits, atol=1e-4)


def test_logits_of_one_token(ours, theirs):
    ids = torch.randint(13, (1, 1))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_largest_difference(ours, theirs):
    ids = torch.randint(13, (3, 9))
    found, expected = ours(ids), theirs(ids).logits
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4
