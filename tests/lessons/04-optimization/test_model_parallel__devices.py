"""Hidden tests of model_parallel: which device has what, what moves between them, and that states load anywhere.

The meta device, whose tensors have shapes and no numbers, is the second device of a machine without a GPU.
"""

import pytest
import torch

from shared import tokens

pytestmark = pytest.mark.question("ModelParallelTransformer")

SIZES = (13, 16, 4, 2)  # V, D, layers, H


@pytest.mark.points(1)
def test_names_of_the_state_do_not_depend_on_the_stages(student, check):
    """state_dicts have the same names and shapes for any num_gpus and devices, and all parameters are in them."""

    def probe(sizes):
        from model_parallel import ModelParallelTransformer

        devices = [["cpu"] * count for count in (1, 2, 3, 6)] + [["cpu", "meta"], ["meta", "cpu", "cpu"]]
        models = [ModelParallelTransformer(*sizes, devices=names) for names in devices]
        states = [[(name, list(value.shape)) for name, value in model.state_dict().items()] for model in models]
        layers = [
            sum(w.numel() for w in ModelParallelTransformer(*sizes[:2], n, sizes[3]).parameters()) for n in (2, 4)
        ]
        return [sorted(state) for state in states], layers

    states, (two, four) = student.run(probe, SIZES)

    for state in states[1:]:
        check([name for name, _ in state], [name for name, _ in states[0]],
              otherwise="the names in the state_dict depend on the stages; they should not")  # fmt: skip
        check(state, states[0], otherwise="the shapes in the state_dict depend on the stages; they should not")
    check.that(four > two, "the state has no weights of the layers: keep the layers in an nn.ModuleList")


@pytest.mark.points(4)
def test_a_state_has_the_same_logits_on_any_stages(student, check, rng):
    """What one instance has learned, another one with any num_gpus and devices says too, in eval mode."""

    def probe(sizes, ids):
        from model_parallel import ModelParallelTransformer

        results = []
        for layers in (sizes[2], 5):
            made = [
                ModelParallelTransformer(*sizes[:2], layers, sizes[3], **options).double().eval()
                for options in ({"num_gpus": 1}, {"num_gpus": 2}, {"num_gpus": 3}, {"devices": ["cpu"] * 7})
            ]
            inside.draw_weights(made[0])
            for first, second in [(0, 1), (1, 2), (2, 3), (3, 0)]:
                made[second].load_state_dict(made[first].state_dict())
            results.append([inside.a_tensor(model(ids)).detach().cpu() for model in made])
        return results

    for logits in student.run(probe, SIZES, tokens(rng, SIZES[0], 2, 5)):
        check.that(bool(logits[0].any()), "all logits are zero")
        for one in logits[1:]:
            check(one, logits[0], terms=4096, otherwise="the logits of a state depend on the stages; they should not")


