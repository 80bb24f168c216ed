"""How Python processes of ours start, other than those of the box. A copy of this file is in every handout."""

import contextlib
import os
from collections.abc import Iterator

_SAFE = "PYTHONSAFEPATH"  # what `python -P` does, for all that inherits it


@contextlib.contextmanager
def nothing_from_here() -> Iterator[None]:
    """What is started in the block imports no module from the current folder, and nor does what it starts.

    `python -c` looks there first, and so does multiprocessing: in a folder with submissions, `random.py` is a student's.
    """
    before = os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SAFE)
        if before is not None:
            os.environ[_SAFE] = before
