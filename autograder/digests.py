"""Digests: what was graded, by which tests, with which grader. Gradings whose digests are equal may be put together."""

import ast
import hashlib
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def digest_of(files: dict[str, bytes]) -> str:
    """One digest of named contents, whatever their order."""
    total = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name]).hexdigest()
        total.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]


def with_imports(paths: Iterable[Path], imports: Callable[[Path], list[Path]]) -> set[Path]:
    """The files, with all that they import, now or later; `imports` says where the imports of a file may lead."""
    found: set[Path] = set()
    todo = list(paths)
    while todo:
        path = todo.pop()
        if path.is_file() and path not in found:
            found.add(path)
            todo += imports(path)
    return found


def relative_imports(path: Path) -> list[Path]:
    """Where the relative imports of a module may lead: `from .a import b` to a.py, a/__init__.py and a/b.py."""
    paths = [path.parent / "__init__.py"]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            paths += [target.with_suffix(".py"), target / "__init__.py"]
            paths += [target / f"{alias.name}.py" for alias in node.names]
    return paths


def imports_beside(path: Path, folders: Iterable[Path]) -> list[Path]:
    """Where the absolute imports of a suite's file may lead: `import a` to a.py in one of the folders."""
    try:
        names = _absolute_imports(path.read_bytes())
    except (SyntaxError, ValueError):  # the suite cannot be loaded, and a row of the scorecard says so
        return []
    return [folder / f"{name}.py" for folder in folders for name in names]


@lru_cache(maxsize=1000)  # by what a file holds: what several suites share is asked for by each of them
def _absolute_imports(source: bytes) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return tuple(sorted(names))


@cache
def of_the_package() -> str:
    """Of the files of this package that decide a verdict: a checkout and a zip of one version have the same."""
    decides = [PACKAGE / "grade.py", PACKAGE / "submission.py", *PACKAGE.glob("box/**/*.py")]
    paths = with_imports(decides, relative_imports)
    return digest_of({path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in paths})
