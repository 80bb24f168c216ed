"""Systematic mutation of a solution: each mutant is one small mistake of the kind that is made in this field.

`mutants_of` is a pure function of the source. An operator looks at one node of the syntax tree and gives what could stand
there instead; the table OPERATORS is where one is added. What a mutant is worth is found out by prove.py: the module's
hidden suite must fail it.
"""

import ast
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, ParentNodeProvider

from ..errors import LessonError
from .needless import SYMMETRIC, is_needless, name_of


@dataclass(frozen=True)
class Mutant:
    """A solution with one change.

    Attributes:
        operator: its kind. line: where, in the solution. source: the whole text.
        old, new: the changed lines without indentation: what names a mutant when line numbers move.
    """

    operator: str
    line: int
    old: str
    new: str
    source: str

    def diff(self, solution: str, name: str) -> str:
        lines = difflib.unified_diff(
            solution.splitlines(), self.source.splitlines(), name, f"{name}, {self.operator}", "", "", 1, ""
        )
        return "\n".join(lines)


def mutants_of(source: str, filename: str = "<solution>") -> list[Mutant]:
    """All mutants of a solution, in the order of its lines; those that are the same text come once, and those that by
    their text alone change nothing do not come (needless.py).

    Raises:
        LessonError: the source does not parse.
    """
    try:
        wrapper = MetadataWrapper(cst.parse_module(source))
    except cst.ParserSyntaxError as error:
        raise LessonError(f"{filename} does not parse: {error}") from error
    found: dict[str, Mutant] = {}
    original = wrapper.module.bytes
    for operator, replacement, start, end in _sites(wrapper):
        text = (original[:start] + replacement.encode() + original[end:]).decode()
        if text not in found and text != source and _compiles(text):
            old, new = _changed_lines(source, text)
            found[text] = Mutant(operator, original.count(b"\n", 0, start) + 1, old, new, text)
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _sites(wrapper: MetadataWrapper) -> Iterator[tuple]:
    """(operator, text that replaces, start, end): a splice is a hundred times faster than printing the tree anew."""
    spans, parents = wrapper.resolve(ByteSpanPositionProvider), wrapper.resolve(ParentNodeProvider)
    collector = _Collector()
    wrapper.module.visit(collector)
    for node, parameters in collector.nodes:
        for operator, mutate in OPERATORS.items():
            for replacement in mutate(node, parameters) if mutate is _return_an_input else mutate(node):
                if is_needless(operator, node, replacement, parents):
                    continue
                text = wrapper.module.code_for_node(replacement) if replacement is not None else "pass"
                if text.split() == wrapper.module.code_for_node(node).split():
                    continue  # two equal arguments are swapped: only the lines are broken otherwise
                yield operator, text, spans[node].start, spans[node].start + spans[node].length


class _Collector(cst.CSTVisitor):
    """The nodes of all code that runs: no docstring, no annotation, no import, no default value's signature."""

    def __init__(self):
        self.nodes: list[tuple[cst.CSTNode, list[str]]] = []
        self._parameters: list[list[str]] = []

    def on_visit(self, node):
        if isinstance(
            node,
            (cst.Annotation, cst.Import, cst.ImportFrom, cst.Decorator, cst.ConcatenatedString, cst.FormattedString),
        ):
            return False
        if isinstance(node, cst.FunctionDef):
            names = [parameter.name.value for parameter in node.params.params]
            self._parameters.append([name for name in names if name not in ("self", "cls", "ctx")])
        self.nodes.append((node, self._parameters[-1] if self._parameters else []))
        return True

    def on_leave(self, node):
        if isinstance(node, cst.FunctionDef):
            self._parameters.pop()


