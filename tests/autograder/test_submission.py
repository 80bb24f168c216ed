"""Intake: what students send comes in, what attackers send is refused with a sentence, and nothing is written anywhere."""

import io
import os
import tarfile
import zipfile

import pytest

from autograder.errors import SubmissionError
from autograder.intake.gather import MAX_FILE
from autograder.intake.students import student_name
from autograder.submission import take_in, take_in_each

CODE = b"def f():\n    return 1\n"


def make_zip(path, entries):
    """entries: name -> content, or (ZipInfo, content) pairs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, content)
    return path


def make_tar(path, entries):
    with tarfile.open(path, "w:gz") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def tar_entry(name, kind=tarfile.REGTYPE, link=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


# ---------------------------------------------------------------------------------------------- honest work


def test_a_folder_comes_in(tmp_path):
    (tmp_path / "attention.py").write_bytes(CODE)
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "math.py").write_bytes(CODE)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "attention.py").write_bytes(CODE)

    assert take_in(tmp_path).files == {"attention.py": CODE, "helpers/math.py": CODE}


@pytest.mark.parametrize("prefix", ["", "my work/", "a/b/"])
def test_a_zip_comes_in_with_or_without_a_folder_at_its_top(tmp_path, prefix):
    path = make_zip(
        tmp_path / "ada.zip", {f"{prefix}attention.py": CODE, f"{prefix}lib/x.py": CODE, "__MACOSX/._attention.py": b""}
    )

    submission = take_in(path, ("attention",))

    assert submission.files == {"attention.py": CODE, "lib/x.py": CODE}
    assert submission.student == "ada"


def test_a_folder_of_a_module_at_the_top_stays(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"attention.py": CODE, "old/attention.py": b"old"})

    assert take_in(path, ("attention",)).files["attention.py"] == CODE


def test_a_tar_and_a_single_file_come_in(tmp_path):
    tar = make_tar(tmp_path / "a.tar.gz", [(tar_entry("./work/attention.py"), CODE)])
    (tmp_path / "attention.py").write_bytes(CODE)

    assert take_in(tar, ("attention",)).files == {"attention.py": CODE}
    assert take_in(tmp_path / "attention.py").files == {"attention.py": CODE}


def test_windows_separators_are_separators(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"work\\attention.py": CODE})

    assert take_in(path, ("attention",)).files == {"attention.py": CODE}


def test_equal_files_have_equal_digests(tmp_path):
    one = make_zip(tmp_path / "a.zip", {"a.py": CODE, "b.py": CODE})
    two = make_zip(tmp_path / "b.zip", {"x/b.py": CODE, "x/a.py": CODE})
    three = make_zip(tmp_path / "c.zip", {"a.py": CODE, "b.py": CODE + b"\n"})

    assert take_in(one).digest == take_in(two, ("a",)).digest != take_in(three).digest


@pytest.mark.parametrize(
    ("name", "student"),
    [("ada.zip", "ada"), ("b.tar.gz", "b"), ("..", None), ("=cmd()|x.zip", "_cmd___x"), ("ü.zip", "ü")],
)
def test_names_of_students_are_harmless(tmp_path, name, student):
    found = student_name(tmp_path / name)

    assert found == student or student is None
    assert "/" not in found
    assert not found.startswith(".")


# ---------------------------------------------------------------------------------------------- hostile archives


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "/etc/evil.py", "a/../../evil.py", "C:\\evil.py", "..\\evil.py"],
)
def test_names_that_lead_out_are_left_out(tmp_path, name):
    path = make_zip(tmp_path / "a.zip", {name: CODE, "attention.py": CODE})
    before = sorted(tmp_path.rglob("*"))

    submission = take_in(path, ("attention",))

    assert submission.files == {"attention.py": CODE}
    assert "leads out of the submission" in submission.notes[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_a_tar_are_left_out(tmp_path, kind):
    path = make_tar(
        tmp_path / "a.tar.gz", [(tar_entry("evil.py", kind, "/etc/passwd"), b""), (tar_entry("attention.py"), CODE)]
    )

    submission = take_in(path)

    assert submission.files == {"attention.py": CODE}
    assert submission.notes == ("left out evil.py: not a regular file",)


def test_links_in_a_zip_are_left_out(tmp_path):
    link = zipfile.ZipInfo("evil.py")
    link.external_attr = 0o120777 << 16
    path = make_zip(tmp_path / "a.zip", [(link, "/etc/passwd"), ("attention.py", CODE)])

    assert take_in(path).files == {"attention.py": CODE}


def test_links_pipes_and_sockets_in_a_folder_are_left_out(tmp_path):
    (tmp_path / "attention.py").write_bytes(CODE)
    (tmp_path / "link.py").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe.py")

    submission = take_in(tmp_path)

    assert submission.files == {"attention.py": CODE}
    assert submission.notes == tuple(
        f"left out {name}: not a regular file" for name in ("folder", "link.py", "pipe.py")
    )


def test_a_submission_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc")

    with pytest.raises(SubmissionError, match="is not a submission"):
        take_in(tmp_path / "link")


@pytest.mark.parametrize(
    "entries",
    [
        {"big.py": b"#" * (MAX_FILE + 1)},
        {f"part{i}.py": b"#" * (MAX_FILE - 1) for i in range(8)},
        {f"f{i}.py": b"" for i in range(300)},
        {f"f{i}.txt": b"" for i in range(6000)},
    ],
    ids=["one large file", "much in all", "many files", "many entries"],
)
def test_bombs_are_refused(tmp_path, entries):
    submission = take_in(make_zip(tmp_path / "bomb.zip", entries))

    assert submission.files == {}
    assert "bomb.zip" in submission.problem
    assert "at most" in submission.problem


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"big.py": b"#" * (4 * MAX_FILE)})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        place = data.find(signature)
        data[place + offset : place + offset + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)

    submission = take_in(path, ("big",))

    assert submission.files == {}
    assert "big.py, but it is damaged in the archive" in submission.missing["big"]


@pytest.mark.parametrize("content", [b"", b"PK\3\4 broken", b"\x1f\x8b rubbish", os.urandom(2000)])
def test_what_is_no_archive_is_refused_by_name(tmp_path, content):
    path = tmp_path / "work.zip"
    path.write_bytes(content)

    submission = take_in(path)

    assert submission.problem.startswith("work.zip is ")
    assert str(tmp_path) not in submission.problem
    assert submission.files == {}


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["x.py", "x.py/y.py"], ["x.py"]),
        (["x.py/y.py", "x.py"], ["x.py/y.py"]),
        (["n" * 250 + ".py", "a.py"], ["a.py"]),
    ],
)
def test_names_that_no_folder_can_hold_are_left_out(tmp_path, names, left):
    path = make_zip(tmp_path / "a.zip", dict.fromkeys(names, CODE))

    submission = take_in(path, ("x",)) if left != ["x.py/y.py"] else take_in(path, ("y",))

    assert len(submission.files) == 1
    assert len(submission.notes) == 1


def test_an_encrypted_entry_is_left_out(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"secret.py": CODE, "attention.py": CODE})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data[data.find(signature) + offset] |= 1
    path.write_bytes(data)

    assert list(take_in(path).files) == ["attention.py"]


def test_names_that_are_not_utf8_or_not_printable_are_left_out(tmp_path):
    os.close(os.open(os.fsencode(str(tmp_path)) + b"/\xff\xfe.py", os.O_CREAT | os.O_WRONLY))
    (tmp_path / "a\nb.py").write_bytes(CODE)
    (tmp_path / "attention.py").write_bytes(CODE)

    submission = take_in(tmp_path)

    assert submission.files == {"attention.py": CODE}
    assert all("\n" not in note for note in submission.notes)


# ---------------------------------------------------------------------------------------------- many


def test_each_takes_folders_and_archives(tmp_path):
    (tmp_path / "ada").mkdir()
    make_zip(tmp_path / "bob.zip", {"a.py": CODE})
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "link").symlink_to("/etc")

    found = take_in_each(tmp_path)

    assert [source.student for source in found.sources] == ["ada", "bob", "link"]
    assert dict(found.named) == {
        ".hidden": "its name begins with a dot",
        "readme.txt": "by its name it is the instructor's",
    }


def test_an_empty_folder_of_submissions_is_wrong_use(tmp_path):
    with pytest.raises(SubmissionError, match="contains no submission"):
        take_in_each(tmp_path)
