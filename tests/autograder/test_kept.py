"""Results on disk: a second grading into the same folder loses nothing of the first without a word."""

import json
from dataclasses import replace

import pytest

from autograder import kept
from autograder.errors import UsageError
from autograder.exports import render
from autograder.intake.classes import source_of
from autograder.joining import join
from autograder.scorecard import FAILED, GRADER_ERROR, PASSED, PENDING_GPU, Digests, Measurements, Outcome, Scorecard

MODULES = ("attention", "flash")


def row(test, module="attention", status=PASSED, worth=1.0):
    return Outcome(test, module, module, test, status, worth if status == PASSED else 0.0, worth)


def digests(submission="s1", suite="x1", package="p1", **suites):
    """All modules have the same suite, but for those that are named."""
    return Digests(package, submission, {**dict.fromkeys(MODULES, suite), **suites})


def card(*rows, modules=MODULES, seed=1, submission="s1", suite="x1", package="p1", suites=(), **more):
    return Scorecard(
        "01-attention",
        "ada",
        seed,
        rows,
        digests=digests(submission, suite, package, **dict(suites)),
        modules=modules,
        ungraded=tuple(name for name in MODULES if name not in modules),
        **more,
    )


WHOLE = card(row("test_a"), row("test_b", status=FAILED), row("test_f", "flash"), row("test_g", "flash", PENDING_GPU))
PART = card(row("test_a"), row("test_b"), modules=("attention",), seed=2)
GPU = card(row("test_g", "flash"), modules=(), seed=3)


def in_folder(out):
    return {
        path.relative_to(out).as_posix(): Scorecard.from_json(path.read_text("utf-8")) for path in out.rglob("*.json")
    }


def statuses(card):
    return {row.test: row.status for row in card.outcomes}


def test_a_part_that_is_graded_again_replaces_its_rows_and_no_other(tmp_path):
    kept.keep(WHOLE, tmp_path)
    said = kept.keep(PART, tmp_path)

    joined = kept.read(tmp_path / "ada" / "scorecard.json")
    assert statuses(joined) == {**statuses(WHOLE), "test_b": PASSED}
    assert (joined.score, joined.max_score, joined.partial) == (3, 3, "")
    assert "joined on 20" in said
    assert said.partition(": ")[2] in joined.notes
    assert "attention" in said
    assert "flash" in said


@pytest.mark.parametrize("order", [(WHOLE, GPU), (GPU, WHOLE)])
def test_gpu_tests_and_the_others_join_in_either_order(tmp_path, order):
    for each in order:
        kept.keep(each, tmp_path)

    joined = kept.read(tmp_path / "ada" / "scorecard.json")
    assert statuses(joined) == {**statuses(WHOLE), "test_g": PASSED}
    assert joined.partial == ""
    assert {row.test: joined.seed_of(row) for row in joined.outcomes}["test_g"] == 3


def test_a_verdict_from_a_gpu_outlives_a_regrading_without_one(tmp_path):
    for each in (WHOLE, GPU, replace(WHOLE, seed=9)):
        kept.keep(each, tmp_path)

    joined = kept.read(tmp_path / "ada" / "scorecard.json")
    assert statuses(joined)["test_g"] == PASSED
    assert {row.test: joined.seed_of(row) for row in joined.outcomes} == {
        "test_a": 9,
        "test_b": 9,
        "test_f": 9,
        "test_g": 3,
    }


def test_two_parts_become_a_whole(tmp_path):
    kept.keep(PART, tmp_path)
    assert kept.read(tmp_path / "ada" / "scorecard.json").partial == "only attention"
    kept.keep(card(row("test_f", "flash"), modules=("flash",), seed=5), tmp_path)

    joined = kept.read(tmp_path / "ada" / "scorecard.json")
    assert (joined.partial, joined.score, set(joined.modules)) == ("", 3, set(MODULES))


@pytest.mark.parametrize("other", [{"submission": "s2"}, {"suite": "x2"}, {"package": "p2"}])
def test_a_whole_grading_of_other_work_keeps_the_earlier_card_beside_it(tmp_path, other):
    kept.keep(WHOLE, tmp_path)
    said = kept.keep(card(row("test_z"), **other), tmp_path)
    kept.keep(card(row("test_y"), submission="s3"), tmp_path)

    files = in_folder(tmp_path)
    assert set(files) == {"ada/scorecard.json", "ada/earlier-1.json", "ada/earlier-2.json"}
    assert files["ada/earlier-1.json"] == WHOLE
    assert statuses(files["ada/scorecard.json"]) == {"test_y": PASSED}
    assert "earlier-1.json" in said
    assert "earlier-2.json" in " ".join(files["ada/scorecard.json"].notes)


@pytest.mark.parametrize("other", [{"submission": "s2"}, {"suite": "x2"}, {"package": "p2"}])
def test_a_part_of_other_work_leaves_the_card_alone_and_is_kept_as_a_part(tmp_path, other):
    kept.keep(WHOLE, tmp_path)
    said = kept.keep(card(row("test_a"), modules=("attention",), **other), tmp_path)

    files = in_folder(tmp_path)
    assert files["ada/scorecard.json"] == WHOLE
    assert files["ada/partial.json"].partial == "only attention"
    assert "left as it is" in said
    assert kept.below([tmp_path]) == [tmp_path / "ada" / "scorecard.json"], "an export reads the whole card only"


