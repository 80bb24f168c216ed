"""The steps that run in nbgrader's commands, each on its own."""

import os
import sys
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from jupyter_client.kernelspec import KernelSpec
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from toy_course import LESSON, write_toy_course

from autograder.box.zygote import landlock
from autograder.errors import SubmissionError
from autograder.lesson import load
from autograder.notebooks import execute
from autograder.notebooks.export import joined
from autograder.notebooks.feedback import WithoutRubrics
from autograder.notebooks.in_lab import hidden_tests
from autograder.notebooks.restore import HarmlessOutput, _leave_pictures, _no_regular_files
from autograder.scorecard import FAILED, PASSED, Outcome, Scorecard

NAMES = {"nbgrader": {"student": "ada", "assignment": LESSON, "notebook": LESSON}}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("steps")
    write_toy_course(root)
    return load(LESSON, root)


# ---------------------------------------------------------------------------------------------- running


def test_a_notebook_is_not_run_where_nothing_confines_it(monkeypatch, caplog):
    monkeypatch.setattr(execute, "cannot_confine", lambda: "nothing here confines")
    lab = new_notebook(cells=[new_code_cell("print(1)")])

    run, _ = execute.ConfinedExecute().preprocess(lab, NAMES)

    assert run.cells[0].outputs == []


ZMQ = """
import zmq
contexts = [zmq.Context() for _ in range(4)]
sockets = [context.socket(zmq.PULL) for context in contexts]
print("x" * 200_000)
"""


@pytest.mark.slow
def test_a_kernel_goes_on_where_zmq_starts_threads_and_sends_large_outputs(tmp_path):
    """A large output is sent by threads that start late, when seccomp refuses what they ask for."""
    lab = new_notebook(cells=[new_code_cell(ZMQ), new_code_cell("print('still here')")])

    step = execute.ConfinedExecute(timeout=900, startup_timeout=300, iopub_timeout=60)
    run, _ = step.preprocess(lab, {"metadata": {"path": str(tmp_path)}, **NAMES})

    assert sum(len(output.text) for output in run.cells[0].outputs) == 200_001
    assert run.cells[1].outputs[0].text == "still here\n"


PRINT = """
import time
while True:
    print("x" * 10_000)
    time.sleep(0.001)  # without it the kernel's memory ends it
"""


@pytest.mark.slow
def test_a_notebook_that_prints_without_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "MOST_OUTPUT", 2 << 20)
    lab = new_notebook(cells=[new_code_cell(PRINT), new_code_cell("1 + 1")])

    step = execute.ConfinedExecute(timeout=3000, startup_timeout=300, iopub_timeout=60)
    run, _ = step.preprocess(lab, {"metadata": {"path": str(tmp_path)}, **NAMES})

    *printed, said = run.cells[0].outputs
    assert "The notebook stopped here (it prints more than 2 MB)" in said.text
    assert sum(len(output.text) for output in printed) <= 2 << 20
    assert run.cells[1].outputs == []


def test_what_a_notebook_may_not_hold_is_dropped():
    lab = new_notebook(cells=[new_code_cell("1", outputs=[new_output("stream", text="x")])])
    lab.cells[0].outputs[0]["output_type"] = "grade"

    execute._without_invalid(lab)

    assert lab.cells[0].outputs == []


