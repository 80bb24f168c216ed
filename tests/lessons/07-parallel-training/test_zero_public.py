"""Public tests of zero.py: run `pytest` in this folder."""

import torch


def test_two_parameters_are_updated_on_two_ranks(student, check):
    """One step of SGD with momentum: p - 0.1 · grad, on both ranks; each of them has the momentum of half the elements."""

    def probe(weights, gradients):
        from zero import ZeroRedundancyOptimizer

        parameters = [torch.nn.Parameter(weight) for weight in weights]
        optimizer = ZeroRedundancyOptimizer(parameters, torch.optim.SGD, lr=0.1, momentum=0.9)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        moments = [state["momentum_buffer"] for state in optimizer.state.values()]
        return [parameter.detach() for parameter in parameters], sum(moment.numel() for moment in moments)

    weights = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    gradients = [torch.tensor([1.0, -1.0]), torch.tensor([10.0, 20.0])]
    for parameters, elements in student.on(ranks=2).run(probe, weights, gradients):
        check(parameters, [torch.tensor([0.9, 2.1]), torch.tensor([2.0, 2.0])])
        check(elements, 2)


def test_a_changed_learning_rate_counts(student, check):
    """p - 1.0 · grad in the group whose lr is 1.0, and p - 0.5 · grad in the other one, whose lr has become 0.5."""

    def probe():
        from zero import ZeroRedundancyOptimizer

        first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
        optimizer = ZeroRedundancyOptimizer(
            [{"params": [first], "lr": 1.0}, {"params": [second]}], torch.optim.SGD, lr=0.1
        )
        optimizer.param_groups[1]["lr"] = 0.5
        first.grad, second.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
        return first.detach(), second.detach()

    for parameters in student.on(ranks=2).run(probe):
        check(parameters, (torch.tensor([-1.0, -1.0]), torch.tensor([-0.5, -0.5])))


LINEAR = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0.5])  # y = x1 + 2 · x2 + 3 · x3 + 0.5


def sharded(weight, bias, x):
    """A probe: a sharded Linear(3, 1), called with row r of x on rank r: (its output, elements and gradients of its shards)."""
    from zero import FullyShardedModule

    linear = torch.nn.Linear(3, 1)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    model = FullyShardedModule(linear)
    output = model(x[torch.distributed.get_rank()])
    output.sum().backward()
    shards = list(model.parameters())
    return output.detach(), sum(shard.numel() for shard in shards), sum(float(shard.grad.sum()) for shard in shards)


def test_a_sharded_module_is_called_like_the_module(student, check):
    outputs = student.on(ranks=2).run(sharded, *LINEAR, torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))

    check([output for output, _, _ in outputs], [torch.tensor([1.5]), torch.tensor([6.5])])


def test_a_rank_has_its_part_of_the_gradients(student, check):
    """The mean gradient is (1, 0.5, 0.5) of the weight and 1 of the bias: the shards of both ranks together have 3."""
    first, second = student.on(ranks=2).run(sharded, *LINEAR, torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))

    check(first[1] <= 3 and second[1] <= 3, True, what="at most 3 elements on each rank")
    check(first[2] + second[2], 3.0, what="the sum of all gradients")
