"""Public tests of training_techniques: small cases that you can work out by hand, or repeat. The hidden tests look closer."""

import math

import torch


def test_a_mixed_precision_step_returns_the_loss_before_it(student, check):
    """A model that says nothing yet has the loss ln 4; one step of gradient descent moves the bias, which stays float32."""

    def probe():
        from training_techniques import MixedPrecisionTrainer

        model = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4))
        torch.nn.init.zeros_(model[1].weight)
        torch.nn.init.zeros_(model[1].bias)
        trainer = MixedPrecisionTrainer(model, torch.optim.SGD(model.parameters(), lr=1.0))
        loss = trainer.train_step(torch.tensor([[0, 1, 2]]), torch.tensor([[3, 3, -100]]))
        return loss, model[1].bias

    loss, bias = student.run(probe)

    check(loss, math.log(4))
    check(bias, torch.tensor([-0.25, -0.25, -0.25, 0.75]), relative=1e-2)


def test_a_layer_saves_no_more_than_its_input(student, check):
    """What autograd packs, parameters aside, grows by at most 2 · B · T · D values a layer."""

    def probe():
        from training_techniques import MemoryEfficientLLM

        def saved(num_layers):
            model, values = MemoryEfficientLLM(11, 8, num_layers, num_heads=2), []
            own = {weight.data_ptr() for weight in model.parameters()}

            def pack(tensor):
                values.append(0 if tensor.data_ptr() in own else tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                logits = model(torch.zeros(2, 5, dtype=torch.long))
            return sum(values), list(logits.shape)

        (few, shape), (many, _) = saved(1), saved(3)
        return (many - few) / 2, shape

    a_layer, shape = student.run(probe)

    check(shape, [2, 5, 11])
    assert a_layer <= 2 * 2 * 5 * 8, "more is saved for a layer than its input"


def test_a_group_is_one_batch(student, check):
    """Two batches with one and with three targets that count: gradient descent moves a bias as for one batch of four."""

    def probe():
        from training_techniques import train_with_gradient_accumulation

        class Bias(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

            def forward(self, inputs):
                return self.bias.expand(*inputs.shape, 2)

        model, ids = Bias(), torch.zeros(1, 3, dtype=torch.long)
        batches = [(ids, torch.tensor([[0, -100, -100]])), (ids, torch.tensor([[1, 1, 1]]))]
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        return train_with_gradient_accumulation(model, batches, optimizer, accumulation_steps=2), model.bias

    loss, bias = student.run(probe)

    check(loss, math.log(2))
    check(bias, torch.tensor([-0.25, 0.25], dtype=torch.float64), mistakes={
        "the means of the batches are averaged; all targets should have the same weight": torch.tensor([0.0, 0.0], dtype=torch.float64),
    })  # fmt: skip


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(student, check):
    """Two epochs, a file, and two more with a new trainer; or four in one go."""

    def probe():
        import os
        import tempfile

        from training_techniques import LLMTrainer

        data = [(torch.tensor([n % 5, 1]), torch.tensor([(3 * n) % 5, -100])) for n in range(12)]

        def new_trainer():
            model = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 5))
            return LLMTrainer(model, data, data[:3], {"batch_size": 5, "lr": 0.01})

        torch.manual_seed(1)
        whole, stopped = new_trainer(), new_trainer()
        stopped.model.load_state_dict(whole.model.state_dict())
        first = stopped.train(2)
        with tempfile.TemporaryDirectory() as folder:
            stopped.save(os.path.join(folder, "run.pt"))
            resumed = new_trainer()
            resumed.load(os.path.join(folder, "run.pt"))
        return whole.train(4), first + resumed.train(2)

    whole, parts = student.run(probe)

    assert [sorted(row) for row in whole] == [["train_loss", "val_loss"]] * 4, "a dict for each epoch is missing"
    assert whole[3]["train_loss"] < whole[0]["train_loss"], "the loss does not fall"
    assert parts == whole, "the losses after the stop differ from those of a run that is not stopped"


def test_a_broken_checkpoint_is_refused(student):
    """A file that was cut off is a ValueError."""

    def probe():
        import os
        import tempfile

        from training_techniques import LLMTrainer

        data = [(torch.tensor([1, 2]), torch.tensor([2, 3]))] * 3
        trainer = LLMTrainer(torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5)), data, data, {})
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "run.pt")
            trainer.save(path)
            with open(path, "rb") as file:
                written = file.read()
            with open(path, "wb") as file:
                file.write(written[: len(written) // 2])
            trainer.load(path)

    student.raises(ValueError, probe, says=("path", "checkpoint", "run.pt", "file"))
