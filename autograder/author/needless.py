"""Mutants that need not be graded: by the text alone they do what the solution does, or what another mutant does.

    abs(a - b) -> abs(b - a)        the same value
    x + 0 -> x - 0, -0.0 -> 0.0     the same value
    x.topk(2, dim=-1) -> x.topk(2)  the default
    x - 1 -> x - 0, 2 * x -> 1 * x  what dropping the operand gives
    sum(keepdim=True) -> sum()      what keepdim=False gives

Only what holds for all values is here. What holds in one lesson, by its contract, is explained in its equivalent.toml.
"""

import ast
from collections.abc import Callable, Mapping

import libcst as cst

Parents = Mapping[cst.CSTNode, cst.CSTNode]

SYMMETRIC = set(  # in their arguments
    "transpose swapaxes swapdims min max minimum maximum equal logaddexp promote_types add mul multiply eq ne logical_and "
    "logical_or logical_xor bitwise_and bitwise_or bitwise_xor hypot gcd lcm dist dot vdot mse_loss l1_loss "
    "cosine_similarity isdisjoint".split()
)
_EVEN = {"abs", "fabs", "absolute", "square", "cos", "cosh", "norm", "vector_norm"}
_LINEAR = set(
    "sum mean float double half to detach clone contiguous cpu flatten reshape view squeeze unsqueeze transpose".split()
)
# keyword -> function, or * for each -> what it is where it is not given
_DEFAULTS: dict[str, dict[str, object]] = {
    "bias": {"Linear": True, "LayerNorm": True},
    "correction": {"var": 1, "std": 1},
    "descending": {"sort": False, "argsort": False},
    "diagonal": {"tril": 0, "triu": 0},
    "dim": {"topk": -1, "sort": -1, "argsort": -1, "kthvalue": -1},
    "elementwise_affine": {"LayerNorm": True},
    "eps": {"LayerNorm": 1e-5},
    "inplace": {"*": False},
    "keepdim": {"*": False},
    "largest": {"topk": True},
    "mean": {"normal_": 0.0},
    "non_blocking": {"*": False},
    "p": {"Dropout": 0.5},
    "persistent": {"register_buffer": True},
    "reverse": {"sorted": False, "sort": False},
    "set_to_none": {"zero_grad": True},
    "stable": {"sort": False, "argsort": False},
    "start": {"enumerate": 0},
    "std": {"normal_": 1.0},
    "strict": {"zip": False, "load_state_dict": True},
    "unbiased": {"var": True, "std": True},
}


def is_needless(operator: str, node: cst.CSTNode, replacement: cst.CSTNode | None, parents: Parents) -> bool:
    """Whether a mutant is left out.

    Args:
        operator: its kind, a key of mutants.OPERATORS. node: what is replaced.
        parents: node -> the node that holds it.
    """
    return any(rule(operator, node, replacement, parents) for rule in _RULES)


def name_of(function: cst.BaseExpression) -> str:
    """`transpose` of transpose, torch.transpose and x.transpose; empty where it has no name."""
    name = function.attr if isinstance(function, cst.Attribute) else function
    return name.value if isinstance(name, cst.Name) else ""


# ---------------------------------------------------------------------------------------------- the same value


def _turned_in_an_even_function(operator, node, replacement, parents):
    """abs(a - b) -> abs(b - a), abs(-x) -> abs(x)."""
    is_turned = (
        operator == "swap two arguments"
        and isinstance(node, cst.BinaryOperation)
        and isinstance(node.operator, cst.Subtract)
    ) or (operator == "change an operator" and _is_minus(node))
    return is_turned and _is_in_an_even_function(node, parents)


def _is_in_an_even_function(node, parents):
    parent = parents.get(node)
    if isinstance(parent, cst.Arg):
        call = parents[parent]
        return isinstance(call, cst.Call) and name_of(call.func) in _EVEN and call.args[0] is parent
    if isinstance(parent, cst.BinaryOperation):
        return isinstance(parent.operator, cst.Power) and parent.left is node and _is_even(parent.right)
    call = parents.get(parent) if isinstance(parent, cst.Attribute) and parent.value is node else None
    if not isinstance(call, cst.Call) or call.func is not parent:
        return False
    name = name_of(call.func)
    if name == "pow":
        return bool(call.args) and _is_even(call.args[0].value)
    return name in _EVEN or name in _LINEAR and _is_in_an_even_function(call, parents)


