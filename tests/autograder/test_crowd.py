"""One student's work and a class's are told apart by names and contents."""

import os
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from autograder.errors import UsageError
from autograder.files import remove_tree
from autograder.intake import crowd, packed
from autograder.intake.crowd import refuse_a_class, refuse_one_student

STARTER = b"raise NotImplementedError\n"
LESSON = SimpleNamespace(
    name="01-attention",
    modules=("attention", "flash_attention"),
    starter_files=lambda: {"attention.py": STARTER, "flash_attention.py": STARTER},
)

CLASSES = {
    "folders": ["ada/attention.py", "bob/attention.py"],
    "numbered students": ["1001/attention.py", "1002/attention.py"],
    "student1": ["student1/attention.py", "student2/attention.py"],
    "gradescope": ["submission_1/attention.py", "submission_2/attention.py"],
    "moodle": ["Ada Lovelace_12_file_/attention.py", "Bob_13_file_/deep/er/attention.py"],
    "moodle's archives": ["Ada_12_assignsubmission_file_/hw1.zip", "Bob_13_assignsubmission_file_/hw1.zip"],
    "a folder and a packed one": ["ada/attention.py", "Bob_13_assignsubmission_file_/hw1.7z"],
    "names with dots": ["j.doe/attention.py", "j.roe/attention.py"],
    "archives": ["ada.zip", "bob.tar.gz"],
    "an archive and a folder": ["ada/attention.py", "bob.ZIP"],
    "canvas": ["doejane_1_2_attention.py", "roe_LATE_3_4_attention-1.py"],
    "a folder around": ["class/ada/attention.py", "class/bob/attention.py"],
}
ONES = {
    "modules at the top": ["attention.py", "old/attention.py", "backup/attention.py", "ada/attention.py"],
    "parts": ["part1/attention.py", "part2/flash_attention.py"],
    "other names of parts": ["one/attention.py", "two/flash_attention.py"],
    "versions": ["v1/attention.py", "v2/attention.py", "final/attention.py"],
    "a browser's copies": ["01-attention/attention.py", "01-attention (1)/attention.py"],
    "copies of a folder of any name": ["ada/attention.py", "ada (1)/attention.py", "ada-2/attention.py"],
    "the starter beside it": ["given/attention.py=starter", "mine/attention.py"],
    "an archive a module": ["attention.zip", "flash_attention.zip"],
    "copies of an archive": ["ada.zip", "ada (1).zip", "ada_final.tar.gz"],
    "archives of parts": ["part1/hw.zip", "part2/hw.zip"],
    "one folder": ["ada/attention.py", "ada/flash_attention.py"],
    "an environment": ["mine/attention.py", ".venv/lib/attention.py", "venv/attention.py"],
    "nothing": [],
}


def lay(folder, names):
    for place, name in enumerate(names):
        name, _, starter = name.partition("=")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(STARTER.replace(b"\n", b"\r\n") if starter else f"x = {place}\n".encode())
    folder.mkdir(exist_ok=True)
    return folder


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def tarred(folder, mode="gz"):
    path = folder.with_suffix(f".tar.{mode}")
    with tarfile.open(path, f"w:{mode}") as archive:
        archive.add(folder, ".")
    return path


@pytest.mark.parametrize("names", CLASSES.values(), ids=CLASSES)
def test_a_class_is_refused_without_each(tmp_path, names):
    with pytest.raises(UsageError, match="--each"):
        refuse_a_class(lay(tmp_path / "in", names), LESSON)


@pytest.mark.parametrize("names", ONES.values(), ids=ONES)
def test_one_students_work_is_not(tmp_path, names):
    refuse_a_class(lay(tmp_path / "in", names), LESSON)


@pytest.mark.parametrize("packed", [zipped, tarred, lambda folder: tarred(folder, "bz2")])
def test_archives_are_looked_into(tmp_path, packed):
    refuse_a_class(packed(lay(tmp_path / "one", ONES["the starter beside it"])), LESSON)
    refuse_a_class(packed(lay(tmp_path / "parts", ONES["parts"])), LESSON)
    with pytest.raises(UsageError, match="--each"):
        refuse_a_class(packed(lay(tmp_path / "many", CLASSES["folders"])), LESSON)


def test_an_archive_of_something_else_is_nobodys_work(tmp_path):
    work = lay(tmp_path / "work", ["mine/attention.py"])
    zipped(lay(tmp_path / "figures", ["loss.png", "table.csv"])).rename(work / "figures.zip")
    zipped(lay(tmp_path / "more", ["x.txt"])).rename(work / "mine" / "more.zip")

    refuse_a_class(work, LESSON)


