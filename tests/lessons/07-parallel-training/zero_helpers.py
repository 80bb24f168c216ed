"""What the suites of zero share: the same work in one process, by plain torch."""

import torch
import torch.nn.functional as F

from shared import nearly, randn

# Elements of parameters so that neither every fourth nor every fourth part of them makes four equal parts. The largest one
# has 12 of 104, less than 1 / (2 · 4).
UNEVEN = (12, 12, 12, 12, 12, 12, 1, 1, 12, 1, 1, 1, 12, 1, 1, 1)
SMALL_BETWEEN = (12, 12, 1, 12, 12, 12, 12, 1, 1, 12, 1, 12, 1, 1, 1, 1)  # three large ones begin in the first quarter
ELEVEN = (12,) * 11


def draw_each(rng, shapes, dtype=torch.float64):
    return [randn(rng, *shape, dtype=dtype) for shape in shapes]


def in_one_process(weights, steps, name, options, groups=None):
    """(parameters, optimizer) as of inside.optimized, by the torch optimizer of this name, in float64."""
    parameters = [torch.nn.Parameter(weight.double().clone()) for weight in weights]
    given = parameters
    if groups is not None:
        given = [{**group, "params": [parameters[n] for n in group["params"]]} for group in groups]
    optimizer = getattr(torch.optim, name)(given, **options)
    for gradients in steps:
        if isinstance(gradients, tuple):
            gradients, changes = gradients
            for group, change in zip(optimizer.param_groups, changes, strict=True):
                group.update(change)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.double()
        optimizer.step()
    return parameters, optimizer


def each_on_one_rank(weights, steps, name, options, ranks):
    """The parameters where all ranks' are averaged after each step, in which one of them has updated each."""
    parameters, optimizer = in_one_process(weights, [], name, options)
    for gradients in steps:
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.double()
        optimizer.step()
        for parameter, old in zip(parameters, before, strict=True):
            parameter.data = old + (parameter.data - old) / ranks
    return [parameter.detach() for parameter in parameters]


def updated(*case, **options):
    """The parameters of in_one_process, as tensors."""
    return [parameter.detach() for parameter in in_one_process(*case, **options)[0]]


def multiplied_steps(weights, steps, name, options, groups, moments):
    """The parameters in one process where each moment is multiplied before the last step by 2 + the rank that has it.

    moments: of each rank; a number is that rank's whose numbers come nearest.
    """
    parameters, optimizer = in_one_process(weights, steps[:-1], name, options, groups)
    numbers = [torch.cat([moment.double().flatten() for moment in own]) for own in moments]
    holders = torch.cat([torch.full_like(own, rank) for rank, own in enumerate(numbers)])
    for state in optimizer.state.values():
        for moment in [tensor for tensor in state.values() if tensor.dim()]:
            nearest = (moment.flatten()[:, None] - torch.cat(numbers)).abs().argmin(1)
            moment.mul_(holders[nearest].view_as(moment) + 2)
    for parameter, gradient in zip(parameters, steps[-1], strict=True):
        parameter.grad = gradient.double()
    optimizer.step()
    return [parameter.detach() for parameter in parameters]


def multiplied_facts(found, case, moments):
    """Facts: where each rank multiplies the moments that it has (inside.last_step), all ranks have what comes of that.

    found: of each rank its parameters after the last step, with moments multiplied and as they were. case: weights, steps, name,
    options, groups. Where steps are not those of one process, which has a test of its own, that the ranks agree is enough.
    """
    plain, ranks = updated(*case[:4], groups=case[4]), [own for own, _ in found]
    right = all(nearly(own, plain, 1e-9) for _, own in found)
    wanted = multiplied_steps(*case, moments) if right else ranks[0]
    changed = [[(a != b).all() for a, b in zip(*each, strict=True)] for each in found]
    return [
        (
            all(nearly(own, ranks[0], 1e-9) for own in ranks),
            "a rank's update does not reach the others: where each rank has changed the moments in its `state`, the ranks have "
            "different parameters after step()",
        ),
        (
            all(all(each) for each in changed),
            "a change of the moments in `state` does not count at the next step; it should hold those that step() works with",
        ),
        (
            all(nearly(own, wanted, 1e-9) for own in ranks),
            "each element should be updated with the moments of the rank that holds them in its `state`, and sent to the others",
        ),
    ]


def given_between(traffic, ranks, first, second):
    """Bytes that each rank gave to messages between its marks number `first` and `second` (inside.mark), counted from 0."""
    bytes_given = []
    for rank in range(ranks):
        phase, total = -1, 0
        for message in traffic:
            if message.rank != rank:
                continue
            if message.shapes == ((3, 1, 4, 1, 5),):
                phase += 1
            elif first <= phase < second:
                total += message.bytes
        bytes_given.append(total)
    return bytes_given


def layers(weights, x):
    """What inside.two_layers gives for x (B, in), in float64."""
    first, first_bias, second, second_bias = (weight.double() for weight in weights)
    return F.linear(F.linear(x.double(), first, first_bias).tanh(), second, second_bias)


def mean_gradients(function, weights, xs):
    """The mean over xs of the gradients of the sum of squares of function(weights, x)."""
    leaves = [weight.double().clone().requires_grad_() for weight in weights]
    loss = sum(function(leaves, x).square().sum() for x in xs) / len(xs)
    return list(torch.autograd.grad(loss, leaves))


def sharded_training(function, weights, xs, options, steps=3, frozen=(), decayed=False):
    """The weights after some steps of AdamW by mean_gradients in float64; those at the places `frozen` stay.

    decayed: these have a gradient of zero instead, so that weight decay shrinks them.
    """
    weights = [weight.double() for weight in weights]
    learns = [n for n in range(len(weights)) if decayed or n not in frozen]
    updates = [torch.nn.Parameter(weights[n].clone()) for n in learns]
    optimizer = torch.optim.AdamW(updates, **options)
    for _ in range(steps):
        gradients = mean_gradients(function, weights, xs)
        for parameter, n in zip(updates, learns, strict=True):
            parameter.grad = torch.zeros_like(parameter) if n in frozen else gradients[n]
        optimizer.step()
        for parameter, n in zip(updates, learns, strict=True):
            weights[n] = parameter.detach().clone()
    return weights


def found_in_shards(weights, of_ranks):
    """(gradients, holders): what the ranks' shards say of each element of the weights, found by its value.

    of_ranks: for each rank its (values, gradient or None) of each shard. A gradient that is missing is 0; an element that no
    rank holds has the holder -1 and the gradient NaN.
    """
    known = {}
    for rank, shards in enumerate(of_ranks):
        for values, gradients in shards:
            gradients = torch.zeros_like(values) if gradients is None else gradients
            for value, gradient in zip(values.flatten().tolist(), gradients.flatten().tolist(), strict=True):
                known.setdefault(value, (gradient, rank))
    found = [[known.get(value, (float("nan"), -1)) for value in weight.flatten().tolist()] for weight in weights]
    gradients, holders = (
        [
            torch.tensor([each[item] for each in row], dtype=weight.dtype).view_as(weight)
            for row, weight in zip(found, weights, strict=True)
        ]
        for item in (0, 1)
    )
    return gradients, holders
