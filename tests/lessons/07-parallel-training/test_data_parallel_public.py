"""Public tests of data_parallel: small cases with two ranks that you can work out by hand. The hidden tests look closer."""

import torch


def test_four_rows_are_two_for_each_of_two_ranks(student, check):
    batch = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])

    shards = [student.call("data_parallel.shard_batch", batch, rank, 2) for rank in range(2)]

    check([list(shard.shape) for shard in shards], [[2, 2], [2, 2]])
    check(torch.cat(shards).sort(0).values, batch)


def test_a_rank_that_does_not_exist_is_refused(student):
    batch = torch.zeros(4, 2)

    student.accepts("data_parallel.shard_batch", batch, 1, 2)
    student.raises(ValueError, "data_parallel.shard_batch", batch, 2, 2, says="rank")


def test_gradients_become_their_mean(student, check):
    """Rank 0 has the gradient (1, 5) and rank 1 has (3, 9): both get (2, 7)."""

    def probe(grads):
        from data_parallel import all_reduce_gradients

        model = torch.nn.Linear(2, 1, bias=False)
        model.weight.grad = grads[torch.distributed.get_rank()][None]
        all_reduce_gradients(model)
        return model.weight.grad

    grads = student.on(ranks=2).run(probe, torch.tensor([[1.0, 5.0], [3.0, 9.0]]))

    check(grads, [torch.tensor([[2.0, 7.0]])] * 2)


def test_all_ranks_begin_with_the_weights_of_rank_0(student, check):
    def probe():
        from data_parallel import DistributedDataParallel

        module = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(module.weight, 10.0 + torch.distributed.get_rank())
        return DistributedDataParallel(module).module.weight

    check(student.on(ranks=2).run(probe), [torch.tensor([[10.0, 10.0]])] * 2)


def test_a_step_of_two_ranks_is_one_of_the_whole_batch(student, check):
    """The loss is the mean of x · w. Rank 0 has x = 1 and 3, rank 1 has 5 and 7: the gradient of w is 4."""

    def probe(x):
        from data_parallel import DistributedDataParallel

        module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(module.weight, 2.0)
        model = DistributedDataParallel(module)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(x[torch.distributed.get_rank()]).mean().backward()
        model.finish_gradient_synchronization()
        optimizer.step()
        return module.weight.grad, module.weight

    steps = student.on(ranks=2).run(probe, torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]]))

    check(steps, [(torch.tensor([[4.0]]), torch.tensor([[1.6]]))] * 2, names=("rank 0", "rank 1"))


def test_a_bucket_holds_what_fits(student):
    """Three weights of 4 · 4 · 4 = 64 bytes in buckets of 128: two all_reduces, of 128 and of 64 bytes, or 64 and 128."""

    def probe():
        from data_parallel import DistributedDataParallel

        module = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(3)))
        model = DistributedDataParallel(module, bucket_size_mb=128 / 2**20)
        model(torch.ones(1, 4)).sum().backward()
        model.finish_gradient_synchronization()

    two = student.on(ranks=2)
    two.run(probe)

    sent = [m.bytes for m in two.traffic if m.rank == 0 and m.operation == "all_reduce" and m.bytes >= 64]
    assert sorted(sent) == [64, 128]
