"""A lesson's own lab, assignments/<lesson>/lab.py -> its cells; and its exercises -> a lesson that the box grades like any other.

lab.py is a notebook as text, in jupytext's percent format. Four kinds of cells have a mark behind their `# %%`:

    # %% exercise="Count tokens"                a solution cell: students write what is between ### BEGIN SOLUTION and ### END SOLUTION
    # %% checks="Count tokens"                  asserts for the student, and the points of this question of the hidden suite
    # %% [markdown] written="why" points=2      a question that a person grades, with its rubric as a mark scheme
    # %% / # %% [markdown]                      everything else, as it is

The exercises' cells, one below the other, are the module `lab`. It stands in no folder: the solution and the starter are cut from
lab.py, and a student's from their notebook. Its hidden suite is tests/lessons/<lesson>-lab/test_lab.py.
"""

import ast
import re
from functools import partial

import jupytext
from nbformat import NotebookNode

from ..errors import LessonError
from ..intake.kinds import trouble_with_encoding
from ..lesson import LAB, Lesson, Written
from ..names import misnamed
from ..questions import of_cell

MODULE = LAB
SOURCE, NAME = f"{LAB}.py", "LLM_Interactive_Lab"  # the text, and the notebook that is made of it
EXERCISE = f"{MODULE}-exercise-"  # begins the ids of solution cells
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = '# TODO(student): write your code here\nraise NotImplementedError("exercise is not implemented yet")'
MOST_TEXT = 64 << 10  # bytes of a student's cell: it is parsed here, which takes some hundred times its size
_SEPARATOR = re.compile(r"[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_REGION = re.compile(rf"^([ \t]*){BEGIN}\n.*?^[ \t]*{END}$", re.MULTILINE | re.DOTALL)


class LabLesson(Lesson):
    """The exercises of a lesson's lab, with one module whose text is in no file of its own.

    Attributes:
        solved: the module as lab.py solves it. unsolved: as it is handed out.
    """

    solved: str
    unsolved: str

    def solution_files(self) -> dict[str, bytes]:
        return {f"{MODULE}.py": self.solved.encode()}

    def starter_files(self) -> dict[str, bytes]:
        return {f"{MODULE}.py": self.unsolved.encode()}

    def misnamed(self, path: str) -> str:
        return misnamed(path, {MODULE: partial(str, self.solved)}, self.name)


def lab_lesson(lesson: Lesson) -> LabLesson | None:
    """The lesson's lab as a lesson that can be graded; None where it has none, or one without exercises.

    Raises:
        LessonError: the lab cannot be read.
    """
    cells = exercises_of(lesson)
    if not cells:
        return None
    settings = lesson.lab.model_dump() if lesson.lab else {}
    solved, unsolved = module_of(cells), module_of({id: without_solution(text) for id, text in cells.items()})
    return LabLesson(
        name=f"{lesson.name}-{MODULE}",
        root=lesson.root,
        title=f"{lesson.title}: the lab",
        modules=(MODULE,),
        feedback=lesson.feedback,
        solved=solved,
        unsolved=unsolved,
        **settings,
    )


def cells_of(lesson: Lesson) -> list[NotebookNode]:
    """The cells of lab.py in their order, with what stands behind `# %%` as metadata; none where there is no lab.py."""
    path = lesson.assignment / SOURCE
    if not path.is_file():
        return []
    cells = jupytext.reads(path.read_text("utf-8"), fmt="py:percent").cells
    for cell in cells:
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's own
        _require(cell, f"{path}: the cell that begins with {cell.source.partition(chr(10))[0]!r}")
        if "written" in cell.metadata:
            of_cell(cell.metadata, cell.source, path)  # complains of what is not a question
    return cells


def _require(cell, where):
    known = ("exercise", "checks", "written", "points")
    unknown = sorted(set(cell.metadata) - set(known))
    if unknown:
        raise LessonError(f"{where} has the mark {unknown[0]!r}: there are {', '.join(known)}")
    if "exercise" in cell.metadata:
        if not _REGION.search(cell.source) or BEGIN in without_solution(cell.source):
            raise LessonError(f"{where} is an exercise: put what students write between {BEGIN} and {END}")
    elif "SOLUTION" in cell.source and re.search(rf"^[ \t]*({BEGIN}|{END})", cell.source, re.MULTILINE):
        raise LessonError(f"{where} has a solution and is not an exercise: name its question, as in # %% exercise=…")
    if "written" in cell.metadata and cell.cell_type != "markdown":
        raise LessonError(f"{where} is a written question: write # %% [markdown] before its marks")


def exercises_of(lesson: Lesson) -> dict[str, str]:
    """Id of a solution cell -> its text, solved."""
    found: dict[str, str] = {}
    for cell in cells_of(lesson):
        if "exercise" in cell.metadata:
            id = exercise_id(cell.metadata["exercise"])
            if id in found:
                raise LessonError(f"{lesson.assignment / SOURCE} has two exercises {cell.metadata['exercise']!r}")
            found[id] = cell.source
    return found


def exercise_id(question: str) -> str:
    return EXERCISE + re.sub(r"[^a-z0-9]+", "-", question.lower()).strip("-")


def without_solution(text: str) -> str:
    """A solution cell as nbgrader releases it, with settings.py's stub in the place of each solution."""
    return _REGION.sub(lambda found: "\n".join(found[1] + line for line in STUB.splitlines()), text)


def written_in_lab(lesson: Lesson) -> tuple[Written, ...]:
    """The questions of lab.py that a person grades."""
    path = lesson.assignment / SOURCE
    marked = [cell for cell in cells_of(lesson) if "written" in cell.metadata]
    return tuple(of_cell(cell.metadata, cell.source, path) for cell in marked)


# ---------------------------------------------------------------------------------------------- cells -> a module


def module_of(cells: dict[str, str]) -> str:
    """The module that solution cells make: each is cleaned of what only a notebook understands."""
    return "\n\n\n".join(map(cleaned, cells.values())) + "\n"


def cleaned(text: str) -> str:
    """A cell without IPython's own lines and without calls that only show something: they belong to the notebook.

    A line that goes leaves an empty one.
    """
    lines = [line if line.lstrip()[:1] not in ("%", "!") else "" for line in text.replace("\r\n", "\n").split("\n")]
    try:
        body = ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "\n".join(lines)  # students_module says what is wrong with it
    for node in body:
        if isinstance(node, ast.Expr):
            last = node.end_lineno or node.lineno
            lines[node.lineno - 1 : last] = [""] * (last - node.lineno + 1)
    return "\n".join(lines).strip("\n")


def students_module(lesson: Lesson, handed_in: dict[str, str]) -> str:
    """A student's module, from the text of their solution cells by id.

    A cell that is not Python, or that is not read, costs its own functions, not those of the others: each says what is wrong
    when it is called.
    """
    known = exercises_of(lesson)
    cells = {id: handed_in.get(id, without_solution(text)) for id, text in known.items()}
    return module_of({id: _readable(text, known[id]) for id, text in cells.items()})


def unread_cells(lesson: Lesson, handed_in: dict[str, str]) -> tuple[str, ...]:
    """A note for each solution cell that is not read, whatever is in it."""
    why = {id: _why_not_read(handed_in[id]) for id in exercises_of(lesson) if id in handed_in}
    return tuple(f"cell {id}: {said}" for id, said in why.items() if said)


def _why_not_read(text):
    """Why a cell is not even parsed: it is longer than any honest one, or is other code than a notebook shows."""
    if len(text) > MOST_TEXT or len(text.encode("utf-8", "replace")) > MOST_TEXT:
        return f"the cell has more than {MOST_TEXT >> 10} KB and is not read"
    odd = _SEPARATOR.search(text.replace("\r\n", "\n"))
    if odd:
        return (
            f"the cell is not read: it holds a separator of lines that a notebook does not show (U+{ord(odd[0]):04X})"
        )
    trouble = trouble_with_encoding(cleaned(text).encode("utf-8", "replace"))
    return f"the cell is not read: {trouble}" if trouble else ""


def _readable(text, solved):
    said = _why_not_read(text)
    try:
        if said:
            raise ValueError(said)
        compile(cleaned(text), "cell", "exec", dont_inherit=True)
    except SyntaxError as error:
        said = f"the cell is not Python: line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError):
        said = said or "the cell is not Python"
    else:
        return text
    names = [node.name for node in ast.parse(cleaned(solved)).body if isinstance(node, ast.FunctionDef)]
    return "\n\n\n".join(f"def {name}(*_, **__):\n    raise SyntaxError({said!r})" for name in names)
