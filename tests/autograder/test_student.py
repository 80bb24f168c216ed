"""Student: probes are shipped or refused, replies become values or faults. In this process, as in a handout."""

import pytest
import torch

from autograder.box.replies import read
from autograder.errors import AuthorError, BadReply, CheckFailed, StudentRaised
from autograder.in_process import InProcess
from autograder.student import Student

WORK = """
import torch


def double_in_place(x):
    return x.mul_(2)


def refuse(size):
    raise ValueError(f"size must be positive, not {size}")


def not_yet():
    raise NotImplementedError("not_yet is not implemented yet")


def several():
    return (torch.ones(2), [1, "a"], {"k": None})


class Layer:
    @staticmethod
    def make():
        return 7
"""


class Answering:
    """Processes that always send the same."""

    def __init__(self, reply):
        self._reply = reply

    def ask(self, request, timeout):
        return read(self._reply)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "student_work.py").write_text(WORK)
    return Student(InProcess(folder), inside="def triple(x):\n    return 3 * x\n")


# ---------------------------------------------------------------------------------------------- call and run


def test_call_finds_functions_and_static_methods(student):
    assert student.call("student_work.Layer.make") == 7


def test_values_cross_by_copy(student):
    x = torch.ones(2)

    assert student.call("student_work.double_in_place", x).tolist() == [2, 2]
    assert x.tolist() == [1, 1]


def test_containers_keep_their_types(student):
    ones, items, table = student.call("student_work.several")

    assert (ones.tolist(), items, table) == ([1, 1], [1, "a"], {"k": None})


def test_a_probe_uses_its_arguments_torch_and_inside(student):
    def probe(x, *, factor=2):
        from student_work import double_in_place

        return double_in_place(x), inside.triple(torch.ones(1)), factor

    doubled, tripled, factor = student.run(probe, torch.ones(2))

    assert (doubled.tolist(), tripled.tolist(), factor) == ([2, 2], [3], 2)


def test_a_probe_keeps_its_multi_line_strings(student):
    def probe():
        return """
two
    lines"""

    assert student.run(probe) == "\ntwo\n    lines"


def test_a_probe_may_define_functions_and_classes(student):
    def probe():
        class Base(torch.nn.Module):
            size = 3

            def forward(self, x):
                return [x * y for y in range(self.size)]

        def helper(x):
            return Base()(x)

        return helper(2)

    assert student.run(probe) == [0, 2, 4]


def a_global():
    return None


@pytest.mark.parametrize("kind", ["closure", "global", "assert", "lambda", "default", "decorator", "builtin"])
def test_a_probe_that_cannot_be_shipped_is_refused(student, kind):
    length = 3

    def closure():
        return length

    def uses_global():
        return a_global()

    def asserts():
        assert True

    def default(n=length):
        return n

    @pytest.mark.skip
    def decorated():
        return 1

    probes = {"closure": closure, "global": uses_global, "assert": asserts, "lambda": lambda: 1, "default": default}
    probes |= {"decorator": decorated, "builtin": len}

    with pytest.raises(AuthorError, match="probe"):
        student.run(probes[kind])


def test_unknown_options_are_the_authors_error(student):
    with pytest.raises(AuthorError, match="no option 'time_out'"):
        student.on(time_out=3)


# ---------------------------------------------------------------------------------------------- raises


def test_raises_passes_with_type_and_name(student):
    student.raises(ValueError, "student_work.refuse", -1, says="size")
    student.raises(Exception, "student_work.refuse", -1)
    student.raises(ValueError, "student_work.refuse", kwargs={"size": -1}, says=("length", "size"))


@pytest.mark.parametrize(
    ("path", "error", "says", "sentence"),
    [
        (
            "student_work.several",
            ValueError,
            "k",
            "your code raises nothing; it should raise ValueError and name `k` in its message",
        ),
        (
            "student_work.refuse",
            TypeError,
            "size",
            "your code raises ValueError; it should raise TypeError and name `size` in its message",
        ),
        ("student_work.refuse", ValueError, "siz", "the message of the ValueError should name `siz`"),
    ],
)
def test_raises_says_what_is_missing(student, path, error, says, sentence):
    args = [-1] if path.endswith("refuse") else []

    with pytest.raises(CheckFailed) as caught:
        student.raises(error, path, *args, says=says)

    assert caught.value.mistake == sentence
    assert str(caught.value).startswith(f"{path.partition('.')[2]}(): {sentence}")


