"""A fault of an author is an error of that one test: its first line says what to write, and every other test is graded."""

import textwrap

import pytest
from conftest import TOY_SOLUTION, TOY_SUITE, write_lesson

from autograder.grade import Grader
from autograder.lesson import load
from autograder.options import Asked
from autograder.scorecard import FAILED, GRADER_ERROR, PASSED
from autograder.submission import Submission

pytestmark = pytest.mark.usefixtures("graders_share_a_box")

INSIDE = "import torch\n\n\ndef strided(x):\n    return x\n"
SOLUTION = TOY_SOLUTION + "\n\n    class Layer:\n        def size(self):\n            return 1\n"

# The body of a test -> the beginning of what its author reads.
BODIES = {
    'student.call("toy.causal_mask", torch.Generator())': "student.call('toy.causal_mask'): argument 1 is a Generator, ",
    'student.call("toy.causal_mask", length=len)': "student.call('toy.causal_mask'): the argument length= is a builtin",
    'student.call("toy.causal_mask", [1, {"a": {2}}])': "student.call('toy.causal_mask'): 'a' of item 1 of argument 1 is a set",
    'student.call("toy.causal_mask", torch.zeros(9 << 20, dtype=torch.int64))': "student.call('toy.causal_mask'): what is passed "
    "does not fit into a message: the tensor is too large to pass: shape (9437184,)",
    'student.call("toi.causal_mask", 2)': "student.call('toi.causal_mask'): 99-toy has no module 'toi'; did you mean 'toy'?",
    'student.call("toy.causal_maks", 2)': "student.call('toy.causal_maks'): toy has no function 'causal_maks' in the lesson's "
    "solution; did you mean 'causal_mask'?",
    'student.call("toy.Layer.sizes", 2)': "student.call('toy.Layer.sizes'): toy.Layer has no function 'sizes' in the lesson's "
    "solution; did you mean 'size'?",
    'student.call("toy", 2)': "student.call('toy'): a path is 'module.function' or 'module.Class.method'",
    'student.raises(ValueError, "toy.causal_maks", 0)': "student.call('toy.causal_maks'): toy has no function",
    'student.raises("ValueError", "toy.causal_mask", 0)': "student.raises('ValueError', …): the first argument is a type of error",
    "student.call(len, 2)": "student.call(<built-in function len>): it takes a path",
    'student.on(timeout="long").call("toy.causal_mask", 2)': "student.on(timeout='long'): timeout is a number of seconds above 0",
    'student.on(rank=2).call("toy.causal_mask", 2)': "student.on() has no option 'rank': it takes device, ranks, timeout; did you "
    "mean 'ranks'?",
    'student.on(device="gpu")': "student.on(device='gpu'): the device is 'cpu' or 'cuda'",
    "student.run(closes_over(3))": "the probe 'probe' uses x of the test: pass it as an argument",
    "student.run(asserts)": "the probe 'asserts' asserts: it runs in the student's process",
    "student.run(misspells, 2)": "the probe 'misspells' uses inside.stride, which no inside.py has; did you mean 'strided'?",
    "student.run(yields)": "the probe 'yields' is async or yields: return a value",
    "student.run(of_one)": "the probe 'of_one' does not take what student.run() gives it: missing a required argument: 'x'",
    "check(1, 1, tolerence=2)": "check() has no option tolerence=",
    "check(1, 1, mistake={})": "check() has no option mistake=; did you mean 'mistakes'?",
    "check(1, 1, mistakes=['a b'])": "check(mistakes=…) is a list: give a dict of a sentence and the value of the mistake",
    "check(1, 1, mistakes={1: 2})": "check() takes sentences as mistakes, not 1",
    "check(1, 1, within=-1)": "check(within=-1): within is a number that is not negative",
    "check(1, 1, dtype='float32')": "check(dtype='float32'): dtype is one of torch",
    "check.that(True, 3)": "check.that(True, 3): the second argument says what is wrong, in a text",
    "chek(1)": "the lesson's solution does not pass this test on these inputs: NameError: name 'chek' is not defined",
    "check(1, 2)": "the lesson's solution does not pass this test on these inputs: the int has the wrong value",
}  # fmt: skip
# The decorators of a test -> the same.
MARKS = {
    "": "test_it has no points: write @pytest.mark.points(n)",
    "@pytest.mark.points(0)": "test_it: @pytest.mark.points(0): points are one number above 0",
    "@pytest.mark.points(-2)": "test_it: @pytest.mark.points(-2): points are one number above 0",
    "@pytest.mark.points('2')": "test_it: @pytest.mark.points('2'): points are one number above 0",
    "@pytest.mark.points(1, 2)": "test_it: @pytest.mark.points(1, 2): points are one number above 0",
    "@pytest.mark.points": "test_it: @pytest.mark.points has no argument: write @pytest.mark.points(n)",
    "@pytest.mark.points(n=2)": "test_it: @pytest.mark.points has named arguments: write @pytest.mark.points(n)",
    "@pytest.mark.point(2)": "test_it: @pytest.mark.point is not a mark of ours; did you mean 'points'?",
    "@pytest.mark.points(1)\n@pytest.mark.question(3)": "test_it: @pytest.mark.question(3): write @pytest.mark.question(title)",
    "@pytest.mark.points(1)\n@pytest.mark.needs('test_the_past')": "test_it: @pytest.mark.needs('test_the_past'): its module has "
    "no such test; did you mean 'test_the_past_is_seen'?",
    "@pytest.mark.points(1)\n@pytest.mark.needs": "test_it: @pytest.mark.needs has no argument: write @pytest.mark.needs(test)",
    "@pytest.mark.points(1)\n@pytest.mark.parametrize('n', [1, 2])": "In test_it: function uses no argument 'n'",
    "@pytest.mark.points(1)\n@pytest.mark.parametrize('student', [1, 2], ids=['a'])": "In test_it: 2 parameter sets specified, "
    "with different number of ids: 1",
}  # fmt: skip
HEAD = """
    def closes_over(x):
        def probe():
            return x
        return probe

    def asserts():
        assert True

    def misspells(x):
        return inside.stride(x)

    def yields():
        yield 1

    def of_one(x):
        return x
"""


