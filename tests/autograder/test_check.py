"""check: passes what is right in any style, fails what is wrong, names the mistake, never prints what was expected."""

import math

import pytest
import torch

from autograder.box.codec import Opaque
from autograder.check import Check
from autograder.errors import AuthorError, CheckFailed

check = Check()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def failure(*args, **kwargs):
    with pytest.raises(CheckFailed) as caught:
        check(*args, **kwargs)
    return caught.value


def told(*args, **kwargs):
    return str(failure(*args, **kwargs))


# ---------------------------------------------------------------------------------------------- type, shape, dtype


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "the result is None; it should be a tensor of shape (2, 3)"),
        ([1.0], "the result is a list; it should be a tensor of shape (2, 3)"),
        (Opaque("ndarray"), "the result is a ndarray; it should be a tensor of shape (2, 3)"),
        (torch.ones(3, 2), "the shape is (3, 2); it should be (2, 3)"),
        (torch.ones(1, 3), "the shape is (1, 3); it should be (2, 3)"),
        (torch.ones(2, 3).double(), "the dtype is float64; it should be float32"),
        (torch.ones(2, 3).int(), "the dtype is int32; it should be float32"),
    ],
)
def test_type_shape_and_dtype_come_first(value, sentence):
    assert told(value, torch.ones(2, 3)) == sentence


def test_expected_may_be_more_precise_than_the_value():
    truth = torch.rand(4, 5, dtype=torch.float64)

    check(truth.float(), truth, dtype=torch.float32)
    assert "dtype" in told(truth, truth, dtype=torch.float32)


def test_a_tensor_must_come_from_the_device_of_the_test():
    value = torch.ones(2)
    value.came_from = "cpu"

    with pytest.raises(CheckFailed, match="is on cpu; it should be on cuda"):
        Check("cuda")(value, torch.ones(2))


# ---------------------------------------------------------------------------------------------- closeness


def test_another_order_of_summation_passes():
    x, y = torch.randn(40, 300), torch.randn(300, 50)

    check((x @ y), x.double() @ y.double(), dtype=torch.float32, terms=300)
    check(
        sum(x[:, i : i + 30] @ y[i : i + 30] for i in range(0, 300, 30)), x.double() @ y.double(), dtype=torch.float32
    )


@pytest.mark.parametrize("wrong", [0.0, 1.001, -1.0])
def test_a_wrong_factor_fails(wrong):
    x = torch.randn(5, 7)

    assert "wrong" in told(x * wrong, x)


def test_one_wrong_place_fails():
    x = torch.randn(10, 10)
    y = x.clone()
    y[3, 4] += 0.01

    assert told(y, x) == "1 % of the values are wrong"


def test_broadcastable_is_not_enough():
    assert "shape" in told(torch.ones(1), torch.ones(3))


def test_nan_and_infinities_are_said():
    x = torch.ones(3)

    assert "NaN" in told(torch.tensor([1, math.nan, 1]), x)
    assert "infinity" in told(torch.tensor([1, math.inf, 1]), x)
    assert "should be infinite" in told(x, torch.tensor([1, -math.inf, 1]))
    check(torch.tensor([1, -math.inf]), torch.tensor([1, -math.inf]))


def test_zeros_are_exact_unless_a_scale_is_given():
    tiny = torch.full((3,), 1e-9)

    assert told(tiny, torch.zeros(3))
    check(tiny, torch.zeros(3), scale=1.0)


def test_within_is_absolute():
    check(torch.tensor([1.000009]), torch.tensor([1.0]), within=1e-5)
    assert told(torch.tensor([1.00003]), torch.tensor([1.0]), within=1e-5)


def test_integers_and_booleans_are_exact():
    check(torch.tensor([1, 2]), torch.tensor([1, 2]))
    assert "50 %" in told(torch.tensor([1, 3]), torch.tensor([1, 2]))
    assert told(torch.tensor([True, False]), torch.tensor([True, True]))


# ---------------------------------------------------------------------------------------------- plain data


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, 1), (1, True), (1.0, 1), ("a", "b"), (None, 0), (b"a", "a"), ([1, 2], [1]), ({"a": 1}, {"b": 1}), (1, 1.0)],
)
def test_other_plain_data_fails(value, expected):
    assert told(value, expected)


def test_plain_data_is_compared_item_by_item():
    check({"a": [1, "x", None, (2.0,)]}, {"a": [1, "x", None, (2.0,)]})
    assert told([torch.ones(2), torch.ones(2)], [torch.ones(2), torch.zeros(2)]).startswith("item 1:")


