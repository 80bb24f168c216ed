"""Solution text -> starter text: what the students write is cut out, what they are given stays.

Two marks say what happens (stub_marks.py). The first stands where the TODO will stand, the second ends its line:

    def f(x: Tensor) -> Tensor:
        "Docstring."
        # student: hint                the body goes from here; signature, decorators and docstring stay
        return x

    def helper(x):  # solution only    goes altogether; so on a class, an import, an assignment

What goes takes along its decorators and the comments directly above it. All other text stays byte for byte,
and a solution that was formatted gives a starter that is formatted. A mark that would do nothing is an error,
since a mark that was overlooked gives the solution away. Two passes over libcst's tree: `_Marks` reads and
refuses, `_Cutter` writes. Not covered: a module that calls a cut function while it is imported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from autograder.author.stub_marks import (
    MARKS,
    SOLUTION_ONLY,
    STUDENT,
    WHERE,
    is_exact,
    is_like_a_mark,
    is_like_a_mark_of_a_def,
)
from autograder.errors import StubError

LINE_LENGTH = 120  # as in pyproject.toml, [tool.ruff]
SHORTEST_SECRET = 12  # a shorter line, such as `return x`, gives nothing away
NO_SECRETS = {  # nor do these, which any handout may show
    *("super().__init__()", "with torch.no_grad():"),
    *("@staticmethod", "import itertools"),
}

Lines = list[cst.EmptyLine]


def starter_text(source: str, filename: str = "<solution>") -> str:
    """The starter that students get for a solution, as text.

    Raises:
        StubError: a mark is wrong, there is none, or the text is not Python; names file, line and what to do.
    """
    wrapper = MetadataWrapper(_parse(source, filename))
    marks = _Marks(filename)
    wrapper.visit(marks)
    if not marks.cuts and not marks.removed:
        raise StubError(
            f"{filename}: no function is marked, so the starter would be the solution. "
            "Put '# student: hint' below the docstrings of what students write."
        )

    starter = wrapper.module.visit(_Cutter(marks, wrapper.module.default_indent))
    text = starter.with_changes(has_trailing_newline=True).code
    _check_that_it_compiles(text, filename)
    return text


def solution_lines(source: str, filename: str = "<solution>") -> set[str]:
    """The lines of code that no handout may hold: stripped, without comments and docstrings.

    Lines that give nothing away and those that the starter shows anyway are left out.
    """
    given = starter_text(source, filename)
    code = cst.parse_module(source).visit(_WithoutWords()).code
    lines = {line.strip() for line in code.splitlines()} - NO_SECRETS
    return {line for line in lines if len(line) >= SHORTEST_SECRET and line not in given}


def _parse(source: str, filename: str) -> cst.Module:
    try:
        compile(source, filename, "exec", dont_inherit=True)  # knows more rules than libcst's parser
        return cst.parse_module(source)
    except SyntaxError as error:
        where, why = f"{filename}:{error.lineno or 1}", error.msg
    except cst.ParserSyntaxError as error:
        where, why = f"{filename}:{error.raw_line}", error.message
    except ValueError as error:  # a null byte, a lone surrogate
        where, why = filename, str(error)
    raise StubError(f"{where}: the solution is not valid Python ({why}). Correct it first.")


def _check_that_it_compiles(starter: str, filename: str) -> None:
    try:
        compile(starter, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = starter.splitlines()[(error.lineno or 1) - 1].strip()
        raise StubError(
            f"{filename}: the starter would not compile: {error.msg}, at {line!r}. "
            "Something that stays needs something marked '# solution only': mark both or neither."
        ) from error


@dataclass(frozen=True)
class _Cut:
    """What replaces the body of one marked function."""

    name: str
    hint: str
    column: int  # where its def begins


class _Marks(cst.CSTVisitor):
    """Finds the marks, and refuses each that is not exactly one of the two at a place where it works."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, filename: str):
        super().__init__()
        self.filename = filename
        self.cuts: dict[cst.FunctionDef, _Cut] = {}
        self.removed: set[cst.BaseStatement] = set()
        self._around: list[cst.FunctionDef | cst.ClassDef] = []
        self._read: set[cst.Comment] = set()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        if comment := _comment_of_header(node):
            self._read_solution_only(node, comment, is_like_a_mark_of_a_def)
        comment = _first_comment_of_body(node)
        if comment and (mark := STUDENT.fullmatch(comment.value)):
            self._read_student(node, comment, mark["hint"].strip())
        elif comment and is_like_a_mark_of_a_def(comment.value):
            self._refuse_misspelt(comment)
        self._refuse_in_docstring(node)
        self._around.append(node)

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        if comment := _comment_of_header(node):
            self._read_solution_only(node, comment, is_like_a_mark_of_a_def)
        self._around.append(node)

    def leave_FunctionDef(self, original: cst.FunctionDef) -> None:
        self._around.pop()

    def leave_ClassDef(self, original: cst.ClassDef) -> None:
        self._around.pop()

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        if comment := node.trailing_whitespace.comment:
            self._read_solution_only(node, comment, is_like_a_mark)

    def visit_Comment(self, node: cst.Comment) -> None:
        if node not in self._read and is_exact(node.value):
            self._refuse_misplaced(node)
        if node not in self._read and is_like_a_mark(node.value):
            self._refuse_misspelt(node)

    def _read_student(self, node: cst.FunctionDef, comment: cst.Comment, hint: str) -> None:
        if not hint:
            self._refuse(comment, "the mark has no hint. Say after '# student:' what to write.")
        if " # " in hint:
            self._refuse(comment, "the mark shares its line with a comment. Move the comment.")
        self._refuse_nested(comment)
        column = self.get_metadata(PositionProvider, node).start.column
        self.cuts[node] = _Cut(self._full_name(node), hint, column)
        self._read.add(comment)

    def _read_solution_only(
        self, node: cst.BaseStatement, comment: cst.Comment, suspicious: Callable[[str], bool]
    ) -> None:
        if comment.value == SOLUTION_ONLY:
            self._refuse_nested(comment)
            self.removed.add(node)
            self._read.add(comment)
        elif STUDENT.fullmatch(comment.value):
            self._refuse_misplaced(comment)
        elif suspicious(comment.value):
            self._refuse_misspelt(comment)

    def _refuse_in_docstring(self, node: cst.FunctionDef) -> None:
        docstring = node.get_docstring(clean=False) or ""
        for line in map(str.strip, docstring.splitlines()):
            if line.startswith("#") and is_like_a_mark(line):
                self._refuse(node, f"{line!r} is inside the docstring of {node.name.value}: {WHERE}")

    def _full_name(self, node: cst.FunctionDef) -> str:
        """The function's name behind those of its classes, but not of a function around them."""
        names = [node.name.value]
        for outer in reversed(self._around):
            if isinstance(outer, cst.FunctionDef):
                break
            names.append(outer.name.value)
        return ".".join(reversed(names))

    def _refuse_nested(self, comment: cst.Comment) -> None:
        for outer in self._around:
            if outer in self.cuts or outer in self.removed:
                line = self.get_metadata(PositionProvider, outer).start.line
                self._refuse(
                    comment,
                    f"this mark is inside {outer.name.value} (line {line}), which is marked itself. "
                    "Remove one of the two marks.",
                )

    def _refuse_misspelt(self, comment: cst.Comment) -> NoReturn:
        self._refuse(
            comment,
            f"{comment.value!r} is not a mark. Write exactly {' or '.join(map(repr, MARKS))}, "
            "or begin an ordinary comment with another word.",
        )

    def _refuse_misplaced(self, comment: cst.Comment) -> NoReturn:
        self._refuse(comment, f"{comment.value!r} marks nothing here. {WHERE}")

    def _refuse(self, node: cst.CSTNode, problem: str) -> NoReturn:
        line = self.get_metadata(PositionProvider, node).start.line
        raise StubError(f"{self.filename}:{line}: {problem}")


