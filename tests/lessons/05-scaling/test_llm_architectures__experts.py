"""Hidden tests of llm_architectures: MixtureOfExperts, as Mixtral does it, in float64."""

import pytest
import torch

import shared
from llm_architectures_helpers import gated
from shared import MANNERS, linear_weights, nearly, on_right_parts, randn, true_gradients

pytestmark = pytest.mark.question("MixtureOfExperts")

D, FF, E = 6, 5, 4


def random_experts(rng, experts=E, size=1.5):
    """The router's weight, and (gate, up, down) of each expert: float64, so large that all of them show."""
    router = size * randn(rng, experts, D, dtype=torch.float64)
    shapes = ((D, FF), (D, FF), (FF, D))
    return router, [[linear_weights(rng, *shape, False, torch.float64)[0] for shape in shapes] for _ in range(experts)]


# ---------------------------------------------------------------------------------------------- the steps


def kept_best(probs, k):
    """(N, E) the probabilities of the k largest in each row, 0 elsewhere."""
    values, places = probs.topk(k, dim=-1)
    return torch.zeros_like(probs).scatter(-1, places, values)


def to_one(kept):
    return kept / kept.sum(-1, keepdim=True)


def softmax(logits):
    return logits.softmax(-1)


def mixed(x, router, experts, weigh):
    """Σ weights · expert(x), the weights (N, E) made of the router's logits."""
    rows = x.reshape(-1, D)
    weights = weigh(rows @ router.T)
    outputs = torch.stack([gated(rows, *expert) for expert in experts], dim=1)  # (N, E, D)
    return (weights[..., None] * outputs).sum(1).reshape(x.shape)


def balance(x, router, k):
    """(f, P): calls of each expert a token, its mean probability."""
    probs = softmax(x.reshape(-1, D) @ router.T)
    return (kept_best(probs, k) > 0).double().mean(0), probs.mean(0)


def balance_loss(x, router, k):
    calls, probs = balance(x, router, k)
    return len(router) * (calls * probs).sum()


WEIGHTS = {  # sentence -> how the weights come from logits and top_k
    "the weights of the chosen experts do not sum to 1; they should be scaled": lambda y, k: kept_best(softmax(y), k),
    "all experts are used; a token should use top_k": lambda y, k: softmax(y),
    "only the best expert is used; a token should use top_k": lambda y, k: to_one(kept_best(softmax(y), 1)),
    "only the best expert is used, with its probability": lambda y, k: kept_best(softmax(y), 1),
    "the chosen experts have equal weights": lambda y, k: to_one((kept_best(softmax(y), k) > 0).double()),
    "the chosen experts are added without weights": lambda y, k: (kept_best(softmax(y), k) > 0).double(),
    "the weights are scaled by another softmax, of the probabilities": lambda y, k: (
        kept_best(softmax(y), k).masked_fill(kept_best(softmax(y), k) == 0, -torch.inf).softmax(-1)
    ),
    "the router has a sigmoid; it should have a softmax": lambda y, k: to_one(kept_best(y.sigmoid(), k)),
    "the weights are those of the chosen experts in the wrong order": lambda y, k: torch.zeros_like(y).scatter(
        -1, y.topk(k, -1).indices, to_one(softmax(y).topk(k, -1).values).flip(-1)
    ),
    "the softmax goes over the tokens; it should go over the experts": lambda y, k: to_one(kept_best(y.softmax(0), k)),
    "an expert's part replaces that of the one before it; they should be added": lambda y, k: (
        to_one(kept_best(softmax(y), k)) * torch.nn.functional.one_hot(((kept_best(softmax(y), k) > 0) * torch.arange(1, E + 1)).argmax(-1), E)
    ),
    "with top_k=1 the weights are scaled over the tokens; those of each token should sum to 1": lambda y, k: (
        kept_best(softmax(y), k) / (kept_best(softmax(y), k).sum() if k == 1 else kept_best(softmax(y), k).sum(-1, keepdim=True))
    ),
    "the experts one after the chosen ones are used": lambda y, k: to_one(kept_best(softmax(y), k)).roll(1, -1),
}  # fmt: skip


