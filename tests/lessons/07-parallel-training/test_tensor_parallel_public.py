"""Public tests of tensor_parallel.py: run `pytest` in this folder."""

import math

import torch


def test_a_column_parallel_layer_has_rows(student, check):
    def probe(weight, bias, x):
        from tensor_parallel import ColumnParallelLinear

        linear = torch.nn.Linear(2, 4)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        layer = ColumnParallelLinear.from_linear(linear)
        return layer.weight.detach(), layer(x).detach()

    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    first, second = student.on(ranks=2).run(
        probe, weight, torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([[3.0, 5.0]])
    )

    check(first[0], weight[:2], what="the weight on rank 0")
    check(second[0], weight[2:], what="the weight on rank 1")
    for rank, (_, y) in enumerate((first, second)):
        check(y, torch.tensor([[3.0, 5.0, 8.0, 7.0]]), what=f"the output on rank {rank}")


def test_a_row_parallel_layer_adds_its_bias_once(student, check):
    def probe(x):
        from tensor_parallel import RowParallelLinear

        linear = torch.nn.Linear(4, 1)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
            linear.bias.fill_(100.0)
        return RowParallelLinear.from_linear(linear)(x).detach()

    outputs = student.on(ranks=2).run(probe, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))

    check(outputs, [torch.tensor([[106.0]])] * 2)


def test_an_embedding_asks_the_rank_that_has_the_row(student, check):
    def probe(table, ids):
        from tensor_parallel import VocabParallelEmbedding

        return VocabParallelEmbedding.from_embedding(torch.nn.Embedding.from_pretrained(table))(ids).detach()

    table = torch.tensor([[0.0, 1.0], [10.0, 11.0], [20.0, 21.0], [30.0, 31.0]])
    outputs = student.on(ranks=2).run(probe, table, torch.tensor([3, 0, 1]))

    check(outputs, [torch.tensor([[30.0, 31.0], [0.0, 1.0], [10.0, 11.0]])] * 2)


def test_the_loss_sums_over_all_ranks(student, check):
    def probe(logits, targets):
        from tensor_parallel import vocab_parallel_cross_entropy

        shard = logits.chunk(2, -1)[torch.distributed.get_rank()]
        return vocab_parallel_cross_entropy(shard, targets)

    # exp of the logits: 1, 2, 3, 4, which sum to 10
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0]).log().expand(2, 4)
    losses = student.on(ranks=2).run(probe, logits, torch.tensor([3, -100]))

    check(losses, [torch.tensor(math.log(10 / 4))] * 2)


def test_an_mlp_sends_one_all_reduce(student, check):
    def probe(x):
        from tensor_parallel import TensorParallelMLP

        with torch.no_grad():
            return list(TensorParallelMLP(2, 4)(x).shape)

    two = student.on(ranks=2)
    shapes = two.run(probe, torch.tensor([[1.0, 2.0]]))

    check(shapes, [[1, 2]] * 2, what="the shape of the output")
    sent = [message.operation for message in two.traffic if message.rank == 0]
    check(sent, ["all_reduce"], what="what rank 0 sends")