@pytest.mark.points(2)
def test_devices_and_num_gpus_are_told(student, check):
    """num_gpus stages, all on the CPU where there are fewer GPUs; devices, strings or torch.device, override num_gpus."""

    def probe(calls):
        from model_parallel import ModelParallelTransformer

        made = [ModelParallelTransformer(11, 8, 2, 2, **options) for options in calls]
        made.append(ModelParallelTransformer(11, 8, 2, 2, 3, [torch.device("cpu"), torch.device("cpu")]))
        made += [ModelParallelTransformer(11, 8, 2, 2)]
        given = ["cpu", torch.device("cpu")]
        ModelParallelTransformer(11, 8, 2, 2, 0, given)
        same = [type(each) for each in given] == [str, torch.device]
        kinds = all(isinstance(model.devices, list) for model in made)
        told = [(model.num_gpus, [(type(device).__name__, str(device)) for device in model.devices]) for model in made]
        return told, kinds, inside.tells_apart(made[0].eval(), torch.arange(4)[:, None]), same

    asked = [
        {"num_gpus": 40},
        {"devices": ["cpu"]},
        {"devices": ("cpu", "cpu", "meta")},
        {"num_gpus": 5, "devices": ["cpu"] * 2},
    ]
    told, kinds, used, same = student.run(probe, asked)

    check.that(kinds, "devices is not a list")
    stages = [40, 1, 3, 2, 2, 2]
    check([num_gpus for num_gpus, _ in told], stages, mistakes={
        "num_gpus is what was given, although devices override it": [40, 2, 2, 5, 3, 2],
        "without GPUs there is one stage; there should be num_gpus": [1, 1, 3, 2, 2, 1],
        "without GPUs there are none": [0, 1, 3, 2, 2, 0],
    }, what="num_gpus")  # fmt: skip
    names = [[name for _, name in devices] for _, devices in told[:-1]]
    check(names, [["cpu"] * 40, ["cpu"], ["cpu", "cpu", "meta"], ["cpu"] * 2, ["cpu"] * 2], mistakes={
        "devices does not have one for each stage": [["cpu"], ["cpu"], ["cpu", "cpu", "meta"], ["cpu"] * 2, ["cpu"] * 2],
    }, what="devices")  # fmt: skip
    check.that(
        all(kind == "device" for _, devices in told for kind, _ in devices),
        "devices holds strings; it should hold torch.device",
    )
    check(len(told[-1][1]), 2, what="the number of devices where nothing is said")
    check.that(same, "the list of devices that is given is changed")
    check.that(used, "with 40 stages on the CPU the logits are the same for all tokens")


@pytest.mark.points(1)
def test_fewer_gpus_than_stages_leave_all_on_the_cpu(student, check):
    """On a machine with one GPU two stages are on the CPU, both of them."""

    def probe():
        from model_parallel import ModelParallelTransformer

        count, available = torch.cuda.device_count, torch.cuda.is_available
        torch.cuda.device_count, torch.cuda.is_available = lambda: 1, lambda: True
        try:
            return [str(device) for device in ModelParallelTransformer(11, 8, 2, 2, 2).devices]
        except (RuntimeError, AssertionError):  # torch has no GPU to put a layer on
            return ["a GPU"]
        finally:
            torch.cuda.device_count, torch.cuda.is_available = count, available

    check(student.run(probe), ["cpu", "cpu"], what="the devices of two stages where there is one GPU", mistakes={
        "with fewer GPUs than stages some stages are on a GPU; all should be on the CPU": ["a GPU"],
    })  # fmt: skip


@pytest.mark.points(2)
def test_the_stages_are_those_of_partition_layers(student, check):
    """Also where they are not of one size: what is on a device is what partition_layers says."""

    def probe(sizes, cases):
        from model_parallel import ModelParallelTransformer, partition_layers

        def numbers(layers, devices):
            model = ModelParallelTransformer(*sizes[:2], layers, sizes[3], devices=devices)
            return sum(weight.numel() for weight in model.parameters() if weight.device.type == "meta")

        layer = numbers(2, ["meta"]) - numbers(1, ["meta"])
        found = []
        for layers, stages in cases:
            for stage in range(1, stages - 1):  # the first and the last have the embeddings and the output besides
                devices = ["meta" if stage == n else "cpu" for n in range(stages)]
                found.append((numbers(layers, devices), len(partition_layers(layers, stages)[stage]) * layer))
        return [held for held, _ in found], [right for _, right in found]

    held, right = student.run(probe, SIZES, [(5, 3), (5, 4), (7, 4), (2, 4), (1, 3), (2, 3)])

    right = [int(number) for number in right]  # a reply is anything, and only numbers can be expected
    check(held, right, otherwise="the layers of a device are not those that partition_layers gives it")
    check.that(any(right), "partition_layers gives no stage a layer")


