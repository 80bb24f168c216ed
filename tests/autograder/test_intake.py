"""Which file is which module, and what a student reads where one is not there. The rules are those of docs/student.md."""

import gzip
import os

import pytest
from conftest import TOY_SOLUTION, write_lesson
from packing import encrypted, laid, tarred, zipped

from autograder.lesson import load
from autograder.options import Asked
from autograder.submission import take_in

CODE = b"def causal_mask(length):\n    return None  # \xe2\x80\x94\n"
OTHER = CODE.replace(b"None", b"0")
STARTER = b"def causal_mask(length):\n    # TODO(student): a lower triangle\n    raise NotImplementedError('not yet')\n"
NOTEBOOK = b'{"cells": []}'
MODULES = ("attention", "flash_attention")


@pytest.fixture
def submitted(tmp_path):
    """Takes in files, as a folder, and checks that a zip of them gives the same."""

    def take(files, lesson=MODULES):
        folder = take_in(laid(tmp_path / "ada", files), lesson)
        (tmp_path / "ada.zip").write_bytes(zipped(dict(sorted(files.items()))))
        archive = take_in(tmp_path / "ada.zip", lesson)
        assert (archive.files, archive.missing, set(archive.notes)) == (folder.files, folder.missing, set(folder.notes))
        return folder

    return take


@pytest.fixture
def course(tmp_path):
    """A lesson with a starter, and another lesson."""
    root = tmp_path / "course"
    write_lesson(root)
    lesson = root / "assignments" / "99-toy" / "lesson.toml"
    lesson.write_text('title = "Toy"\nmodules = ["attention", "flash_attention"]\n')
    laid(root / "starter" / "99-toy", {"attention.py": STARTER, "flash_attention.py": b"# flash\n" + STARTER})
    laid(root / "assignments" / "98-base", {"lesson.toml": b'title = "Base"\nmodules = ["tokenization", "bigram"]\n'})
    return load("99-toy", root)


# ---------------------------------------------------------------------------------------------- notebooks


@pytest.mark.parametrize("folder", ["notebooks/", "work/notebooks/", "work/notebooks/drafts/"])
def test_notebooks_in_their_folder_need_no_word(submitted, folder):
    submission = submitted({"work/attention.py": CODE, "work/flash_attention.py": CODE, f"{folder}lab.ipynb": NOTEBOOK})

    assert (set(submission.files), submission.notes) == ({"attention.py", "flash_attention.py"}, ())


def test_a_notebook_beside_the_modules_is_a_note_and_no_error(submitted):
    submission = submitted({"attention.py": CODE, "flash_attention.py": CODE, "lab.ipynb": NOTEBOOK})

    assert submission.notes == (
        "found lab.ipynb: it belongs in the folder notebooks/, and hidden tests do not read notebooks",
    )
    assert (submission.problem, submission.missing) == ("", {})


# ---------------------------------------------------------------------------------------------- accidents of naming


@pytest.mark.parametrize(
    "name",
    """Attention.py|ATTENTION.PY|attention.PY|attention (1).py|attention(2).py|attention-1.py|attention .py| attention.py
    |Copy of attention.py|attention copy.py|attention copy 2.py|attention - Copy.py|attention - Copy (3).py
    |attention.py.txt|attention.py.py|attention.py |attention.py.|ａttention.py|attention (1).py.txt|attention.py (1).txt|attention.py.download
    |doejane_12345_67890_attention.py|roe_LATE_12345_67890_attention-2.py|Attention/Attention.py""".replace(
        "\n    ", ""
    ).split("|"),
)
def test_an_accident_of_naming_is_accepted_with_a_note(submitted, name):
    submission = submitted({name: CODE})

    assert submission.files == {"attention.py": CODE}
    assert submission.notes == (f"found {name.split('/')[-1]}, which counts as attention.py: rename it",)


@pytest.mark.parametrize("name", ["flash attention.py", "Flash-Attention.py"])
def test_spaces_and_hyphens_stand_for_underscores(submitted, name):
    assert set(submitted({name: CODE}).files) == {"flash_attention.py"}


def test_accidents_are_not_chosen_among(submitted):
    submission = submitted({"attention (1).py": CODE, "attention (2).py": OTHER})

    assert "attention.py" not in submission.files
    assert submission.missing["attention"] == (
        "attention.py is missing from the submission; found attention (1).py and attention (2).py: "
        "keep one of them and call it attention.py"
    )


