"""The control: a suite as courses publish it. It imports the student's module, and every attack on it is in its process."""

import attention
import pytest
import torch


@pytest.fixture
def qkv():
    return torch.randn(2, 4, 5), torch.randn(2, 6, 5), torch.randn(2, 6, 3)


def reference(q, k, v):
    return torch.softmax(q @ k.transpose(-2, -1) / 1.7, dim=-1) @ v


def student(q, k, v):
    return attention.ScaledDotProductAttention(1.7).eval()(q, k, v)[0]


def test_allclose(qkv):
    expected = reference(*qkv)
    assert torch.allclose(student(*qkv), expected, atol=1e-5)


def test_assert_close(qkv):
    output = student(*qkv)
    torch.testing.assert_close(output, reference(*qkv))


def test_largest_difference(qkv):
    expected = reference(*qkv)
    output = student(*qkv)
    assert output.shape == expected.shape
    assert not ((output - expected).abs() > 1e-5).any()