# ---------------------------------------------------------------------------------------------- one module's suite changed

FIXED = {"attention": "x2"}


def test_only_the_module_whose_suite_changed_is_graded_again(tmp_path):
    kept.keep(replace(WHOLE, scale_to=10.0), tmp_path)
    said = kept.keep(replace(PART, digests=digests(**FIXED), scale_to=20.0), tmp_path)

    files = in_folder(tmp_path)
    joined = files["ada/scorecard.json"]
    assert statuses(joined) == {**statuses(WHOLE), "test_b": PASSED}
    assert (joined.partial, joined.digests, joined.scale_to) == ("", digests(**FIXED), 20)
    assert statuses(files["ada/earlier-1.json"]) == statuses(WHOLE)
    assert "earlier-1.json" in said
    assert "joined on" in said


def test_rows_of_a_suite_that_changed_are_not_taken_over_beside_another_part(tmp_path):
    kept.keep(WHOLE, tmp_path)
    kept.keep(card(row("test_f", "flash"), modules=("flash",), suites=FIXED), tmp_path)

    files = in_folder(tmp_path)
    assert files["ada/scorecard.json"] == WHOLE
    assert files["ada/partial.json"].partial == "only flash"


def test_a_verdict_from_a_gpu_outlives_a_change_of_another_modules_suite_only(tmp_path):
    for each in (WHOLE, GPU):
        kept.keep(each, tmp_path / "other")
        kept.keep(each, tmp_path / "its own")
    kept.keep(replace(WHOLE, digests=digests(**FIXED)), tmp_path / "other")
    kept.keep(replace(WHOLE, digests=digests(flash="x2")), tmp_path / "its own")

    found = {name: statuses(kept.read(tmp_path / name / "ada" / "scorecard.json")) for name in ("other", "its own")}
    assert (found["other"]["test_g"], found["its own"]["test_g"]) == (PASSED, PENDING_GPU)


def test_gpu_tests_are_not_joined_to_rows_of_an_older_suite(tmp_path):
    kept.keep(WHOLE, tmp_path)
    kept.keep(replace(GPU, digests=digests(**FIXED)), tmp_path)

    assert in_folder(tmp_path)["ada/scorecard.json"] == WHOLE


def test_what_joined_gradings_took_is_added_up(tmp_path):
    kept.keep(replace(WHOLE, measurements=Measurements(2.0, 1.5, 300)), tmp_path)
    kept.keep(replace(PART, measurements=Measurements(0.5, None, 400)), tmp_path)

    assert kept.read(tmp_path / "ada" / "scorecard.json").measurements == Measurements(2.5, 1.5, 400)


def test_gradings_with_the_students_own_prerequisites_are_kept_apart(tmp_path):
    own = replace(PART, digests=replace(PART.digests, prerequisites="own"))
    kept.keep(WHOLE, tmp_path)
    kept.keep(own, tmp_path)

    assert in_folder(tmp_path) == {"ada/scorecard.json": WHOLE, "ada/partial.json": own}


def test_parts_of_other_work_replace_the_card_once_they_are_whole(tmp_path):
    kept.keep(WHOLE, tmp_path)
    for name in MODULES:
        kept.keep(card(row(f"test_{name}", name), modules=(name,), submission="s2"), tmp_path)

    files = in_folder(tmp_path)
    assert set(files) == {"ada/scorecard.json", "ada/earlier-1.json"}
    assert (files["ada/scorecard.json"].partial, files["ada/scorecard.json"].score) == ("", 2)


def test_an_error_of_ours_in_a_part_replaces_no_card(tmp_path):
    broken = Scorecard.lost("01-attention", "ada", "a bug", MODULES)

    kept.keep(WHOLE, tmp_path)
    kept.keep(broken, tmp_path)

    assert in_folder(tmp_path)["ada/scorecard.json"] == WHOLE


@pytest.mark.parametrize(
    "text", ["my notes", '{"lesson": "01-attention", "outcomes": []}', '{"format": 2, "outcomes": []}']
)
def test_what_is_no_scorecard_of_this_format_is_not_overwritten(tmp_path, text):
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "scorecard.json").write_text(text)

    kept.keep(WHOLE, tmp_path)

    assert (tmp_path / "ada" / "earlier-1.json").read_text() == text


def test_a_row_that_the_suite_lost_goes_when_its_module_is_graded_again():
    collection = row("(collection)", "attention", GRADER_ERROR, 0.0)

    joined = join(replace(WHOLE, outcomes=(collection, *WHOLE.outcomes)), PART, "today")

    assert "(collection)" not in statuses(joined)


def test_a_part_is_known_in_json_and_is_not_scaled():
    part = replace(PART, scale_to=100.0)

    written = json.loads(part.to_json())

    assert (written["partial"], written["modules"], written["ungraded"]) == (
        "only attention",
        ["attention"],
        ["flash"],
    )
    assert (written["score"], written["max_score"]) == (2, 2)
    assert Scorecard.from_json(part.to_json()) == part