def test_accidents_of_equal_content_are_one(submitted):
    assert submitted({"attention (1).py": CODE, "Attention.py": CODE}).files["attention.py"] == CODE


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"attention_final.py": CODE}, "found attention_final.py: rename it to attention.py"),
        ({"my_attention.py": CODE}, "found my_attention.py: rename it to attention.py"),
        ({"attention2.py": CODE}, "found attention2.py: rename it to attention.py"),
        ({"attention.py.bak": CODE}, "found attention.py.bak: rename it to attention.py"),
        ({"attentoin.py": CODE}, "found attentoin.py: rename it to attention.py"),
        ({"аttention.py": CODE}, "found аttention.py: rename it to attention.py"),  # a Cyrillic а
        ({"attention.pyw": CODE}, "found attention.pyw: save the code as attention.py"),
        ({"flash_attention.py": CODE, "model.py": CODE}, "found flash_attention.py and model.py"),
        ({"main.py": CODE}, "found main.py: the file must be called attention.py"),
        ({"test_attention.py": CODE}, "found only test_attention.py"),
        ({"attention.ipynb": NOTEBOOK}, "found the notebook attention.ipynb: put the module's code into a file attention.py"),
        ({"hw1.ipynb": NOTEBOOK}, "found the notebook hw1.ipynb: put the module's code into a file attention.py"),
        ({"attention/__init__.py": CODE, "attention/mask.py": CODE}, "found a package, the folder attention/ with __init__.py"),
        ({"attention/__init__.py": CODE, "flash_attention.py": CODE}, "found a package, the folder attention/"),
        ({"attention.txt": CODE}, "found attention.txt, a text file: save the code as attention.py"),
        ({"attention": CODE}, "found attention: save the code as attention.py"),
        ({"attention.docx": b"PK\3\4"}, "found attention.docx, a Word document: save the code as attention.py"),
        ({"attention.pyc": b"\xa7\r\r\n"}, "found attention.pyc, compiled Python: save the code as attention.py"),
        ({"attention.py.crdownload": CODE}, "found attention.py.crdownload, a download that was not finished"),
        ({".attention.py.icloud": b"bplist00"}, "found attention.py, but it is a placeholder that iCloud left for the file"),
        ({"hw.7z": b"7z\xbc\xaf\x27\x1c"}, "found hw.7z, a 7z archive, which cannot be opened here: submit a .zip"),
        ({"hw.rar": b"Rar!\x1a\x07"}, "found hw.rar, a RAR archive, which cannot be opened here: submit a .zip"),
        ({"report.pdf": b"%PDF", "a.png": b""}, "found no Python file, only a.png and report.pdf"),
        ({"flash_attention.py": CODE}, "found flash_attention.py"),
        ({}, "found no file at all"),
    ],
)  # fmt: skip
def test_a_missing_module_says_what_was_there(submitted, files, said):
    submission = submitted(files)

    assert "attention.py" not in submission.files
    assert submission.missing["attention"].startswith(f"attention.py is missing from the submission; {said}")


def test_another_lessons_files_are_called_so(submitted, course):
    submission = submitted({"bigram.py": CODE, "tokenization.py": CODE}, course)

    assert submission.missing["attention"] == (
        "attention.py is missing from the submission; found bigram.py and tokenization.py of 98-base: "
        "submit the files of this lesson"
    )


# ---------------------------------------------------------------------------------------------- files that are no Python


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CODE.decode().encode("utf-16"), "it is saved as UTF-16: save it as UTF-8"),
        (CODE.decode().encode("utf-16-le"), "it is saved as UTF-16: save it as UTF-8"),
        (CODE.decode().encode("utf-16-be"), "it is saved as UTF-16: save it as UTF-8"),
        (CODE.decode().encode("utf-32"), "it is saved as UTF-32: save it as UTF-8"),
        (CODE.decode().encode("utf-32-be"), "it is saved as UTF-32: save it as UTF-8"),
        (b"", "it is empty: save it and submit it again"),
        (b" \n\n", "it is empty: save it and submit it again"),
        (bytes(4096), "it contains only zero bytes: submit it again"),
        (b"<!DOCTYPE html>\n<html>", "it is a web page: submit the Python file itself"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer and not the file itself"),
        (b"bplist00\xd6", "it is a placeholder that iCloud left for a file"),
        (b"%PDF-1.4", "it is a PDF"),
        (b"{\\rtf1\\ansi", "it is a rich-text document"),
        (NOTEBOOK, "it is a notebook: put its code into a .py file"),
        (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive"),
        (b"PK\3\4 cut", "it is an archive that cannot be opened"),
    ],
)
def test_a_file_that_cannot_hold_python_is_called_what_it_is(submitted, content, said):
    submission = submitted({"attention.py": content, "flash_attention.py": CODE})

    assert submission.files == {"flash_attention.py": CODE}
    assert submission.missing["attention"].startswith(f"attention.py cannot be used: {said}")


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + CODE, CODE.replace(b"\n", b"\r\n"), b"x = '\0'\n" + CODE, b"x"])
def test_odd_text_is_left_to_python(submitted, content):
    assert submitted({"attention.py": content}).files == {"attention.py": content}


