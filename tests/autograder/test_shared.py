"""What the hidden suites of all lessons share: tests/lessons/shared.py and inside.py, and how they reach a lesson."""

import importlib.util

import pytest
import torch
from conftest import ROOT, write_lesson

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


@pytest.mark.parametrize(
    ("draw", "wrong"),
    [
        (lambda g: torch.rand(40, generator=g), 0),
        (lambda g: torch.rand(40), 3),  # torch's own is used, seeds of it change the result, those of generator do not
        (lambda g: torch.rand(40, generator=torch.Generator().manual_seed(3)), 2),
    ],
)
def test_randomness_facts_say_what_is_wrong(draw, wrong):
    facts = shared.randomness_facts(inside.randomness(draw))

    assert sum(not fact for fact, _ in facts) == wrong


def test_a_call_on_meta_says_what_mixes_devices():
    assert inside.on_meta(lambda x: x + 1, torch.ones(2)) == ""
    assert inside.on_meta(lambda x: x + torch.ones(2, 2), torch.ones(2, 2)) == "mixes devices"
    assert inside.on_meta(lambda x: torch.ones(2), torch.ones(2)) == "leaves the device"


# ---------------------------------------------------------------------------------------------- shared.py


def drawn(law, count, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.multinomial(law, count, replacement=True, generator=rng).bincount(minlength=len(law))


LAW, OTHER = (torch.tensor(law, dtype=torch.float64) for law in ([0.5, 0.3, 0.199, 0.001], [0.3, 0.5, 0.199, 0.001]))


def test_a_chance_is_as_rare_as_it_says():
    chances = [shared.chance(drawn(LAW, 2000, seed), LAW) for seed in range(200)]

    # 20 of 200 are expected below 0.1, and 44 or more happen once in 10⁶.
    assert 4 < sum(chance < 0.1 for chance in chances) < 44
    assert max(shared.chance(drawn(OTHER, 2000, seed), LAW) for seed in range(20)) < shared.FALSE_ALARM


def test_a_chance_of_rows_is_one_of_all_rows():
    counts = torch.stack([drawn(LAW, 2000, 1), drawn(OTHER, 3000, 2)])

    assert shared.chance(counts, torch.stack([LAW, OTHER])) > 1e-6
    assert shared.chance(counts, torch.stack([LAW, LAW])) < shared.FALSE_ALARM
    assert shared.chance(torch.tensor([3, 1]), torch.tensor([1.0, 0.0])) == 0.0
    assert shared.chance(torch.tensor([3, 0]), torch.tensor([1.0, 0.0])) == 1.0


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
