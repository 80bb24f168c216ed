"""Hidden tests of training_techniques: LLMTrainer's save and load.

A file is written and read by the student's own code, and nothing is known of what is in it but that torch.load can read it with
weights_only=True. Files that were spoilt, and those of other models (`inside.as_another`), are made of what save wrote.
"""

import pytest
import torch

from training_techniques_helpers import full, tagged, tagger_weights

pytestmark = pytest.mark.question("LLMTrainer")

RUN = {"batch_size": 4, "lr": 0.05, "seed": 3}
SAME = "", ""  # the model that wrote a file, and the one that loads it: see inside.as_another


# ---------------------------------------------------------------------------------------------- stopped and resumed


def start_and_stop(weights, train, val, config, number, save):
    """A probe: (the dicts of `number` epochs of a new trainer, its weights then, what save writes then or None)."""
    trainer, model = inside.a_trainer(weights, train, val, config, 0.3)
    history = trainer.train(number)
    return history, model.weights(), inside.saved_bytes(trainer) if save else None


def go_on(weights, train, val, config, content, number):
    """A probe: what becomes of a load, the dicts of `number` further epochs of a new trainer, its weights then."""
    torch.manual_seed(77)
    trainer, model = inside.a_trainer(weights, train, val, config, 0.3)
    loaded = inside.load_bytes(trainer, content)
    history = trainer.train(number) if loaded == "loaded" else []
    return loaded, history, model.weights()


def as_rows(history):
    """(train_loss, val_loss) of each epoch. A loss that is a tensor, which has tests of its own, counts as its number."""
    losses = [[row["train_loss"], row["val_loss"]] for row in history]
    return [[float(x) if isinstance(x, torch.Tensor) and x.numel() == 1 else x for x in row] for row in losses]


@pytest.mark.points(4)
def test_a_resumed_run_has_the_same_losses(student, check, rng):
    """With dropout and shuffling, in a fresh process, from a file: bit by bit those of a run that is not stopped."""
    weights, other = tagger_weights(rng), tagger_weights(rng)
    data = full(rng, 11), full(rng, 4), RUN  # one batch to validate: how means are taken has tests of its own
    whole, at_end, _ = student.run(start_and_stop, weights, *data, 4, False)
    first, _, content = student.run(start_and_stop, weights, *data, 2, True)
    # Rank 1 has a folder of its own and none of this process's memory: nothing is there but the content of the file.
    loaded, rest, resumed_end = student.on(ranks=2, timeout=30).run(go_on, other, *data, content, 2)[1]

    check(loaded, "loaded", otherwise="a new trainer in another process cannot load what save wrote")
    rows, resumed = as_rows(whole), as_rows(first) + as_rows(rest)
    check.that(len(rows) == len(resumed) == 4, "train does not return a dict for each epoch")
    check.that(all(type(loss) is float for row in rows + resumed for loss in row), "the losses are not floats")
    check.that(len({loss for loss, _ in rows}) == 4, "nothing is trained")
    check.that(resumed[:2] == rows[:2], "two trainers made with the same arguments give different losses")
    check.that(resumed[2:] != rows[:2], "a resumed run starts anew")
    check.that(abs(resumed[2][0] - rows[2][0]) < 1, "the weights are not restored")
    check.that(resumed[2:] == rows[2:], "the losses of a resumed run differ from those of a run that is not stopped")
    check(resumed_end, at_end, otherwise="a resumed run ends with other weights than a run that is not stopped")
    check(rows[-1][1], tagged(at_end, [data[1]])[0], what="the val_loss of the last epoch")


@pytest.mark.points(2)
@pytest.mark.parametrize("change", ["", "a buffer"])
def test_load_restores_weights_optimizer_and_epoch(student, check, rng, change):
    """A new trainer has them as they were when the file was written, with the model's buffers, and writes as good a file."""

    def write(weights, data, config, change):
        trainer, _ = inside.a_trainer(weights, data, data, config, change=change)
        trainer.train(2)
        return inside.saved_bytes(trainer), inside.state_of(trainer)

    def read(other, data, config, change, content):
        new, _ = inside.a_trainer(other, data, data, config, change=change)
        loaded = inside.load_bytes(new, content)
        found = inside.state_of(new)
        twice, _ = inside.a_trainer(other, data, data, config, change=change)
        inside.load_bytes(twice, inside.saved_bytes(new))
        return loaded, found, inside.state_of(twice)

    weights, other, data = tagger_weights(rng), tagger_weights(rng), full(rng, 6)
    content, saved = student.run(write, weights, data, RUN, change)
    loaded, found, twice = student.on(ranks=2).run(read, other, data, RUN, change, content)[1]  # as above

    with_buffer = " of a model with a buffer" if change else ""
    check(loaded, "loaded", otherwise=f"load refuses what save wrote{with_buffer}")
    check.that(bool(saved[1]), "the optimizer has no state after two epochs")
    names = ("weights", "the optimizer's state", "epoch")
    check(saved[2], 2, what="epoch")
    check(found[0][:3], saved[0][:3], otherwise="load does not restore the weights")
    check(found[0][3:], saved[0][3:], otherwise="load does not restore the buffers of the model")
    check(found[1], saved[1], otherwise="load does not restore the optimizer's state")
    check(found[2], 2, otherwise="load does not restore the epoch")
    check(twice, saved, names=names, otherwise="a file that a resumed trainer writes is not as good as the first")


