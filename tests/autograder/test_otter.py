"""A zip gives the scores of `autograder grade`, whichever way Otter is asked, and runs nothing that was submitted."""

import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import jsonschema
import otter_ways
import pytest
from conftest import ROOT, write_lesson
from otter.test_files import GradingResults
from otter_ways import attention_zip, in_a_fork
from packing import tarred

from autograder.answers import Answers
from autograder.author.samples import RIGHT, WRONG, load_samples
from autograder.author.starter import starter_files
from autograder.errors import UsageError
from autograder.exports import gradescope
from autograder.grade import Grader
from autograder.lesson import load
from autograder.release.otter_plugin import DRIVER, OtterPlugin, _grade, _put_back, _set_aside_late, _student, set_aside
from autograder.release.rehearse import lay_out
from autograder.scorecard import FAILED, PASSED, PENDING_GPU, Outcome, Scorecard

SCHEMA = json.loads((Path(__file__).parent / "data" / "gradescope_results.schema.json").read_text())
LESSON = load("01-attention", ROOT)


# ---------------------------------------------------------------------------------------------- submissions


def solution():
    return LESSON.solution_files()


def stub():
    return starter_files(LESSON)


def right():
    """Every module written another way."""
    samples = {sample.modules[0]: sample for sample in load_samples(LESSON, (RIGHT,))}
    return {f"{module}.py": samples[module].submission().files[f"{module}.py"] for module in LESSON.modules}


def wrong_sample():
    return next(sample for sample in load_samples(LESSON, (WRONG,)) if sample.modules == ("positional_encoding",))


def wrong():
    """A module with a known mistake, and no other."""
    return {"positional_encoding.py": wrong_sample().submission().files["positional_encoding.py"]}


def packed():
    """The same in the archive that Gradescope does not unpack."""
    return {"work.tar.gz": tarred({f"hw/{name}": content for name, content in wrong().items()})}


def broken():
    """attention.py is missing, the others cannot be imported."""
    return {"positional_encoding.py": b"def broken(:\n", "flash_attention.py": b"import no_such_package\n"}


def endless():
    return {"attention.py": b"def causal_mask(*args, **kwargs):\n    while True:\n        pass\n"}


def shadowing(marker: Path):
    """A right module, among files that leave a mark where they are run by anything but the box."""
    mark = f"open({str(marker)!r}, 'a').write(__name__ + ' ')\n"
    cell = {"id": "cell", "cell_type": "code", "metadata": {}, "source": mark, "outputs": [], "execution_count": None}
    notebook = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    names = """torch.py otter/__init__.py autograder/__init__.py autograder/release/otter_plugin.py ipykernel_launcher.py
        ipykernel/__init__.py conftest.py sitecustomize.py pandas.py dill.py nbconvert.py __init__.py
        tests/placeholder.py tests/test_mine.py"""
    hostile = {name: mark for name in names.split()} | {DRIVER: notebook}
    files = {name: text.encode() for name, text in hostile.items()} | {".OTTER_LOG": _Marking(marker).pickled()}
    return {"positional_encoding.py": right()["positional_encoding.py"], **files}


class _Marking:
    """Leaves the mark when it is unpickled."""

    def __init__(self, marker):
        self._marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self._marker}",)

    def pickled(self):
        return pickle.dumps(self)


SUBMISSIONS = {function.__name__: function for function in (solution, stub, right, wrong, packed, broken, endless)}


# ---------------------------------------------------------------------------------------------- grading them


@dataclass(frozen=True)
class Graded:
    results: dict  # results.json
    card: Scorecard | None = None  # scorecard.json, where the way leaves one

    def rows(self):
        """What the ways must agree on: messages may quote random inputs."""
        return [(row["number"], row.get("status"), row.get("score"), row.get("max_score")) for row in self.tests]

    @property
    def tests(self):
        return self.results["tests"]

    def outputs(self):
        return {row["output"] for row in self.tests if row.get("status") == "failed"}


def read(folder: Path, log: str) -> Graded:
    path = folder / "results.json"
    assert path.exists(), log[-3000:]
    results = json.loads(path.read_text())
    jsonschema.validate(results, SCHEMA)
    card = folder / "scorecard.json"
    return Graded(results, Scorecard.from_json(card.read_text()) if card.exists() else None)


