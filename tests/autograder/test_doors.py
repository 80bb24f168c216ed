"""One policy for a submission that cannot be read: every door gives the same rows, texts, points and exit code."""

import gzip
import io
import os
import random
import zipfile
from contextlib import contextmanager

import otter_ways
import pytest
import typer
from otter_ways import attention_zip, in_a_fork

from autograder import batch, grade
from autograder.batch import Job
from autograder.cli.shared import exit_with
from autograder.exports import gradescope
from autograder.release import otter_plugin
from autograder.scorecard import FAILED
from autograder.submission import source_of, take_in_again, take_in_each


def zipped(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


TOY = zipped({"toy.py": b"x = 1\n" * 500})
KINDS = {
    "cut.zip": TOY[:60],
    "noise.zip": b"no zip at all",
    "empty.zip": b"",
    "nothing.zip": zipped({}),
    "page.zip": b"<!DOCTYPE html>",
    "locked.zip": TOY.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1").replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
    "many.zip": zipped({f"{number}.txt": "" for number in range(6000)}),
    "nested.zip": zipped({"a.zip": zipped({"b.zip": TOY})}),
    "cut.tar.gz": gzip.compress(random.Random(1).randbytes(5000))[:500],
    "work.7z": b"7z\xbc\xaf\x27\x1c",
    "work.rar": b"Rar!\x1a\x07\0",
    "work.pdf": b"%PDF-1.4",
    "work.docx": zipped({"word/document.xml": b""}),
    "work": TOY[:60],
    "toy.txt": b"x = 1\n",
    "toy.ipynb": b"{}",
    "toy.py": b"#" * (3 << 20),
    "an empty folder": None,
}  # fmt: skip


def by_grade(work, grader):
    return batch._grade(grader, Job(source_of(work)))


def by_grade_each(work, grader):
    folder = work.parent.parent if work.is_file() else work.parent
    (source,) = take_in_each(folder, grader.lesson).sources
    return batch._grade(grader, Job(source))


def by_replay(work, grader):
    return batch._grade(grader, Job(take_in_again(str(work), grader.lesson)))


def by_the_plugin(work, grader):
    return otter_plugin._grade(grader.lesson, work.parent if work.is_file() else work, "ada")


DOORS = (by_grade, by_grade_each, by_replay, by_the_plugin)


@pytest.fixture
def work(tmp_path):
    def lay(kind):
        folder = tmp_path / "class" / "ada"
        folder.mkdir(parents=True)
        if KINDS[kind] is None:
            return folder
        (folder / kind).write_bytes(KINDS[kind])
        return folder / kind

    return lay


def said(card, work):
    """The rows without what the submission is called, which is the file's name, the folder's, or "the submission"."""
    names = (f"{work.name}: ", "ada: ", "the submission: ")
    rows = []
    for row in card.outcomes:
        message = row.message
        for name in names:
            message = message.removeprefix(name) if message.startswith(f"{name}toy.py has") else message
        rows.append((row.test, row.status, row.points, row.max_points, message, row.cause))
    return rows


def exit_code(card):
    with pytest.raises(typer.Exit) as end:
        exit_with([card])
    return end.value.exit_code


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_read_is_the_same_through_every_door(toy_grader, work, monkeypatch, kind):
    @contextmanager
    def warm(lesson, options=None):
        yield toy_grader

    monkeypatch.setattr(grade, "Grader", warm)
    path = work(kind)

    cards = {door.__name__: door(path, toy_grader) for door in DOORS}

    assert {name: said(card, path) for name, card in cards.items()} == dict.fromkeys(
        cards, said(cards["by_grade"], path)
    )
    assert {name: exit_code(card) for name, card in cards.items()} == dict.fromkeys(cards, 0)
    assert {name: card.digests for name, card in cards.items()} == dict.fromkeys(cards, cards["by_grade"].digests)
    outputs = {row["output"] for card in cards.values() for row in gradescope.results(card)["tests"]}
    for card in cards.values():
        assert (card.score, card.max_score) == (0, 4)
        assert {row.status for row in card.outcomes} == {FAILED}
        assert {row.cause for row in card.outcomes} <= {"unreadable", "missing"}
        assert len({row.message for row in card.outcomes}) == 1
    assert all(output for output in outputs)


@pytest.mark.slow
def test_a_damaged_zip_ends_otter_run_in_otters_own_code_and_any_other_name_does_not(tmp_path):
    """Otter unpacks a .zip before anything of ours is there. Should that change, docs/instructor.md can say so."""
    for name in ("work.zip", "work"):
        (tmp_path / name).write_bytes(KINDS["cut.zip"])
        (tmp_path / f"out of {name}").mkdir()
        in_a_fork(
            otter_ways.otter_run, attention_zip(), tmp_path / name, tmp_path / f"out of {name}", log=tmp_path / "log"
        )

    assert os.listdir(tmp_path / "out of work.zip") == []
    assert "cut off or damaged" in (tmp_path / "out of work" / "results.json").read_text()
