"""Hidden tests of training_techniques: MemoryEfficientLLM.

Nothing is known of a student's layers. So gradients are compared with slopes of the same model, by definition, without
autograd; and what autograd saves is measured twice: by hooks, and by a limit of the kernel on the process's memory, which no
way of saving gets around. The logits count cos(n) times each.
"""

import pytest
import torch

from shared import MANNERS, nearly, tokens

pytestmark = pytest.mark.question("MemoryEfficientLLM")

V, D, LAYERS, H = 11, 16, 3, 2
SIZES = (V, D, LAYERS, H)


# ---------------------------------------------------------------------------------------------- the model


@pytest.mark.points(2)
@pytest.mark.parametrize("T", [5, 2])
def test_a_position_sees_the_past_and_itself(student, check, rng, T):
    """Logits change with the tokens up to their own, with no later one, and with none of another sequence."""

    def probe(sizes, ids):
        from training_techniques import MemoryEfficientLLM

        model = MemoryEfficientLLM(*sizes).double().eval()
        inside.draw_weights(model)
        with torch.no_grad():
            logits, changed = inside.a_tensor(model(ids)), []
            for place in range(ids.shape[1]):
                other = ids.clone()
                other[:, place] = (ids[:, place] + 1) % sizes[0]
                changed.append((model(other) - logits).abs().amax((0, 2)))
            alone = inside.a_tensor(model(ids[:1]))
        return list(logits.shape), str(logits.dtype), torch.stack(changed), logits, alone

    shape, dtype, changed, logits, alone = student.run(probe, SIZES, tokens(rng, V, 2, T))

    check(shape, [2, T, V], what="the shape of the logits")
    check(dtype, "torch.float64", otherwise="the logits of a float64 model are not float64")
    wrong = wrong_sight(changed > 1e-9)
    check.that(not wrong, wrong)
    check(alone, logits[:1], scale=1.0, otherwise="the logits of a sequence depend on the others of its batch")
    sums = logits.sum(-1)
    check.that(not nearly(sums, torch.ones_like(sums)), "the logits are probabilities; there should be no softmax")


def wrong_sight(seen):
    """What is wrong with which token (row) changes the logits of a place (column); "" if nothing is."""
    whole = torch.ones_like(seen)
    known = {
        "": whole.triu(),
        "positions see later tokens; the attention should be causal": whole,
        "a position sees its own token alone": whole.triu().tril(),
        "a position does not see its own token": whole.triu(1),
        "the logits do not depend on the tokens": ~whole,
        "the mask is turned around: a position sees later tokens, and not the earlier ones": whole.tril(),
    }
    return next(
        (sentence for sentence, sight in known.items() if torch.equal(seen, sight)), "positions see the wrong tokens"
    )


@pytest.mark.points(2)
def test_all_layers_and_heads_are_there(student, check, rng):
    """Each layer has parameters of its own, all of which matter; num_heads is 16 by default, and changes the logits."""

    def probe(sizes, ids):
        from training_techniques import MemoryEfficientLLM

        V, D, layers, H = sizes

        def numbers(layers):
            return sum(weight.numel() for weight in MemoryEfficientLLM(V, D, layers, H).parameters())

        model = MemoryEfficientLLM(*sizes).double().eval()
        inside.draw_weights(model)
        with torch.no_grad():
            logits, idle = inside.a_tensor(model(ids)), 0
            for weight in model.parameters():
                if weight.dim() > 1 and weight.shape[0] != 1024:
                    before = weight.clone()
                    weight.add_(torch.randn_like(weight), alpha=0.3)
                    idle += bool((model(ids) - logits).abs().max() < 1e-9)
                    weight.copy_(before)
            by_heads = []
            for heads in ((4,), (1,), (16,), ()):
                other = MemoryEfficientLLM(V, D, layers, *heads).double().eval()
                try:
                    other.load_state_dict(model.state_dict())
                    by_heads.append(other(ids))
                except RuntimeError:  # the heads have weights of other shapes: then they matter
                    by_heads.append(None)
        starts = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            starts.append(torch.cat([weight.detach().flatten() for weight in MemoryEfficientLLM(*sizes).parameters()]))
        return [numbers(n) for n in (1, 2, 5)], idle, logits, by_heads, torch.equal(*starts)

    (one, two, five), idle, logits, by_heads, seeded = student.run(probe, SIZES, tokens(rng, V, 2, 5))

    check.that(two > one, "a second layer has no parameters of its own")
    check.that(five - one == 4 * (two - one), "the number of parameters does not grow by the same with each layer")
    check.that(idle == 0, "some matrices have no influence on the logits")
    check.that(not seeded, "every new model has the same weights: do not set a seed")
    for other in by_heads[:2]:
        check.that(other is None or not nearly(other, logits), "num_heads has no influence on the logits")
    if by_heads[2] is not None:
        check(by_heads[3], by_heads[2], otherwise="num_heads is not 16 by default")