def _is_even(node):
    value = _number(node)
    return isinstance(value, int) and value % 2 == 0


def _neutral_operand(operator, node, replacement, parents):
    """x + 0 -> x and x - 0, x * 1 -> x and x / 1; of the right operand, and where the order is nothing of the left."""
    if operator not in ("drop an operand", "change an operator") or not isinstance(node, cst.BinaryOperation):
        return False
    neutral = {cst.Add: 0, cst.Subtract: 0, cst.Multiply: 1, cst.Divide: 1, cst.FloorDivide: 1, cst.Power: 1}
    wanted = neutral.get(type(node.operator))
    if wanted is None:
        return False
    keeps_left = operator == "change an operator" or _same(replacement, node.left)
    if _number(node.right) == wanted and keeps_left:
        return True
    keeps_right = operator == "drop an operand" and _same(replacement, node.right)
    return isinstance(node.operator, cst.Add | cst.Multiply) and _number(node.left) == wanted and keeps_right


def _minus_zero(operator, node, replacement, parents):
    return operator == "change an operator" and _is_minus(node) and _number(node.expression) == 0


def _continue_at_the_end(operator, node, replacement, parents):
    """`continue` as the last statement of a loop's body."""
    if not isinstance(node, cst.SimpleStatementLine) or not isinstance(node.body[0], cst.Continue):
        return False
    block = parents[node]
    return isinstance(parents.get(block), cst.For | cst.While) and getattr(block, "body", [None])[-1] is node


def _default_left_out(operator, node, replacement, parents):
    """A keyword that has its default; or that is True where False is the default, or the other way round: then the
    change of that constant is the same mutant."""
    if operator != "drop a keyword argument":
        return False
    dropped = next(
        arg
        for arg in node.args
        if arg.keyword and not any(_same(arg.keyword, kept.keyword) for kept in replacement.args)
    )
    defaults = _DEFAULTS.get(dropped.keyword.value, {})
    default = defaults.get(name_of(node.func), defaults.get("*"))
    value = _literal(dropped.value)
    return default is not None and (value == default or {value, default} == {True, False})


# ---------------------------------------------------------------------------------------------- the same as another


def _what_dropping_gives(operator, node, replacement, parents):
    """x - 1 -> x - 0, 2 * x -> 1 * x, x**2 -> x**1; x -= 1 -> x -= 0, which removes the statement."""
    if operator != "off by one":
        return False
    parent, value = parents.get(node), _number(replacement)
    if isinstance(parent, cst.AugAssign):
        return isinstance(parent.operator, cst.AddAssign | cst.SubtractAssign) and value == 0
    if not isinstance(parent, cst.BinaryOperation):
        return False
    of_both = {cst.Add: 0, cst.Multiply: 1}
    of_the_right = {**of_both, cst.Subtract: 0, cst.Power: 1}
    return (of_the_right if parent.right is node else of_both).get(type(parent.operator)) == value


def _part_of_a_negative_number(operator, node, replacement, parents):
    """-1 -> 0 and -2 are made of the whole number."""
    return operator == "off by one" and isinstance(node, cst.Integer) and _is_minus(parents.get(node))


_RULES: tuple[Callable, ...] = (
    _turned_in_an_even_function,
    _neutral_operand,
    _minus_zero,
    _continue_at_the_end,
    _default_left_out,
    _what_dropping_gives,
    _part_of_a_negative_number,
)


def _is_minus(node):
    return isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus)


def _number(node):
    """The number that a literal is, or None."""
    value = _literal(node)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _literal(node):
    try:
        return ast.literal_eval(cst.Module([]).code_for_node(node))
    except (ValueError, SyntaxError, TypeError):
        return None


def _same(one, other):
    if one is None or other is None:
        return one is other
    return cst.Module([]).code_for_node(one).strip("()") == cst.Module([]).code_for_node(other).strip("()")