@pytest.mark.points(1)
def test_save_leaves_the_run_as_it_is(student, check, rng):
    """A run goes on after save as without it; one file has the last state, the one before is replaced; modes stay."""

    def probe(weights, data, config, saves):
        import os
        import pathlib
        import tempfile

        trainer, model = inside.a_trainer(weights, data, data, config, 0.3)
        history, files, kept = [], [], []
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "run.pt"
            for number in range(3):
                torch.manual_seed(number)
                history += trainer.train(1)
                if saves:
                    for place, part in enumerate(model.modules()):
                        part.training = place % 2 == number % 2
                    before = [part.training for part in model.modules()]
                    trainer.save(path)
                    kept.append([part.training for part in model.modules()] == before)
                    files.append(path.is_file() and os.listdir(folder) == ["run.pt"])
            if saves:
                new, _ = inside.a_trainer(weights, data, data, config, 0.3)
                new.load(path)
                files.append(new.epoch)
        return [[row["train_loss"], row["val_loss"]] for row in history], files, kept

    weights, data = tagger_weights(rng), full(rng, 9)
    losses, files, kept = student.run(probe, weights, data, RUN, True)
    without, *_ = student.run(probe, weights, data, RUN, False)

    check(files[:3], [True] * 3, otherwise="save does not write one file, of the name that it was given")
    check.that(files[3] != 1, "save does not replace a file that is there")
    check.that(len({val_loss for _, val_loss in losses}) == 3, "nothing is trained")
    check(losses, without, otherwise="save changes the losses of later epochs")
    check.that(all(kept), "save changes the modes of the model's parts")


# ---------------------------------------------------------------------------------------------- what load refuses


