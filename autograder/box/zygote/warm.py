"""What the zygote does before the first submission, so that the processes of tests need not do it, each for itself.

A test costs a fork, and a fork costs by what its parent has in memory: what no lesson needs stays out, and what all need is
imported here and put into large pages.
"""

import gc
import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..inside import uncompiled, worker
from . import heap, pages


def up(packages: list[str]) -> None:
    """Imports what submissions use, and what torch itself imports when it is used, once for the processes of all tests."""
    torch.set_num_threads(1)  # before any operation
    uncompiled.lay()  # first: transformers imports half of the compiler
    with _hidden({"scipy", "sklearn"} - set(packages)):
        for package in ("numpy", "torch.nn.functional", *packages):
            importlib.import_module(package)
    _use_torch()
    worker.seed_everything(0)  # numpy.random is imported by its first use
    _drop_log_handlers()
    gc.collect()
    gc.freeze()  # a collection in a child would copy all of our pages
    heap.fill()
    pages.collapse()


@contextmanager
def _hidden(names: set[str]) -> Iterator[None]:
    """As if these packages were not installed. transformers imports scipy, where there is one, for losses that no lesson has:
    90 libraries, each of which every fork must map, at a third of what the fork of an empty test costs.
    """
    hidden = names - set(sys.modules)
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's own way to say so
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _use_torch() -> None:
    """One of each of the operations that make torch import more of itself (half a second for the first gradient)."""
    x = torch.ones(4, 4, requires_grad=True)
    torch.autograd.grad(torch.softmax(x @ x, -1).sum(), [x], torch.tensor(1.0))
    torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False)
    torch.optim.AdamW([x]).step()
    torch.ones(2, 2, device="meta").tril()
    with torch.device("meta"):
        repr(torch.ones(2))


def _drop_log_handlers() -> None:
    """Each fork makes the locks of all handlers anew, and torch has 40: a tenth of the pages that an empty test copies.

    A logger without a handler still warns, on the error output.
    """
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
