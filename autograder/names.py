"""The names that a piece of Python gives itself, read from its text: what a test may ask for, so that a misspelt one is known.

This file is copied into every handout: it imports the standard library only.
"""

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache

from .errors import nearest

Names = dict[str, frozenset[str] | None]  # name -> those inside it, None where they cannot be read off


@lru_cache(maxsize=64)
def names_in(source: str) -> Names | None:
    """The names at the top of a module; of a class that inherits nothing, those in it. None if they cannot be read off."""
    try:
        return _names(ast.parse(source).body)
    except (SyntaxError, ValueError):
        return None


def _names(body) -> Names | None:
    found: Names = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            inside = None if node.bases or node.keywords or node.decorator_list else _names(node.body)
            found[node.name] = None if inside is None else frozenset(inside)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = None
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                return None
            found |= {(alias.asname or alias.name).partition(".")[0]: None for alias in node.names}
        else:
            names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
            found |= {name.id: None for name in names if isinstance(name.ctx, ast.Store)}
            inner = [each for each in ast.walk(node) if isinstance(each, ast.stmt) and each is not node]
            below = _names(inner)
            if below is None:
                return None
            found |= below
    return found


def misnamed(path: str, modules: Mapping[str, Callable[[], str]], lesson: str) -> str:
    """Why no function of a lesson is at "module.name" or "module.Class.name", with the nearest that is; empty if one may be.

    Args:
        modules: of the lesson and of those that it uses: name -> what gives the text of its solution.
    """
    module, *names = path.split(".")
    if module not in modules:
        return f"{lesson} has no module {module!r}{nearest(module, modules)}"
    known = names_in(modules[module]())
    for place, name in enumerate(names[:2], 1):
        if known is None:
            return ""
        if name not in known:
            around = ".".join([module, *names[: place - 1]])
            return f"{around} has no function {name!r} in the lesson's solution{nearest(name, known)}"
        inside = known[name]
        known = None if inside is None else dict.fromkeys(inside)
    return ""
