"""lesson.toml and where a lesson's files lie."""

import pytest
from conftest import write_lesson

from autograder.errors import LessonError, UsageError
from autograder.lesson import find_root, load, load_all


def test_a_lesson_is_found_by_its_beginning(tmp_path):
    write_lesson(tmp_path)

    assert load("99", tmp_path).name == load("99-toy", tmp_path).name == "99-toy"


@pytest.mark.parametrize("name", ["98", "", "../99-toy"])
def test_an_unknown_lesson_names_those_there_are(tmp_path, name):
    write_lesson(tmp_path)
    (tmp_path / "assignments" / "99-other").mkdir()
    (tmp_path / "assignments" / "99-other" / "lesson.toml").write_text('title = "x"\nmodules = ["x"]')

    with pytest.raises(LessonError, match="99-other, 99-toy"):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("memory = 3", "memory: Extra inputs"),
        ("deadline_s = 0", "deadline_s"),
        ("modules = 3", "is not valid TOML"),
        ("[feedback]\nvisibility = 'never'", "feedback.visibility"),
    ],
)
def test_a_wrong_lesson_toml_names_file_and_key(tmp_path, settings, words):
    write_lesson(tmp_path, settings=settings)

    with pytest.raises(LessonError, match=words) as caught:
        load("99-toy", tmp_path)

    assert "lesson.toml" in str(caught.value)


def test_a_missing_module_is_named(tmp_path):
    write_lesson(tmp_path)
    (tmp_path / "solutions" / "99-toy" / "toy.py").unlink()

    with pytest.raises(LessonError, match=r"toy.py is missing"):
        load("99-toy", tmp_path).solution_files()


def test_prerequisites_reach_through(tmp_path):
    for number, uses in (("01", ""), ("02", '"01-x"'), ("03", '"02-x"')):
        folder = tmp_path / "assignments" / f"{number}-x"
        folder.mkdir(parents=True)
        (folder / "lesson.toml").write_text(f'title = "x"\nmodules = ["m{number}"]\nuses = [{uses}]')

    assert [lesson.name for lesson in load("03", tmp_path).prerequisites()] == ["02-x", "01-x"]
    assert [lesson.name for lesson in load_all(tmp_path)] == ["01-x", "02-x", "03-x"]


def test_the_digest_changes_with_the_suite_and_not_with_the_solution(tmp_path):
    write_lesson(tmp_path)
    lesson = load("99", tmp_path)
    before = lesson.digest()
    (lesson.solution / "toy.py").write_text("# another")
    same = lesson.digest()
    lesson.hidden_test("toy").write_text("# another")

    assert before == same != lesson.digest()


def test_the_root_is_found_from_below_or_named(tmp_path, monkeypatch):
    write_lesson(tmp_path)
    below = tmp_path / "tests" / "lessons"

    assert find_root(below) == tmp_path
    monkeypatch.setenv("AUTOGRADER_ROOT", str(tmp_path / "elsewhere"))
    assert find_root(below) == tmp_path / "elsewhere"


def test_no_root_is_wrong_use(tmp_path, monkeypatch):
    monkeypatch.setattr("autograder.lesson.__file__", str(tmp_path / "x" / "lesson.py"))

    with pytest.raises(UsageError, match="AUTOGRADER_ROOT"):
        find_root(tmp_path)
