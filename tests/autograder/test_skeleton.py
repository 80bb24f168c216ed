"""A new lesson works from its first minute."""

import pytest
from conftest import write_lesson

from autograder.author.samples import load_samples
from autograder.author.skeleton import new_lesson
from autograder.author.starter import starter_is_fresh
from autograder.batch import Job, run
from autograder.errors import UsageError
from autograder.options import Asked
from autograder.submission import Submission


def test_a_new_lesson_keeps_what_lessons_promise(tmp_path):
    lesson = new_lesson(tmp_path, "10-row-scaling", ["rows", "more_rows"])

    samples = load_samples(lesson)
    jobs = [
        Job(Submission("solution", "", lesson.solution_files())),
        Job(Submission("stub", "", lesson.starter_files())),
    ]
    jobs += [Job(sample.submission(), Asked(sample.modules)) for sample in samples]
    cards = [card for _, card in run(lesson, jobs)]

    assert cards[0].score == cards[0].max_score == 6
    assert cards[1].score == 0
    assert [sample.problems(card) for sample, card in zip(samples, cards[2:], strict=True)] == [[]] * 4
    assert starter_is_fresh(lesson)


@pytest.mark.parametrize(
    ("name", "modules", "words"),
    [
        ("tokenizers", ["rows"], "not a lesson's name"),
        ("1-tokenizers", ["rows"], "not a lesson's name"),
        ("../10-x", ["rows"], "not a lesson's name"),
        ("99-toy", ["rows"], "already exists"),
        ("10-x", ["toy"], "taken by 99-toy"),
        ("10-x", ["rows", "rows"], "taken"),
        ("10-x", ["Rows"], "not a module's name"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path, name, modules, words):
    write_lesson(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(UsageError, match=words):
        new_lesson(tmp_path, name, modules)

    assert sorted(tmp_path.rglob("*")) == before