def test_floats_are_close_as_precisely_as_they_are_said_to_be():
    check(0.1 + 0.2, 0.3)
    assert told(0.3001, 0.3) == "the value is wrong"
    for size in (1e-9, 0.3, 4e7):  # float32 is an honest way to work a float out, unless the author says otherwise
        single = torch.tensor(size).mul(3).sqrt().square().div(3).item()
        check([single], [size])
        assert told(size * (1 + 2e-5), size, terms=999) == "the value is wrong"
        assert told(size * (1 + 1e-7), size, dtype=torch.float64) == "the value is wrong"
    assert told(1e-12, 0.0) == "the value is wrong"
    check(1e-7, 0.0, scale=1.0)
    check(0.31, 0.3, within=0.02)
    check(torch.tensor(0.3).item(), 0.3, dtype=torch.float32)
    check(math.inf, math.inf)
    assert "NaN" in told(math.nan, 0.3)


# ---------------------------------------------------------------------------------------------- mistakes


def test_the_mistake_that_agrees_is_named():
    x = torch.randn(3, 3)
    mistakes = {"it is doubled": 2 * x, "it is transposed": x.T}

    with pytest.raises(CheckFailed) as caught:
        check(x.T.contiguous(), x, mistakes=mistakes)

    assert caught.value.mistake == str(caught.value) == "it is transposed"


def test_a_mistake_may_have_another_shape():
    x = torch.randn(2, 3)

    assert told(x.T, x, mistakes={"it is transposed": x.T}) == "it is transposed"


def test_a_mistake_that_agrees_with_expected_is_skipped():
    x = torch.eye(3)

    assert told(2 * x, x, mistakes={"it is transposed": x.T, "it is doubled": 2 * x}) == "it is doubled"


def test_mistakes_are_computed_on_failure_only():
    check(1, 1, mistakes={"never": lambda: 1 / 0})
    assert told(1, 2, mistakes={"does not fit here": lambda: 1 / 0, "it is one": lambda: 1}) == "it is one"


def test_a_mistake_in_float64_agrees_with_a_value_in_float32():
    truth = torch.rand(50, dtype=torch.float64)

    assert (
        told((truth * 2).float(), truth, dtype=torch.float32, mistakes={"it is doubled": truth * 2}) == "it is doubled"
    )


def test_a_mistake_of_another_dtype_agrees_where_the_dtype_is_the_mistake():
    truth = torch.rand(50)

    assert told(truth.double(), truth, mistakes={"it is in float64": truth.double()}) == "it is in float64"


def test_an_unknown_mistake_names_none():
    with pytest.raises(CheckFailed) as caught:
        check(torch.zeros(2), torch.ones(2), mistakes={"it is doubled": 2 * torch.ones(2)})

    assert caught.value.mistake is None


def test_expected_values_are_never_printed():
    assert "31415" not in told(1, 31415) + told("a", "31415") + told(torch.ones(1), torch.tensor([31415.0])) + told(
        [1], [31415]
    )


# ---------------------------------------------------------------------------------------------- facts, conditions


def test_a_fact_passes_only_if_it_is_true():
    check.that(torch.ones(2).sum().item() == 2, "the sum is wrong")

    for fact in (False, None, 1, "yes", torch.tensor(True), Opaque("bool")):
        with pytest.raises(CheckFailed) as caught:
            check.that(fact, "the sum is wrong")
        assert str(caught.value) == caught.value.mistake == "the sum is wrong"
        assert caught.value.detail == ""


def test_a_mistake_under_a_condition_is_named_where_it_holds():
    x, wrong = torch.randn(3), torch.full((3,), math.nan)

    for condition, said in ((True, "no NaN"), (False, "there is a NaN in the result")):
        assert told(wrong, x, mistakes={"no NaN": check.when(condition, wrong)}) == said
        assert told(wrong, x, mistakes={"no NaN": lambda c=condition: check.when(c, lambda: wrong)}) == said
        assert told(wrong, x, mistakes={"no NaN": check.when(condition)}) == said


def test_a_condition_alone_names_no_value_that_is_right():
    check(1, 1, mistakes={"never": check.when(True)})


