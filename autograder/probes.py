"""Probes: functions of a test that run in the student's process, shipped as their source. What can be shipped, and what not.

This file is copied into every handout.
"""

import ast
import builtins
import dis
import functools
import inspect
from collections.abc import Callable

from .errors import AuthorError, nearest
from .names import names_in


def request_of(probe: Callable, inside: str) -> dict[str, object]:
    """What asks a process to run a probe.

    Args:
        inside: source of the helpers that it may use as `inside`.

    Raises:
        AuthorError: it cannot run elsewhere: it may use its arguments, builtins, torch and `inside` only.
    """
    if not inspect.isfunction(probe) or probe.__name__ == "<lambda>":
        raise AuthorError(
            f"the probe {getattr(probe, '__name__', probe)!r} must be a function with a name: write it with def"
        )
    source = _source_of(probe.__code__, probe.__code__.co_filename, inside)
    return {"source": source, "name": probe.__name__, "inside": inside}


def require_its_arguments(probe: Callable, args: tuple, kwargs: dict) -> None:
    """Raises AuthorError where a probe does not take these arguments: a TypeError there is no fault of the student's."""
    try:
        inspect.signature(probe).bind(*args, **kwargs)
    except TypeError as error:
        raise AuthorError(f"the probe {probe.__name__!r} does not take what student.run() gives it: {error}") from None


@functools.lru_cache(maxsize=1024)  # a suite asks with the same probes for every case and every submission
def _source_of(code, _file, inside):
    """Of a probe's code; files are told apart, because equal codes of two files may differ in their defaults."""
    where = f"the probe {code.co_name!r}"
    try:
        source = inspect.getsource(code)
        tree = ast.parse("if True:\n" + source if source[:1] in " \t" else source)
    except (OSError, SyntaxError) as error:
        raise AuthorError(f"{where} has no source that can be shipped: {error}") from error
    function = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)
    if function is None or _gives_no_value(code):
        raise AuthorError(f"{where} is async or yields: return a value, such as a list")
    if any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise AuthorError(
            f"{where} asserts: it runs in the student's process, so return the value and assert in the test"
        )
    defaults = [node for node in function.args.defaults + function.args.kw_defaults if node is not None]
    if function.decorator_list or not all(isinstance(node, ast.Constant) for node in defaults):
        raise AuthorError(f"{where} has a decorator or a computed default: pass the value as an argument")
    outside = sorted(set(code.co_freevars) | _globals_used(code))
    if outside:
        raise AuthorError(f"{where} uses {', '.join(outside)} of the test: pass it as an argument, or import it inside")
    _require_helpers(where, tree, inside)
    return source


def _gives_no_value(code):
    return code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR)


def _require_helpers(where, tree, inside):
    """Raises where a probe uses a name of `inside` that inside.py does not give."""
    known = names_in(inside)
    if known is None:
        return
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]
    for name in [node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == "inside"]:
        if name not in known:
            raise AuthorError(f"{where} uses inside.{name}, which no inside.py has{nearest(name, known)}")


def _globals_used(code):
    names = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "LOAD_NAME")
        and step.argval not in {"torch", "inside", *dir(builtins)}
    }
    inner = [const for const in code.co_consts if inspect.iscode(const)]
    # A class body loads its own names with LOAD_NAME; only what it loads and never stores is of the test.
    stored = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}
    return (names - stored - {"__name__"}).union(*(_globals_used(const) for const in inner))