def outputs_of(layers, calls, right):
    """A probe: for each (x, top_k) what a MixtureOfExperts with these weights gives, as (output, loss)."""

    def use():
        found = []
        for (router, experts), x, k in zip(layers, *zip(*calls, strict=True), strict=True):
            output, loss = inside.experts_with(router, experts, k)(x)
            found.append([inside.a_tensor(output).detach(), inside.a_tensor(loss, "the loss").detach()])
        return found

    return inside.use_of(use, "llm_architectures", "MixtureOfExperts", right)


@pytest.mark.points(4)
@pytest.mark.parametrize("shape", [(2, 7, D), (9, D), (D,), (2, 2, 3, D)])
def test_each_token_uses_its_best_experts(student, check, rng, shape):
    """The top_k experts of a softmax over all, with weights that are scaled to sum to 1."""
    layer, x = random_experts(rng), randn(rng, *shape, dtype=torch.float64)
    counts = (2, 1, 3, E)

    def truth(weigh=lambda y, k: to_one(kept_best(softmax(y), k))):
        return [mixed(x, *layer, lambda y, k=k: weigh(y, k)) for k in counts]

    def fine(found):
        return nearly([output for output, _ in found], truth(), 1e-5)

    found = on_right_parts(student, outputs_of, [layer] * len(counts), [(x, k) for k in counts], fine=fine)

    check(
        [output for output, _ in found],
        truth(),
        relative=1e-5,  # a softmax in float32 is what transformers has
        mistakes={sentence: lambda wrong=wrong: truth(wrong) for sentence, wrong in WEIGHTS.items()},
        names=[f"the output with top_k={k}" for k in counts],
    )


LOSSES = {  # sentence -> the loss of x, router, k
    "the loss is not multiplied by the number of experts": lambda x, r, k: balance_loss(x, r, k) / E,
    "f is divided by the calls; it should be calls divided by tokens": lambda x, r, k: balance_loss(x, r, k) / k,
    "f counts the best expert alone; it should count all top_k": lambda x, r, k: balance_loss(x, r, 1),
    "f is not divided by the number of tokens": lambda x, r, k: balance_loss(x, r, k) * x.numel() / D,
    "P is the sum of the probabilities; it should be their mean": lambda x, r, k: balance_loss(x, r, k) * x.numel() / D,
    "P is one mean over all experts; it should be a mean for each expert": lambda x, r, k: E * (
        balance(x, r, k)[0] * balance(x, r, k)[1].mean()
    ).sum(),
    "P has only the probabilities of the chosen experts": lambda x, r, k: E * (
        balance(x, r, k)[0] * kept_best(softmax(x.reshape(-1, D) @ r.T), k).mean(0)
    ).sum(),
    "P has the scaled weights of the chosen experts; it should have the probabilities": lambda x, r, k: E * (
        balance(x, r, k)[0] * to_one(kept_best(softmax(x.reshape(-1, D) @ r.T), k)).mean(0)
    ).sum(),
    "the loss is that of f alone, without the probabilities": lambda x, r, k: E * balance(x, r, k)[0].square().sum(),
    "the loss is that of P alone, without the calls": lambda x, r, k: E * balance(x, r, k)[1].square().sum(),
    "the loss is smaller by top_k: it should be top_k in balance, not 0": lambda x, r, k: balance_loss(x, r, k) - k,
    "the loss of each row is computed alone": lambda x, r, k: torch.stack([balance_loss(row, r, k) for row in x]).mean(),
    "the loss is 0": lambda x, r, k: torch.tensor(0.0, dtype=torch.float64),
}  # fmt: skip