@pytest.fixture(scope="module")
def on_gradescope(tmp_path_factory):
    """Grades a submission, by its name, in Gradescope's layout of folders; once."""
    graded = {}

    def grade(name, settings=""):
        if name not in graded:
            home = tmp_path_factory.mktemp(name)
            lay_out(attention_zip(), SUBMISSIONS[name](), home)
            lesson = home / "source" / "grader" / "assignments" / LESSON.name / "lesson.toml"
            lesson.write_text(settings + lesson.read_text())
            in_a_fork(otter_ways.run_otter_py, home, log=home / "log")
            graded[name] = read(home / "results", (home / "log").read_text())
        return graded[name]

    return grade


def zipped(files: dict[str, bytes], folder: Path) -> Path:
    path = folder / "submission.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def run(arguments, folder: Path) -> str:
    """What a process prints that is started in a folder, with nothing of this session's on Python's path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AUTOGRADER"))}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------- as on Gradescope


@pytest.mark.slow
@pytest.mark.parametrize("name", ["solution", "right"])
def test_a_right_submission_gets_all_points(on_gradescope, name):
    graded = on_gradescope(name)

    assert graded.outputs() == set()
    assert graded.results["score"] == sum(row.get("max_score", 0) for row in graded.tests) > 0


@pytest.mark.slow
def test_the_stub_gets_none(on_gradescope):
    graded = on_gradescope("stub")

    assert graded.results["score"] == 0
    assert {row["status"] for row in graded.tests if "score" in row} == {"failed"}


@pytest.mark.slow
def test_a_known_mistake_is_named_and_costs_what_autograder_grade_says(on_gradescope):
    sample = wrong_sample()

    graded = on_gradescope("wrong")

    with Grader(LESSON) as grader:
        card = grader.grade(replace(sample.submission(), files=wrong(), answers=Answers()))
    assert graded.rows() == Graded(gradescope.results(card)).rows()
    assert graded.card.digests == card.digests
    assert 0 < graded.results["score"] == card.score < card.max_score
    assert sample.expect.mistake is None or sample.expect.mistake in graded.outputs()


@pytest.mark.slow
def test_an_archive_is_graded_as_what_is_in_it(on_gradescope):
    assert on_gradescope("packed").rows() == on_gradescope("wrong").rows()


@pytest.mark.slow
def test_a_module_that_cannot_be_loaded_says_why(on_gradescope):
    graded = on_gradescope("broken")

    said = " ".join(graded.outputs())
    assert graded.results["score"] == 0
    assert "attention.py is missing from the submission" in said
    assert "positional_encoding.py cannot be imported: SyntaxError" in said
    assert "flash_attention.py cannot be imported: ModuleNotFoundError" in said


@pytest.mark.slow
def test_an_endless_loop_is_a_failed_row(on_gradescope):
    graded = on_gradescope("endless", settings="call_timeout_s = 1\ndeadline_s = 20\n")

    assert graded.results["score"] == 0
    assert "calling attention.causal_mask used more than 1 s of processor time" in graded.outputs()


@pytest.mark.slow
def test_after_a_fault_of_ours_there_are_no_results_and_so_no_zero(tmp_path):
    lay_out(attention_zip(), stub(), tmp_path)
    (tmp_path / "source/grader/assignments/01-attention/lesson.toml").write_text("not toml")
    (tmp_path / "results/results.json").write_text("of an earlier run")

    code = in_a_fork(otter_ways.run_otter_py, tmp_path, log=tmp_path / "log")

    assert code != 0
    assert "lesson.toml is not valid TOML" in (tmp_path / "log").read_text()
    assert list((tmp_path / "results").iterdir()) == []
    assert {path.name for path in (tmp_path / "submission").iterdir()} == set(stub())


# ---------------------------------------------------------------------------------------------- the other ways


@pytest.mark.slow
@pytest.mark.parametrize("way", [otter_ways.otter_run, otter_ways.grade_submission])
@pytest.mark.parametrize("name", ["wrong", "broken"])
def test_otter_run_and_its_api_give_the_same_rows(on_gradescope, tmp_path, name, way):
    submission = zipped(SUBMISSIONS[name](), tmp_path)

    in_a_fork(way, attention_zip(), submission, tmp_path, log=tmp_path / "log")

    assert read(tmp_path, (tmp_path / "log").read_text()).rows() == on_gradescope(name).rows()


@pytest.mark.slow
def test_the_commands_of_the_instructors_guide_work_as_they_stand_there(tmp_path):
    guide = (ROOT / "docs" / "instructor.md").read_text("utf-8")
    (block,) = re.findall(r"(?:^ {4}.*\n)*^ {4}otter run .*\n(?:^ {4}.*\n)*", guide, re.MULTILINE)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / attention_zip().name).symlink_to(attention_zip())
    zipped(wrong(), tmp_path).rename(tmp_path / "work.zip")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    log = run(["env", f"PATH={path}", "bash", "-e", "-c", block], tmp_path)

    assert read(tmp_path / "results", log).results["score"] > 0


# ---------------------------------------------------------------------------------------------- shadowing


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "it-was-run"


@pytest.fixture
def points_of_one_module(on_gradescope):
    """What a right positional_encoding.py is worth alone."""
    rows = on_gradescope("wrong").card.counted
    return sum(row.max_points for row in rows if row.module == "positional_encoding")


@pytest.mark.slow
def test_nothing_that_was_submitted_runs_outside_the_box(tmp_path, marker, points_of_one_module):
    files = shadowing(marker)
    lay_out(attention_zip(), files | {"second.ipynb": files[DRIVER], "other/third.ipynb": b"{"}, tmp_path / "home")
    command = [sys.executable, "-P", str(tmp_path / "home" / "source" / "run_otter.py")]

    log = run(command, tmp_path / "home" / "submission")

    assert read(tmp_path / "home" / "results", log).results["score"] == points_of_one_module
    assert not marker.exists(), marker.read_text()
    assert all((tmp_path / "home" / "submission" / name).is_file() for name in files), "it was not put back"


@pytest.mark.slow
def test_nothing_that_was_submitted_runs_in_otter_run(tmp_path, marker, points_of_one_module):
    submission = zipped(shadowing(marker), tmp_path)
    otter = Path(sys.executable).parent / "otter"

    log = run([str(otter), "run", "-a", str(attention_zip()), str(submission), "-o", str(tmp_path)], tmp_path)

    assert read(tmp_path, log).results["score"] == points_of_one_module
    assert not marker.exists(), marker.read_text()


@pytest.mark.slow
def test_nothing_that_was_submitted_runs_in_otters_api(tmp_path, marker, points_of_one_module):
    submission = zipped(shadowing(marker), tmp_path)

    in_a_fork(otter_ways.grade_submission, attention_zip(), submission, tmp_path, log=tmp_path / "log")

    assert read(tmp_path, (tmp_path / "log").read_text()).results["score"] == points_of_one_module
    assert not marker.exists(), marker.read_text()


@pytest.mark.slow
def test_the_api_in_python_dash_c_needs_dash_capital_p(tmp_path, marker):
    """Where '' is on sys.path Otter imports plugins from the submission, before anything of ours can refuse."""
    submission = zipped(shadowing(marker), tmp_path)
    call = f"import otter.api; otter.api.grade_submission({str(submission)!r}, {str(attention_zip())!r})"

    run([sys.executable, "-c", call], tmp_path)

    assert "autograder" in marker.read_text().split(), "no longer so: then the warning in docs/instructor.md can go"


# ---------------------------------------------------------------------------------------------- the plugin alone


CARD = Scorecard(
    lesson="99-toy",
    student="ada",
    seed=1,
    layers=("processes", "uid"),
    outcomes=(
        Outcome("test_a", "toy", "toy", "Passes", PASSED, 2, 2),
        Outcome("test_b", "toy", "toy", "Fails", FAILED, 0, 1, "the mask is transposed", "the mask is transposed"),
        Outcome.ours("test_c", "toy", "toy", "Is broken", "NameError: x", 1),
        Outcome("test_d", "toy", "toy", "Waits", PENDING_GPU, 0, 4, "waits for a machine with a GPU"),
    ),
)


@pytest.fixture
def plugin():
    plugin = OtterPlugin("", {}, {})
    plugin.card = CARD
    return plugin


def test_results_json_is_what_the_export_renders(plugin):
    results = GradingResults([])

    plugin.after_grading(results)

    assert results.to_gradescope_dict(None) == json.loads(gradescope.render([CARD]))


def test_otters_totals_are_the_scorecards(plugin):
    results = GradingResults.without_results(RuntimeError("the kernel died"))

    plugin.after_grading(results)

    assert (results.total, results.possible) == (CARD.score, CARD.max_score) == (2, 3)
    assert len(results.results) == len(CARD.outcomes)


def test_the_scorecard_travels_with_otters_results(plugin):
    results = GradingResults([])

    plugin.after_grading(results)

    assert Scorecard.from_json(results.get_plugin_data("autograder.release.otter_plugin.OtterPlugin")) == CARD


def test_a_grader_error_is_in_otters_output_and_in_results_json(plugin):
    results = GradingResults([])

    plugin.after_grading(results)

    assert "GRADER ERROR, not the student's: toy test_c: NameError: x" in plugin.generate_report()
    assert "Their points are not in the total: fix the tests, then grade again." in plugin.generate_report()
    assert "the points are not in the total" in results.to_gradescope_dict(None)["output"]


def test_another_version_than_the_zips_is_refused(tmp_path):
    plugin = OtterPlugin(str(tmp_path / "submission" / DRIVER), {}, {"lesson": "99-toy", "version": "0.0.7"})

    with pytest.raises(UsageError, match=r"built by version 0\.0\.7 .* install 0\.0\.7, or build the zip again"):
        plugin.before_grading(None)


def test_a_zip_without_its_grader_says_how_to_grade(tmp_path):
    from autograder import __version__

    plugin = OtterPlugin(str(tmp_path / "submission" / DRIVER), {}, {"lesson": "99-toy", "version": __version__})

    with pytest.raises(UsageError, match="grader is missing: grade with run_otter.py"):
        plugin.before_grading(None)


@pytest.mark.parametrize(
    ("metadata", "student"),
    [
        ({}, "submission"),
        ({"users": [{"name": "Ada", "email": "ada@example.org"}]}, "ada@example.org"),
        ({"users": [{"name": "Ada"}, {"name": "Emmy"}]}, "Ada+Emmy"),
    ],
)
def test_the_student_is_whom_gradescope_names(metadata, student):
    assert _student(metadata) == student


def test_a_submission_that_cannot_be_taken_in_fails_with_the_reason(tmp_path):
    write_lesson(tmp_path / "course")
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "toy.py").write_bytes(b"#" * (3 << 20))

    card = _grade(load("99-toy", tmp_path / "course"), tmp_path / "submission", "ada")

    assert {row.status for row in card.outcomes} == {FAILED}
    assert {row.message for row in card.outcomes} == {
        f"the submission: toy.py has {3 << 20} bytes; at most {2 << 20} are accepted"
    }


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("hw.tar.gz", b"\x1f\x8b cut", "hw.tar.gz is cut off or damaged: pack it again and submit it again"),
        ("hw.7z", b"7z\xbc\xaf", "found hw.7z, a 7z archive, which cannot be opened here: submit a .zip"),
        ("Toy_final.py", b"x = 1", "found Toy_final.py: rename it to toy.py"),
    ],
)
def test_what_a_student_reads_names_no_folder_of_the_grader(tmp_path, name, content, said):
    write_lesson(tmp_path / "course")
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / name).write_bytes(content)

    card = _grade(load("99-toy", tmp_path / "course"), tmp_path / "submission", "ada")

    (message,) = {row.message for row in card.outcomes}
    assert message.endswith(said)
    assert str(tmp_path) not in card.to_json()


# ---------------------------------------------------------------------------------------------- setting aside


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def submit(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "submission" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return folder / "submission"


def test_all_of_a_submission_is_set_aside_and_put_back(tmp_path):
    submission = submit(tmp_path, "a.py", "otter/__init__.py", ".OTTER_LOG")
    (submission / "link").symlink_to("/")

    aside = set_aside(submission)
    assert names_in(submission) == set()
    assert aside.stat().st_mode & 0o077 == 0
    submit(tmp_path, DRIVER, "tests/placeholder.py")  # as Otter does
    _put_back(aside, submission)

    assert names_in(submission) == {"a.py", "otter", ".OTTER_LOG", "link"}
    assert names_in(tmp_path) == {"submission"}


def test_what_otter_laid_into_a_submission_stays_there(tmp_path):
    submission = submit(tmp_path, "a.py", ".OTTER_LOG", DRIVER, "tests/placeholder.py", "__init__.py")

    aside = _set_aside_late(submission)

    assert names_in(submission) == {DRIVER, "tests"}
    assert names_in(aside) == {"a.py", ".OTTER_LOG"}
