"""Every error of the package, by whose fault it is.

    AutograderError
    ├── UsageError          the person at the keyboard: exit code 2, says which file or value and what to do
    │   ├── LessonError     a lesson's own files do not fit together
    │   ├── StubError       a solution cannot be cut into a starter
    │   └── SubmissionError a submission cannot be taken in
    ├── GraderFault         ours, unless the solution passes where it came up (witness.py)
    │   ├── AuthorError     a hidden test is wrong
    │   └── BoxError        the box itself broke, or a layer that was asked for is missing
    └── StudentFault        the student's: the outcome is failed
        ├── NotSubmitted    the module is missing, or the submission cannot be read
        ├── NotImported     the module raised while it was imported
        ├── CheckFailed     a value is not what the contract says
        ├── StudentRaised   the code raised
        ├── StudentTimeout  the code computed or waited too long
        ├── StudentDied     the process ended: os._exit, a crash, or a limit of the box
        └── BadReply        the process sent something that is not a reply, or too much

This file is copied into every handout: it imports the standard library only.
"""

import builtins
import difflib
from unicodedata import category


def clean(text: str, keep: str = "") -> str:
    """A stranger's text without what a terminal obeys, hides or turns around, each of which becomes "?".

    Spaces of every width stay; a file name's bytes that another locale could not read are read as UTF-8.

    Args:
        keep: control characters that stay.
    """
    if text.isprintable():
        return text
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # halves of characters, which no file name gives
        pass
    return "".join(char if char.isprintable() or char in keep or category(char) == "Zs" else "?" for char in text)


def shown(text, most: int, keep: str = "") -> str:
    """A stranger's text made harmless for a message or a terminal: printable, on one line, capped.

    Args:
        text: anything; what is not a string gives "". most: characters. keep: control characters that stay.
    """
    if not isinstance(text, str):
        return ""
    text = text[: 4 * most]
    line = text if keep else " ".join(text.split())
    line = clean(line, keep)
    return line if len(line) <= most else line[:most] + " …"


def class_name(name: str) -> str:
    """The name of a stranger's class made harmless: such as a class statement may have, and no longer than honest ones."""
    return "".join(char if f"_{char}".isidentifier() else "_" for char in name[:_LONGEST_CLASS])


_LONGEST_CLASS = 48  # characters


def builtin_among(types) -> str:
    """The first of an exception's types (most derived first) that is one of Python's own: what tables count."""
    own = (name for name in types if isinstance(getattr(builtins, name, None), type))
    return next((name for name in own if issubclass(getattr(builtins, name), BaseException)), "Exception")


class AutograderError(Exception):
    """Something that the package itself says; its text is a sentence for the person who must act.

    It may name a stranger's file or quote one, so it is made clean here, for whoever shows it.
    """

    def __init__(self, *args: object):
        super().__init__(*(clean(arg, "\n\t") if isinstance(arg, str) else arg for arg in args))


class UsageError(AutograderError):
    """Wrong use: the message names the file or the value, and what to do."""


class LessonError(UsageError):
    """A lesson's files do not fit together."""


class StubError(UsageError):
    """A solution cannot be cut into a starter."""


class SubmissionError(UsageError):
    """A submission cannot be taken in."""


class GraderFault(AutograderError):
    """The grader's own fault: it asks for a regrade and costs the student nothing."""


class AuthorError(GraderFault):
    """A hidden test is wrong; where the solution passes it, the student's reply made it so, and it is a failure."""


class BoxError(GraderFault):
    """The box broke, or a layer that was required is not available here."""


class StudentFault(AutograderError):
    """The submission's fault; the text is shown to the student.

    Attributes:
        mistake: the known mistake that was recognised, in a sentence, or None.
        detail: more for the instructor (a traceback, the values that differ): no student sees it of a hidden test.
        cause: one of scorecard.CAUSES: what kept the code from answering at all, or "".
    """

    cause = ""

    def __init__(self, message: str, mistake: str | None = None, detail: str = "", cause: str = ""):
        super().__init__(message)
        self.mistake = mistake
        self.detail = detail
        self.cause = cause or type(self).cause


class NotSubmitted(StudentFault):
    """There is nothing to run: a fact of the submission, whatever the tests are."""


class NotImported(StudentFault):
    """The module raised while it was imported: the student's fault, unless the solution cannot be imported here either."""


class CheckFailed(StudentFault):
    """A value that came back is not what the contract says."""


class StudentRaised(StudentFault):
    """The student's code raised an exception.

    Attributes:
        types: names of the exception's class and its bases, most derived first.
        text: str() of the exception, cleaned and capped.
    """

    def __init__(self, message: str, types: tuple[str, ...] = (), text: str = "", detail: str = ""):
        super().__init__(message, detail=detail, cause=cause_of(types, text))
        self.types = types
        self.text = text


class StudentTimeout(StudentFault):
    """The student's code used more processor time than it had, or waited for something without end."""

    cause = "timeout"


class StudentDied(StudentFault):
    """The student's process ended before it answered."""

    cause = "died"


class BadReply(StudentFault):
    """The student's process sent bytes that are not a reply to what was asked, or a reply that holds too much."""


def cause_of(types, text: str) -> str:
    """The cause that an exception of these types (most derived first) stands for, as StudentFault.cause."""
    if "SyntaxError" in types or "null bytes" in text:
        return "syntax"
    if "ModuleNotFoundError" in types:
        return "import"
    if "MemoryError" in types or "DefaultCPUAllocator" in text:
        return "died"
    return ""


def nearest(name: str, known, most: int = 1) -> str:
    """A suggestion to end a message with, where `name` is a part of a known name or looks like one: "; did you mean …?"."""
    known = list(known)
    begun = [each for each in known if name and each.startswith(name)]
    held = [each for each in known if len(name) > 2 and name in each]
    close = begun or held or difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close[:most]))}?" if close else ""
