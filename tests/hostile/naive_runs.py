"""Runs the test_naive.py of each folder below FOLDER, in a fork each: prints folder -> tests that did not fail, as JSON.

The student's code and pytest share a process, as in most courses. A process that ends with 0 and says nothing has not
failed a single test: that is how its caller sees it.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch

TESTS = 3


def not_failed(folder: Path) -> int:
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            os.chdir(folder)
            sys.path.insert(0, str(folder))
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = pytest.main(
                ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder), "test_naive.py"]
            )
            sys.stdout.flush()
            os._exit(int(code))
        code = os.waitpid(child, 0)[1]
        output.seek(0)
        summary = (output.read().splitlines() or [""])[-1]
        return TESTS if code == 0 else sum(map(int, re.findall(r"(\d+) (?:passed|skipped|xfailed)\b", summary)))


if __name__ == "__main__":
    torch.set_num_threads(1)  # before any operation: forks hang in OpenMP otherwise
    print(json.dumps({folder.name: not_failed(folder) for folder in sorted(Path(sys.argv[1]).iterdir())}))
