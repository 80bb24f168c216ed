"""Runs each python block of a handout alone, in a namespace of its own, and then what a test claims of it.

    python handout_blocks.py HANDOUT CLAIMS.json        prints a JSON list of [heading, error or ""]

A claim is code that runs after its block, in its namespace, with `printed`, what the block wrote, and `plotted`, the lines of
its last axes. A block belongs to the nearest heading above it.
"""

import contextlib
import io
import json
import re
import sys
import traceback
from pathlib import Path


def blocks_with_headings(text: str) -> list[tuple[str, str]]:
    """(heading, code) of each python block."""
    pieces = re.findall(r"^```(\w*)\n(.*?)^```|^#+ +(.+?) *$", text, re.MULTILINE | re.DOTALL)
    heading, found = "", []
    for language, code, title in pieces:
        heading = title or heading
        if language == "python":
            found.append((heading, code))
    return found


def run_alone(code: str, claim: str) -> str:
    """The traceback of a block or of the claim that is made of it, or ""."""
    import matplotlib.pyplot as plt

    plt.close("all")
    namespace, output = {"__name__": "__main__"}, io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            exec(compile(code, "block", "exec"), namespace)
        namespace["printed"] = output.getvalue()
        namespace["plotted"] = [list(map(float, line.get_ydata())) for line in plt.gca().lines]
        exec(compile(claim, "claim", "exec"), namespace)
    except Exception:
        return traceback.format_exc() + output.getvalue()
    return ""


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    claims = json.loads(Path(sys.argv[2]).read_text("utf-8"))
    blocks = blocks_with_headings(Path(sys.argv[1]).read_text("utf-8"))
    print(json.dumps([[heading, run_alone(code, claims.get(heading, ""))] for heading, code in blocks]))
