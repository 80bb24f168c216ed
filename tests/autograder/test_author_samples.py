"""Where an author's samples are, and what is said of one that is not complete."""

import pytest
from conftest import ROOT, write_lesson

from autograder.author.samples import WRONG, load_samples
from autograder.errors import LessonError
from autograder.lesson import load, load_all

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
            file.write_text(text)
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
        ({"toy/none.toml": CHANGE}, "none.toml: 1 validation error"),
        ({"toy/nothing.toml": 'why = "x"\n' + CHANGE}, "nothing.toml: fails is empty"),
        ({"toy/same.toml": SAYS + CHANGE, "same/expect.toml": SAYS, "same/toy.py": ""}, "same name: rename one"),
        ({"tow/far.toml": SAYS + CHANGE}, "expect.toml"),
    ],
    ids=["no module", "no change", "no reason", "no test", "two of a name", "no such module"],
)
def test_what_is_not_complete_is_named(wrong, files, said):
    with pytest.raises(LessonError, match=said):
        wrong(**files)


def test_a_text_that_does_not_occur_once_is_named_with_its_file(wrong):
    [sample] = wrong(**{"toy/absent.toml": SAYS + CHANGE.replace("tril", "absent")})

    with pytest.raises(LessonError, match=r"absent\.toml: '\.absent\(\)' occurs 0 times in toy\.py"):
        sample.submission()


@pytest.mark.parametrize("lesson", load_all(ROOT), ids=lambda lesson: lesson.name)
def test_the_folder_of_a_module_is_the_list_of_its_mistakes(lesson):
    assert {path.name for path in (lesson.samples / "wrong").iterdir()} == set(lesson.modules)
