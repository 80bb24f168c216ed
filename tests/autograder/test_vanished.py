"""What is deleted, moved or closed between the listing of a class and its grading costs nobody a point."""

import os
import shutil
import textwrap
from contextlib import contextmanager

import pytest
from conftest import TOY_SOLUTION
from packing import laid, zipped

from autograder import batch
from autograder.intake import folders
from autograder.options import Asked
from autograder.scorecard import OUR_ERROR
from autograder.submission import take_in_each

CODE = textwrap.dedent(TOY_SOLUTION).encode()
ZIP = zipped({"toy.py": CODE})


def graded(grader, sources):
    return {
        source.student: batch._grade(grader, job)
        for source, job in zip(sources, batch.jobs_of(sources, Asked(seed=1)), strict=True)
    }


def is_nobodys_zero(cards, who="bob"):
    card = cards[who]
    assert cards["ada"].score == 4
    assert card.is_lost
    assert (card.score, card.max_score) == (0, 0)
    ((message, detail),) = [(row.message, row.detail) for row in card.outcomes]
    assert message == OUR_ERROR
    assert "was it deleted, moved or closed since the grading began? Grade it again: " in detail
    return detail


@pytest.mark.parametrize(
    "entries",
    [
        ["bob/toy.py"],
        ["bob.zip"],
        ["bob.py"],
        ["bob_12345_67890_toy.py", "bob_12345_67891_helpers.py"],
        ["bob_12345_67890_toy.zip", "bob_12345_67891_helpers.py"],
    ],
    ids=["a folder", "a zip", "a file", "files of a site", "a zip of a site"],
)
def test_a_submission_that_is_deleted_after_the_listing_is_a_row_of_ours(toy_grader, tmp_path, entries):
    laid(tmp_path, {"ada/toy.py": CODE, **{entry: ZIP if entry.endswith("zip") else CODE for entry in entries}})
    sources = take_in_each(tmp_path, ("toy",)).sources
    gone = tmp_path / entries[0].partition("/")[0]
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()

    assert str(gone) in is_nobodys_zero(graded(toy_grader, sources))


@pytest.mark.parametrize("entry", ["toy.py", "helpers.py", "work.zip", "sub/more.py"])
def test_a_file_that_is_deleted_while_its_folder_is_read_is_a_row_of_ours(toy_grader, tmp_path, monkeypatch, entry):
    laid(tmp_path, {"ada/toy.py": CODE, "bob/toy.py": CODE, f"bob/{entry}": ZIP if "zip" in entry else CODE})
    gone, real = tmp_path / "bob" / entry, os.scandir

    @contextmanager
    def listing(folder):
        with real(folder) as found:
            yield list(found)
        if gone.exists():
            gone.unlink()
            gone.parent.rmdir() if gone.parent.name == "sub" else None

    def scandir(path="."):
        return listing(path) if path == tmp_path / "bob" else real(path)

    sources = take_in_each(tmp_path, ("toy",)).sources
    monkeypatch.setattr(folders.os, "scandir", scandir)

    is_nobodys_zero(graded(toy_grader, sources))


@pytest.mark.parametrize("closed", ["bob", "bob/toy.py", "bob/sub", "bob/work.zip"])
@pytest.mark.parametrize("number", [13, 5, 116], ids=["closed", "a disk that fails", "a mount that is gone"])
def test_what_cannot_be_opened_is_a_row_of_ours(toy_grader, tmp_path, monkeypatch, closed, number):
    laid(tmp_path, {"ada/toy.py": CODE, "bob/toy.py": CODE, "bob/sub/x.py": CODE, "bob/work.zip": ZIP})
    for name in ("open", "scandir"):
        real = getattr(os, name)

        def refusing(path, *args, real=real, **kwargs):
            if isinstance(path, str | os.PathLike) and os.fspath(path) == str(tmp_path / closed):
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, name, refusing)

    is_nobodys_zero(graded(toy_grader, take_in_each(tmp_path, ("toy",)).sources))


def test_what_matters_to_nobody_may_vanish(toy_grader, tmp_path, monkeypatch):
    """An editor's own files come and go."""
    laid(tmp_path, {"ada/toy.py": CODE, "ada/.toy.py.swp": b"x", "ada/.toy.py": b"x", "ada/notes.txt": b"x"})
    real = os.lstat

    def vanishing(path, *args, **kwargs):
        if os.fspath(path).endswith((".swp", ".toy.py", "notes.txt")):
            raise FileNotFoundError(2, os.strerror(2), str(path))
        return real(path, *args, **kwargs)

    sources = take_in_each(tmp_path, ("toy",)).sources
    monkeypatch.setattr(folders.os, "lstat", vanishing)

    assert graded(toy_grader, sources)["ada"].score == 4


def test_a_link_and_a_pipe_remain_the_students(toy_grader, tmp_path):
    laid(tmp_path, {"ada/toy.py": CODE, "bob/x.txt": b"x"})
    (tmp_path / "bob" / "toy.py").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "bob" / "helpers.py")

    cards = graded(toy_grader, take_in_each(tmp_path, ("toy",)).sources)

    assert (cards["bob"].score, cards["bob"].max_score) == (0, 4)


def test_a_path_that_is_gone_costs_no_other_job(toy_grader, tmp_path):
    laid(tmp_path, {"ada/toy.py": CODE})
    jobs = [batch.Job(tmp_path / name, Asked(seed=1)) for name in ("bob", "ada")]

    bob, ada = (batch._grade(toy_grader, job) for job in jobs)

    assert (bob.is_lost, ada.score) == (True, 4)