class _Cutter(cst.CSTTransformer):
    """Carries the marks out."""

    def __init__(self, marks: _Marks, default_indent: str):
        super().__init__()
        self.cuts = marks.cuts
        self.removed = marks.removed
        self.default_indent = default_indent
        self.definitions: set[cst.BaseSuite] = set()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.definitions.add(node.body)

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self.definitions.add(node.body)

    def leave_FunctionDef(self, original: cst.FunctionDef, updated: cst.FunctionDef) -> cst.FunctionDef:
        if (cut := self.cuts.get(original)) is None:
            return updated
        indent = original.body.indent if isinstance(original.body, cst.IndentedBlock) else None
        width = cut.column + len(indent or self.default_indent)
        body = cst.IndentedBlock(
            header=_end_of_header(original),
            indent=indent,
            body=[*_docstring(original), _not_implemented(cut, width)],
        )
        return updated.with_changes(body=body)

    def leave_IndentedBlock(self, original: cst.IndentedBlock, updated: cst.IndentedBlock) -> cst.IndentedBlock:
        if self.removed.isdisjoint(original.body):
            return updated
        kept, left_over = self._without_removed(original, updated.body)  # libcst writes an empty block as "pass"
        return updated.with_changes(body=kept, footer=[*left_over, *updated.footer])

    def leave_Module(self, original: cst.Module, updated: cst.Module) -> cst.Module:
        if self.removed.isdisjoint(original.body):
            return updated
        first, *others = updated.body
        first = first.with_changes(leading_lines=[*updated.header, *_lines_above(first)])
        kept, left_over = self._without_removed(original, [first, *others])
        return updated.with_changes(header=[], body=kept, footer=[*left_over, *updated.footer])

    def _without_removed(
        self, block: cst.Module | cst.IndentedBlock, statements: Sequence[cst.BaseStatement]
    ) -> tuple[list[cst.BaseStatement], Lines]:
        """The statements that stay, and the lines above a removed last one that belong to none of them."""
        kept: list[cst.BaseStatement] = []
        left_over: Lines | None = None  # above what was removed just before; None behind a statement that stays
        for original, statement in zip(block.body, statements, strict=True):
            lines = _lines_above(statement)
            if left_over is not None:
                lines = _join(left_over, lines, self._most_blank_lines(block, kept, statement))
            if original in self.removed:
                left_over = _without_attached_comments(lines)
            else:
                kept.append(statement.with_changes(leading_lines=lines))
                left_over = None
        return kept, _without_blank_end(left_over or [])

    def _most_blank_lines(
        self, block: cst.Module | cst.IndentedBlock, above: list[cst.BaseStatement], below: cst.BaseStatement
    ) -> int:
        """How many blank lines ruff allows between the statements above, which may be none, and the one below."""
        is_definition = isinstance(below, cst.FunctionDef | cst.ClassDef)
        is_module = isinstance(block, cst.Module)
        if not above:
            return 1 if is_definition and not is_module and block not in self.definitions else 0
        if is_module and len(above) == 1 and _is_words(above[0]) and not is_definition:
            return 1
        return 2


