"""The zip of lesson 01, and the ways in which a zip grades, each in a fork of a process that has imported Otter and torch.

That saves some four CPU-seconds a grading. Nothing here imports the package before it must: a fork grades with the package
that its way finds, the zip's or the installed one.
"""

import json
import multiprocessing
import os
import runpy
import tempfile
from functools import cache
from pathlib import Path

_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(["torch", "pytest", "otter.api", "otter.cli", "nbconvert.preprocessors"])
_FOLDERS = []  # kept until the session ends


@cache
def attention_zip() -> Path:
    """Built once a session, whichever test asks first."""
    from conftest import ROOT

    from autograder.lesson import load
    from autograder.release.otter_zip import build_zip

    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="zip-"))
    return build_zip(load("01-attention", ROOT), Path(_FOLDERS[-1].name))


def in_a_fork(way, *args, log: Path) -> int:
    """Exit code of `way(*args)` in a process of its own; what it prints goes to `log`."""
    process = _WARM.Process(target=_logged, args=(way, args, log))
    process.start()
    process.join()
    return process.exitcode


def _logged(way, args, log):
    with open(log, "wb") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    way(*args)


# ---------------------------------------------------------------------------------------------- ways


def run_otter_py(home: Path) -> None:
    """As Gradescope does it."""
    os.chdir(home)
    runpy.run_path(str(home / "source" / "run_otter.py"), run_name="__main__")


def otter_run(zip_path: Path, submission: Path, out: Path) -> None:
    """The command `otter run`."""
    from otter.cli import cli

    cli(["run", "-a", str(zip_path), str(submission), "-o", str(out)], standalone_mode=False)


def grade_submission(zip_path: Path, submission: Path, out: Path) -> None:
    """Otter's API."""
    from otter.api import grade_submission

    results = grade_submission(str(submission), str(zip_path))
    (out / "results.json").write_text(json.dumps(results.to_gradescope_dict(None)))
    (out / "total.json").write_text(json.dumps([results.total, results.possible]))