@pytest.mark.parametrize(
    ("says", "text"),
    [
        ("ids", "invalid token id: 300"),
        (("ids", 300), "300 is unknown"),
        ("ids", "Index out of vocabulary"),
        ("dim", "the rotary dimension must be even, got 5"),
        ("num_heads", "the number of heads does not divide 10"),
        ("max_len", "The sequence is too long"),
        ("max_len", "maximum length is 8"),
        ("special_tokens", "a special token must not be empty"),
        ("smoothing", "Smoothing must not be negative"),
        (("temperature", -1.5), "-1.5 is not positive"),
        (("temperature", 0.0), "got 0"),
        (("top_k", 0), "must be at least 1 but is 0."),
        ("top_k", "k must be at least 1"),
        ("x", "x has 9 positions"),
        (("lengths", [3, 5]), "[3, 5] does not fit"),
    ],
)
def test_a_message_may_use_a_usual_word_or_the_value(says, text):
    reply = {"error": {"types": ["ValueError", "Exception"], "text": text}}
    Student(Answering(reply)).raises(ValueError, "work.f", says=says)


@pytest.mark.parametrize(
    ("says", "text"),
    [
        ("ids", "this is invalid"),
        (("ids", 300), "3000 is unknown, so is 1300 and 300.5"),
        (("ids", 1), "-1 is what it is"),
        (("temperature", 0.0), "0.5 is too much"),
        ("max_len", "bad input"),
        ("num_heads", "a number is wrong"),
        ("x", "X is a matrix"),
        ("top_k", "not OK"),
    ],
)
def test_a_message_about_nothing_is_refused(says, text):
    reply = {"error": {"types": ["ValueError", "Exception"], "text": text}}
    with pytest.raises(CheckFailed):
        Student(Answering(reply)).raises(ValueError, "work.f", says=says)


def test_a_stub_does_not_pass_as_an_error(student):
    for error in (ValueError, RuntimeError, Exception):
        with pytest.raises(StudentRaised, match="not_yet is not implemented yet"):
            student.raises(error, "student_work.not_yet")


# ---------------------------------------------------------------------------------------------- accepts


def test_what_is_accepted_is_not_looked_at_and_not_sent(student):
    def endless():
        return torch.zeros(3_000_000)  # more than a reply may hold

    def positional(size, *, other):
        return {size, other}

    fresh = Student(student.processes)
    fresh.accepts("student_work.Layer")
    fresh.accepts(endless)
    fresh.accepts(positional, 1, kwargs={"other": 2})

    assert [reply.value for reply in fresh.replies] == [None, None]


def test_a_refusal_of_what_is_allowed_says_so(student):
    with pytest.raises(CheckFailed) as caught:
        student.accepts("student_work.refuse", 3)

    assert caught.value.mistake == "your code raises an error for arguments that are allowed"
    assert str(caught.value) == (
        "refuse(): your code raises an error for arguments that are allowed: "
        "ValueError: size must be positive, not 3 (student_work.py:10 in refuse)"
    )


def test_what_is_not_written_is_told_as_such_where_it_should_be_accepted(student):
    with pytest.raises(StudentRaised, match="not_yet is not implemented yet"):
        student.accepts("student_work.not_yet")


def test_a_lack_of_memory_stays_a_cause_where_a_call_should_be_accepted(student):
    def probe():
        raise MemoryError("too much")

    with pytest.raises(StudentRaised) as caught:
        student.accepts(probe)

    assert caught.value.cause == "died"


# ---------------------------------------------------------------------------------------------- this process


def test_what_came_back_is_noted_whichever_options_asked_for_it(student):
    fresh = Student(student.processes)

    fresh.on(timeout=3).call("student_work.Layer.make")
    assert [reply.value for reply in fresh.replies] == [7]
    for _ in range(3):
        fresh.call("student_work.Layer.make")
    assert len(fresh.replies) == 2  # that there were several is all that anybody asks


def test_a_seed_makes_the_draws_of_this_process(tmp_path):
    def draw():
        import random

        return float(torch.rand(())), random.random()

    first, second, other = (Student(InProcess(tmp_path, seed)).run(draw) for seed in (3, 3, 4))

    assert first == second != other


def test_without_a_seed_the_generators_are_left_alone(tmp_path):
    before = torch.get_rng_state()
    InProcess(tmp_path)

    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------------------------------- replies


def test_an_exception_names_its_place(student):
    with pytest.raises(StudentRaised) as caught:
        student.call("student_work.refuse", 3)

    assert str(caught.value) == "ValueError: size must be positive, not 3 (student_work.py:10 in refuse)"


@pytest.mark.parametrize(
    "reply",
    [None, 5, [], {}, {"error": 3}, {"value": 1, "error": {}}, {"verdict": "passed"}, {"error": {"types": [1]}}],
)
def test_a_forged_reply_is_the_students_failure(reply):
    with pytest.raises((BadReply, StudentRaised)):
        Student(Answering(reply)).call("student_work.several")


def test_control_characters_do_not_reach_the_message():
    evil = "\x1b[31mred\n\ud800<b>" + "x" * 5000
    reply = {"error": {"types": [evil], "text": evil, "where": evil, "traceback": evil}}

    with pytest.raises(StudentRaised) as caught:
        Student(Answering(reply)).call("student_work.several")

    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 800
    assert str(caught.value).isprintable()
    assert len(caught.value.detail) < 7000
