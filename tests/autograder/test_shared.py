"""What the hidden suites of all lessons share: tests/lessons/shared.py and inside.py, and how they reach a lesson."""

import importlib.util
import random
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, write_lesson
from scipy import stats

from autograder.errors import LessonError
from autograder.grade import Grader
from autograder.lesson import load
from autograder.scorecard import PASSED
from autograder.submission import Submission


def module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "lessons" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


inside, shared = module("inside"), module("shared")

# ---------------------------------------------------------------------------------------------- how they come along

SUITE = """
    import pytest
    from shared import twice


    @pytest.mark.points(1)
    def test_both_sides_have_what_is_shared(student, check):
        def probe(x):
            return inside.triple(x), inside.six_times(x)

        check(student.run(probe, twice(2)), (12, 24))
"""


@pytest.fixture
def sharing(tmp_path):
    """A lesson that uses shared helpers on both sides."""
    write_lesson(tmp_path, suite=SUITE)
    lessons = tmp_path / "tests" / "lessons"
    (lessons / "shared.py").write_text("def twice(x):\n    return 2 * x\n")
    (lessons / "inside.py").write_text("def triple(x):\n    return 3 * x\n")
    (lessons / "99-toy" / "inside.py").write_text(
        "from ..inside import (\n    triple,\n)\n\n\ndef six_times(x):\n    return 2 * triple(x)\n"
    )
    return load("99-toy", tmp_path)


def test_a_suite_and_its_probes_find_what_is_shared(sharing):
    with Grader(sharing) as grader:
        card = grader.grade(Submission("solution", "", sharing.solution_files()))

    assert [(row.status, row.message) for row in card.outcomes] == [(PASSED, "")]


@pytest.mark.parametrize("name", ["shared.py", "inside.py"])
def test_the_digest_is_of_what_is_shared_too(sharing, name):
    before = sharing.suite_digest("toy")
    with (sharing.tests.parent / name).open("a") as file:
        file.write("# changed\n")

    assert load("99-toy", sharing.root).suite_digest("toy") != before


def test_an_inside_that_is_not_python_is_named(sharing):
    (sharing.tests / "inside.py").write_text("def (")

    with pytest.raises(LessonError, match=r"99-toy.inside\.py is not Python"):
        _ = sharing.inside


# ---------------------------------------------------------------------------------------------- inside.py


def test_strided_has_the_same_numbers_in_another_layout():
    x = torch.arange(24.0).view(2, 3, 4)

    assert torch.equal(inside.strided(x), x)
    assert not inside.strided(x).is_contiguous()


@pytest.mark.parametrize(
    ("function", "rude"),
    [
        (lambda x: x + 1, ""),
        (lambda x: print("hello"), "prints"),
        (lambda x: torch.manual_seed(1), "changes torch"),
        (lambda x: torch.set_default_dtype(torch.float64), "changes torch"),
        (lambda x: print(torch.set_grad_enabled(False)), "changes torch, prints"),
    ],
)
def test_manners_says_what_a_call_did_besides(function, rude):
    state = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        assert inside.manners(function, torch.ones(2, 3))[2] == rude
    finally:
        torch.set_default_dtype(state[0])
        torch.set_grad_enabled(state[1])
    assert rude in ["", *shared.MANNERS.values()]


def test_manners_shows_what_was_changed_in_place():
    x = torch.ones(2, 3)

    result, (after, two), _ = inside.manners(lambda x, factor: x.mul_(factor), x, 2)

    assert torch.equal(after, 2 * x)
    assert torch.equal(result, after)
    assert two == 2


def test_gradients_are_those_of_the_truth():
    x, w = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]

    found = inside.gradients([leaves[0] @ leaves[1], leaves[0]], leaves)
    outputs, truth = shared.true_gradients(lambda x: (x @ w, x), x, weights=[w])

    assert all(torch.allclose(one, other) for one, other in zip(found, truth, strict=True))
    assert torch.equal(outputs[0], (x @ w).detach())


