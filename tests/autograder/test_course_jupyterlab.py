"""JupyterLab opens a released lab. Skipped, and said, where neither playwright nor the PATH has a Chromium."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy_course import LESSON, SOLUTION, build, lab_of, submit, write_toy_course

pytestmark = pytest.mark.slow
NAMES = ("chromium", "chromium-browser", "google-chrome")  # of a system's browser, as distributions call it
BUSY_MS = 300_000  # on a machine that is busy
ALL_RAN = """
() => {
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map(prompt => prompt.textContent);
    return prompts.length > 0 && prompts.every(prompt => /[0-9]/.test(prompt));
}
"""
IS_SAVED = "() => document.querySelector('.jp-mod-current.lm-TabBar-tab.jp-mod-dirty') === null"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        own = started.chromium.executable_path
        found = own if Path(own).exists() else next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            pytest.skip("no Chromium: JupyterLab is not opened here")
        browser = started.chromium.launch(executable_path=found, chromium_sandbox=False)  # root has no sandbox
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path):
    """The address of a JupyterLab on a student's folder, and the folder."""
    write_toy_course(tmp_path)
    folder = submit(build(tmp_path), "ada", SOLUTION)
    command = [str(Path(sys.executable).parent / "jupyter"), "lab", "--no-browser", "--allow-root", "--port=0"]
    process = subprocess.Popen(
        [*command, "--IdentityProvider.token="],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = iter(process.stderr.readline, "")
        found = next(filter(None, (re.search(r"http://(?:localhost|127\.0\.0\.1):\d+", line) for line in lines)))
        yield found[0], folder
    finally:
        process.terminate()
        process.wait()


def test_a_released_lab_runs_in_jupyterlab(browser, server, tmp_path):
    address, folder = server
    page = browser.new_page(viewport={"width": 1280, "height": 2400})
    page.goto(f"{address}/lab/tree/{LESSON}.ipynb")
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=BUSY_MS)  # what is run before that is partly lost
    page.get_by_role("menuitem", name="Run").click()
    page.get_by_text("Run All Cells", exact=True).click()

    page.wait_for_function(ALL_RAN, timeout=BUSY_MS)
    page.screenshot(path=tmp_path / "lab.png", full_page=True)
    page.keyboard.press("Control+s")
    page.wait_for_function(IS_SAVED, timeout=BUSY_MS)

    cells = [cell for cell in lab_of(folder).cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells if cell.execution_count is None] == []
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert "toy.py, Mask: 3 points" in "".join(output.text for output in outputs)
