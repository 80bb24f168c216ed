"""What must hold of one lesson, in one command: `make check LESSON=NN-name`.

Two runs of pytest, side by side: every sample, and every other test that is about the lesson (`--lesson`, conftest.py), with
its public tests on the starter and the solution, and each block of its handout. Beside them, ruff on its files.

`make test` does what this leaves: all other lessons, the memory that a grading takes through the zip, work beside six busy
processes, and the tables of docs/proof.md, which `make mutants` and `make costs` write.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile

from autograder.errors import UsageError
from autograder.lesson import load, load_all

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = "tests/test_samples.py"
LEFT = {SAMPLES, "tests/test_busy_machine.py", "tests/test_costs.py"}
OF_THE_PACKAGE = ["tests/autograder/test_handout.py", "tests/autograder/test_author_samples.py"]
COUNTS = re.compile(r"^(?:\d+ \w+(?:, )?)+ in [\d.]+s.*$", re.MULTILINE)


def commands(lesson) -> dict[str, list[str]]:
    """What is run -> its command."""
    others = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").glob("test_*.py"))]
    pytest = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--lesson={lesson.name}"]
    files = [folder for folder in (lesson.solution, lesson.tests) if folder.is_dir()]
    return {
        "samples": [*pytest, SAMPLES],
        "suites, public tests, handout": [*pytest, *(path for path in others if path not in LEFT), *OF_THE_PACKAGE],
        "lint": [sys.executable, "-m", "ruff", "check", *map(str, files)],
        "format": [sys.executable, "-m", "ruff", "format", "--check", *map(str, files)],
    }


def started(command):
    """(process, file of what it says): a file, because a pipe that nobody reads would stop it."""
    said = TemporaryFile("w+")  # noqa: SIM115 - it is read when the process has ended
    environment = {**os.environ, "COLUMNS": "120", "AUTOGRADER_ROOT": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, env=environment), said


def check(lesson) -> bool:
    """Prints what does not hold, and last a line that says whether all does."""
    began, failed = time.monotonic(), []
    print(f"{lesson.name}: {', '.join(commands(lesson))}: this takes a minute or two", flush=True)
    running = {name: started(command) for name, command in commands(lesson).items()}
    try:
        for name, (process, file) in running.items():
            code = process.wait()
            file.seek(0)
            said = file.read()
            counts = COUNTS.findall(said)
            print(f"{name}: {counts[-1] if counts else 'ok' if code == 0 else 'failed'}", flush=True)
            if code:
                failed.append(name)
                print(said, flush=True)
    finally:
        for process, file in running.values():
            process.terminate()
            process.wait()
            file.close()
    used = os.times()
    spent = f"{time.monotonic() - began:.0f} s, {used.children_user + used.children_system:.0f} s of processor time"
    print(f"{lesson.name}: {' and '.join(failed) + ' failed' if failed else 'all of it holds'} ({spent})")
    return not failed


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            known = ", ".join(lesson.name for lesson in load_all(ROOT))
            raise UsageError(f"name a lesson, such as `make check LESSON=01-attention`: there are {known}")
        sys.exit(not check(load(sys.argv[1], ROOT)))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
