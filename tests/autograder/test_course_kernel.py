"""Every lesson's labs run from top to bottom on the solutions, in the kernel that runs a student's: confined, without a network.

`make test` runs one lesson's, `make test-thorough` all.
"""

import resource

import pytest
from conftest import all_lessons

from autograder.notebooks.course import source_files
from autograder.notebooks.execute import ConfinedExecute
from autograder.notebooks.kernel import cannot_confine
from autograder.notebooks.lab import notebooks_of

pytestmark = pytest.mark.skipif(bool(cannot_confine()), reason=cannot_confine())
IN_EVERY_RUN = "01-attention"
MOST_S = 240  # two minutes of two cores
LESSONS = [
    pytest.param(
        lesson, id=lesson.name, marks=pytest.mark.slow if lesson.name == IN_EVERY_RUN else pytest.mark.thorough
    )
    for lesson in all_lessons()
]


def lay_out(lesson, root):
    """What a student has who has solved it: the lab's folder, and beside it their modules of the lessons that it uses."""
    files = {f"{lesson.name}/{name}": content for name, content in source_files(lesson).items()}
    for each in (lesson, *lesson.prerequisites()):
        files |= {f"{each.name}/{name}": content for name, content in each.solution_files().items()}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root / lesson.name


def is_amiss(cell, output):
    """Whether it is an error, or a word on standard error. Cells with points raise: their results come from the box."""
    if output.output_type == "error":
        return not ("hidden_tests(" in cell.source and output.evalue.startswith("not graded"))
    return output.get("name") == "stderr"


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lab_runs_in_the_confined_kernel(lesson, tmp_path, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    folder = lay_out(lesson, tmp_path)

    for name, lab in notebooks_of(lesson).items():
        before = cpu_s()
        names = {"student": "ada", "assignment": lesson.name, "notebook": name}
        step = ConfinedExecute(timeout=900, startup_timeout=300, iopub_timeout=60)
        run, _ = step.preprocess(lab, {"metadata": {"path": str(folder)}, "nbgrader": names})
        taken = cpu_s() - before
        print(f"{name}: {taken:.0f} s of processor time")

        cells = [cell for cell in run.cells if cell.cell_type == "code"]
        assert [cell.source for cell in cells if cell.execution_count is None] == []
        outputs = [(cell, output) for cell in cells for output in cell.outputs]
        assert [(cell.source, output) for cell, output in outputs if is_amiss(cell, output)] == []
        plots = [cell for cell in cells if "plt.show()" in cell.source]
        assert [
            cell.source for cell in plots if not any("image/png" in each.get("data", {}) for each in cell.outputs)
        ] == []
        assert taken < MOST_S
