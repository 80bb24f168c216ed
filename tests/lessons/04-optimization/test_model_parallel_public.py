"""Public tests of model_parallel: small cases on the CPU. The hidden tests look closer."""

import torch


def test_seven_layers_on_three_stages(student, check):
    """All layers in order, and no stage has two more than another."""

    def probe():
        from model_parallel import partition_layers

        return [list(stage) for stage in partition_layers(7, 3)]

    stages = student.run(probe)

    check(sum(stages, []), [0, 1, 2, 3, 4, 5, 6])
    check(sorted(map(len, stages)), [2, 2, 3])


def test_any_number_of_stages_has_the_same_logits(student, check):
    """The state of a model on two stages, loaded into one on three named devices."""

    def probe():
        from model_parallel import ModelParallelTransformer

        two = ModelParallelTransformer(20, 16, 4, 2, num_gpus=2).eval()
        three = ModelParallelTransformer(20, 16, 4, 2, devices=["cpu", "cpu", "cpu"]).eval()
        three.load_state_dict(two.state_dict())
        ids = torch.tensor([[1, 5, 7, 19, 3]])
        return two(ids).cpu(), three(ids).cpu(), two.num_gpus, three.num_gpus

    first, second, *stages = student.run(probe)

    check(list(first.shape), [1, 5, 20])
    check(second, first)
    check(stages, [2, 3])


def test_each_stage_has_its_own_layers(student, check):
    """The meta device has shapes and no numbers; half of the layers' parameters are there."""

    def probe():
        from model_parallel import ModelParallelTransformer

        def on_meta(num_layers):
            model = ModelParallelTransformer(20, 16, num_layers, 2, devices=["cpu", "meta"])
            return sum(weight.numel() for weight in model.parameters() if weight.device.type == "meta")

        def all_of(num_layers):
            model = ModelParallelTransformer(20, 16, num_layers, 2, num_gpus=1)
            return sum(weight.numel() for weight in model.parameters())

        layer = all_of(2) - all_of(1)
        return (on_meta(4) - on_meta(2)) / layer

    check(student.run(probe), 1.0, mistakes={
        "all layers are on the first device": 0.0,
        "all layers are on the last device": 2.0,
    })  # fmt: skip


def test_a_token_does_not_see_the_next_ones(student, check):
    """Other tokens at the end change nothing before."""

    def probe():
        from model_parallel import ModelParallelTransformer

        model = ModelParallelTransformer(20, 16, 2, 2, devices=["cpu", "cpu"]).eval()
        return [model(torch.tensor([ids]))[:, :2] for ids in ([1, 2, 3, 4], [1, 2, 9, 9])]

    one, other = student.run(probe)

    check(other, one, terms=1024)


def test_bad_numbers_are_refused(student):
    """No stage at all; more tokens than 1024."""

    def probe():
        from model_parallel import ModelParallelTransformer

        ModelParallelTransformer(20, 16, 2, 2)(torch.zeros(1, 1025, dtype=torch.long))

    student.raises(ValueError, "model_parallel.partition_layers", 4, 0, says="num_stages")
    student.raises(ValueError, probe, says=("input_ids", 1024, 1025))