def test_hidden_tests_give_nothing_where_nbgrader_runs_without_our_steps(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")

    with pytest.raises(RuntimeError, match="not graded"):
        hidden_tests("toy", "Mask", 3)


REACH = """
import os, socket
for what in (lambda: open({secret!r}).read(), lambda: os.listdir({folder!r}), socket.socket, lambda: open({secret!r}, "w")):
    try:
        print("REACHED", what())
    except OSError as error:
        print("refused")
print(os.getuid(), sorted(os.listdir(".")))
"""
AS_THE_GRADERS_USER = """
import sys
from autograder.box.zygote import confine

all_of = confine.available
confine.available = lambda without: all_of({*without, "uid"})
from autograder.notebooks import kernel

kernel.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(not landlock.abi(), reason="needs Landlock, or an own user for each kernel")
def test_a_kernel_that_shares_the_graders_user_reaches_nothing_either(tmp_path, monkeypatch):
    (tmp_path / "kernel.py").write_text(AS_THE_GRADERS_USER)
    command = [sys.executable, "-P", "-B", str(tmp_path / "kernel.py"), "{connection_file}"]
    monkeypatch.setattr(execute, "_SPEC", KernelSpec(argv=command, display_name="", language="python"))
    secret, work = tmp_path / "secret.txt", tmp_path / "ada" / LESSON
    work.mkdir(parents=True)
    secret.write_text("SECRET")
    (work / "toy.py").write_text("")
    (work / f"{LESSON}.ipynb").write_text("with rubrics")
    lab = new_notebook(cells=[new_code_cell(REACH.format(secret=str(secret), folder=str(tmp_path)))])

    step = execute.ConfinedExecute(timeout=900, startup_timeout=300, iopub_timeout=60)
    run, _ = step.preprocess(lab, {"metadata": {"path": str(work)}, **NAMES})

    said = "".join(output.get("text", "") for output in run.cells[0].outputs)
    assert said.split("\n") == ["refused"] * 4 + [f"{os.getuid()} ['toy.py']", ""]
    assert secret.read_text() == "SECRET"


# ---------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    "data",
    [
        {"text/html": "<img src=x onerror=alert(1)>"},
        {"application/javascript": "alert(1)"},
        {"image/svg+xml": "<svg onload=alert(1)>"},
    ],
)
def test_outputs_run_nothing_in_a_browser(data):
    lab = new_notebook(cells=[new_code_cell("", outputs=[new_output("display_data", data=data)])])

    shown, _ = HarmlessOutput().preprocess(lab, {})

    kept = shown.cells[0].outputs[0].data
    assert [text for text in kept.values() if "<img" in text or "<svg" in text or text == "alert(1)"] == []


BAD = 'X" onload="alert(1)'
METADATA = [
    {"image/png": {"width": "1 onload=alert(3)", "height": BAD}},
    {"image/png": {"width": 1.5, "height": True, "alt": BAD, "unconfined": True}},
    {"image/png": "1 onload=alert(1)", "filenames": {"image/png": "../x.png"}},
    {"isolated": True, "needs_background": "light"},
]


def page_of(*cells):
    """What the formgrader shows of cells."""
    shown, _ = HarmlessOutput().preprocess(new_notebook(cells=list(cells)), {})
    page = HTMLExporter(template_name="classic").from_notebook_node(shown)[0]
    return BeautifulSoup(page[page.index("<body") :], "html.parser")


@pytest.mark.parametrize("metadata", METADATA)
def test_of_what_an_output_says_of_itself_sizes_stay(metadata):
    picture = new_output("display_data", data={"image/png": "aGk="}, metadata=metadata)
    honest = new_output("display_data", data={"image/png": "aGk="}, metadata={"image/png": {"width": 3, "height": 4}})

    bad, good = page_of(new_code_cell("", outputs=[picture, honest])).find_all("img")

    assert {**bad.attrs, "alt": ""} == {"src": "data:image/png;base64,aGk=", "alt": ""}
    assert (good["width"], good["height"]) == ("3", "4")


def test_a_picture_that_is_none_is_not_shown():
    output = new_output("display_data", data={"image/png": BAD, "image/jpeg": "aGk="})

    assert [img["src"] for img in page_of(new_code_cell("", outputs=[output])).find_all("img")] == [
        "data:image/jpeg;base64,aGk="
    ]


LINKS = [
    "[x](javascript:alert(1))",
    "[x]( java\nscript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](&#106;avascript:alert(1))",
    "[x](java&Tab;script:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](%6aavascript:alert(1))",
    "[x](vbscript:x)",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    "[r]\n\n[r]: javascript:alert(1)",
    "[r][]\n\n[r]:\n  javascript:alert(1)",
    "[![y](https://a.b/c.png)](javascript:alert(1))",
    "<javascript:alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    '<a href="/formgrader/x">x</a>',
    "![a](/formgrader/x?logout)",
    "[a](//evil.example/x)",
    "| a |\n|---|\n| [x](javascript:alert(1)) |",
    "- [ ] [x](javascript:alert(1))",
    "# [x](javascript:alert(1))",
    "![x](attachment:none.png)",
    "term\n: [x](javascript:alert(1))",
]


def harmless_target(target):
    return target.startswith(("https://", "mailto:", "#", "data:image/png;base64,"))


@pytest.mark.parametrize("text", LINKS)
def test_links_lead_to_the_web_or_nowhere(text):
    output = new_output("display_data", data={"text/markdown": text})
    page = page_of(new_markdown_cell(text), new_code_cell("", outputs=[output]), new_markdown_cell("after"))

    targets = [tag.get("href", tag.get("src")) for tag in page.find_all(["a", "img"])]
    assert [target for target in targets if target is not None and not harmless_target(target)] == []
    assert "after" in page.get_text()


@pytest.mark.parametrize(
    "text",
    [
        "![x](https://evil.example/x.png)",
        "[y](https://a.b/) ![x][r]\n\n[r]: https://evil.example/x.png",
        '<img src="https://evil.example/x.png">',
        "[![x](https://evil.example/x.png)](https://a.b/)",
        "![x](//evil.example/x.png)",
    ],
)
def test_no_picture_is_fetched(text):
    output = new_output("display_data", data={"text/markdown": text, "text/html": text})
    plain = new_output("display_data", data={"text/markdown": text})
    page = page_of(new_markdown_cell(text), new_code_cell("", outputs=[output, plain]))

    assert [tag for tag in page.find_all(src=True) if not tag["src"].startswith("data:image/png;base64,")] == []


def test_a_picture_elsewhere_becomes_a_link_and_others_stay():
    text = "![x](https://a.b/c.png) ![plot](attachment:a.png) [r](https://example.org)"
    page = page_of(new_markdown_cell(text, attachments={"a.png": {"image/png": "aGk="}}))

    assert [tag["href"] for tag in page.find_all("a", href=True)] == ["https://a.b/c.png", "https://example.org"]
    assert [tag["src"] for tag in page.find_all("img")] == ["data:image/png;base64,aGk="]


def test_honest_text_stays_as_it_was_written():
    text = """# A [link](https://example.org/a?b=c) and <https://example.org>

[mail](mailto:a@b.c), [down](#there), $a_{[1]}$, ![plot](attachment:a.png), `x[0](1)`, a list[int]: see [r]

| of | points |
|:---|---:|
| Mask | 3 |

[r]: https://example.org/r
"""
    cell = new_markdown_cell(text, attachments={"a.png": {"image/png": "aGk="}})
    ours = new_markdown_cell("[file](toy.py)", metadata={"nbgrader": {"locked": True}})
    shown, _ = HarmlessOutput().preprocess(new_notebook(cells=[cell, ours]), {})

    assert shown.cells[0].source == text.replace("<https://example.org>", "&lt;https://example.org&gt;")
    assert shown.cells[1].source == "[file](toy.py)"


def test_folders_without_end_are_one_students_error(tmp_path):
    place = tmp_path
    for _ in range(150):
        place = place / "d"
        place.mkdir()

    with pytest.raises(SubmissionError, match="more than 100 deep"):
        list(_no_regular_files(tmp_path))


def test_of_attachments_pictures_stay():
    cell = new_markdown_cell("![](a.png)")
    cell["attachments"] = {
        "a.png": {"image/png": "aGk="},
        'b" onerror="x': {"image/png": "aGk="},
        "c.html": {"text/html": "<b>"},
        "d.png": {"image/png": '"><script>'},
    }

    _leave_pictures(cell)

    assert cell["attachments"] == {"a.png": {"image/png": "aGk="}}


def test_only_questions_lose_what_looks_like_a_rubric():
    text = "a\n### BEGIN MARK SCHEME\nb\n### END MARK SCHEME\nc"
    marks = {"grade": False, "grade_id": "q", "locked": True, "solution": False, "schema_version": 3, "task": False}
    question, answer = new_markdown_cell(text, metadata={"nbgrader": marks}), new_markdown_cell(text)

    shown, _ = WithoutRubrics().preprocess(new_notebook(cells=[question, answer]), {})

    assert [cell.source for cell in shown.cells] == ["a\nc", text]


# ---------------------------------------------------------------------------------------------- joined


def row(test, question, points, of):
    return Outcome(test, "toy", question, test, PASSED if points == of else FAILED, points, of)


def grade(name, auto=None, manual=None, waits=False):
    score = manual if manual is not None else auto or 0.0
    return SimpleNamespace(name=name, auto_score=auto, manual_score=manual, needs_manual_grade=waits, score=score), ""


CARD = Scorecard(
    LESSON, "ada", 1, (row("one", "Mask", 2, 2), row("two", "Mask", 0, 1), row("three", "Arguments", 1, 1))
)


def test_answers_become_rows_and_some_wait(toy):
    card = joined(
        toy, CARD, [grade("toy-mask", 2), grade("written-diagonal", manual=1.5), grade("written-cost", waits=True)]
    )

    assert (card.score, card.max_score, card.pending_person_points) == (4.5, 6, 3)


def test_points_that_a_person_changed_stand_for_the_whole_question(toy):
    card = joined(toy, CARD, [grade("toy-mask", 2, manual=2.5), grade("toy-arguments", 1)])

    assert [(each.test, each.points, each.max_points) for each in card.outcomes] == [
        ("(by hand)", 2.5, 3),
        ("three", 1, 1),
    ]


def test_a_joined_card_can_be_read_again(toy):
    card = joined(toy, CARD, [grade("written-diagonal", auto=0.0)])

    assert Scorecard.from_json(card.to_json()) == card
    assert card.outcomes[-1].message == "not answered"