def test_gradients_are_zero_where_nothing_flows_back():
    x = torch.ones(3, requires_grad=True)

    assert torch.equal(inside.gradients(x.detach(), [x])[0], torch.zeros(3))


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda x, training: torch.dropout(x, 0.5, training), []),
        (lambda x, training: torch.dropout(x, 0.5, True), ["dropout is active in eval mode too"]),
        (lambda x, training: x, ["there is no dropout in train mode"]),
        (
            lambda x, training: x * torch.rand(x.shape, generator=MOVING) if training else x,
            ["dropout does not follow torch's seed"],
        ),
    ],
)
def test_dropout_facts_say_what_is_wrong(forward, said):
    class Layer(torch.nn.Module):
        def forward(self, x):
            return forward(x, self.training)

    facts = shared.dropout_facts(inside.dropout_runs(Layer(), torch.ones(100)))

    assert [sentence for fact, sentence in facts if not fact] == said


MOVING = torch.Generator().manual_seed(5)
OWN = "torch's own generator is used although generator is given"
OTHERS = "Python's random or numpy's is used although generator is given"
NO_INFLUENCE = "generator has no influence on what is drawn"
ANOTHER_SEED = "another seed of torch gives the same numbers: do not set a seed"
SAME_AGAIN = "every call draws the same: do not set a seed"
NOT_TORCH = "the numbers do not come from torch's generator: its seed should give them again"
NOT_THE_SEED = "one seed of generator gives different numbers: everything should be drawn from it"
SEEDED_ANEW = "generator is seeded anew in each call; it should go on from its state"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def as_it_is(value, *_):
    """The value; what else is done on the way counts by what it changes."""
    return value


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda g: torch.rand(40, generator=g), []),
        (lambda g: [torch.rand(40, generator=g), torch.randperm(40, generator=g)], []),
        (lambda g: torch.rand(40), [OWN, NOT_THE_SEED, NO_INFLUENCE]),
        (lambda g: torch.rand(40, generator=seeded(3)), [NO_INFLUENCE, SEEDED_ANEW, ANOTHER_SEED, SAME_AGAIN]),
        (
            lambda g: torch.tensor([random.random() for _ in range(40)]),
            [OTHERS, NOT_THE_SEED, NOT_TORCH],
        ),
        (lambda g: torch.from_numpy(np.random.rand(40)), [OTHERS, NOT_THE_SEED, NOT_TORCH]),
        # Right values, but the state of what others draw from is not left alone.
        (lambda g: as_it_is(torch.rand(40, generator=g), random.seed(4)), [OTHERS]),
        (lambda g: as_it_is(torch.rand(40, generator=g), np.random.seed(4)), [OTHERS]),
        (lambda g: as_it_is(torch.rand(40, generator=g), g and torch.manual_seed(4)), [OWN]),
        # Some of it is drawn from elsewhere, or not at all.
        (lambda g: [torch.rand(40, generator=g), torch.rand(40)], [OWN, NOT_THE_SEED, NO_INFLUENCE]),
        (lambda g: torch.rand(40, generator=g and g.manual_seed(g.initial_seed())), [SEEDED_ANEW]),
        (lambda g: torch.rand(40, generator=g or seeded(3)), [ANOTHER_SEED, SAME_AGAIN]),
        (lambda g: torch.rand(40, generator=g or MOVING), [NOT_TORCH]),
        (lambda g: torch.rand(40, generator=g or torch.manual_seed(torch.initial_seed())), [SAME_AGAIN]),
    ],
)
def test_randomness_facts_say_what_is_wrong(draw, said):
    facts = shared.randomness_facts(inside.randomness(draw), "numbers")

    assert [sentence for fact, sentence in facts if not fact] == said


def test_seed_facts_are_those_of_what_takes_no_generator():
    fine, fixed, moving = (
        shared.seed_facts(inside.seeds(draw), "numbers")
        for draw in (
            lambda: torch.rand(40),
            lambda: [torch.rand(40), torch.ones(3)],
            lambda: torch.rand(40, generator=MOVING),
        )
    )

    assert [sentence for fact, sentence in fine if not fact] == []
    assert [sentence for fact, sentence in fixed if not fact] == [ANOTHER_SEED, SAME_AGAIN]
    assert [sentence for fact, sentence in moving if not fact] == [NOT_TORCH]