@pytest.mark.points(4)
def test_each_device_holds_its_own_layers(student, check):
    """The parameters and buffers on a device are those of its stage; embeddings are on the first, norm and output on the last."""

    def probe(V, D, H):
        from model_parallel import ModelParallelTransformer

        def numbers(model, device):
            return sum(weight.numel() for weight in model.parameters() if weight.device.type == device)

        def whole(layers):
            return numbers(ModelParallelTransformer(V, D, layers, H, devices=["cpu"]), "cpu")

        found = []
        for stages, layers in ((2, 4), (3, 6), (4, 4), (1, 3)):
            for stage in range(stages):
                devices = ["meta" if stage == n else "cpu" for n in range(stages)]
                model = ModelParallelTransformer(V, D, layers, H, devices=devices)
                tensors = [*model.parameters(), *model.buffers()]
                found.append(
                    (numbers(model, "meta"), numbers(model, "cpu"), len({str(each.device) for each in tensors}))
                )
        return found, whole(2) - whole(1), whole(0)

    V, D = 13, 16
    found, layer, rest = student.run(probe, V, D, 2)

    places = [(stage, stages, layers) for stages, layers in ((2, 4), (3, 6), (4, 4), (1, 3)) for stage in range(stages)]
    first, last = (V + 1024) * D, rest - (V + 1024) * D

    def on_meta(count, begin=0, end=None):
        end = (lambda stages: stages - 1) if end is None else end
        return [
            count(stage, stages, layers) * layer + first * (stage == begin) + last * (stage == end(stages))
            for stage, stages, layers in places
        ]

    def equal(stage, stages, layers):
        return layers // stages

    right = on_meta(equal)
    check([numbers for numbers, *_ in found], right, mistakes={
        "all layers are on the first device": on_meta(lambda stage, stages, layers: layers * (stage == 0)),
        "all layers are on the last device": on_meta(lambda stage, stages, layers: layers * (stage == stages - 1)),
        "the norm and the output layer are on the first device; they should be on the last": on_meta(equal, end=lambda s: 0),
        "nothing is moved to its device": [0] * len(places),
        "each device has a copy of all layers": on_meta(lambda stage, stages, layers: layers),
        "the embeddings are on the last device; they should be on the first": [
            equal(*place) * layer + (first + last) * (place[0] == place[1] - 1) for place in places
        ],
    }, what="what is on a device")  # fmt: skip
    totals = [numbers + others for numbers, others, _ in found]
    check(totals, [rest + layers * layer for _, _, layers in places], otherwise="layers are on more than one device")
    check(
        [count for *_, count in found],
        [2] * 9 + [1],
        otherwise="parameters or buffers are on devices that are not named",
    )


@pytest.mark.points(4)
def test_activations_cross_each_border_once(student, check, rng):
    """x moves to the next device and stays for all layers of the stage; the ids move to the first device; nothing else moves."""

    def probe(sizes, ids, layers, devices):
        from model_parallel import ModelParallelTransformer

        model = ModelParallelTransformer(*sizes[:2], layers, sizes[3], devices=devices).eval()
        with inside.noting_moves() as moves, torch.no_grad():
            logits = model(ids)
        used = inside.tells_apart(model, ids) if "meta" not in devices else True
        shapes = [list(weight.shape) for weight in model.parameters()]
        return moves.found, list(logits.shape), shapes, used, moves.mixed

    B, T, D = 3, 5, SIZES[1]
    moved, weights = [], 0
    for layers, devices in (
        (4, "cpu meta"),
        (8, "cpu meta cpu meta"),
        (8, "cpu meta meta meta"),
        (2, "cpu cpu"),
        (2, "meta meta"),
        (1, "cpu cpu meta"),
    ):
        ids = tokens(rng, SIZES[0], B, T)
        moves, shape, shapes, used, mixed = student.on(timeout=30).run(probe, SIZES, ids, layers, devices.split())
        check(shape, [B, T, SIZES[0]], what="the logits' shape")
        check.that(used, "the logits are the same for all texts")
        first = "the ids are not moved to the first device, where the embeddings are"
        check.that("embedding" not in mixed and "index" not in mixed, first)
        check(mixed, [], otherwise="an operation gets tensors of two devices")
        moved.append(sum(count == B * T * D for count, _ in moves))
        weights += sum(shape in shapes for _, shape in moves)
    check(weights, 0, otherwise="weights move to where the activations are; the activations should move")
    check(moved, [1, 3, 1, 0, 0, 1], mistakes={
        "activations go back to the first device after each stage; they should go on to the next": [1, 3, 5, 0, 0, 1],
        "activations cross the borders once for each layer: a stage should have neighbours": [3, 7, 3, 0, 0, 1],
        "activations go back to the first device after each layer; they should stay": [3, 7, 11, 0, 0, 1],
    }, what="how often x moves")  # fmt: skip


