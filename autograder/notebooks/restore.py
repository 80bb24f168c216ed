"""Steps of `nbgrader autograde` that put a submission right, so that no student's notebook decides what nbgrader does with it."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.api import Gradebook, Notebook
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor

from ..errors import SubmissionError
from .links import may_stay, without_links_elsewhere

_SCHEMA = 3
_DEEPEST = 100


def coursedir_of(step: Any) -> CourseDirectory:
    """A step's course: exporter and converter are above it."""
    above = step
    while not isinstance(getattr(above, "coursedir", None), CourseDirectory):
        above = above.parent
    return above.coursedir


def folder_of(step: Any, resources: dict, kind: str) -> Path:
    """The folder of a student's assignment: kind is "submitted" or "autograded"."""
    course, names = coursedir_of(step), resources["nbgrader"]
    root = getattr(course, f"{kind}_directory")
    return Path(course.format_path(root, names["student"], names["assignment"]))


class RefuseLinks(NbGraderPreprocessor):
    """nbgrader copies what a link leads to, such as another student's work, to where this student's notebook can read it.

    Only regular files of the submission stay; a notebook that is a link is refused.
    """

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        submitted = folder_of(self, resources, "submitted")
        autograded = folder_of(self, resources, "autograded")
        notebook = submitted / f"{resources['nbgrader']['notebook']}.ipynb"
        for path in (submitted.parent, submitted, notebook):
            if path.is_symlink():
                raise SubmissionError(f"{path} is a link, and links are not graded: put the files themselves there")
        for path in _no_regular_files(submitted):
            copy = autograded / path.relative_to(submitted)
            self.log.warning("%s is not a regular file: it was left out", path)
            if copy.is_file() or copy.is_symlink():
                copy.unlink()
        return nb, resources


def _no_regular_files(folder: Path) -> Iterator[Path]:
    todo = [(folder, 0)]  # os.walk calls itself for each folder in a folder
    while todo:
        place, depth = todo.pop()
        if depth > _DEEPEST:
            raise SubmissionError(f"{folder} has folders in folders, more than {_DEEPEST} deep: it is not graded")
        for name in sorted(os.listdir(place)):
            path = Path(place, name)
            kind = path.lstat().st_mode
            if stat.S_ISDIR(kind):
                todo.append((path, depth + 1))
            elif not stat.S_ISREG(kind):
                yield path


class RestoreCells(NbGraderPreprocessor):
    """nbgrader's marks on cells are what they were when the lab was released, whatever was done to them since.

    Of each graded or locked cell the last one with its name counts; a missing one comes back at the end, as it was released.
    All other cells are the student's own, and carry no marks. Of attachments pictures stay.
    """

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        names = resources["nbgrader"]
        with Gradebook(names["db_url"]) as gradebook:
            released = _released(gradebook.find_notebook(names["notebook"], names["assignment"]))
        nb.metadata = NotebookNode()  # OverwriteKernelspec comes next; a title or a language could be anything
        last = {_name_of(cell): at for at, cell in enumerate(nb.cells)}
        for at, cell in enumerate(nb.cells):
            name = _name_of(cell)
            if name in released and last[name] == at:
                nb.cells[at] = _put_right(cell, released[name])
            else:
                cell.metadata = NotebookNode()
                _leave_pictures(cell)
        for name, cell in released.items():
            if name not in last:
                self.log.warning("cell %s was missing from the submission: it was put back", name)
                nb.cells.append(cell)
        return nb, resources


def _name_of(cell):
    marks = cell.metadata.get("nbgrader")
    name = marks.get("grade_id") if isinstance(marks, dict) else None
    return name if isinstance(name, str) else None


def _put_right(cell: NotebookNode, released: NotebookNode) -> NotebookNode:
    """The released cell, with the student's text where that is theirs to write."""
    if not released.metadata.nbgrader["locked"]:
        released.source = cell.source
        if released.cell_type == "markdown" and "attachments" in cell:
            released["attachments"] = cell["attachments"]
            _leave_pictures(released)
    return released


def _leave_pictures(cell: NotebookNode) -> None:
    """Removes attachments that are not pictures: what they are called and hold becomes part of a page."""
    given = cell.pop("attachments", None)
    pictures = (
        {name: data for name, data in given.items() if _is_picture(name, data)} if isinstance(given, dict) else {}
    )
    if pictures:
        cell["attachments"] = NotebookNode(pictures)


def _is_picture(name, data):
    whole = isinstance(data, dict) and len(data) == 1 and set(data) <= _PICTURES
    return whole and re.fullmatch(r"[\w .-]+", name) and all(map(_is_base64, data.values()))


_PICTURES = {"image/png", "image/jpeg", "image/gif"}


def _released(notebook: Notebook) -> dict[str, NotebookNode]:
    """Name -> cell, of all that nbgrader knows of a notebook, in its order."""
    points = {cell.name: cell.max_score for cell in notebook.grade_cells}
    answers = {cell.name for cell in notebook.solution_cells}
    made = {}
    for source in notebook.source_cells:
        make = new_code_cell if source.cell_type == "code" else new_markdown_cell
        cell = make(source.source)
        marks = {
            "grade": source.name in points,
            "grade_id": source.name,
            "locked": source.locked,
            "schema_version": _SCHEMA,
            "solution": source.name in answers,
            "task": False,
            "cell_type": source.cell_type,
            "checksum": source.checksum,
        }
        if source.name in points:
            marks["points"] = points[source.name]
        cell.metadata["nbgrader"] = marks
        made[source.name] = cell
    return made


class HarmlessOutput(SanitizeHTML):
    """What the notebook shows runs nothing in the browser of those who grade it: the formgrader's page may change grades.

    Of what an output says of itself the size of a picture stays; links lead to the web, a mail or a place in the page.
    """

    enabled = True

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        self.attributes = may_stay
        super().preprocess_cell(cell, resources, index)
        is_ours = cell.metadata.get("nbgrader", {}).get("locked", False)  # as RestoreCells has put it back
        if cell.cell_type == "markdown" and not is_ours:
            cell.source = without_links_elsewhere(cell.source, cell.get("attachments"))
        for output in cell.get("outputs", ()):
            if "data" in output:
                _put_in_order(output)
        return cell, resources


def _put_in_order(output: NotebookNode) -> None:
    """Pictures that are pictures, of a size in whole numbers; and no word more about what an output is."""
    sizes = {}
    for kind in _PICTURES & set(output.data):
        if not _is_base64(output.data[kind]):
            del output.data[kind]
            continue
        given = output.metadata.get(kind)
        given = given if isinstance(given, dict) else {}
        sizes[kind] = {name: given[name] for name in ("width", "height") if _is_a_size(given.get(name))}
    output.metadata = NotebookNode({kind: NotebookNode(size) for kind, size in sizes.items() if size})
    if "text/markdown" in output.data:
        output.data["text/markdown"] = without_links_elsewhere(output.data["text/markdown"])


def _is_a_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10_000


def _is_base64(text):
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9+/=\s]*", text) is not None
