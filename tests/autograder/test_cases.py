"""How a test ended, by what it raised, and what a student is told when a test stumbled over a reply."""

import pytest
import torch

from autograder.box.codec import Opaque
from autograder.cases import BY_IMPORT, BY_TEST, Row, case_of
from autograder.errors import AuthorError, CheckFailed, NotImported, NotSubmitted, StudentDied, StudentRaised
from autograder.scorecard import FAILED, GRADER_ERROR

STARTERS = StudentRaised("", types=("NotImplementedError", "RuntimeError"), text="Layer.forward is not implemented yet")


def raised_by(action):
    try:
        action()
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "status", "settled_by"),
    [
        (NotSubmitted("toy.py is missing from the submission"), FAILED, ""),
        (STARTERS, FAILED, ""),
        (StudentRaised("", types=("NotImplementedError",), text="later"), FAILED, BY_TEST),
        (StudentRaised("", types=("ValueError",), text="f is not implemented yet"), FAILED, BY_TEST),
        (StudentRaised("", types=("NotImplementedError",), text="f is not implemented yet, is it?"), FAILED, BY_TEST),
        (NotImported("toy.py cannot be imported"), FAILED, BY_IMPORT),
        (CheckFailed("every value is wrong"), FAILED, BY_TEST),
        (StudentDied("it ended"), FAILED, BY_TEST),
        (AuthorError("check() cannot expect a set"), GRADER_ERROR, BY_TEST),
        (AssertionError("too few rows"), FAILED, BY_TEST),
        (KeyError("x"), FAILED, BY_TEST),
        (MemoryError(), FAILED, BY_TEST),
    ],
)
def test_what_a_test_raises_says_how_it_ended_and_what_settles_it(error, status, settled_by):
    case = case_of(error)

    assert (case.status, case.settled_by) == (status, settled_by)


@pytest.mark.parametrize(
    ("use", "returned", "told"),
    [
        (lambda reply: [a for a, b in [reply]], torch.ones(3), "(a tensor of shape (3,)): it should be 2 values"),
        (lambda reply: [a for a, b, c in [reply]], (1, 2), "(a tuple of 2): it should be 3 values"),
        (lambda reply: reply["k"], [1], "(a list of 1): check its type and shape"),
        (lambda reply: reply.shape, None, "(None): check its type and shape"),
        (lambda reply: len(reply), Opaque("Sparse"), "(a Sparse): check its type and shape"),
    ],
)
def test_a_student_is_told_what_came_where_a_test_could_not_use_it(use, returned, told):
    case = case_of(raised_by(lambda: use(returned)), returned)

    assert case.message == f"the test could not use what your code returned {told}"


def test_of_several_replies_none_is_blamed():
    assert case_of(KeyError("k")).message == "the test could not use what your code returned: check its type and shape"


def test_an_error_that_the_solution_does_not_make_becomes_the_students():
    row = Row("test", "toy", "", "", 1.0, cases=[case_of(AuthorError("no"), 7), case_of(CheckFailed("wrong"))])

    charged = row.charged_to_the_student().outcome()
    assert row.outcome().status == GRADER_ERROR
    assert (charged.status, charged.points) == (FAILED, 0)
    assert charged.message == "the test could not use what your code returned (an int): check its type and shape"