def test_a_mistake_under_a_condition_still_has_to_agree_with_the_value_and_not_with_the_truth():
    x = torch.eye(3)

    assert told(2 * x, x, mistakes={"it is transposed": check.when(True, x.T), "tripled": check.when(True, 3 * x)}) == (
        "34 % of the values are wrong"
    )


@pytest.mark.parametrize("condition", [1, "yes", torch.tensor(True), Opaque("bool"), None])
def test_a_condition_that_merely_counts_as_true_does_not_hold(condition):
    assert told(1, 2, mistakes={"it is one": check.when(condition)}) != "it is one"


def test_a_condition_that_cannot_be_worked_out_does_not_hold():
    assert told(1, 2, mistakes={"a row": lambda: check.when(bool([][0])), "it is one": 1}) == "it is one"


# ---------------------------------------------------------------------------------------------- a relative error


def test_a_relative_error_is_a_share_of_the_size():
    truth = torch.tensor([3.0, -4.0], dtype=torch.float64)  # with rms 3.54 the places may be off by 6.5 and 7.5 shares
    off = torch.tensor([6.5, -7.5], dtype=torch.float64) * 1e-4

    check(truth + 0.99 * off, truth, relative=1e-4)
    assert told(truth + 1.02 * off, truth, relative=1e-4) == "every value is wrong"
    assert told(truth + 0.99 * off, truth) == "every value is wrong"


def test_a_relative_error_says_no_more_than_rounding_does():
    truth = torch.rand(9, dtype=torch.float64) + 1

    check(truth.float(), truth, dtype=torch.float32, relative=1e-12)
    assert "wrong" in told((truth * (1 + 1e-4)).float(), truth, dtype=torch.float32, relative=1e-5)


def test_a_relative_error_holds_for_floats_and_for_mistakes_of_another_dtype():
    check(1.0009, 1.0, relative=1e-3)
    assert told(1.002, 1.0, relative=1e-3) == "the value is wrong"
    assert "wrong" in told(
        torch.ones(3), 2 * torch.ones(3), relative=1e-3, mistakes={"tripled": 3 * torch.ones(3).double()}
    )
    assert (
        told(torch.ones(3), 2 * torch.ones(3), relative=1e-3, mistakes={"one": 1.0005 * torch.ones(3).double()})
        == "one"
    )


def test_two_rules_for_one_error_are_the_authors_error():
    with pytest.raises(AuthorError, match="not both"):
        check(1.0, 1.0, relative=1e-3, within=1e-3)


# ---------------------------------------------------------------------------------------------- the values that differ


@pytest.mark.parametrize(
    ("value", "expected", "detail"),
    [
        (torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 5]]), "[1, 1] is 4; it should be 5"),
        (torch.tensor(0.5), torch.tensor(0.25), "it is 0.5; it should be 0.25"),
        (torch.tensor([-1.0, 0.0]), torch.tensor([-math.inf, 0.0]), "[0] is -1; it should be -inf"),
        (torch.tensor([0.0, math.nan]), torch.zeros(2), "[1] is nan; it should be 0"),
        ([1, {"ids": torch.tensor([True])}], [1, {"ids": torch.tensor([False])}], "[1]['ids'][0] is True; it should be False"),
        (0.1, 0.2, "it is 0.1; it should be 0.2"),
        ("a" * 500, "b", f"it is {'a' * 120!r}; it should be 'b'"),
        (10**100, 1, "it is a number of more than 60 digits; it should be 1"),
        (torch.zeros(2), torch.zeros(3), ""),  # the sentence says it all
        (None, [1], ""),
        ([1], [1, 2], "it has 1 items; it should have 2"),
        ([1, 3], [1, 2, 3], "it has 2 items; it should have 3\n[1] is 3; it should be 2"),
        ([[1, 2], [3, 3, 3]], [[1, 2], [3, 4]], "[1] has 3 items; it should have 2\n[1][1] is 3; it should be 4"),
        ({"a": 1}, {"b": 1}, "it lacks the keys 'b'\nit has the extra keys 'a'"),
        ("x", None, "it is 'x'; it should be None"),
        (True, 1, "it is True; it should be 1"),
        (4.148731, 4.148734, "it is 4.148731; it should be 4.148734"),
        (1 / 3, 1 / 3 + 1e-12, "it is 0.333333333333; it should be 0.333333333334"),
        (torch.tensor(1.0), torch.tensor(1.01), "it is 1; it should be 1.01"),
        (torch.tensor(1 + 1j), torch.tensor(1 + 2j), "it is 1+1j; it should be 1+2j"),
        ("a" * 300 + "b", "a" * 300 + "c", f"it is … {'a' * 60 + 'b'!r}; it should be … {'a' * 60 + 'c'!r}"),
    ],
)  # fmt: skip
def test_the_detail_shows_the_values_that_differ(value, expected, detail):
    exact = torch.float64 if type(expected) is float else None

    assert failure(value, expected, dtype=exact).detail == detail