def test_an_encrypted_zip_says_so(tmp_path):
    path = tmp_path / "ada.zip"
    path.write_bytes(encrypted(zipped({"hw/attention.py": CODE, "hw/flash_attention.py": CODE})))

    submission = take_in(path, MODULES)

    assert submission.missing["attention"] == (
        "attention.py is missing from the submission; found attention.py, but it is encrypted: pack it without a password"
    )


# ---------------------------------------------------------------------------------------------- several of a name


def test_each_module_is_taken_from_where_it_is(submitted):
    submission = submitted(
        {"part1/attention.py": CODE, "part2/flash_attention.py": OTHER, "part2/helpers.py": b"x = 1\n"}
    )

    assert submission.files["attention.py"] == CODE
    assert submission.files["flash_attention.py"] == OTHER
    assert submission.files["helpers.py"] == b"x = 1\n"
    assert submission.notes == ("the modules are in several folders: part1/attention.py and part2/flash_attention.py",)


def test_a_module_that_another_imports_from_its_folder_stays_there_too(submitted):
    submission = submitted(
        {"part1/attention.py": CODE, "part2/flash_attention.py": b"from part1.attention import causal_mask\n"}
    )

    assert set(submission.files) == {"attention.py", "flash_attention.py", "part1/attention.py"}


@pytest.mark.parametrize("finished", ["01-attention", "01-attention (1)"])
def test_finished_work_counts_and_not_the_starter_beside_it(submitted, course, finished):
    files = {f"{folder}/attention.py": STARTER for folder in ("01-attention", "01-attention (1)")}

    submission = submitted(files | {f"{finished}/attention.py": CODE}, course)

    other = next(folder for folder in ("01-attention", "01-attention (1)") if folder != finished)
    assert submission.files["attention.py"] == CODE
    assert submission.notes[0] == (
        f"found attention.py in 2 places: {finished}/attention.py counts, not {other}/attention.py (the unchanged starter)"
    )


def test_a_starter_with_other_line_ends_is_still_the_starter(submitted, course):
    submission = submitted({"a/attention.py": STARTER.replace(b"\n", b"\r\n") + b"\n", "b/attention.py": CODE}, course)

    assert submission.files["attention.py"] == CODE


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("01-attention/attention.py", "01-attention (1)/attention.py"),
        ("a/b/attention.py", "old/attention.py"),
        ("attention.py", "src/attention.py"),
        ("a/attention.py", "b/attention.py"),
        ("hw/attention.py", "hw backup/attention.py"),
    ],
)
def test_between_two_works_names_decide_and_not_dates(tmp_path, course, first, second):
    laid(tmp_path / "ada", {first: CODE, second: OTHER})
    os.utime(tmp_path / "ada" / first, (0, 0))

    submission = take_in(tmp_path / "ada", course)

    assert submission.files["attention.py"] == CODE
    assert submission.notes[0].startswith(f"found attention.py in 2 places: {first} counts, not {second}")


def test_a_copy_counts_where_the_right_name_is_the_starter(submitted, course):
    submission = submitted({"attention.py": STARTER, "attention (1).py": CODE}, course)

    assert submission.files == {"attention.py": CODE}
    assert "because attention.py is the unchanged starter" in submission.notes[0]


def test_an_unchanged_starter_beside_what_may_be_the_work_is_noted(submitted, course):
    submission = submitted({"attention.py": STARTER, "attention_final.py": CODE}, course)

    assert submission.files["attention.py"] == STARTER
    assert submission.notes == ("attention.py is the unchanged starter, and counts; found attention_final.py too",)


def test_the_readable_one_counts(submitted):
    submission = submitted({"attention.py": b"", "hw/attention.py": CODE})

    assert submission.files["attention.py"] == CODE
    assert "hw/attention.py counts, not attention.py (it is empty)" in submission.notes[0]