def loads(weights, other, data, config, kinds, change):
    """A probe: a row for each spoilt file, of what becomes of a trainer's load of it.

    kinds: what is in the file; "whole" is what save wrote, "parts" a file for each of its entries, without it.
    other, change: the weights of the model that wrote the files, what it is and what the one that loads them is (inside.as_another).

    A row: "loaded", "ValueError", …; the trainer is as it was; torch's random state is; a further epoch is as without load;
    the trainer is as one that loaded the whole file.
    """
    import io

    def written(content):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def a_trainer(weights, change):
        return inside.a_trainer(weights, data, data, config, 0.3, change)[0]

    def equal(some, others):
        sizes = [len(part) for part in some[:2]] == [len(part) for part in others[:2]]
        return sizes and all(map(torch.equal, some[0] + some[1], others[0] + others[1])) and some[2] == others[2]

    def next_epoch(trainer):
        torch.manual_seed(2)
        return trainer.train(1)

    source = a_trainer(other, change[0])
    source.train(3)
    content = inside.saved_bytes(source)
    files = {
        "whole": content, "half": content[: len(content) // 2], "end": content[:-30], "empty": b"",
        "text": b"epoch 3: all is well\n" * 20, "list": written([1, 2, 3]), "number": written(3),
        "tensor": written(torch.zeros(3)), "dict": written({"a": torch.zeros(2)}), "weights": written(source.model.state_dict()),
    }  # fmt: skip
    spoilt = [files[kind] for kind in kinds if kind != "parts"]
    if "parts" in kinds:
        whole = torch.load(io.BytesIO(content), weights_only=True)
        names = list(whole)[:20] if isinstance(whole, dict) else []
        spoilt += [written({name: whole[name] for name in whole if name != missing}) for missing in names]
    rows, truth = [], None
    for content in spoilt:
        trainer, twin = (a_trainer(weights, change[1]) for _ in range(2))
        for each in (trainer, twin):
            torch.manual_seed(1)
            each.train(1)
        before, random = inside.state_of(trainer), torch.get_rng_state()
        loaded = inside.load_bytes(trainer, content)
        after, kept = inside.state_of(trainer), torch.equal(random, torch.get_rng_state())
        if loaded == "loaded" and truth is None:
            truth = inside.state_of(source), next_epoch(source)
        whole = loaded == "loaded" and equal(after, truth[0]) and next_epoch(trainer) == truth[1]
        goes_on = loaded == "loaded" or next_epoch(trainer) == next_epoch(twin)
        rows.append((loaded, equal(before, after), kept, goes_on, whole))
    return rows


def refusals(rows, what):
    """Facts: a file is refused with a ValueError, and changes nothing."""
    kinds = {kind for kind, *_ in rows} - {"ValueError"}
    return [
        ("loaded" not in kinds, f"load accepts {what}; it should raise a ValueError"),
        (not kinds, f"the error that load raises for {what} is not a ValueError"),
        (all(same for _, same, *_ in rows), f"load changes the trainer although it refuses {what}"),
        (all(kept for _, _, kept, *_ in rows), f"load changes torch's random state when it refuses {what}"),
        (all(goes_on for *_, goes_on, _ in rows), f"training does not go on as before after load refused {what}"),
    ]


@pytest.mark.points(1)
def test_a_truncated_checkpoint_is_refused(student, check, rng):
    """A file that was cut off is a ValueError, and the trainer stays as it was."""
    weights = tagger_weights(rng)
    rows = student.on(timeout=20).run(loads, weights, weights, full(rng, 6), RUN, ["half", "end", "empty"], SAME)

    for fact in refusals(rows, "a file that was cut off"):
        check.that(*fact)


@pytest.mark.points(1)
def test_a_missing_file_is_told(student, check, rng):
    """Where there is no file load raises a FileNotFoundError, and the trainer stays as it was."""

    def probe(weights, data, config):
        import os
        import tempfile

        trainer, _ = inside.a_trainer(weights, data, data, config, 0.3)
        trainer.train(1)
        before, random, error = inside.state_of(trainer), torch.get_rng_state(), "none"
        with tempfile.TemporaryDirectory() as folder:
            try:
                trainer.load(os.path.join(folder, "run.pt"))
            except Exception as raised:
                error = "FileNotFoundError" if isinstance(raised, FileNotFoundError) else type(raised).__name__
        return error, before, inside.state_of(trainer), torch.equal(random, torch.get_rng_state())

    error, before, after, kept = student.run(probe, tagger_weights(rng), full(rng, 6), RUN)

    check.that(error != "none", "load raises no error where there is no file; it should be a FileNotFoundError")
    check(error, "FileNotFoundError", otherwise="the error for a file that is not there is no FileNotFoundError")
    check(after, before, otherwise="load changes the trainer although there is no file")
    check.that(kept, "load changes torch's random state when there is no file")


@pytest.mark.points(1)
def test_a_foreign_file_is_refused(student, check, rng):
    """What is not a checkpoint of a trainer is a ValueError, and the trainer stays as it was."""
    weights, kinds = tagger_weights(rng), ["text", "list", "number", "tensor", "dict", "weights"]
    rows = student.on(timeout=20).run(loads, weights, weights, full(rng, 6), RUN, kinds, SAME)

    for fact in refusals(rows, "a file that is not such a checkpoint"):
        check.that(*fact)


@pytest.mark.points(1)
def test_a_checkpoint_without_one_of_its_parts_is_refused(student, check, rng):
    """A file that lacks one of the entries of the dict that save wrote is a ValueError, unless nothing of the run was in it."""
    weights, other = tagger_weights(rng), tagger_weights(rng)
    rows = student.on(timeout=20).run(loads, weights, other, full(rng, 6), RUN, ["parts"], SAME)

    rows = [row for row in rows if not row[-1]]  # an entry that load has no need of may be missing
    for fact in refusals(rows, "a checkpoint in which a part is missing"):
        check.that(*fact)


@pytest.mark.points(2)
@pytest.mark.parametrize("case", ["another width", "other names", "a layer more", "a layer less", "a buffer more", "a buffer less"])  # fmt: skip
def test_a_checkpoint_of_another_model_is_refused(student, check, rng, case):
    """It is a ValueError, and not one weight is changed: not those that would fit, either."""
    weights, other, data = tagger_weights(rng), tagger_weights(rng), full(rng, 6)
    change = {
        "other names": ("renamed", ""), "a layer more": ("a layer", ""), "a layer less": ("", "a layer"),
        "a buffer more": ("a buffer", ""), "a buffer less": ("", "a buffer"),
    }.get(case, SAME)  # fmt: skip
    if case == "another width":
        other |= {name: torch.cat([other[name]] * 2) for name in ("weight", "bias")}
    rows = student.on(timeout=20).run(loads, weights, other, data, RUN, ["whole"], change)

    for fact in refusals(rows, f"a checkpoint of a model with {case}"):
        check.that(*fact)


@pytest.mark.points(1)
def test_a_checkpoint_runs_no_code(student, check, rng):
    """A file that would run code when it is unpickled is refused, and its code does not run."""

    def probe(weights, data):
        import io
        import os

        class Trap:
            def __reduce__(self):
                return os.mkdir, (marker,)

        import tempfile

        trainer, _ = inside.a_trainer(weights, data, data, {})
        with tempfile.TemporaryDirectory() as folder:
            marker = os.path.join(folder, "ran")
            buffer = io.BytesIO()
            torch.save({"model": Trap(), "optimizer": Trap(), "epoch": 1}, buffer)
            loaded = inside.load_bytes(trainer, buffer.getvalue())
            return loaded, os.path.exists(marker)

    loaded, ran = student.run(probe, tagger_weights(rng), full(rng, 3))

    check.that(not ran, "load runs code that is in the file: call torch.load with weights_only=True")
    check(loaded, "ValueError", what="what load raises for a file with code")