def test_the_detail_shows_three_places_and_what_is_wrong_where_a_mistake_is_named():
    named = failure(torch.zeros(5), torch.ones(5), mistakes={"all is lost": torch.zeros(5)})

    assert named.mistake == "all is lost"
    assert named.detail.splitlines()[0] == "every value is wrong"
    assert [line[:3] for line in named.detail.splitlines()[1:]] == ["[0]", "[1]", "[2]"]


def test_the_detail_leaves_out_what_is_only_rounded():
    value = torch.tensor([1.0, 2.0, 3.0]) * (1 + 1e-7)
    value[1] = 7.0

    assert failure(value, torch.tensor([1.0, 2.0, 3.0])).detail == "[1] is 7; it should be 2"


def test_numbers_that_look_equal_are_printed_until_they_differ():
    for value, expected in [
        (4.14873, 4.14873 + 1e-9),
        (1e-300, 1.0000000001e-300),
        (0.1 + 0.2, 0.3),
        (1e9 + 0.01, 1e9),
    ]:
        shown = failure(value, expected, within=0.0).detail.removeprefix("it is ")
        assert len(set(shown.split("; it should be "))) == 2


# ---------------------------------------------------------------------------------------------- what is compared


def test_what_is_compared_has_a_name():
    x, zero = torch.ones(2), torch.zeros(2)

    assert str(failure((x, zero), (x, x), names=("output", "weights"))) == "weights: every value is wrong"
    assert str(failure((zero, x), (x, x))) == "item 0: every value is wrong"
    assert str(failure(zero, x, what="the mask")) == "the mask: every value is wrong"
    assert str(failure([x, zero], [x, x], what="the masks")) == "item 1 of the masks: every value is wrong"
    assert (
        str(failure(([x], [x, zero]), ([x], [x, x]), names=("queries", "keys")))
        == "item 1 of keys: every value is wrong"
    )
    assert str(failure([zero], [x], names=("weights",))) == "weights: every value is wrong"


def test_nested_items_are_named_from_the_inside():
    assert str(failure([[1, 2], [3, 4]], [[1, 2], [3, 5]])) == "item 1 of item 1: the int has the wrong value"
    assert str(failure({"ids": [1, 2]}, {"ids": [1, 3]})) == "item 1 of 'ids': the int has the wrong value"


def test_names_that_do_not_fit_are_the_authors_error():
    with pytest.raises(AuthorError, match="names 1 items, and 2 are expected"):
        check((1, 3), (1, 2), names=("one",))


def test_names_are_not_used_where_nothing_has_items():
    assert str(failure(1, 2, names=("one", "two"))) == "the int has the wrong value"
    assert str(failure({"a": 1}, {"a": 2}, names=("one", "two"))) == "'a': the int has the wrong value"


# ---------------------------------------------------------------------------------------------- values of no kind


@pytest.mark.parametrize(
    "mistake", [Opaque("sparse"), object(), {1, 2}, lambda: [].undefined, lambda: [][0], [Opaque("x")]]
)
def test_a_mistake_that_cannot_be_computed_or_compared_is_not_the_one(mistake):
    """It may be made of what the student returned: that must not decide whose fault the failure is."""
    for value in (1, Opaque("sparse"), [Opaque("x")], torch.ones(2)):
        assert failure(value, torch.zeros(2), mistakes={"this one": mistake}).mistake is None


def test_complex_numbers_differ_in_both_parts():
    with pytest.raises(CheckFailed):
        check(torch.tensor([1 + 1j]), torch.tensor([1 - 1j]))
    check(torch.tensor([1 + 1j]), torch.tensor([1 + 1j], dtype=torch.complex128), dtype=torch.complex64)


def test_what_stands_for_an_object_of_the_students_is_not_the_authors_fault_where_it_is_expected():
    with pytest.raises(TypeError, match="nothing can be compared with a builtin_function_or_method"):
        check([len], [Opaque("builtin_function_or_method")])
    with pytest.raises(AuthorError):
        check(1, object())