def graded(tmp_path, tests: str, text: str = SOLUTION, **more: str):
    """The rows of a submission, by test, where a suite has tests behind those of the toy."""
    write_lesson(tmp_path, solution=SOLUTION, suite=TOY_SUITE)
    suite = tmp_path / "tests" / "lessons" / "99-toy"
    first = suite / "test_toy.py"
    first.write_text(first.read_text() + textwrap.dedent(HEAD) + tests)
    (suite / "inside.py").write_text(INSIDE)
    for name, part in more.items():
        (suite / f"{name}.py").write_text(part)
    with Grader(load("99-toy", tmp_path)) as grader:
        card = grader.grade(Submission("student", "", {"toy.py": textwrap.dedent(text).encode()}), Asked(seed=1))
    return {row.test: row for row in card.outcomes}


TOYS = {"test_the_past_is_seen": PASSED, "test_a_bad_length_is_refused": PASSED, "test_the_mask_has_rows": PASSED}


def others(rows):
    return {name: row.status for name, row in rows.items() if name in TOYS or name == "(collection)"}


def first_line(row):
    assert row.status == GRADER_ERROR, (row.status, row.message, row.detail)
    return row.detail.partition("\n")[0]


def test_what_a_test_does_wrong_is_said_first_and_costs_no_other_test(tmp_path):
    tests = "".join(
        f"\n\n@pytest.mark.points(1)\ndef test_{place}(student, check):\n    {body}\n"
        for place, body in enumerate(BODIES)
    )
    rows = graded(tmp_path, tests)

    said = {body: first_line(rows[f"test_{place}"]) for place, body in enumerate(BODIES)}
    assert {body: line for body, line in said.items() if not line.startswith(BODIES[body])} == {}
    assert all("Traceback" in rows[f"test_{place}"].detail for place in range(len(BODIES) - 1)), (
        "and then the traceback"
    )
    assert others(rows) == TOYS


def test_a_wrong_mark_costs_its_own_test_only(tmp_path):
    tests = "".join(f"\n\n{marks}\ndef test_{place}(student):\n    pass\n" for place, marks in enumerate(MARKS))
    rows = graded(tmp_path, tests)

    said = {
        marks: first_line(rows[f"test_{place}"]).replace(f"test_{place}", "test_it")
        for place, marks in enumerate(MARKS)
    }
    assert {marks: line for marks, line in said.items() if not line.startswith(MARKS[marks])} == {}
    assert others(rows) == TOYS


def test_two_tests_of_one_name_in_two_parts_of_a_suite_are_an_error_of_both(tmp_path):
    test = "import pytest\n\n@pytest.mark.points(1)\ndef test_it(student):\n    pass\n"
    rows = graded(tmp_path, "\n\n" + test, test_toy__more=test)

    assert first_line(rows["test_it"]).startswith("test_it is the name of two tests, test_toy.py:")
    assert "and test_toy__more.py:3: rename one" in first_line(rows["test_it"])
    assert others(rows) == TOYS


def test_cases_of_one_name_are_told_apart_and_a_file_that_cannot_be_loaded_says_why_first(tmp_path):
    test = """
@pytest.mark.points(1)
@pytest.mark.parametrize("length", [1, 2, 3], ids=["a", "a", "a"])
def test_it(student, length):
    student.call("toy.causal_mask", length)
"""
    rows = graded(tmp_path, test, test_toy__more="import pytest\n\nraise ValueError('no data')\n")

    assert rows["test_it"].status == PASSED
    assert first_line(rows["(collection)"]) == "ValueError: no data"
    assert others(rows) == TOYS | {"(collection)": GRADER_ERROR}


def test_what_a_student_did_not_write_is_the_students(tmp_path):
    """The lesson has the name, and the student's module has not."""
    tests = """
@pytest.mark.points(1)
def test_it(student, check):
    check(student.run(sizes), 1)

def sizes():
    import toy
    return toy.Layer().size()

@pytest.mark.points(1)
def test_other(student):
    student.call("toy.causal_mask", 1)

@pytest.mark.points(1)
def test_method(student):
    student.raises(TypeError, "toy.Layer.size")
"""
    rows = graded(tmp_path, tests, "def causal_mask(length):\n    return None\n")

    assert {name: rows[name].status for name in ("test_it", "test_method", "test_other")} == {
        "test_it": FAILED,
        "test_method": FAILED,
        "test_other": PASSED,
    }
    assert rows["test_method"].message.startswith(
        "Layer.size(): your code raises AttributeError; it should raise TypeError"
    )


def test_what_a_student_returns_and_a_test_passes_on_is_the_students(tmp_path):
    tests = """
@pytest.mark.points(1)
def test_it(student, check):
    mask = student.call("toy.causal_mask", 2)
    student.call("toy.causal_mask", mask.shape[0] if hasattr(mask, "shape") else mask)
"""
    wrong = graded(tmp_path, tests, "class Mask:\n    pass\n\ndef causal_mask(length):\n    return Mask()\n")["test_it"]

    assert (wrong.status, wrong.message) == (
        FAILED,
        "your code returned a Mask: it should be tensors or plain values, which can be passed on",
    )
