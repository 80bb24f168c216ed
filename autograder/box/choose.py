"""Which box this machine can have."""

import os
from collections.abc import Iterable, Sequence


def open_box(packages: Sequence[str] = (), require: Iterable[str] = (), without: Iterable[str] = ()):
    """A Sandbox; where there is no fork an UnconfinedBox, which is for practice. The arguments are those of both.

    Raises:
        BoxError: a required layer is missing, or the zygote did not start.
    """
    if hasattr(os, "fork"):
        from .sandbox import Sandbox  # its layers are modules that Windows has not

        return Sandbox(packages, require, without)
    from .unconfined import UnconfinedBox

    return UnconfinedBox(packages, require, without)


def own_users(without: Iterable[str] = ()) -> bool:
    """Whether each slot has a user of its own here."""
    if not hasattr(os, "fork"):
        return False
    from .zygote.confine import available

    return "uid" in available(set(without))
