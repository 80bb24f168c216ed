"""News: how much of what a rank sends tells something, for tensors of all kinds, and what it costs to look."""

import time

import pytest
import torch

from autograder.box.codec import DTYPES
from autograder.box.inside import gloo
from autograder.box.ranks import news as module
from autograder.box.ranks.news import News


def noise(count=2000, dtype=torch.float32):
    drawn = torch.randn(count, generator=torch.Generator().manual_seed(count))
    return drawn if dtype is torch.float32 else (100 * drawn).to(dtype)


def share(*tensors):
    """Of the bytes, how many are news."""
    return News().of(0, tensors) / sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(
    ("tensor", "least", "most"),
    [
        (noise(), 0.9, 1),
        (torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0.93, 1),
        (noise().bfloat16(), 0.75, 0.9),
        (noise().half(), 0.85, 1),
        (noise().double(), 0.55, 0.7),
        (noise().to(torch.float8_e4m3fn), 0.75, 1),
        (torch.complex(noise(), noise(2001)[:2000]), 0.85, 1),
        (torch.rand(2000, generator=torch.Generator().manual_seed(1)), 0.85, 1),
        (torch.randint(100, (2000,), generator=torch.Generator().manual_seed(1)), 0.15, 0.3),
        (noise() > 0, 0.2, 0.4),
        (torch.arange(2000), 0.1, 0.25),
        (torch.arange(2000.0), 0.25, 0.45),
        (torch.zeros(2000), 0, 0.02),
        (torch.full((2000,), 0.1, dtype=torch.float64), 0, 0.02),
        (torch.ones(2000, dtype=torch.bool), 0, 0.02),
        (torch.zeros(2), 0, 0.3),
    ],
    ids=str,
)
def test_news_is_about_what_a_tensor_says(tensor, least, most):
    assert least <= share(tensor) <= most


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (40, 50)], ids=str)
def test_a_tensor_of_any_kind_has_news(dtype, shape):
    given = noise(max(torch.Size(shape).numel(), 1)).mul(100)[: torch.Size(shape).numel()].reshape(shape).to(dtype)

    assert 0 <= News().of(0, [given, given.mT] if given.dim() == 2 else [given]) <= 2 * given.nbytes


@pytest.mark.parametrize(
    "style",
    [
        lambda x: [[x]],
        lambda x: [[part] for part in x.split(10)],
        lambda x: [list(x.split(10))],
        lambda x: [[x.mT]],
        lambda x: [[x / 3]],
        lambda x: [[x.flip(0)]],
        lambda x: [[torch.tensor([40, 50])], [x]],
        lambda x: [[x], [x], [x.mT.contiguous().mT]],
        lambda x: [[x.double()]],
        lambda x: [[torch.cat([torch.zeros(7, 50), x, torch.ones(20, 50)])]],
    ],
)
def test_the_way_in_which_something_is_sent_hardly_matters(style):
    news, x = News(), noise().reshape(40, 50)

    assert sum(news.of(0, tensors) for tensors in style(x)) == pytest.approx(x.nbytes, rel=0.3)


def test_each_rank_has_news_of_its_own_in_any_order():
    sent = [(rank, noise(100 + step)) for step in range(4) for rank in range(3)]

    def by_rank(messages):
        news = News()
        counted = [(rank, news.of(rank, [tensor])) for rank, tensor in messages]
        return [[count for whose, count in counted if whose == rank] for rank in range(3)]

    assert by_rank(sent) == by_rank(sorted(sent, key=lambda each: -each[0]))


def test_of_a_long_message_the_first_part_is_looked_at():
    assert News().of(0, [torch.zeros(module.LOOKED_AT // 4), noise()]) < 0.02 * module.LOOKED_AT
    assert module.LOOKED_AT * 0.9 < News().of(0, [noise(100_000)]) <= module.LOOKED_AT


def test_a_rank_that_floods_costs_little():
    began = time.process_time()
    news, large, small = News(), noise(100_000), [noise(1)] * 4
    counted = [news.of(0, [large]) for _ in range(2000)]
    for _ in range(20_000):
        news.of(1, small)

    assert 0 < sum(counted) <= module.LOOKED_AT_IN_ALL
    assert counted[-1] == 0
    assert time.process_time() - began < 2  # a quarter of a second; all of it would take four


def test_a_rank_over_gloo_tells_as_much_as_is_looked_at():
    assert gloo._HEADS == module.LOOKED_AT
    heads = gloo._heads([noise(10_000).half(), noise(100_000), noise(5), torch.ones(2, 2).to_sparse()])

    assert [head.numel() for head in heads] == [10_000, (module.LOOKED_AT - 20_000) // 4, 0, 0]
