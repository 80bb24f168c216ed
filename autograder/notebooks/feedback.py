"""A step of `nbgrader generate_feedback`: rubrics stay with those who grade."""

from nbformat import NotebookNode
from nbgrader.preprocessors import ClearMarkScheme, NbGraderPreprocessor
from nbgrader.utils import is_locked


class WithoutRubrics(NbGraderPreprocessor):
    """nbgrader's ClearMarkScheme, on the questions only: what a student writes may look like a mark scheme."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        clear = ClearMarkScheme(parent=self, enforce_metadata=False)
        for at, cell in enumerate(nb.cells):
            if is_locked(cell) and cell.cell_type == "markdown":
                nb.cells[at], resources = clear.preprocess_cell(cell, resources, at)
        return nb, resources
