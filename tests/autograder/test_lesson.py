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
        ("memory = 3", r"unknown key 'memory'; did you mean 'memory_mb'\?"),
        ("[forbidden]\nname = ['x']", r"unknown key 'forbidden.name'; did you mean 'names'\?"),
        ("[feedbacks]\nvisibility = 'hidden'", r"unknown key 'feedbacks'; did you mean 'feedback'\?"),
        ("name = 'x'", "unknown key 'name': a lesson is called as its folder is"),
        ("title = 'x'", "is not valid TOML"),
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


@pytest.fixture
def two_modules(tmp_path):
    """A lesson of two modules, whose suites share one helper of the lesson and one of all lessons."""
    write_lesson(tmp_path)
    suites, lessons = tmp_path / "tests" / "lessons" / "99-toy", tmp_path / "tests" / "lessons"
    (tmp_path / "assignments" / "99-toy" / "lesson.toml").write_text('title = "Toy"\nmodules = ["toy", "other"]\n')
    (tmp_path / "solutions" / "99-toy" / "other.py").write_text("")
    (suites / "test_other.py").write_text("from both import x\n")
    (suites / "test_toy__part.py").write_text("import toy_helpers, both\n")
    (suites / "toy_helpers.py").write_text("def f():\n    import deep\n")
    (suites / "both.py").write_text("from everywhere import y\n")
    (suites / "deep.py").write_text("")
    (suites / "inside.py").write_text("")
    (lessons / "everywhere.py").write_text("")
    return load("99", tmp_path)


@pytest.mark.parametrize(
    ("file", "changes"),
    {
        "tests/lessons/99-toy/test_toy.py": {"toy"},
        "tests/lessons/99-toy/test_toy__part.py": {"toy"},
        "tests/lessons/99-toy/toy_helpers.py": {"toy"},
        "tests/lessons/99-toy/deep.py": {"toy"},
        "tests/lessons/99-toy/both.py": {"toy", "other"},
        "tests/lessons/everywhere.py": {"toy", "other"},
        "tests/lessons/99-toy/inside.py": {"toy", "other"},
        "tests/lessons/99-toy/test_toy_public.py": set(),
        "solutions/99-toy/toy.py": set(),
    }.items(),
)
def test_a_modules_digest_changes_with_all_that_decides_its_verdicts(two_modules, file, changes):
    before = {module: two_modules.suite_digest(module) for module in two_modules.modules}
    path = two_modules.root / file
    path.write_text(f"{path.read_text() if path.exists() else ''}# another\n")
    again = load("99", two_modules.root)

    assert {module for module in before if again.suite_digest(module) != before[module]} == changes


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("call_timeout_s = 3", True),
        ("student_memory_mb = 300", True),
        ('[forbidden]\nnames = ["torch.bmm"]', True),
        ("scale_to = 10", False),
        ('hours = "3"', False),
        ('[feedback]\nvisibility = "hidden"', False),
    ],
)
def test_a_digest_changes_with_the_settings_that_reach_a_test(tmp_path, line, changes):
    write_lesson(tmp_path)
    before = load("99", tmp_path).suite_digest("toy")
    write_lesson(tmp_path, settings=f"{line}\n")

    assert (load("99", tmp_path).suite_digest("toy") != before) == changes


def test_a_suite_that_is_no_python_has_a_digest(tmp_path):
    write_lesson(tmp_path, suite="def broken(:")

    assert load("99", tmp_path).suite_digest("toy")


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


def test_only_parts_that_hold_an_asked_test_are_collected(tmp_path):
    write_lesson(tmp_path, suite="def test_one(): ...")
    part = tmp_path / "tests/lessons/99-toy/test_toy__part.py"
    part.write_text("def test_two(): ...\ndef helper(): ...\n")
    lesson = load("99-toy", tmp_path)
    first = lesson.hidden_test("toy")

    assert lesson.parts_with("toy", None) == [first, part]
    assert lesson.parts_with("toy", {"test_two", "test_other"}) == [part]
    assert lesson.parts_with("toy", {"test_one"}) == [first]
    assert lesson.parts_with("toy", {"helper"}) == [first, part]  # none of them: pytest would take the whole folder
    part.write_text("def test_two(:")
    assert lesson.parts_with("toy", {"test_one"}) == [first, part]