# ---------------------------------------------------------------------------------------------- limits


def test_what_all_names_have_in_common_is_not_depth(submitted):
    assert set(submitted({"1/2/3/4/5/6/7/8/9/attention.py": CODE}).files) == {"attention.py"}


def test_depth_has_its_own_words(submitted):
    submission = submitted({"attention.py": CODE, "d/" * 20 + "flash_attention.py": CODE})

    assert submission.missing["flash_attention"].endswith("but it is more than 7 folders deep: move it up")


@pytest.mark.parametrize("name", [".venv", "venv", "env", "node_modules", "__pycache__", ".git", ".ipynb_checkpoints"])
def test_what_was_sent_along_counts_against_no_limit_and_is_named(submitted, name):
    sent = {f"{name}/lib/python3.11/site-packages/x{number}.py": CODE for number in range(400)}
    sent |= {f"{name}/pyvenv.cfg": b"", f"{name}/bin/activate_this.py": CODE}

    submission = submitted({"hw/attention.py": CODE} | sent)

    assert submission.files == {"attention.py": CODE}
    assert submission.notes == (f"leave {name} out of the submission: it is not needed and is ignored",)


def test_system_files_are_passed_over_without_a_word(submitted):
    system = dict.fromkeys([".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._attention.py", "._attention.py"], b"x")

    submission = submitted({"attention.py": CODE} | system)

    assert (submission.files, submission.notes) == ({"attention.py": CODE}, ())


# ---------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hw.zip", zipped({"a/attention.py": CODE})),
        ("HW.ZIP", zipped({"a/attention.py": CODE})),
        ("hw.tar", tarred({"a/attention.py": CODE}, "w:")),
        ("hw.tar.gz", tarred({"a/attention.py": CODE})),
        ("hw.Tgz", tarred({"a/attention.py": CODE})),
        ("hw.tar.bz2", tarred({"a/attention.py": CODE}, "w:bz2")),
        ("hw.tbz2", tarred({"a/attention.py": CODE}, "w:bz2")),
        ("hw.tar.xz", tarred({"a/attention.py": CODE}, "w:xz")),
        ("hw.TXZ", tarred({"a/attention.py": CODE}, "w:xz")),
        ("zip-called.tar", zipped({"a/attention.py": CODE})),
        ("tar-gz-called.zip", tarred({"a/attention.py": CODE})),
        ("zip-called.py", zipped({"a/attention.py": CODE})),
        ("no-suffix", zipped({"a/attention.py": CODE})),
        ("attention.py.gz", gzip.compress(CODE, mtime=0)),
        ("with-a-zip-inside.tar", tarred({"inner.zip": zipped({"a/attention.py": CODE})}, "w:")),
    ],
)
def test_archives_are_known_by_their_content_alone_and_in_a_folder(tmp_path, name, content):
    path = laid(tmp_path / "ada", {name: content}) / name

    alone, in_a_folder = take_in(path, MODULES), take_in(tmp_path / "ada", MODULES)

    assert alone.files == {"attention.py": CODE}
    assert in_a_folder.files == {"attention.py": CODE} or name == "no-suffix"


def test_an_archive_inside_is_opened_one_level_deep(submitted):
    inner = zipped({"attention.py": CODE, "deeper.zip": zipped({"flash_attention.py": CODE})})

    submission = submitted({"hw1.zip": inner, "comments.txt": b"hello"})

    assert submission.files == {"attention.py": CODE}
    assert submission.missing["flash_attention"].endswith(
        "found hw1.zip/deeper.zip, but archives are opened one level deep: unpack this one"
    )


