"""A reply of any shape is read, or is a BadReply; what it names is cut and cleaned before it is in a table."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from rich.console import Console

from autograder.box import replies
from autograder.box.codec import Opaque
from autograder.errors import BadReply, CheckFailed
from autograder.exports import table
from autograder.scorecard import FAILED, Outcome, Scorecard
from autograder.student import Student

sys.path.insert(0, str(Path(__file__).parents[1]))
import fuzz_codec

ERROR = {"types": ["ValueError", "Exception"], "text": "no", "where": "", "traceback": ""}


class Answering:
    """Processes that answer whatever is asked with one reply."""

    def __init__(self, reply):
        self._reply = reply

    def ask(self, request, timeout):
        return replies.read(self._reply)


@pytest.mark.parametrize(
    "reply",
    [
        {"error": {}},
        {"error": []},
        {"error": {**ERROR, "types": []}},
        {"error": {**ERROR, "types": "ValueError"}},
        {"error": {**ERROR, "types": [None]}},
        {"error": {**ERROR, "text": None}},
        {"error": {**ERROR, "where": 3}},
        {"error": {**ERROR, "traceback": ["a"]}},
        {"error": {**ERROR, "more": ""}},
        {"error": {name: ERROR[name] for name in ("text", "where", "traceback")}},
        {"value": 1, "used": None},
        {"value": 1, "used": [1]},
        {"value": 1, "error": ERROR},
        {"used": []},
        {1: 2},
        {("value",): 1},
        Opaque("reply"),
    ],
)
def test_what_is_not_of_the_form_of_a_reply_is_a_bad_one(reply):
    with pytest.raises(BadReply):
        replies.read(reply)


@given(fuzz_codec.replies)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_reply_raises_anything_of_ours(reply):
    fuzz_codec.read_one(reply)


LONG = "Free text, \x1b[31m \u202e for https://example.org " + "x" * 100


@pytest.mark.parametrize("name", [LONG, "Mine", "Ünlü", ""])
def test_the_name_of_an_own_exception_is_not_in_the_mistake_that_a_class_counts(name):
    reply = {"error": {**ERROR, "types": [name, "RuntimeError", "Exception"]}}

    with pytest.raises(CheckFailed) as caught:
        Student(Answering(reply)).raises(ValueError, "toy.work", says="x")

    assert (
        caught.value.mistake == "your code raises RuntimeError; it should raise ValueError and name `x` in its message"
    )
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_names_of_classes_are_as_python_writes_them():
    raised = replies.read({"error": {**ERROR, "types": [LONG, "Exception"]}}).raised

    assert raised.types[0].isidentifier()
    assert len(raised.types[0]) <= 48
    assert len(Opaque("x" * 80).type_name) <= 48


def test_names_of_packages_that_are_missing_are_cut_in_the_class_table():
    message = f"toy.py cannot be imported: ModuleNotFoundError: No module named '{'a' * 290}'"
    row = Outcome("test_a", "toy", "", "A", FAILED, 0.0, 1.0, message, cause="import")
    console = Console(width=400)
    with console.capture() as captured:
        console.print(table.many([Scorecard("99-toy", "ada", 1, (row,))]))

    assert "a" * 41 not in captured.get()