# ---------------------------------------------------------------------------------------------- before grading


def test_another_lessons_card_is_refused_before_anything_is_graded(tmp_path):
    kept.keep(WHOLE, tmp_path)

    with pytest.raises(UsageError, match="is of 01-attention: keep 02-transformer in a folder of its own"):
        kept.ready(tmp_path, ["bob", "ada"], "02-transformer")


@pytest.mark.parametrize("where", ["file", "file/below", "file/far/below", "/proc/none", "dangling"])
def test_a_folder_that_cannot_be_written_is_noticed_and_nothing_is_left(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(UsageError, match="cannot be written"):
        kept.ready(tmp_path / where, ["ada"], "01-attention")

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("in_the_way", ["ada", "ada/scorecard.json"])
def test_what_is_in_the_way_of_one_student_is_noticed(tmp_path, in_the_way):
    path = tmp_path / in_the_way
    path.parent.mkdir(exist_ok=True)
    path.write_text("") if in_the_way == "ada" else path.mkdir()

    with pytest.raises(UsageError, match="in the way"):
        kept.ready(tmp_path, ["ada"], "01-attention")


# ---------------------------------------------------------------------------------------------- exports


@pytest.mark.parametrize("name", ["csv", "gradescope", "otter"])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            replace(WHOLE, student="bob", digests=digests(suite="x2")),
            "more than one suite: .* of the suite attention x",
        ),
        (
            replace(WHOLE, student="bob", digests=replace(WHOLE.digests, prerequisites="own")),
            "more than one suite: .*own prerequisites",
        ),
        (
            replace(WHOLE, student="bob", digests=digests(flash="x2")),
            "more than one suite: .*attention x1, flash x[12] .*flash x[12]",
        ),
        (replace(WHOLE, student="bob", digests=digests(package="p2")), "more than one suite: .*autograder p"),
        (replace(WHOLE, student="bob", scale_to=100.0), "more than one suite: .*scaled to 100"),
        (replace(PART, student="bob"), "more than one part: .*only attention.*the whole lesson|the whole.*only att"),
    ],
)
def test_suites_and_parts_are_not_mixed_in_one_export(name, other, words):
    with pytest.raises(UsageError, match=words):
        render(name, [WHOLE, other])


def test_a_class_of_parts_says_so_in_a_column():
    text = render("csv", [PART, replace(PART, student="bob")])

    assert text.count(",only attention,") == 2


# ---------------------------------------------------------------------------------------------- merging folders


def folders(tmp_path, ours, theirs):
    for name, cards in (("ours", ours), ("theirs", theirs)):
        for each in cards:
            kept.keep(each, tmp_path / name)
    return tmp_path / "ours", tmp_path / "theirs"


def test_folders_are_merged_student_by_student(tmp_path):
    bob, eve = replace(WHOLE, student="bob"), replace(GPU, student="eve")
    merging = kept.merged(*folders(tmp_path, [WHOLE, bob], [GPU, eve]))

    assert [(card.student, statuses(card).get("test_g")) for card in merging.cards] == [
        ("ada", PASSED),
        ("bob", PENDING_GPU),
        ("eve", PASSED),
    ]
    assert [sentence.split(" is only in ")[0] for sentence in merging.said] == ["bob", "eve"]
    assert merging.problems == []


def test_two_cards_of_other_work_cost_no_other_student(tmp_path):
    merging = kept.merged(
        *folders(
            tmp_path,
            [WHOLE, replace(WHOLE, student="bob")],
            [replace(GPU, digests=digests("s2")), replace(GPU, student="bob")],
        )
    )

    assert [(card.student, statuses(card)["test_g"]) for card in merging.cards] == [
        ("ada", PENDING_GPU),
        ("bob", PASSED),
    ]
    assert "ada's scorecards cannot be merged" in merging.problems[0]


def test_a_file_that_is_no_card_is_named(tmp_path):
    ours, theirs = folders(tmp_path, [WHOLE], [GPU])
    (theirs / "eve").mkdir()
    (theirs / "eve" / "scorecard.json").write_text("[]")

    merging = kept.merged(ours, theirs)

    assert [card.student for card in merging.cards] == ["ada"]
    assert "eve" in merging.problems[0]


def test_a_file_and_a_folder_are_refused(tmp_path):
    ours, theirs = folders(tmp_path, [WHOLE], [GPU])

    with pytest.raises(UsageError, match="two folders"):
        kept.merged(ours, theirs / "ada" / "scorecard.json")


def test_a_card_is_not_written_into_a_submission(tmp_path):
    """A file of the student's there could be taken for an earlier card of ours."""
    (tmp_path / "ada").mkdir()
    source = source_of(tmp_path / "ada")

    with pytest.raises(UsageError, match="would write into the submission"):
        kept.refuse_to_write_into([source], tmp_path)
    with pytest.raises(UsageError, match="would write into the submission"):
        kept.refuse_to_write_into([source], tmp_path / "ada" / "out")
    kept.refuse_to_write_into([source], tmp_path / "out")