@pytest.mark.points(1)
def test_there_is_no_dropout(student, check, rng):
    """In train mode two calls give the logits of eval mode; nothing else happens; one token is a sequence; ids may be int32."""

    def probe(sizes, ids):
        from training_techniques import MemoryEfficientLLM

        model = MemoryEfficientLLM(*sizes)
        inside.draw_weights(model)
        logits, (after,), rude = inside.manners(model, ids)
        first = inside.a_tensor(model(ids[:, :1]))
        return model.train()(ids), logits, model.eval()(ids), first, model(ids.int()), after, rude

    ids = tokens(rng, V, 3, 7)
    first, second, quiet, single, short, after, rude = student.run(probe, SIZES, ids)

    check.that(quiet.unique().numel() > V, "the logits are the same for all tokens")
    check(first, second, otherwise="two calls in train mode give different logits; there should be no dropout")
    check(first, quiet, otherwise="the logits in train mode differ from those in eval mode; there should be no dropout")
    check(single, quiet[:, :1], scale=1.0, what="the logits of a single token")
    check(short, quiet, scale=1.0, otherwise="the logits depend on whether ids have 32 or 64 bits")
    check(after, ids, otherwise="input_ids is changed in place")
    check(rude, "", mistakes=MANNERS)


@pytest.mark.points(1)
def test_sizes_that_do_not_fit_are_refused(student, check):
    """A d_model that num_heads does not divide and a sequence longer than 1024 are ValueErrors; 1024 tokens are not."""

    def made(*sizes):
        from training_techniques import MemoryEfficientLLM

        MemoryEfficientLLM(*sizes)

    def used(length):
        from training_techniques import MemoryEfficientLLM

        model = MemoryEfficientLLM(5, 4, 1, 1)
        with torch.no_grad():
            return list(inside.a_tensor(model(torch.zeros(1, length, dtype=torch.long))).shape), model.max_len

    def many_rows():
        from training_techniques import MemoryEfficientLLM

        model = MemoryEfficientLLM(5, 4, 1, 1)
        with torch.no_grad():
            try:
                return len(inside.a_tensor(model(torch.zeros(1025, 2, dtype=torch.long))))
            except ValueError:
                return "a ValueError"

    student.raises(ValueError, made, V, 12, 2, 5, says=("d_model", "num_heads", 12, 5))
    student.raises(ValueError, made, V, 24, 2, says=("d_model", "num_heads", 24, 16))
    student.raises(ValueError, used, 1025, says=("max_len", "input_ids", 1025, 1024))
    check(student.run(used, 1024), ([1, 1024, 5], 1024), names=("shape of the logits", "max_len"))
    check(student.run(many_rows), 1025, what="the rows of the logits of 1025 short texts", mistakes={
        "1025 rows are refused; max_len should be compared with T alone": "a ValueError",
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- gradients


def with_slopes(sizes, ids, frozen):
    """A probe: (gradients of a float64 model by backward, along cos(n) for each parameter; the slopes by definition; has each).

    frozen: the parameters that have a row for each token or each position need no gradient.
    """
    from training_techniques import MemoryEfficientLLM

    model = MemoryEfficientLLM(*sizes).double()
    inside.draw_weights(model)
    for weight in model.parameters():
        if frozen and weight.shape[0] in (sizes[0], 1024):
            weight.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def total():
        return inside.total(model(ids))

    total().backward()
    found = [weight.grad for weight in weights]
    along = [
        0.0 if grad is None else float((torch.arange(grad.numel()).double().cos().view_as(grad) * grad).sum())
        for grad in found
    ]
    return along, inside.slopes_of(total, weights), [grad is not None for grad in found]


@pytest.mark.points(4)
def test_the_gradients_are_exact(student, check, rng):
    """In float64 backward gives each parameter the gradient that the model has without checkpointing."""
    found, slopes, has = student.run(with_slopes, SIZES, tokens(rng, V, 2, 4), False)

    check.that(any(slopes), "the logits do not depend on the weights")
    check.that(any(has), "no parameter gets a gradient")
    found, slopes = torch.tensor(found, dtype=torch.float64), torch.tensor(slopes, dtype=torch.float64)
    missing = torch.tensor([not each for each in has])
    off = float((found - slopes).norm() / slopes.norm())
    doubled = (found - 2 * slopes).abs() < (found - slopes).abs()
    is_doubled = bool(doubled.any()) and nearly(found, slopes * (1.0 + doubled), 1e-5)
    check(found, slopes, relative=1e-6, scale=1.0, what="the gradients along a direction", mistakes={
        "some parameters get no gradient": check.when(bool(missing.any()), slopes.masked_fill(missing, 0.0)),
        "some gradients are twice too large: what backward adds to .grad should not be returned as well": check.when(is_doubled),
        "the gradients are only nearly those without checkpointing; they should be exact": check.when(1e-6 < off < 0.3),
    })  # fmt: skip


@pytest.mark.points(2)
@pytest.mark.needs("test_the_gradients_are_exact")
def test_layers_learn_where_the_embeddings_are_frozen(student, check, rng):
    """Where the tokens' and positions' embeddings need no gradient the layers get theirs."""
    found, slopes, has = student.run(with_slopes, SIZES, tokens(rng, V, 2, 4), True)

    check.that(all(has), "where the embeddings are frozen some layers get no gradient (as with use_reentrant=True)")
    found, slopes = torch.tensor(found, dtype=torch.float64), torch.tensor(slopes, dtype=torch.float64)
    check(found, slopes, relative=1e-6, scale=1.0, what="the gradients along a direction")


@pytest.mark.points(1)
def test_calls_under_way_do_not_disturb_each_other(student, check, rng):
    """Two forward passes, then their backward passes; gradients of two calls add up; the model may be in eval mode."""

    def probe(sizes, first, second):
        from training_techniques import MemoryEfficientLLM

        model = MemoryEfficientLLM(*sizes).double()
        inside.draw_weights(model)

        def gradients(*outputs):
            model.zero_grad()
            for output in outputs:
                inside.total(output).backward()
            return [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in model.parameters()]

        alone = [gradients(model(ids)) for ids in (first, second)]
        both = gradients(model(first), model(second))
        return alone, both, gradients(model.eval()(first))

    (one, other), both, quiet = student.run(probe, SIZES, tokens(rng, V, 2, 4), tokens(rng, V, 3, 5))

    check.that(any(bool(grad.any()) for grad in one), "no parameter gets a gradient")
    check.that(nearly(quiet, one), "the gradients in eval mode differ from those in train mode")
    sums = [a + b for a, b in zip(one, other, strict=True)]
    check.that(nearly(both, sums), "where two calls are under way, or gradients add up, the gradients are wrong")


@pytest.mark.points(1)
def test_a_layer_runs_under_autocast_both_times(student, check, rng):
    """Where the model runs under autocast, what is worked out again is in bfloat16, too."""

    def probe(sizes, ids):
        from training_techniques import MemoryEfficientLLM

        model, seen = MemoryEfficientLLM(*sizes), []
        for part in model.modules():
            if isinstance(part, torch.nn.Linear):
                part.register_forward_hook(lambda part, args, output: seen.append(str(output.dtype)))
        with torch.autocast("cpu", torch.bfloat16):
            logits = inside.a_tensor(model(ids))
        first = len(seen)
        inside.total(logits.float()).backward()
        return seen[:first], seen[first:]

    first, second = student.run(probe, SIZES, tokens(rng, V, 2, 4))

    check.that(set(first) <= {"torch.bfloat16"}, "a layer does not run under autocast")
    check.that(set(second) <= {"torch.bfloat16"}, "a layer runs in float32 when it is worked out again under autocast")


# ---------------------------------------------------------------------------------------------- memory


@pytest.mark.points(3)
@pytest.mark.parametrize(
    "where", [" in training mode", " in eval mode", " where the embeddings are frozen", " where the layers are frozen"]
)
@pytest.mark.parametrize(("B", "T"), [(2, 9), (1, 64)])
def test_a_layer_saves_no_more_than_its_input(student, check, rng, where, B, T):
    """With each layer at most 2 · B · T · D values more are saved for the backward pass, parameters aside."""

    def probe(V, D, H, ids, where):
        from training_techniques import MemoryEfficientLLM

        found, used = [], None
        for layers in (1, 2, 6):
            model = MemoryEfficientLLM(V, D, layers, H).train("eval" not in where)
            for weight in model.parameters() if "frozen" in where else ():
                is_table = weight.shape[0] in (V, 1024)
                weight.requires_grad_(is_table == ("layers" in where))
            saved, logits = inside.packed(model, ids)
            found.append(saved)
        used = logits.requires_grad and logits.unique().numel() > V
        return found[0] / 4, (found[2] - found[1]) / 4 / 4, used

    alone, values, used = student.run(probe, V, D, H, tokens(rng, V, B, T), where)

    check.that(used, "the logits lead back to no gradient, or are the same for all tokens")
    check.that(values < 10 * B * T * D, f"a layer saves all that is inside{where}; it should save its input alone")
    check.that(values <= 2 * B * T * D, f"a layer saves more than its input{where}")
    # Of one layer and all that is around the layers: less than what is inside a layer, 16 · B · T · D and more.
    check.that(alone < 12 * B * T * D, f"the first or the last layer saves all that is inside{where}")


@pytest.mark.points(3)
@pytest.mark.needs("test_the_gradients_are_exact")
def test_many_layers_fit_into_little_memory(student, check, rng):
    """48 layers run forward and backward in memory that is a few times what their inputs take: so much the process gets."""

    def probe(sizes, ids, megabytes):
        from training_techniques import MemoryEfficientLLM

        model = MemoryEfficientLLM(*sizes)
        inside.total(model(ids[:1, :2])).backward()  # what torch needs for itself is there before
        try:
            with inside.at_most(megabytes):
                step = "forward"
                logits = inside.a_tensor(model(ids))
                step = "backward"
                inside.total(logits).backward()
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            return step
        return ""

    # 48 layers save 25 MB of inputs, or more than 400 MB of what is inside.
    where = student.on(timeout=20).run(probe, (V, 32, 48, 1), tokens(rng, V, 256, 16), 240)

    check(where, "", mistakes={
        "the forward pass takes too much memory: the layers keep what is inside": "forward",
        "the backward pass takes too much memory: it should work out one layer at a time again": "backward",
    })  # fmt: skip


@pytest.mark.points(1)
def test_without_gradients_nothing_is_saved(student, check, rng):
    """Under no_grad the logits are the same, and lead back to no gradient; no call leaves anything behind."""

    def probe(sizes, ids):
        import gc
        import weakref

        from training_techniques import MemoryEfficientLLM

        model, made = MemoryEfficientLLM(*sizes).eval(), []
        inside.draw_weights(model)
        logits = inside.a_tensor(model(ids)).detach()

        def note(part, args, output):
            if isinstance(output, torch.Tensor):
                made.append(weakref.ref(output))

        def left():
            """The parts' outputs that are still there after a call."""
            made.clear()
            model(ids)
            if any(output() is not None for output in made):
                gc.collect()
            return [output() for output in made if output() is not None]

        with torch.no_grad():
            saved, quiet = inside.packed(model, ids)
            for part in model.modules():
                part.register_forward_hook(note)
            first, second = left(), left()
        new = [output for output in second if all(output is not known for known in first)]  # a table may be kept
        return logits, quiet.detach(), saved, quiet.requires_grad, len(new)

    logits, quiet, saved, leads_back, new = student.run(probe, SIZES, tokens(rng, V, 2, 6))

    check.that(logits.unique().numel() > V, "the logits are the same for all tokens")
    check(quiet, logits, otherwise="the logits under no_grad differ from those with gradients")
    check.that(saved == 0 and not leads_back, "gradients are made under no_grad")
    check.that(new == 0, "each call leaves outputs of the layers behind, which stay in memory")