def test_a_broken_archive_is_for_the_intake_to_name(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 broken")

    refuse_a_class(tmp_path / "a.zip", LESSON)
    refuse_a_class(tmp_path / "nowhere", LESSON)


@pytest.mark.parametrize(
    "names",
    [
        *CLASSES.values(),
        ["ada/attention.py"],
        ["ada/attention.py", "attention.py"],
        ["ada/attention.py", "ada/mine.py", "ada/x/y.txt"],
    ],
)
def test_each_takes_a_class(tmp_path, names):
    if names != CLASSES["a folder around"]:
        refuse_one_student(lay(tmp_path / "in", names), LESSON)


def test_each_names_the_folder_in_which_the_class_is(tmp_path):
    with pytest.raises(UsageError, match="the submissions are in .*in/class: give that folder"):
        refuse_one_student(lay(tmp_path / "in", CLASSES["a folder around"]), LESSON)


@pytest.mark.parametrize(
    "names", [["attention.py"], ["attention.py", "data/x.txt"], ONES["parts"], ["01-attention/attention.py"]]
)
def test_each_refuses_one_submission(tmp_path, names):
    with pytest.raises(UsageError, match="without --each"):
        refuse_one_student(lay(tmp_path / "in", names), LESSON)


# ---------------------------------------------------------------------------------------------- made to do harm


@pytest.mark.parametrize("refuse", [refuse_a_class, refuse_one_student])
def test_what_is_no_regular_file_is_passed_over(tmp_path, refuse):
    work = lay(tmp_path / "in", ["bob/attention.py", "bob/flash_attention.py"])
    (work / "eve").mkdir()
    os.mkfifo(work / "eve" / "attention.py")
    (work / "fay").mkdir()
    (work / "fay" / "attention.py").symlink_to("/dev/zero")
    (work / "gus").symlink_to("/")

    refuse(work, LESSON)


def test_a_file_that_cannot_be_read_costs_no_other(tmp_path):
    work = lay(tmp_path / "in", CLASSES["folders"])
    (work / "aaa").mkdir()
    (work / "aaa" / "attention.py").symlink_to("nowhere")

    refuse_one_student(work, LESSON)
    with pytest.raises(UsageError, match="--each"):
        refuse_a_class(work, LESSON)


@pytest.mark.parametrize("other", ["bob/attention.py", "bob/hw.pdf", "bob.ipynb", "bob.py"])
def test_one_students_folder_is_not_taken_for_the_class(tmp_path, other):
    work = lay(tmp_path / "all" / "in", [f"aeve/{part}/attention.py" for part in ("ann", "ben", "cas")])
    lay(work, [other])
    if other == "bob/attention.py":
        (work / other).unlink()
        (work / other).symlink_to("nowhere")

    refuse_one_student(work, LESSON)
    with pytest.raises(UsageError, match="the submissions are in .*/in: give that folder"):
        refuse_one_student(work.parent, LESSON)


def test_what_is_the_instructors_does_not_hide_the_class(tmp_path):
    work = lay(tmp_path / "in", [*CLASSES["a folder around"], "grades.csv", "README.md", "__MACOSX/x", ".git/config"])
    (work / "empty").mkdir()

    with pytest.raises(UsageError, match="the submissions are in .*in/class: give that folder"):
        refuse_one_student(work, LESSON)


def test_folders_without_end_cost_nobody_else(tmp_path):
    work = lay(tmp_path / "in", CLASSES["folders"])
    here = os.open(work / "ada", os.O_RDONLY)
    for _ in range(1200):  # a longer path than a system takes at once
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)

    try:
        refuse_one_student(work, LESSON)
        with pytest.raises(UsageError, match="ada, bob"):
            refuse_a_class(work, LESSON)
    finally:
        remove_tree(work)


def test_not_all_archives_of_a_class_are_opened_before_it_starts(tmp_path, monkeypatch):
    work = lay(tmp_path / "in", [f"student{place}/attention.py" for place in range(3)])
    for place in range(40):
        (work / f"s{place}.zip").write_bytes(b"PK\x03\x04")
    opened = []
    monkeypatch.setattr(packed, "in_archive", lambda path: opened.append(path) or iter([("x.txt", 0)]))

    refuse_one_student(work, LESSON)
    assert len(opened) <= packed.MAX_ARCHIVES
    opened.clear()
    with pytest.raises(UsageError, match="--each"):
        refuse_a_class(work, LESSON)
    assert len(opened) <= packed.MAX_ARCHIVES


def test_a_large_folder_takes_nobody_elses_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(crowd, "MOST_ENTRIES", 20)
    work = lay(tmp_path / "in", [*(f"aeve/x{place}/attention.py" for place in range(50)), "bob/attention.py"])

    with pytest.raises(UsageError, match="aeve, bob"):
        refuse_a_class(work, LESSON)
