"""What a student reads in a module's rows when the module is not there: what was found instead, and what to do."""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import PurePosixPath

from .choose import Chosen, Wanted, is_the_starter
from .entries import listed, shown_name
from .gather import Gathered
from .kinds import is_archive_name
from .naming import meant, nearly, words_of

_MOST_NAMES = 300  # that are compared with the modules' names


def why_missing(found: Gathered, wanted: Wanted, chosen: Chosen) -> dict[str, str]:
    """Module -> a sentence, for each module that is not among the chosen files."""
    gone = [module for module in wanted.modules if f"{module}.py" not in chosen.files]
    return {module: _sentence(module, found, wanted, chosen) for module in gone}


def unused_work(found: Gathered, wanted: Wanted, chosen: Chosen) -> list[str]:
    """A note for each module that is the unchanged starter, where something else may be the work."""
    notes = []
    for module in wanted.modules:
        name = f"{module}.py"
        if name in chosen.files and is_the_starter(chosen.files[name], wanted.starters.get(name)):
            paths = [path for path in _few([*found.files, *found.others]) if _stands_for(path, module, wanted)]
            paths = [path for path in paths if PurePosixPath(path).name != name]
            if paths:
                notes.append(f"{name} is the unchanged starter, and counts; found {listed(paths)} too")
    return notes


def misplaced_notebooks(found: Gathered, folder: str) -> list[str]:
    """A note for notebooks beside the modules: the right place keeps them from being taken for a module, or for Otter's."""
    notebooks = [path for path, what in found.others.items() if what == "a notebook"]
    paths = [path for path in notebooks if f"/{folder}" not in f"/{found.prefix}{path}"]
    it = "they belong" if len(paths) > 1 else "it belongs"
    return (
        [f"found {listed(paths)}: {it} in the folder {folder}, and hidden tests do not read notebooks"] if paths else []
    )


def _sentence(module, found, wanted, chosen):
    start = f"{module}.py is missing from the submission"
    if module in chosen.unusable:
        path, why = chosen.unusable[module]
        return f"{shown_name(path)} cannot be used: {why}"
    for look in _LOOKS:
        instead = look(module, found, wanted, chosen)
        if instead:
            return f"{start}; {instead}"
    return start


# ---------------------------------------------------------------------------------------------- in the order of nearness


def _rivals(module, found, wanted, chosen):
    paths = chosen.rivals.get(module)
    return paths and f"found {listed(paths)}: keep one of them and call it {module}.py"


def _left_out(module, found, wanted, chosen):
    paths = [path for path in _few(found.left) if meant(PurePosixPath(path).name) == f"{module}.py"]
    return paths and f"found {shown_name(paths[0])}, but {found.left[paths[0]]}"


def _package(module, found, wanted, chosen):
    inits = [path for path in found.files if f"/{found.prefix}{path}".casefold().endswith(f"/{module}/__init__.py")]
    return inits and f"found a package, the folder {module}/ with __init__.py: put its code into one file {module}.py"


def _like_it(module, found, wanted, chosen):
    paths = [path for path in found.files if _stands_for(path, module, wanted)]
    return paths and f"found {listed(paths)}: {'rename it to' if len(paths) == 1 else 'call the right one'} {module}.py"


def _notebook(module, found, wanted, chosen):
    paths = [path for path, what in found.others.items() if what == "a notebook"]
    named = [path for path in _few(paths) if _stands_for(path, module, wanted)] or paths
    return named and f"found the notebook {listed(named)}: put the module's code into a file {module}.py"


def _other_format(module, found, wanted, chosen):
    paths = [path for path in _few(found.others) if _stands_for(path, module, wanted)]
    what = paths and found.others[paths[0]]
    return paths and f"found {shown_name(paths[0])}{what and f', {what}'}: save the code as {module}.py"


def _archive(module, found, wanted, chosen):
    closed = [path for path, what in found.others.items() if "archive" in what]
    if closed:
        return f"found {shown_name(closed[0])}, {found.others[closed[0]]}, which cannot be opened here: submit a .zip"
    left = [path for path, why in found.left.items() if is_archive_name(path) or "cannot be read" in why]
    return left and f"found {shown_name(left[0])}, but {found.left[left[0]]}"


def _other_lesson(module, found, wanted, chosen):
    lessons = {path: wanted.elsewhere.get(_module_of(path)) for path in found.files}
    paths = [path for path, lesson in lessons.items() if lesson]
    ours = any(_module_of(path) in wanted.modules for path in found.files)
    where = paths and listed(sorted({lessons[path] for path in paths}))
    return not ours and paths and f"found {listed(paths)} of {where}: submit the files of this lesson"


def _other_python(module, found, wanted, chosen):
    known = set(wanted.modules) | set(wanted.elsewhere)
    paths = [path for path in found.files if _module_of(path) not in known and not _is_a_test(path)]
    ours = sorted(name for name in chosen.files if name.removesuffix(".py") in wanted.modules)
    if paths and not ours:
        return f"found {listed(paths)}: the file must be called {module}.py"
    return ours and f"found {listed([*ours, *paths], 5)}"


def _anything(module, found, wanted, chosen):
    if found.others:
        return f"found no Python file, only {listed(list(found.others))}"
    if found.files:
        return f"found only {listed(list(found.files))}"
    return "" if found.left else "found no file at all"


_LOOKS: list[Callable] = [
    _rivals, _left_out, _package, _like_it, _notebook, _other_format, _archive, _other_lesson, _other_python, _anything,
]  # fmt: skip


def _few(paths: Iterable[str]) -> Iterable[str]:
    return islice(paths, _MOST_NAMES)


def _module_of(path):
    return meant(PurePosixPath(path).name).removesuffix(".py")


def _is_a_test(path):
    words = words_of(path)
    return words[:1] in (["test"], ["conftest"], ["setup"]) or words[-1:] == ["test"] or words == ["init"]


def _stands_for(path, module, wanted):
    """Whether a file is called like the module, and like no longer-named module more."""
    words = words_of(path)
    if _is_a_test(path) or _module_of(path) in {*wanted.modules, *wanted.elsewhere} - {module}:
        return False
    modules = {*wanted.modules, module}
    fitting = [name for name in modules if _within(words_of(name), words) or nearly(path, name)]
    return module in fitting and max(fitting, key=len) == module


def _within(inner, words):
    joined = "".join(words)
    return any(words[at : at + len(inner)] == inner for at in range(len(words))) or joined.startswith("".join(inner))