class _WithoutWords(cst.CSTTransformer):
    """Takes comments, docstrings and other bare strings away, for `solution_lines`."""

    def leave_Comment(self, original: cst.Comment, updated: cst.Comment) -> cst.RemovalSentinel:  # type: ignore[override]  # it works
        return cst.RemoveFromParent()

    def leave_SimpleStatementLine(
        self, original: cst.SimpleStatementLine, updated: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.RemovalSentinel:
        return cst.RemoveFromParent() if _is_words(updated) else updated


def _end_of_header(node: cst.FunctionDef | cst.ClassDef) -> cst.TrailingWhitespace:
    """What follows on the line of the signature's colon, behind the body where that is on the same line."""
    if isinstance(node.body, cst.IndentedBlock):
        return node.body.header
    return cst.ensure_type(node.body, cst.SimpleStatementSuite).trailing_whitespace


def _lines_above(statement: cst.BaseStatement) -> list[cst.EmptyLine]:
    """Blank lines and comments; both kinds of statement that there are have them."""
    assert isinstance(statement, cst.SimpleStatementLine | cst.BaseCompoundStatement)
    return list(statement.leading_lines)


def _comment_of_header(node: cst.FunctionDef | cst.ClassDef) -> cst.Comment | None:
    return _end_of_header(node).comment


def _first_comment_of_body(node: cst.FunctionDef) -> cst.Comment | None:
    """The first comment on a line of its own, below the docstring if there is one and above the first statement."""
    if not isinstance(node.body, cst.IndentedBlock):
        return None
    statements = node.body.body[1:] if node.get_docstring(clean=False) is not None else node.body.body
    lines = _lines_above(statements[0]) if statements else node.body.footer
    return next((line.comment for line in lines if line.comment), None)


def _docstring(node: cst.FunctionDef) -> list[cst.SimpleStatementLine]:
    """The function's docstring as a list of one line, or of none."""
    if node.get_docstring(clean=False) is None:
        return []
    first = node.body.body[0]
    if isinstance(first, cst.SimpleStatementLine):
        first = first.body[0]
    assert isinstance(first, cst.BaseSmallStatement)  # a string
    return [cst.SimpleStatementLine([first.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)])]


def _not_implemented(cut: _Cut, width: int) -> cst.SimpleStatementLine:
    message = f'"{cut.name} is not implemented yet"'
    code = f"raise NotImplementedError({message})"
    if width + len(code) > LINE_LENGTH:
        code = f"raise NotImplementedError(\n    {message}\n)"
    todo = cst.EmptyLine(comment=cst.Comment(f"# TODO(student): {cut.hint}"))
    return cst.ensure_type(cst.parse_statement(code), cst.SimpleStatementLine).with_changes(leading_lines=[todo])


def _is_words(statement: cst.BaseStatement) -> bool:
    """Whether a line is nothing but a string, as docstrings are."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return False
    only = statement.body[0]
    return isinstance(only, cst.Expr) and isinstance(only.value, cst.SimpleString | cst.ConcatenatedString)


def _join(above: Lines, below: Lines, most: int) -> Lines:
    """The lines around something removed, with the longer of the two gaps that meet, as far as it is allowed."""
    text = _without_blank_end(above)
    blank_below = next((i for i, line in enumerate(below) if line.comment), len(below))
    gaps = above[len(text) :], below[:blank_below]
    gap = max(gaps, key=len)
    return [*text, *(gap if text else gap[:most]), *below[blank_below:]]


def _without_attached_comments(lines: Lines) -> Lines:
    """The lines above a statement without the comments that touch it."""
    while lines and lines[-1].comment:
        lines = lines[:-1]
    return lines


def _without_blank_end(lines: Lines) -> Lines:
    while lines and not lines[-1].comment:
        lines = lines[:-1]
    return lines
