"""What the two suites of data_parallel share: means of gradients, and what the ranks sent."""

import torch

LARGE = 100  # bytes: a message of fewer is no gradient here, but something that ranks agree on
AGREED = 32  # bytes for each parameter: what ranks may agree on; all gradients here have more
TOO_MUCH_BESIDES = "besides the gradients more is sent than a few bytes for each parameter"


def mean_of(grads):
    """The mean over the ranks of lists of gradients."""
    return [torch.stack(each).double().mean(0) for each in zip(*grads, strict=True)]


def times(factor, tensors):
    return [factor * tensor for tensor in tensors]


def factor_of(own, truth, ranks):
    """By what a student's plain mean is too large: 1, or the number of ranks, or its inverse, which costs its own test."""
    for factor in (1, ranks, 1 / ranks):
        pairs = zip(own, truth, strict=True)
        if all(torch.is_tensor(a) and a.shape == b.shape and a.double().allclose(factor * b) for a, b in pairs):
            return factor
    return 1


MARK = (3, 1, 4, 1, 5)  # the shape of inside.mark's message


def sizes_of(messages):
    """Bytes of each message that is no mark."""
    return [message.bytes for message in messages if message.shapes != (MARK,)]


def few_besides(sizes, parameters):
    """Whether the messages of a rank that are too small for a gradient could not carry the gradients of so many parameters."""
    small = [size for size in sizes if size < LARGE]
    return sum(small) <= AGREED * parameters + 64 and len(small) <= 4 * parameters + 8


def fair(traffic, ranks, least, most, parameters):
    """Facts: gradients are averaged by all_reduce, in which each rank gives between `least` and `most` bytes, and a few.

    parameters: how many, counted once a step.
    """
    large = [message for message in traffic if message.bytes >= LARGE]
    used = {message.operation for message in large}
    given = [sum(message.bytes for message in large if message.rank == rank) for rank in range(ranks)]
    news = [sum(message.news for message in large if message.rank == rank) for rank in range(ranks)]
    return [
        (bool(large), "no gradients are sent"),
        (
            not used & {"gather", "scatter", "reduce", "broadcast"},
            "one rank does the work of all, collecting gradients or sending them out; they should be averaged by all_reduce",
        ),
        (
            not used & {"all_gather", "all_to_all"},
            "each rank gets the gradients of every other rank; they should be averaged by all_reduce",
        ),
        (not used & {"send", "recv"}, "gradients go from rank to rank; they should be averaged by all_reduce"),
        (min(given) >= least, "not all gradients are sent"),
        (max(given) <= 1.25 * most, "more is sent than the gradients: each should be sent once"),
        (
            all(few_besides(sizes_of(m for m in traffic if m.rank == rank), parameters) for rank in range(ranks)),
            TOO_MUCH_BESIDES,
        ),
        # Nine tenths of gradients are news, or half of them where a second step sends the same again.
        (min(news) >= 0.3 * least, "what is summed is filler, such as zeros; it should be the gradients of each rank"),
    ]


def behind(traffic, rank, marks):
    """A rank's messages after that many calls of inside.mark."""
    own = [message for message in traffic if message.rank == rank]
    places = [place for place, message in enumerate(own) if message.shapes == (MARK,)]
    return own[places[marks - 1] + 1 :] if 0 < marks <= len(places) else [] if marks else own


def by_phase(traffic, ranks, phases):
    """Of each rank (operation, bytes) of what it sent in each phase, which a call of inside.mark ends; None where one is missing."""
    found = []
    for rank in range(ranks):
        lengths = [len(behind(traffic, rank, marks)) for marks in range(phases + 1)]
        own = behind(traffic, rank, 0)
        cuts = [len(own) - length for length in lengths]
        whole = sum(message.shapes == (MARK,) for message in own) == phases
        parts = [own[begin : end - 1] for begin, end in zip(cuts, cuts[1:], strict=False)]
        found.append([[(m.operation, m.bytes) for m in part] for part in parts] if whole else None)
    return found
