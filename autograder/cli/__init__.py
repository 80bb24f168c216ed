"""The command `autograder`: one subcommand a verb, no logic.

Exit codes: 0 graded (whatever the scores), 1 a grader error, 2 wrong use or a scorecard that had to be left out, 130 stopped
by Ctrl-C or SIGTERM.
"""

import errno
import signal
import sys

from rich.markup import escape

from ..errors import AutograderError, UsageError
from ..files import cannot_be_written
from .shared import app, console

from . import grading, written, author, release  # isort: skip - they add their commands to the app, in this order

__all__ = ["app", "author", "console", "grading", "main", "release", "written"]
app.info.help = __doc__
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, or what this user may have of it


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show ends no grading
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's wish to stop is as Ctrl-C
    try:
        app(standalone_mode=True)
    except UsageError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(2)
    except AutograderError as error:
        console.print(f"[bold magenta]grader error:[/] {escape(str(error))}")
        sys.exit(1)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"error: {cannot_be_written(error.filename or 'the output', error)}", file=sys.stderr)
        sys.exit(2)
