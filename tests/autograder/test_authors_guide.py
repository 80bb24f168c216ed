"""docs/authors.md, followed to the letter, makes a lesson whose suite is proven."""

import re
import shutil

import pytest
from conftest import ROOT

from autograder.author import stub_marks
from autograder.author.idle import idle
from autograder.author.prove import prove
from autograder.author.samples import load_samples
from autograder.author.skeleton import new_lesson
from autograder.author.starter import write_starter
from autograder.batch import Job, run
from autograder.marks import MARKS
from autograder.submission import Submission

GUIDE = (ROOT / "docs" / "authors.md").read_text()
FILE = re.compile(r"^(```+)\w+\n# (\S+/\S+)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def lesson_of_the_guide(root):
    """Its command, its files, and what it says to remove."""
    [(name, module)] = re.findall(r"autograder new-lesson (\S+) (\w+)\n", GUIDE)
    made = new_lesson(root, name, [module])
    for folder in root.glob(re.search(r"`rm -r (\S+)`", GUIDE)[1]):
        shutil.rmtree(folder)
    for _, path, content in FILE.findall(GUIDE):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    write_starter(made)
    return made


def test_the_guide_lists_all_marks_as_the_package_has_them():
    rows = [tuple(row) for row in re.findall(r"^\| `(.*?)` \| a [\w ]+ \| (.*) \|$", GUIDE, re.MULTILINE)]

    assert {mark: place for mark, place in rows if mark[0] == "@"} == {
        f"@pytest.mark.{mark}": meaning for mark, meaning in MARKS.items()
    }
    assert {mark: place.partition(":")[0] for mark, place in rows if mark[0] == "#"} == stub_marks.MARKS


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    return lesson_of_the_guide(tmp_path_factory.mktemp("course"))


def test_the_guide_replaces_all_that_belonged_to_the_example(lesson):
    texts = [path.read_text() for path in lesson.root.rglob("*") if path.is_file()]

    assert len(FILE.findall(GUIDE)) == 8
    assert not any("scale_rows" in text for text in texts)


def test_the_lesson_of_the_guide_is_graded(lesson):
    samples = load_samples(lesson)
    jobs = [
        Job(Submission("solution", "", lesson.solution_files())),
        Job(Submission("stub", "", lesson.starter_files())),
    ]
    jobs += [Job(sample.submission(), sample.asked) for sample in samples]

    solution, stub, *others = [card for _, card in run(lesson, jobs)]

    assert (solution.score, solution.max_score, stub.score) == (5, 5, 0)
    assert [sample.problems(card) for sample, card in zip(samples, others, strict=True)] == [[], []]


@pytest.mark.slow
def test_the_lesson_of_the_guide_is_proven(lesson):
    assert prove(lesson, "position_interpolation").survivors == ()
    assert idle(lesson).tests == {}
