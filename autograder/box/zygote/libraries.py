"""An interpreter below a closed folder, as one in a 0700 /root does, stays closed and can be used all the same."""

import os
import sys


def folders() -> list[str]:
    """Where the interpreter and its packages are."""
    return sorted({sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), *filter(os.path.isdir, sys.path)})


def open_unreachable(folders: list[str]) -> dict[str, int]:
    """Descriptors of the library folders below one that others may not enter, as an interpreter in /root has them.

    A worker that became another user can still read through them: /proc/self/fd/N leads past the closed folder.
    """
    return {
        folder: os.open(folder, os.O_PATH) for folder in folders if os.path.isdir(folder) and not _open_to_all(folder)
    }


def _open_to_all(folder):
    path = os.path.realpath(folder)
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o001:
            return False
    return True


def read_through(libraries: dict[str, int]) -> None:
    """Leads the import system to the descriptors of unreachable folders, in this process and all that it forks."""
    if not libraries:
        return
    sys.path[:] = [led_through(path, libraries) for path in sys.path]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        if isinstance(getattr(module, "__path__", None), list):
            module.__path__ = [led_through(path, libraries) for path in module.__path__]


def led_through(path: str, libraries: dict[str, int]) -> str:
    """The path below a descriptor, where it is in one of the unreachable folders."""
    for folder, descriptor in sorted(libraries.items(), key=lambda item: -len(item[0])):
        if path == folder or path.startswith(folder + "/"):
            return f"/proc/self/fd/{descriptor}" + path[len(folder) :]
    return path