@pytest.mark.points(3)
def test_the_loss_measures_the_balance(student, check, rng):
    """E · Σ f P, with f the calls of an expert by tokens and P its mean probability: a tensor without dimensions."""
    layer, x = random_experts(rng), randn(rng, 3, 5, D, dtype=torch.float64)
    even = torch.zeros(E, D, dtype=torch.float64), layer[1]
    calls = [(x, 2), (x, 3), (x, 1), (x, 2)]

    def truth(loss):
        return [loss(x, layer[0], k) for k in (2, 3, 1)]

    def fine(found):
        return nearly([loss for _, loss in found[:3]], truth(balance_loss), 1e-5)

    found = on_right_parts(student, outputs_of, [layer] * 3 + [even], calls, fine=fine)

    losses = shared.single([loss for _, loss in found])  # it may be worked out in float32, as transformers does
    values = {sentence: lambda wrong=wrong: shared.single(truth(wrong)) for sentence, wrong in LOSSES.items()}
    check(
        losses[:3],
        shared.single(truth(balance_loss)),
        relative=1e-5,
        mistakes=values,
        names=[f"the loss with top_k={k}" for k in (2, 3, 1)],
    )
    check(
        losses[3],
        torch.tensor(2.0),
        relative=1e-5,
        what="the loss of a router that is even, with top_k=2",
    )


@pytest.mark.points(2)
def test_no_token_is_left_out(student, check, rng):
    """All 60 tokens may choose the same two of eight experts: there is no capacity."""
    (_, experts), x = random_experts(rng, 8), randn(rng, 60, D, dtype=torch.float64).abs() + 0.1
    router = torch.full((8, D), -99.0, dtype=torch.float64)
    router[1], router[3] = 2.0, 1.0

    def truth(rows):
        output = mixed(x, router, experts, lambda y: to_one(kept_best(softmax(y), 2)))
        return torch.where(rows[:, None], output, 0.0)

    everybody = torch.ones(60, dtype=torch.bool)

    def fine(found):
        return nearly(found[0][0], truth(everybody), 1e-5)

    ((output, _),) = on_right_parts(student, outputs_of, [(router, experts)], [(x, 2)], fine=fine)

    full = torch.arange(60)
    check(output, truth(everybody), relative=1e-5, mistakes={
        "tokens beyond a capacity of tokens · top_k / experts are left out": truth(full < 15),
        "tokens beyond a capacity of 1.25 · tokens · top_k / experts are left out": truth(full < 18),
        "tokens beyond a capacity of 1.25 · tokens · top_k / experts, rounded up, are left out": truth(full < 19),
        "tokens beyond a capacity of 2 · tokens · top_k / experts are left out": truth(full < 30),
    })  # fmt: skip


