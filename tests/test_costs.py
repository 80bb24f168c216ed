"""One mistake does not cost a third of a lesson: docs/proof.md says what costs much and why, and it is still so."""

from functools import cache

import pytest
from conftest import ROOT, all_lessons, all_samples, cores_left

from autograder.author.costs import MEDIANS, MUCH, MUCHES, CostTables, Summary, measure, problems
from autograder.author.samples import WRONG
from autograder.lesson import load

LESSONS = all_lessons()
MODULES = [(lesson.name, module) for lesson in LESSONS for module in lesson.modules]
SAMPLES = [sample for lesson in LESSONS for sample in all_samples(lesson, (WRONG,))]


@cache
def rows(table: str) -> list[list[str]]:
    return CostTables.read(ROOT / "docs" / "proof.md").rows(table)


def test_every_module_has_its_median_which_is_at_most_a_tenth():
    assert [tuple(row[:2]) for row in rows(MEDIANS)] == sorted(MODULES)
    assert [row for row in rows(MEDIANS) if float(row[4]) > float(row[2]) / 10] == []


def test_what_costs_more_than_a_quarter_is_a_sample_that_says_why():
    said = {
        (sample.lesson.name, sample.name, sample.expect.costs) for sample in SAMPLES if sample.expect.costs is not None
    }

    assert {(lesson, name, reason) for lesson, _, name, _, _, reason in rows(MUCHES)} == said
    assert [row for row in rows(MUCHES) if float(row[3]) <= MUCH * float(row[4])] == []


def test_the_worst_of_a_module_is_a_sample_of_it_and_among_those_that_cost_much_if_it_does():
    modules = {(sample.lesson.name, sample.name): sample.modules for sample in SAMPLES}
    much = {tuple(row[:3]) for row in rows(MUCHES)}

    assert [row for row in rows(MEDIANS) if row[1] not in modules.get((row[0], row[7]), ())] == []
    assert [
        row for row in rows(MEDIANS) if (float(row[6]) > MUCH * float(row[2])) != ((row[0], row[1], row[7]) in much)
    ] == []


@pytest.mark.thorough
@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
def test_a_mistake_costs_what_the_tables_say(lesson):
    found = measure(load(lesson, ROOT), processes=cores_left())

    assert [problem for losses in found.values() for problem in problems(losses)] == []
    assert [
        (module, summary.median)
        for module, losses in found.items()
        if (summary := Summary.of_losses(losses)).median > summary.of / 10
    ] == []