@pytest.mark.points(1)
def test_gradients_cross_the_borders(student, check, rng):
    """Autograd's graph leads from logits on one device to the weights on the other."""

    def probe(sizes, ids):
        from model_parallel import ModelParallelTransformer

        model = ModelParallelTransformer(*sizes, devices=["cpu", "meta"])
        matrices = [weight for weight in model.parameters() if weight.dim() > 1]
        return inside.leads_back(inside.a_tensor(model(ids)), matrices)

    check.that(
        student.run(probe, SIZES, tokens(rng, SIZES[0], 2, 5)),
        "no gradient comes back over the border between two devices",
    )


@pytest.mark.gpu
@pytest.mark.points(2)
def test_stages_on_a_gpu_and_the_cpu_agree(student, check, rng, device):
    """With a GPU and the CPU as stages, in either order, a state has the logits that it has on the CPU."""

    def probe(sizes, ids):
        from model_parallel import ModelParallelTransformer

        plain = ModelParallelTransformer(*sizes, devices=["cpu", "cpu"]).eval()
        inside.draw_weights(plain)
        found = []
        for devices in (["cuda:0", "cpu"], ["cpu", "cuda:0"], ["cuda:0", "cpu", "cuda:0"], None):
            model = ModelParallelTransformer(*sizes, num_gpus=1, devices=devices).eval()
            model.load_state_dict(plain.state_dict())
            where = {str(weight.device) for weight in model.parameters()}
            found.append((model(ids.cpu()).detach().cpu(), model(ids).detach().cpu(), sorted(where)))
        return plain(ids.cpu()).detach(), found

    plain, found = student.on(device=device, timeout=60).run(probe, SIZES, tokens(rng, SIZES[0], 2, 5))

    for logits, again, _ in found:
        check(
            logits.cpu(),
            plain.cpu(),
            relative=1e-3,
            otherwise="the logits of a state depend on the devices; they should not",
        )
        check(
            again.cpu(), plain.cpu(), relative=1e-3, otherwise="the logits depend on where the ids are; they should not"
        )
    check([where for *_, where in found], [["cpu", "cuda:0"]] * 3 + [["cuda:0"]], what="the devices of the weights")


@pytest.mark.gpu
@pytest.mark.points(1)
def test_the_gpu_has_the_memory_of_its_stage(student, check, device):
    """What a GPU holds is its stage and no more."""

    def probe(device):
        from model_parallel import ModelParallelTransformer

        sizes, found = (64, 256, 8, 4), []
        for devices in (["cuda:0"], ["cpu", "cuda:0"], ["cpu", "cpu", "cpu", "cuda:0"]):
            before = torch.cuda.memory_allocated()
            model = ModelParallelTransformer(*sizes, devices=devices)
            found.append((torch.cuda.memory_allocated() - before) / 4)
            del model
        return found

    one, half, quarter = student.on(timeout=60).run(probe, str(device))

    check.that(0.4 * one < half < 0.55 * one, "with two stages a GPU does not hold half of the model")
    check.that(0.2 * one < quarter < 0.3 * one, "with four stages a GPU does not hold a quarter of the model")