@pytest.mark.points(2)
def test_an_expert_works_for_those_who_chose_it(student, check, rng):
    """An expert gets the tokens that chose it, once, and no others; one that is full of NaN harms only them."""

    def probe(routers, experts, x, k, broken, right):
        def seen_by(layer):
            rows = []
            for expert in layer.experts:
                expert.register_forward_pre_hook(lambda part, given: rows.append(given[0].numel() // x.shape[-1]))
            layer(x)
            return sum(rows)

        def use():
            layers = [inside.experts_with(router, experts, k) for router in routers]
            seen, outputs = [seen_by(layer) for layer in layers], []
            for layer in layers:
                for weight in layer.experts[broken].parameters():
                    weight.data.fill_(float("nan"))
                outputs.append(inside.a_tensor(layer(x)[0]).detach())
            return seen, outputs

        return inside.use_of(use, "llm_architectures", "MixtureOfExperts", right)

    (router, experts), x, broken = random_experts(rng), randn(rng, 3, 8, D, dtype=torch.float64), 1
    x[..., 0] = 1.0
    unloved = router.clone()
    unloved[broken, 0] = -99.0  # nobody chooses this expert
    chosen = kept_best(softmax(x.reshape(-1, D) @ router.T), 2) > 0
    seen, outputs = student.run(probe, [router, unloved, 0 * router], experts, x, 2, broken, False)

    output, other, _ = outputs
    check.that(
        max(seen[:2]) <= 2 * 24,
        "the experts get more rows than there are choices; each should get the tokens that chose it, once",
    )
    check.that(seen[2] <= 2 * 24, "where probabilities are equal, a token uses more than top_k experts")
    harmed = output.isnan().any(-1).reshape(-1) if output.shape == x.shape else chosen[:, broken] * 0
    check.that(
        bool((~harmed[~chosen[:, broken]]).all()), "an expert changes tokens that did not choose it: 0 · NaN is NaN"
    )
    check.that(bool(harmed[chosen[:, broken]].all()), "an expert has no effect on tokens that chose it")
    check.that(not shared.has_nan([other]), "an expert that no token chose changes the output: 0 · NaN is NaN")


@pytest.mark.points(3)
def test_gradients_reach_router_and_experts(student, check, rng):
    """Through the weights to the router, through the experts to x; the loss has a gradient through P, and none through f."""

    def probe(router, experts, x, right):
        def use():
            layer, leaf = inside.experts_with(router, experts, 2), x.clone().requires_grad_()
            leaves = [leaf, layer.router.weight, *[expert.down.weight for expert in layer.experts]]
            return inside.gradients(layer(leaf)[0], leaves), inside.gradients([layer(leaf)[1]], leaves[:2])

        return inside.use_of(use, "llm_architectures", "MixtureOfExperts", right)

    (router, experts), x = random_experts(rng), randn(rng, 2, 6, D, dtype=torch.float64)
    downs = [down for *_, down in experts]

    def output(x):
        return mixed(x, router, experts, lambda y: to_one(kept_best(softmax(y), 2)))

    def without_router(x):
        return mixed(x, router, experts, lambda y: to_one(kept_best(softmax(y), 2)).detach())

    def half_scaled(x):  # the sum by which it is scaled is detached
        return mixed(
            x,
            router,
            experts,
            lambda y: kept_best(softmax(y), 2) / kept_best(softmax(y), 2).sum(-1, keepdim=True).detach(),
        )

    def of_loss(x):
        return balance_loss(x, router, 2)

    truths = [
        true_gradients(function, x.clone(), weights=weights)[1]
        for function, weights in (
            (output, [router, *downs]),
            (without_router, [router, *downs]),
            (half_scaled, [router, *downs]),
            (of_loss, [router]),
        )
    ]
    plain = [weight.detach() for weight in (router, *[w for expert in experts for w in expert])]
    weights = plain[0], [plain[1 + 3 * n : 4 + 3 * n] for n in range(E)]

    def fine(found):
        return nearly([*found[0], *found[1]], [*truths[0], *truths[3]], 1e-5)

    of_output, of_balance = on_right_parts(student, probe, *weights, x.detach(), fine=fine)

    names = ("x", "the router", *[f"down of expert {n}" for n in range(E)])
    check(of_output, truths[0], relative=1e-5, names=names, what="the gradients of the output", mistakes={
        "the weights have no gradient, so that the router does not learn from the output": truths[1],
        "no gradient goes through the sum by which the weights are scaled": truths[2],
    })  # fmt: skip
    check(of_balance, truths[3], relative=1e-5, names=names[:2], what="the gradients of the loss", mistakes={
        "the loss has no gradient": [0 * truth for truth in truths[3]],
        "the loss has no gradient at x": [0 * truths[3][0], truths[3][1]],
    })  # fmt: skip


@pytest.mark.points(1)
def test_router_and_experts_have_their_names(student, check):
    """router: Linear(D, E) without bias; experts: a ModuleList of E SwiGLU, each with its own weights. top_k is 2 by default."""

    def probe(sizes):
        import inspect

        from llm_architectures import MixtureOfExperts, SwiGLU

        layer = MixtureOfExperts(*sizes)
        kinds = isinstance(layer.experts, torch.nn.ModuleList), all(isinstance(part, SwiGLU) for part in layer.experts)
        shapes = {name: list(weight.shape) for name, weight in layer.state_dict().items()}
        owners = len({id(weight) for weight in layer.parameters()})
        used = inside.says_something(layer(torch.ones(2, sizes[0]).cumsum(0))[0])
        return kinds, shapes, owners, inspect.signature(MixtureOfExperts).parameters["top_k"].default, used

    kinds, shapes, owners, top_k, used = student.run(probe, (D, FF, 3))

    part = {"gate.weight": [FF, D], "up.weight": [FF, D], "down.weight": [D, FF]}
    right = {"router.weight": [3, D]} | {f"experts.{n}.{name}": shape for n in range(3) for name, shape in part.items()}
    check(shapes, right, what="the shapes of the weights", mistakes={
        "the router has a bias; it should have none": right | {"router.bias": [3]},
    })  # fmt: skip
    check(kinds, (True, True), otherwise="experts should be a ModuleList of SwiGLU")
    check(owners, 10, otherwise="experts share their weights; each should have its own")
    check(top_k, 2, what="the default of top_k")
    check.that(used, "the output is the same everywhere")


@pytest.mark.points(1)
@pytest.mark.parametrize("top_k", [0, 5, -1])
def test_bad_numbers_of_experts_are_refused(student, check, top_k):
    """top_k below 1 or above num_experts is a ValueError."""

    def probe(sizes):
        from llm_architectures import MixtureOfExperts

        output, _ = MixtureOfExperts(*sizes)(torch.ones(2, sizes[0]))
        return list(output.shape)

    student.raises(ValueError, probe, (D, FF, E, top_k), says=("top_k", "num_experts", "experts", top_k))
    check(student.run(probe, (D, FF, E, E)), [2, D])


@pytest.mark.points(1)
def test_a_mixture_changes_nothing_else(student, check, rng):
    """x may be strided and stays as it is; train and eval mode agree; float32 and bfloat16 stay; nothing is printed or set."""

    def probe(sizes, x):
        from llm_architectures import MixtureOfExperts

        layer, other = MixtureOfExperts(*sizes), MixtureOfExperts(*sizes)
        seeded = torch.equal(layer.router.weight, other.router.weight)
        (plain, loss), ((result, trained), (after,), rude) = layer.eval()(x), inside.manners(layer.train(), x)
        layer(-x)  # of which nothing may stay
        _, again = layer(x)
        alone = inside.left_alone(layer, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            try:
                cast = [inside.a_tensor(layer(each)[0]).dtype for each in (x, x.bfloat16())]
            except RuntimeError:
                cast = "an error"
        short, _ = layer.bfloat16()(x.bfloat16())
        plain, result, short = map(inside.a_tensor, (plain, result, short))
        losses = [inside.a_tensor(one, "the loss").detach() for one in (loss, trained, again)]
        return seeded, plain.detach(), losses, result.detach(), after, rude, alone, short.dtype, cast

    x = randn(rng, 4, 5, D)
    seeded, plain, (loss, trained, again), result, after, rude, alone, dtype, cast = student.run(probe, (D, FF, E), x)

    check.that(not seeded, "all layers start with the same weights: do not set a seed")
    check(after, x, otherwise="x is changed in place")
    check.that(alone, "x is changed in place where no gradients are kept")
    check(rude, "", mistakes=MANNERS)
    check((plain.dtype, loss.dtype), (torch.float32, torch.float32))
    check(result, plain, terms=4096, otherwise="the output depends on the mode, or on how x is laid out in memory")
    check(trained, loss, otherwise="the loss of train mode differs from that of eval mode")
    check(again, loss, otherwise="the loss depends on what the layer was given before")
    check(
        dtype,
        torch.bfloat16,
        mistakes={"the output for bfloat16 is float32; it should have the dtype of x": torch.float32},
    )
    wide, short = torch.float32, torch.bfloat16
    check(cast, [wide, short], what="the dtype of the output under autocast, for float32 and for bfloat16", mistakes={
        "under autocast the layer fails; what the experts give should be converted to the dtype of the output": "an error",
        "under autocast the output is bfloat16; it should have the dtype of x": [short, short],
        "under autocast the output is float32; it should have the dtype of x": [wide, wide],
    })  # fmt: skip
    check.that(shared.is_own(plain, torch.zeros_like(x)), "the output is the same everywhere")
