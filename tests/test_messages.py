"""Every sentence reads well: what a student can see, what the pages say, and what the package says of itself."""

import ast
import re

import pytest
from conftest import ROOT, TOY_SUITE, all_lessons, all_samples, write_lesson
from typer.testing import CliRunner

from autograder import cli
from autograder.author import wording
from autograder.author.messages import FILLED, GRADER, MISTAKE, TITLE, Message, grader_messages, suite_messages

LESSONS = all_lessons()
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "assignments").glob("*/handout.md")),
]
SOURCES = sorted((ROOT / "autograder").rglob("*.py"))


def named(value):
    return getattr(value, "name", value)


def listed(messages):
    return [f"{message.file.name}:{message.line}: {message.text}: {message.faults}" for message in messages]


# ---------------------------------------------------------------------------------------------- what reads well


@pytest.mark.parametrize("lesson", LESSONS, ids=named)
def test_the_messages_of_a_lesson_read_well(lesson):
    assert listed(message for message in suite_messages(lesson) if message.faults) == []


def test_the_messages_of_the_grader_read_well():
    assert listed(message for message in grader_messages() if message.faults) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "autograder")))
def test_texts_and_docstrings_of_the_package_read_well(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)]
    said = [(node.lineno, node.value) for node in nodes if isinstance(node.value, str)]

    assert [
        (line, text[:200]) for line, text in said if path.name != "wording.py" and wording.faults(text, wording.PROSE)
    ] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_pages_read_well(path):
    text = re.sub(r"^```.*?^```|^\|.*?$|`[^`\n]+`", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = " ".join(text.split()).split(". ")

    assert [line for line in lines if wording.faults(line, wording.PROSE)] == []


# ---------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("bad", "better"),
    [
        (
            "the decay is a straight line: it is half a cosine",
            "the decay is a straight line; it should be half a cosine",
        ),
        (
            "a tie goes to the smaller pair: the greater one does",
            "a tie goes to the smaller pair; the greater should win",
        ),
        (
            "only tokens that were seen are smoothed: all V are",
            "only tokens that were seen are smoothed; all V should be",
        ),
        ("the feed-forward uses GELU: here it is ReLU", "the feed-forward uses GELU; it should use ReLU"),
        ("the mask is transposed: it shows the future", "the mask is transposed, so that it shows the future"),
        ("the strings are joined: each is encoded alone", "the strings are joined: encode each on its own"),
        ("the loss is no float: return loss.item()", "the loss is not a float: return loss.item()"),
        ("a parameter is no leaf after the step", "a parameter is no longer a leaf after the step"),
        ("the model has another number of heads", "the model has the wrong number of heads"),
        ("the dict has other keys than it should have", "the dict has the wrong keys"),
        ("the result is an int of another value", "the int has the wrong value"),
        ("the model is left in another mode than it was in", "the model is left in a different mode"),
        ("a source alone is translated otherwise", "a source on its own is translated differently than in a batch"),
        ("Landlock is not to be had here", "Landlock is not available here"),
        ("tell whom the file belongs to", "tell who the file belongs to"),
        ("the file lies in the wrong folder", "the file is in the wrong folder"),
        ("the ranks let be what they should send", "the ranks leave what they should send"),
        ("a bad the argument is accepted", "an invalid `x` is accepted"),
    ],
)
def test_a_sentence_that_reads_badly_is_refused(bad, better):
    assert wording.faults(bad, wording.MISTAKES) != []
    assert wording.faults(better, wording.MISTAKES) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "there is no dropout in train mode",
        "the running maximum is that of the tile: it should be the query's own",
        "the weights do not sum to 1: a hidden key takes its share",
        "the bytes are taken for ids: vocab says which they are",
        "exp overflows or vanishes: subtract the running maximum first",
        "the gradients earlier than this step are still there: call zero_grad() first",
    ],
)
def test_a_reason_or_an_advice_behind_a_colon_is_allowed(sentence):
    assert wording.faults(sentence, wording.MISTAKES) == []


