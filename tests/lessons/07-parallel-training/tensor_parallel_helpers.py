"""What the hidden tests of tensor_parallel share: slices, and what the ranks sent."""

import torch

MARK = (3, 1, 4, 1, 5)  # the shape of inside.mark's message


def slices(whole, ranks, dim=0):
    """The equal slices of a tensor, one a rank."""
    return [part.contiguous() for part in whole.chunk(ranks, dim)]


def round_robin(whole, ranks, dim=0):
    """As slices are often mistaken: what comes at r, r + N, …"""
    return [whole.movedim(dim, 0)[rank::ranks].movedim(0, dim).contiguous() for rank in range(ranks)]


def parted_by_marks(traffic, ranks, parts):
    """What each rank sent in each part, which a call of inside.mark ends, as (operation, bytes); None where a mark is missing
    or one is too many."""
    found = []
    for rank in range(ranks):
        lists = [[]]
        for message in traffic:
            if message.rank != rank:
                continue
            if message.shapes == (MARK,):
                lists.append([])
            else:
                lists[-1].append((message.operation, message.bytes))
        found.append(lists[:-1] if len(lists) == parts + 1 and not lists[-1] else None)
    return found


KEEPS_MORE = (
    "a layer keeps memory for more than its slices: a part of a whole tensor keeps all of it alive, unless it is copied"
)
RUDELY_MADE = "where a layer is made something is printed, or a setting of torch is changed, such as the seed"
SENDS_EARLY = "something is sent where a layer is made; nothing should be"
FROM_ELSEWHERE = "what x gets from elsewhere is summed over the ranks, too: only what this layer gives should be"


def facts_when_made(rude, weights, again, learn):
    """Facts about new layers, of each rank: what making one did besides, the weights of two of one kind, whether they learn."""
    different = all(not torch.equal(*pair) for pair in zip(weights, again, strict=True))
    return [
        (
            set(rude) == {""},
            "where a layer is made something is printed, or a setting of torch is changed, such as the seed",
        ),
        (
            different,
            "two new layers start with the same weights: draw them from torch's generator, without a seed of your own",
        ),
        (all(learn), "a new weight or bias does not learn: it should be a parameter"),
    ]


def keeps_its_part(kept, whole):
    """Whether each of N ranks keeps no more bytes than 1 / N of those of the whole, and a quarter of them."""
    return all(size <= whole.nbytes * (1 / len(kept) + 0.25) for size in kept)


def is_made_silently(traffic, ranks):
    """Whether the first message of each rank is its mark."""
    first = [next((message.shapes for message in traffic if message.rank == rank), None) for rank in range(ranks)]
    return first == [(MARK,)] * ranks


def bytes_sent(traffic, ranks):
    """What each rank sent after its first mark, and before its second one."""
    return [
        None if parts is None else sum(size for _, size in parts[1]) for parts in parted_by_marks(traffic, ranks, 2)
    ]


def operations_of(traffic, ranks):
    """How many operations each rank began between these marks: a receive that nobody serves tells something, too, in no byte."""
    return [None if parts is None else len(parts[1]) for parts in parted_by_marks(traffic, ranks, 2)]


def few_facts(sent, operations, most):
    """Facts about what each rank sent for five targets, or ids: at most so many bytes, in a few operations for each."""
    return [
        (
            all(size is not None and size <= most for size in sent),
            "whatever the vocabulary, far more is sent than a few numbers for each id",
        ),
        (
            all(count is not None and count <= 8 * 5 + 16 for count in operations),
            "far more operations are begun than a few for each id",
        ),
    ]


def sent_in(traffic, ranks):
    """What each rank sent from its first mark to its second one, and then to its third: forward and backward."""
    return [parts and parts[1:] for parts in parted_by_marks(traffic, ranks, 3)]
