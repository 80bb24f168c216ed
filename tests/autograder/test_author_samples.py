"""Where an author's samples are, and what is said of one that is not complete."""

import re

import pytest
from conftest import all_lessons, write_lesson

from autograder.author.samples import WRONG, find_samples, load_samples
from autograder.errors import LessonError
from autograder.lesson import load
from autograder.scorecard import Scorecard

SAYS = 'why = "The future."\nfails = ["test_it"]\n'
CHANGE = '[[change]]\nold = ".tril()"\nnew = ".triu()"\n'


@pytest.fixture
def wrong(tmp_path):
    """Writes wrong/<path> and gives the wrong samples of the lesson."""
    write_lesson(tmp_path)

    def write(**files):
        for path, text in files.items():
            file = tmp_path / "tests" / "submissions" / "99-toy" / "wrong" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode("utf-8", "surrogateescape"))
        return load_samples(load("99-toy", tmp_path), (WRONG,))

    return write


def test_a_change_without_a_file_is_made_to_the_module_that_the_sample_lies_under(wrong):
    [sample] = wrong(**{"toy/transposed.toml": SAYS + CHANGE})

    assert sample.name == "transposed"
    assert sample.modules == ("toy",)
    assert b".triu()" in sample.submission().files["toy.py"]


def test_a_folder_hands_in_whole_modules(wrong):
    [sample] = wrong(**{"toy/other/expect.toml": SAYS, "toy/other/toy.py": "# another style\n"})

    assert sample.submission().files["toy.py"] == b"# another style\n"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"loose.toml": SAYS + CHANGE}, "loose.toml: a change names no file"),
        ({"toy/empty.toml": SAYS}, "empty.toml changes no module of 99-toy"),
        ({"toy/none.toml": CHANGE}, "none.toml: the key 'why' is missing"),
        ({"toy/nothing.toml": 'why = "x"\n' + CHANGE}, "nothing.toml: fails is empty"),
        ({"toy/same.toml": SAYS + CHANGE, "same/expect.toml": SAYS, "same/toy.py": ""}, "same name: rename one"),
        (
            {"tow/far.toml": SAYS + CHANGE},
            "tow has no expect.toml, and is not the folder of a module of 99-toy; did you mean 'toy'?",
        ),
        ({"toy/broken.toml": 'why = "x'}, "broken.toml is not valid TOML"),
        ({"toy/latin.toml": "why = '\udce4'"}, "latin.toml is not valid TOML"),
        (
            {"toy/key.toml": SAYS.replace("why", "wy") + CHANGE},
            "unknown key 'wy'; did you mean 'why'?; the key 'why' is missing",
        ),
        (
            {"toy/key.toml": SAYS + CHANGE.replace("new", "neu")},
            "unknown key 'change.0.neu'; did you mean 'new'?; the key 'change.0.new' is missing",
        ),
        ({"toy/one.toml": SAYS + CHANGE.replace("[[change]]", "[change]")}, "change: Input should be a valid tuple"),
        ({"toy/word.toml": SAYS.replace('["test_it"]', '"test_it"') + CHANGE}, "fails: Input should be a valid tuple"),
        (
            {"toy/file.toml": SAYS + CHANGE + 'file = "toi.py"'},
            "names the file 'toi.py': 99-toy has toy.py; did you mean 'toy.py'?",
        ),
    ],
    ids=[
        "no module",
        "no change",
        "no reason",
        "no test",
        "two of a name",
        "no such module",
        "no TOML",
        "no UTF-8",
        "a key",
        "a key of a change",
        "one change",
        "one test",
        "no such file",
    ],
)
def test_what_is_not_complete_is_named(wrong, files, said):
    with pytest.raises(LessonError, match=re.escape(said)):
        wrong(**files)


def test_what_is_wrong_with_one_sample_is_wrong_with_no_other(wrong, tmp_path):
    files = {
        f"toy/{name}.toml": text
        for name, text in (("a", "why ="), ("b", SAYS), ("c", "x = 1"), ("right", SAYS + CHANGE))
    }
    with pytest.raises(LessonError):
        wrong(**files, **{"again/expect.toml": SAYS, "toy/again.toml": SAYS + CHANGE, "tow/d.toml": SAYS})

    found = find_samples(load("99-toy", tmp_path), (WRONG,))
    said = {}
    for each in found:
        try:
            each.load()
            said[each.label] = ""
        except LessonError as error:
            said[each.label] = str(error)
    assert sorted(said) == [f"wrong/{name}" for name in ("a", "again", "b", "c", "right", "tow", "toy/again.toml")]
    assert [label for label in said if not said[label]] == ["wrong/right"]
    assert all(label.rpartition("/")[2].partition(".")[0] in said[label] for label in said if said[label])


def test_a_test_that_does_not_exist_is_said_with_the_nearest(wrong, toy):
    [sample] = wrong(**{"toy/transposed.toml": SAYS.replace("test_it", "test_the_past") + CHANGE})
    card = Scorecard(lesson="99-toy", student="s", seed=1, outcomes=())

    [problem] = sample.problems(card)
    assert problem.endswith(
        "transposed.toml: fails names 'test_the_past', and toy has no such test; did you mean 'test_the_past_is_seen'?"
    )


@pytest.mark.parametrize(
    ("old", "said"),
    [
        (".absent()", "does not occur in toy.py, not once: quote the solution as it is now"),
        ("length,", "occurs twice in toy.py, not once: give more of the lines around it"),
    ],
)
def test_a_text_that_does_not_occur_once_is_named_with_its_file(wrong, old, said):
    [sample] = wrong(**{"toy/absent.toml": SAYS + CHANGE.replace(".tril()", old)})

    with pytest.raises(LessonError, match=re.escape(f"absent.toml: {old!r} {said}")):
        sample.submission()


@pytest.mark.parametrize("lesson", all_lessons(), ids=lambda lesson: lesson.name)
def test_the_folder_of_a_module_is_the_list_of_its_mistakes(lesson):
    assert {path.name for path in (lesson.samples / "wrong").iterdir()} == set(lesson.modules)
