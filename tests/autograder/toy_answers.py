"""Students of the toy course who answer in words, their scorecards, and the table for those who grade."""

import csv
import io
from dataclasses import replace

from toy_course import SOLUTION

from autograder import answers
from autograder.scorecard import PASSED, Digests, Outcome, Scorecard

PLACE = "Write your answer here, in place of this line."


def answered(text, *those):
    for answer in those:
        text = text.replace(PLACE, answer, 1)
    return text


def hand_in(folder, content=None, name="answers.md"):
    folder.mkdir(parents=True)
    (folder / "toy.py").write_text(SOLUTION)
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def card_of(toy, work, **more):
    test = Outcome("test_a", "toy", "Mask", "A test", PASSED, 1.0, 1.0)
    digests = Digests("p", work.digest, {"toy": "t", "written": toy.written_digest()})
    rows = (test, *(answers.rows(toy, work.answers) if work.answers else ()))
    return replace(Scorecard(toy.name, work.student, 1, rows, digests=digests, modules=("toy",)), **more)


def table_of(folder):
    text = (folder / "answers.csv").read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def answered_in(folder):
    """The rows of those who answered."""
    return [line for line in table_of(folder) if line["answer"] != "(not answered)"]