def test_only_a_sentence_about_the_code_must_not_state_what_is():
    sentence = "did nothing for 5 s: it is waiting for something"

    assert Message(GRADER, sentence, ROOT, 1).faults == []
    assert Message(MISTAKE, sentence, ROOT, 1).faults != []


# ---------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("lesson", LESSONS, ids=named)
def test_every_mistake_that_a_sample_is_told_is_listed(lesson):
    texts = [message.text for message in suite_messages(lesson) + grader_messages()]
    patterns = [
        re.compile(".+".join(map(re.escape, text.split(FILLED))))
        for text in texts
        if FILLED in text and len(text.replace(FILLED, "")) > 8  # others fit everything
    ]
    told = {sample.expect.mistake for sample in all_samples(lesson)} - {None}

    assert {one for one in told - set(texts) if not any(pattern.fullmatch(one) for pattern in patterns)} == set()


SUITE = '''
"""Hidden tests."""
import pytest
LONG = "the sentence that has a name"
LIST = ["the first of a list", "the second of a list"]


def judge(check, fact, wrong):
    check(fact, True, mistakes={wrong: False})


@pytest.mark.question("A question")
def test_one(student, check):
    """The title.

    Not the title.
    """
    data = {"a": 1, "two words": 2}
    check(1, 1, mistakes={"the plain mistake of all": 2, LONG: 3, f"the mistake of {data} here": 4})
    check.that(True, "the fact is wrong")
    judge(check, True, "the fact is judged")
    for fact in [(data == 1, "one fact of a pair"), ("no fact", "but data of a test")]:
        check.that(*fact)
    check(1, 1, otherwise="one thing " + ("only" if data else "alone"))
    for key, sentence in (("a", "one way to say it"), ("b", "another way to say it")):
        check.that(key, f"it is {sentence}")
        check.that(key, sentence)
    for fact, listed in zip(data, LIST, strict=True):
        check.that(fact, listed)
'''


def test_what_a_suite_says_is_found_in_every_form(tmp_path):
    lesson = LESSONS[0].model_copy(update={"root": tmp_path, "name": "99-said"})
    lesson.tests.mkdir(parents=True)
    (lesson.tests / "test_said.py").write_text(SUITE)

    found = suite_messages(lesson)

    assert {message.text for message in found if message.kind == TITLE} == {"A question", "The title."}
    assert {message.text for message in found if message.kind == MISTAKE} == {
        "the sentence that has a name",
        "the plain mistake of all",
        "the mistake of {…} here",
        "the fact is wrong",
        "the fact is judged",
        "one fact of a pair",
        "the first of a list",
        "the second of a list",
        "one thing only",
        "one thing alone",
        "one way to say it",
        "another way to say it",
        "it is {…}",
    }
    assert next(message.line for message in found if message.text == "the fact is judged") == 21


@pytest.mark.parametrize(
    "part",
    [
        "the test could not use what your code returned",
        "some entries should be infinite but are finite",
        "is missing from the submission",
        "it is a notebook: put its code into a .py file",
        "more than {…} MB of memory",
        "s of processor time",
        "the ranks are waiting for each other",
        "the grader made an error here, not you",
    ],
)
def test_the_graders_own_messages_are_listed(part):
    assert [message for message in grader_messages() if part in message.text]


def test_the_command_lists_them_with_their_lines():
    result = CliRunner().invoke(cli.app, ["messages", LESSONS[0].name])

    assert result.exit_code == 0
    assert re.search(r"^tests/lessons/\S+/test_\w+\.py:\d+: mistake: ", result.stdout, re.MULTILINE)
    assert re.search(r"^autograder/check\.py:\d+: grader: ", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(("sentence", "code"), [("it is no mask", 1), ("it is not a mask", 0)])
def test_the_command_ends_with_1_where_a_rule_is_broken(tmp_path, monkeypatch, sentence, code):
    write_lesson(tmp_path, suite=TOY_SUITE.replace("the mask is transposed: it shows the future", sentence))
    monkeypatch.setenv("AUTOGRADER_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(cli.app, ["messages", "99-toy", "--check"])

    assert result.exit_code == code
    assert ("write '" in result.stdout) == (code == 1)
