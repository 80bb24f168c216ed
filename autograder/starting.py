"""How Python processes of ours start, other than those of the box. A copy of this file is in every handout."""

import os

_SAFE = "PYTHONSAFEPATH"  # what `python -P` does, for all that inherits it


class NothingFromHere:
    """While it is entered: what is started imports no module from the current folder, and nor does what that starts.

    `python -c` looks there first, and so does multiprocessing: in a folder with submissions, `random.py` is a student's.
    """

    def __enter__(self) -> None:
        self._before = os.environ.get(_SAFE)
        os.environ[_SAFE] = "1"

    def __exit__(self, *_: object) -> None:
        os.environ.pop(_SAFE)
        if self._before is not None:
            os.environ[_SAFE] = self._before
