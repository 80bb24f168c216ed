"""JupyterLab opens a released lab. Skipped, and said, where there is no Chromium that playwright knows (`playwright install chromium`)."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_course import LESSON, SOLUTION, build, submit, write_toy_course

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        if not Path(started.chromium.executable_path).exists():
            pytest.skip("no Chromium: JupyterLab is not opened here")
        browser = started.chromium.launch()
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
    page = browser.new_page()
    page.goto(f"{address}/lab/tree/{LESSON}.ipynb")
    page.get_by_role("menuitem", name="Run").click()
    page.get_by_text("Run All Cells", exact=True).click()

    wanted = "toy.py, Mask: 3 points"
    page.wait_for_function("text => document.body.innerText.includes(text)", arg=wanted, timeout=300_000)
    time.sleep(1)
    page.screenshot(path=tmp_path / "lab.png", full_page=True)
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