def _compiles(text):
    try:
        compile(text, "<mutant>", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _changed_lines(source, text):
    """The changed part of both, one line each, as a person would quote it."""
    before, after = source.splitlines(), text.splitlines()
    while before and after and before[0] == after[0]:
        before, after = before[1:], after[1:]
    while before and after and before[-1] == after[-1]:
        before, after = before[:-1], after[:-1]
    return tuple(" ⏎ ".join(line.strip() for line in lines) for lines in (before, after))


# ---------------------------------------------------------------------------------------------- operators

_COMPARISONS = {
    cst.LessThan: cst.LessThanEqual, cst.LessThanEqual: cst.LessThan, cst.GreaterThan: cst.GreaterThanEqual,
    cst.GreaterThanEqual: cst.GreaterThan, cst.Equal: cst.NotEqual, cst.NotEqual: cst.Equal,
    cst.Is: cst.IsNot, cst.IsNot: cst.Is, cst.In: cst.NotIn, cst.NotIn: cst.In,
}  # fmt: skip
_NAMES = {
    "tril": "triu", "triu": "tril", "min": "max", "max": "min", "sin": "cos", "cos": "sin", "zeros": "ones", "ones": "zeros",
    "sum": "mean", "mean": "sum", "exp": "sigmoid", "floor": "ceil", "ceil": "floor", "argmax": "argmin", "argmin": "argmax",
    "log": "log1p", "maximum": "minimum", "minimum": "maximum", "amax": "amin", "rows": "columns", "append": "extend",
    "zeros_like": "ones_like", "ones_like": "zeros_like", "new_zeros": "new_ones", "LayerNorm": "Identity",
}  # fmt: skip
_DROPPED_CALLS = set(
    "clone detach contiguous eval train float double unsqueeze squeeze transpose mT T flip abs sqrt square masked_fill "
    "masked_fill_ clamp clip softmax nan_to_num to dropout sort lower strip copy".split()
)


def _drop_an_operand(node) -> Iterator[cst.CSTNode]:
    if isinstance(node, cst.BinaryOperation) and isinstance(
        node.operator, (cst.Multiply, cst.Divide, cst.Add, cst.Subtract, cst.Power, cst.FloorDivide, cst.Modulo)
    ):
        yield _bracketed(node.left)
        if isinstance(node.operator, (cst.Multiply, cst.Add)):
            yield _bracketed(node.right)


def _bracketed(node):
    return (
        node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        if isinstance(node, cst.BinaryOperation)
        else node
    )


def _change_an_operator(node):
    swaps: dict[type[cst.BaseBinaryOp], Callable[[], cst.BaseBinaryOp]] = {
        cst.Add: cst.Subtract,
        cst.Subtract: cst.Add,
        cst.Multiply: cst.Divide,
        cst.Divide: cst.Multiply,
        cst.FloorDivide: cst.Divide,
    }
    if isinstance(node, cst.BinaryOperation) and type(node.operator) in swaps:
        yield node.with_changes(operator=swaps[type(node.operator)]())
    if isinstance(node, cst.AugAssign) and isinstance(node.operator, (cst.AddAssign, cst.SubtractAssign)):
        yield node.with_changes(
            operator=cst.SubtractAssign() if isinstance(node.operator, cst.AddAssign) else cst.AddAssign()
        )
    signs = (cst.Minus, cst.Not, cst.BitInvert)
    if (
        isinstance(node, cst.UnaryOperation)
        and isinstance(node.operator, signs)
        and not isinstance(node.expression, cst.Integer)
    ):
        yield node.expression


def _flip_a_comparison(node):
    if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
        target = node.comparisons[0]
        flipped = _COMPARISONS.get(type(target.operator))
        if flipped:
            yield node.with_changes(comparisons=[target.with_changes(operator=flipped())])


def _off_by_one(node):
    if (
        isinstance(node, cst.UnaryOperation)
        and isinstance(node.operator, cst.Minus)
        and isinstance(node.expression, cst.Integer)
    ):
        value = ast.literal_eval(node.expression.value)
        yield node.with_changes(expression=cst.Integer(str(value + 1)))
        if value >= 1:
            yield node.with_changes(expression=cst.Integer(str(value - 1))) if value > 1 else cst.Integer("0")
    if isinstance(node, cst.Integer):
        value = ast.literal_eval(node.value)
        yield cst.Integer(str(value + 1))
        if value >= 1:
            yield cst.Integer(str(value - 1))


def _change_a_constant(node):
    if isinstance(node, cst.Float):
        value = ast.literal_eval(node.value)
        yield cst.Float(repr(value * 2 if value else 1.0))
        if 0 < value < 1e-2:
            yield cst.Float(repr(value * 100))
    if isinstance(node, cst.Name) and node.value in ("True", "False"):
        yield cst.Name("False" if node.value == "True" else "True")


def _drop_a_call(node):
    """x.clone() -> x, F.softmax(x, …) and softmax(x) -> x."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _DROPPED_CALLS:
        is_method = not (
            isinstance(node.func.value, cst.Name) and node.func.value.value in ("F", "torch", "math", "np")
        )
        if is_method:
            yield node.func.value
        elif node.args:
            yield node.args[0].value
    if isinstance(node, cst.Attribute) and node.attr.value in ("mT", "T"):
        yield node.value


def _swap_two_arguments(node):
    if isinstance(node, cst.Call) and name_of(node.func) not in SYMMETRIC:
        plain = [index for index, arg in enumerate(node.args) if arg.keyword is None and not arg.star]
        for first, second in zip(plain, plain[1:], strict=False):
            args = list(node.args)
            args[first], args[second] = (
                args[first].with_changes(value=node.args[second].value),
                args[second].with_changes(value=node.args[first].value),
            )
            yield node.with_changes(args=args)
    if isinstance(node, cst.BinaryOperation) and isinstance(
        node.operator, (cst.Subtract, cst.Divide, cst.MatrixMultiply, cst.FloorDivide)
    ):
        yield node.with_changes(left=_bracketed(node.right), right=_bracketed(node.left))


def _drop_a_keyword(node):
    if isinstance(node, cst.Call):
        for index, arg in enumerate(node.args):
            if arg.keyword is not None:
                args = [other for place, other in enumerate(node.args) if place != index]
                args[-1:] = [args[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)] if args else []
                yield node.with_changes(args=args)


def _remove_a_validation(node):
    if isinstance(node, cst.If) and node.orelse is None and isinstance(node.body, cst.IndentedBlock):
        last = node.body.body[-1]
        if isinstance(last, cst.SimpleStatementLine) and isinstance(last.body[-1], cst.Raise):
            yield None


def _negate_a_condition(node):
    if isinstance(node, (cst.If, cst.IfExp, cst.While)):
        yield node.with_changes(
            test=cst.UnaryOperation(cst.Not(), node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()]))
        )
    if isinstance(node, cst.BooleanOperation):
        yield node.with_changes(operator=cst.Or() if isinstance(node.operator, cst.And) else cst.And())
        yield node.left
        yield node.right


def _remove_a_statement(node):
    if isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1:
        statement = node.body[0]
        is_call = isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call)
        is_super = is_call and "super()" in cst.Module([]).code_for_node(statement)
        if (is_call and not is_super) or isinstance(statement, (cst.AugAssign, cst.Continue, cst.Break)):
            yield None


def _return_an_input(node, parameters):
    if isinstance(node, cst.Return) and node.value is not None and parameters:
        yield node.with_changes(value=cst.Name(parameters[0]), whitespace_after_return=cst.SimpleWhitespace(" "))


def _take_another_function(node):
    if isinstance(node, cst.Attribute) and node.attr.value in _NAMES:
        yield node.with_changes(attr=cst.Name(_NAMES[node.attr.value]))
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in ("min", "max"):
        yield node.with_changes(func=cst.Name(_NAMES[node.func.value]))


OPERATORS: dict[str, Callable] = {
    "drop an operand": _drop_an_operand,
    "change an operator": _change_an_operator,
    "flip a comparison": _flip_a_comparison,
    "off by one": _off_by_one,
    "change a constant": _change_a_constant,
    "drop a call": _drop_a_call,
    "swap two arguments": _swap_two_arguments,
    "drop a keyword argument": _drop_a_keyword,
    "remove a validation": _remove_a_validation,
    "negate a condition": _negate_a_condition,
    "remove a statement": _remove_a_statement,
    "return an input": _return_an_input,
    "take another function": _take_another_function,
}