def test_an_archive_inside_that_cannot_be_read_is_named(submitted):
    submission = submitted({"attention.py": CODE, "rest.zip": zipped({"flash_attention.py": CODE})[:-30]})

    assert submission.files == {"attention.py": CODE}
    assert submission.missing["flash_attention"].endswith(
        "found rest.zip, but it is cut off or damaged: pack it again and submit it again"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("hw.zip", b"", "hw.zip is empty (0 bytes): submit it again"),
        ("hw.zip", zipped({"attention.py": CODE})[:-30], "hw.zip is cut off or damaged: pack it again and submit it again"),
        ("hw.tar.gz", tarred({"attention.py": os.urandom(9000)})[:-4000], "hw.tar.gz is cut off or damaged: pack it again"),
        ("hw.zip", b"<html>please log in", "hw.zip is a web page: submit a .zip of your .py files"),
        ("hw.zip", b"7z\xbc\xaf\x27\x1c", "hw.zip is a 7z archive: submit a .zip of your .py files"),
        ("hw.zip", b"something else", "hw.zip is not a .zip or .tar archive: pack your .py files as a .zip"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_gets_one_sentence(tmp_path, name, content, said):
    submission = take_in(laid(tmp_path / "ada", {name: content}) / name, MODULES)

    assert submission.files == {}
    assert submission.problem.startswith(said)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("hw.7z", b"7z\xbc\xaf\x27\x1c", "found hw.7z, a 7z archive, which cannot be opened here: submit a .zip"),
        ("hw.rar", b"Rar!\x1a\x07", "found hw.rar, a RAR archive, which cannot be opened here: submit a .zip"),
        ("hw.pdf", b"%PDF", "found no Python file, only hw.pdf"),
        ("hw.docx", zipped({"word/a.xml": b""}), "found no Python file, only hw.docx"),
        ("hw.xyz", b"\x88\x99", "found no Python file, only hw.xyz"),
        ("attention.txt", CODE, "found attention.txt, a text file: save the code as attention.py"),
        ("hw", b"", "found no Python file, only hw"),
    ],
)
def test_a_file_that_is_no_archive_is_told_as_in_a_folder(tmp_path, name, content, said):
    folder = laid(tmp_path / "ada", {name: content})

    for door in (folder, folder / name):
        assert take_in(door, MODULES).missing["attention"] == f"attention.py is missing from the submission; {said}"


def test_one_damaged_file_of_a_zip_costs_that_file(tmp_path):
    data = bytearray(zipped({"attention.py": CODE * 50, "flash_attention.py": CODE}))
    data[60] ^= 0xFF
    (tmp_path / "hw.zip").write_bytes(data)

    submission = take_in(tmp_path / "hw.zip", MODULES)

    assert submission.files == {"flash_attention.py": CODE}
    assert submission.missing["attention"].endswith("but it is damaged in the archive: pack it again")


def test_the_row_of_each_test_says_it(grade_toy, toy_grader, tmp_path):
    source = laid(tmp_path / "ada", {"toy_final.py": TOY_SOLUTION.encode()})

    card = toy_grader.grade(take_in(source, toy_grader.lesson), Asked(seed=1))

    assert {row.message for row in card.outcomes} == {
        "toy.py is missing from the submission; found toy_final.py: rename it to toy.py"
    }


# ---------------------------------------------------------------------------------------------- folders that resist


def test_what_vanishes_while_it_is_read_is_named(tmp_path, monkeypatch):
    from autograder.intake import folders

    laid(tmp_path / "ada", {"attention.py": CODE, "flash_attention.py": CODE})
    real = folders.open_unfollowed

    def vanishing(path):
        if path.name == "attention.py":
            path.unlink()
        return real(path)

    monkeypatch.setattr(folders, "open_unfollowed", vanishing)
    submission = take_in(tmp_path / "ada", MODULES)

    assert submission.files == {"flash_attention.py": CODE}
    assert submission.missing["attention"].endswith(
        "found attention.py, but it cannot be read (no such file or directory)"
    )


@pytest.mark.parametrize("closed", ["ada", "ada/sub", "ada/attention.py", "ada/work.zip"])
def test_what_may_not_be_opened_is_said(tmp_path, monkeypatch, closed):
    laid(tmp_path / "ada", {"attention.py": CODE, "sub/x.py": CODE, "work.zip": zipped({"y.py": CODE})})
    _close(monkeypatch, tmp_path / closed)

    submission = take_in(tmp_path / "ada", MODULES)

    said = " ".join([submission.problem, *submission.notes])
    assert "cannot be read" in said
    assert str(tmp_path) not in said


def _close(monkeypatch, closed):
    """As chmod 000 does for anybody but root."""
    for name in ("open", "scandir"):
        real = getattr(os, name)

        def refusing(path, *args, real=real, **kwargs):
            if os.fspath(path) == str(closed):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, name, refusing)


def test_loops_of_links_sockets_and_endless_folders_end(tmp_path):
    import socket

    folder = laid(tmp_path / "ada", {"attention.py": CODE})
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to("self")
    here = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("socket.py")
        for _ in range(300):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)

    submission = take_in(folder, MODULES)

    assert submission.files == {"attention.py": CODE}
    assert [note for note in submission.notes if "not a regular file" in note] == [
        f"left out {name}: not a regular file" for name in ("loop", "self", "socket.py")
    ]