def test_numpy_that_is_imported_during_a_call_is_no_draw(monkeypatch):
    numpy = sys.modules["numpy"]
    monkeypatch.delitem(sys.modules, "numpy")

    def draw(generator):
        sys.modules["numpy"] = numpy
        return torch.rand(40, generator=generator)

    assert not inside.randomness(draw)["others used"]


def test_a_call_on_meta_says_what_mixes_devices():
    assert inside.on_meta(lambda x: x + 1, torch.ones(2)) == ""
    assert inside.on_meta(lambda x: x + torch.ones(2, 2), torch.ones(2, 2)) == "mixes devices"
    assert inside.on_meta(lambda x: torch.ones(2), torch.ones(2)) == "leaves the device"


# ---------------------------------------------------------------------------------------------- shared.py


def drawn(law, count, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.multinomial(law, count, replacement=True, generator=rng).bincount(minlength=len(law))


LAW, OTHER = shared.law(0.5, 0.3, 0.199, 0.001), shared.law(0.3, 0.5, 0.199, 0.001)
SIX = shared.law(0.4, 0.25, 0.15, 0.1, 0.06, 0.04)
WRONG = {
    "off by one": SIX.roll(1),
    "temperature squared": shared.law(*SIX**2),
    "uniform": shared.law(*[1] * 6),
    "argmax": shared.law(1, 0, 0, 0, 0, 0),
    "top-p": shared.law(0.4, 0.25, 0.15, 0.1, 0, 0),
}


def all_counts(draws, cells):
    """Every way in which so many draws can fall into the cells."""
    if cells == 1:
        return [[draws]]
    return [[first, *rest] for first in range(draws + 1) for rest in all_counts(draws - first, cells - 1)]


@pytest.mark.parametrize(
    ("draws", "probs"), [(60, [0.5, 0.3, 0.2]), (110, [0.8, 0.1, 0.1]), (32, [0.34, 0.33, 0.32, 0.01])]
)
def test_a_chance_is_as_rare_as_it_says_far_out_in_the_tail(draws, probs):
    # Not tried but added up: how likely all counts together are that are called so unlikely.
    counts, probs = torch.tensor(all_counts(draws, len(probs))), shared.law(*probs)
    likely = torch.distributions.Multinomial(draws, probs, validate_args=False)
    likely = likely.log_prob(counts.double()).exp()
    chances = torch.tensor([shared.chance(row, probs) for row in counts], dtype=torch.float64)

    assert float(likely.sum()) == pytest.approx(1)
    for rate in (1e-2, 1e-4, 1e-6, 1e-9):
        assert float(likely[chances <= rate].sum()) < 3 * rate


def test_a_right_law_is_refused_as_rarely_as_it_is_said():
    for cases in (1, 3):
        refused = sum(
            shared.wrong_law([(drawn(SIX, 400, 7 * seed + n), SIX, WRONG) for n in range(cases)], "another", 0.05) != ""
            for seed in range(600)
        )

        # 30 are expected. Fewer than 9 or more than 56 would be once in 10⁵ times.
        assert 9 <= refused <= 56, f"{refused} of 600 with {cases} cases"
    assert not any(shared.wrong_law([(drawn(SIX, 3000, seed), SIX, WRONG)], "another") for seed in range(200))


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_laws_are_refused_and_named(mistake):
    said = {shared.wrong_law([(drawn(WRONG[mistake], 3000, seed), SIX, WRONG)], "another") for seed in range(50)}

    assert said == {mistake}


def test_a_chance_agrees_with_scipy():
    counts = drawn(SIX, 1000, 3)
    expected = 1000 * SIX.numpy()

    assert shared.chance(counts, SIX) == pytest.approx(
        stats.power_divergence(counts.numpy(), expected, lambda_="log-likelihood").pvalue
    )
    for count, trials, p in [(0, 9, 0.1), (9, 9, 0.1), (3, 9, 0.1), (5, 10, 0.5), (130, 1000, 0.1), (2, 900, 0.03)]:
        assert shared.chance_of_share(count, trials, p) == pytest.approx(
            stats.binomtest(count, trials, p).pvalue, rel=1e-6
        )
    assert shared.chance(torch.tensor([700, 100, 100, 100]), shared.law(1, 1, 1, 1)) < 1e-100


def test_a_share_is_exact_even_where_nothing_is_expected():
    assert shared.chance_of_share(0, 50, 0.0) == 1.0
    assert shared.chance_of_share(1, 50, 0.0) == 0.0
    assert shared.chance_of_share(50, 50, 1.0) == 1.0
    assert shared.chance_of_share(0, 0, 0.3) == 1.0
    assert shared.chance(torch.tensor([3, 47]), shared.law(0.1, 0.9)) == shared.chance_of_share(3, 50, 0.1)


def test_a_wrong_share_is_named():
    mistakes = {"kept is dropped": 0.7}

    assert shared.wrong_share(310, 1000, 0.3, "another share", mistakes) == ""
    assert shared.wrong_share(690, 1000, 0.3, "another share", mistakes) == "kept is dropped"
    assert shared.wrong_share(450, 1000, 0.3, "another share", mistakes) == "another share"
    assert shared.wrong_share(330, 1000, 0.3, "another share") == ""
    assert shared.wrong_share(330, 1000, 0.3, "another share", false_alarm=0.05) == "another share"


def test_a_chance_of_rows_is_one_of_all_rows():
    counts = torch.stack([drawn(LAW, 2000, 1), drawn(OTHER, 3000, 2)])

    assert shared.chance(counts, torch.stack([LAW, OTHER])) > 1e-6
    assert shared.chance(counts, torch.stack([LAW, LAW])) < shared.FALSE_ALARM
    assert shared.chance(torch.tensor([3, 1, 0]), shared.law(1, 0, 0)) == 0.0
    assert shared.chance(torch.tensor([3, 0, 0]), shared.law(1, 0, 0)) == 1.0


def test_a_law_that_nobody_drew_from_says_nothing_and_one_that_is_none_fits_nothing():
    counts, laws = torch.stack([drawn(OTHER, 3000, 2), torch.zeros(4, dtype=torch.int64)]), torch.stack([LAW, LAW])

    assert shared.chance(counts, laws) < shared.FALSE_ALARM
    assert shared.chance(counts.flip(0), laws) < shared.FALSE_ALARM
    assert shared.chance(counts[1:], laws[1:]) == 1.0
    assert shared.chance(counts[0], LAW * float("nan")) == 0.0


def test_rare_cells_are_no_cells_of_their_own():
    # Two draws are expected in the last cell, and twelve come once in 10⁶ times: not once in 10⁹.
    assert shared.chance(torch.tensor([995, 593, 400, 12]), LAW) > 1e-6
    assert shared.chance(torch.tensor([1, 2, 0, 1]), LAW) == 1.0  # all are rare: nothing can be said


def test_the_wrong_law_is_named():
    mistakes = {"uniform": torch.full((4,), 0.25), "swapped": lambda: OTHER}

    assert shared.wrong_law([(drawn(LAW, 2000, 1), LAW, mistakes)], "another") == ""
    assert shared.wrong_law([(drawn(OTHER, 2000, 1), LAW, mistakes)], "another") == "swapped"
    assert shared.wrong_law([(drawn(LAW.flip(0), 2000, 1), LAW, mistakes)], "another") == "another"


def test_nearly_is_about_shapes_and_values():
    x = torch.ones(2, 3)

    assert shared.nearly(x, x.double() + 1e-7)
    assert not shared.nearly(x, x + 1e-3)
    assert not shared.nearly([x[0]], [x])
    assert not shared.nearly(None, x)
