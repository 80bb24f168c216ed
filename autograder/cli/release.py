"""For releases: starter, handouts, zips, course, rehearse."""

from dataclasses import replace
from pathlib import Path

from rich.markup import escape

from .. import kept
from ..exports import table
from ..files import can_write, write
from .shared import DistFolder, Names, OutFolder, app, chosen, console, exit_with, relative


@app.command()
def starter(lessons: Names = None) -> None:
    """Cut the starters from the solutions."""
    from ..author.starter import write_starter

    for lesson in chosen(lessons):
        console.print(f"wrote {relative(write_starter(lesson))}")


@app.command()
def handouts(lessons: Names = None, out: OutFolder = Path("dist")) -> None:
    """Build the zips that students get."""
    from ..release.handout import build_handout

    can_write(out)
    for lesson in chosen(lessons):
        console.print(f"wrote {relative(build_handout(lesson, out))}")


@app.command()
def zips(lessons: Names = None, out: OutFolder = Path("dist")) -> None:
    """Build the Otter zips that grade on Gradescope."""
    from ..release.otter_zip import build_zip

    can_write(out)
    for lesson in chosen(lessons):
        console.print(f"wrote {relative(build_zip(lesson, out))}")


@app.command()
def course(lessons: Names = None, out: OutFolder = Path("dist/course")) -> None:
    """Build the course folder for nbgrader, or renew its lessons; what nbgrader keeps in it stays."""
    from ..notebooks.course import build_course

    can_write(out)
    for path in build_course(chosen(lessons), out):
        console.print(f"wrote {relative(path)}")


@app.command("rehearse")
def rehearse_zips(lessons: Names = None, dist: DistFolder = Path("dist"), out: OutFolder = Path("results")) -> None:
    """Grade solution, stub and a wrong sample of every lesson through the zips, as Gradescope would.

    Exits with 1 where the solution does not get everything or the stub gets something.
    """
    from ..release.rehearse import rehearse, showpieces, surprises

    can_write(out)
    cards, wrong = [], []
    for lesson in chosen(lessons):
        for submission in showpieces(lesson):
            with console.status(f"{lesson.name}: {submission.student}"):
                card = rehearse(dist / f"{lesson.name}-autograder.zip", submission.files).card
            cards.append(replace(card, student=f"{lesson.name} {submission.student}"))
            wrong += surprises(lesson.name, submission.student, card)
            kept_as = out / lesson.name / submission.student / kept.CARD
            write(kept_as, replace(card, student=submission.student).to_json())  # a rehearsal replaces the one before
    console.print(table.many(cards))
    console.print(f"scorecards: {out}/<lesson>/<submission>/scorecard.json")
    for sentence in wrong:
        console.print(f"[bold magenta]error:[/] {escape(sentence)}")
    exit_with(cards, failed=bool(wrong))
