"""The marks of a solution, where they belong, and what looks like one without being one.

A mark that was overlooked gives the solution away, so whatever begins nearly as a mark does is refused (stub.py).
"""

import difflib
import re

MARKS = {
    "# student: hint": "on a line of its own, directly below a function's docstring or signature",
    "# solution only": "at the end of a def, class, import or assignment line",
}
STUDENT = re.compile(r"# student:(?P<hint>.*)")
SOLUTION_ONLY = "# solution only"
WHERE = " and ".join(f"{mark!r} belongs {place}" for mark, place in MARKS.items()) + "."
_EXACT = re.compile(r"(?<![#\w])# student:|# solution only$")
_LIKE_A_MARK = re.compile(r"#\s*(student\s*:|solution[ _-]only)", re.IGNORECASE)
_LIKE_A_MARK_OF_A_DEF = re.compile(r"#\s*(students?|solutions?)\b", re.IGNORECASE)
_BEGINS = re.compile(r"[\W_]*(todo\W+)?([^\W_]+)([\W_]*)([^\W_]*)")


def is_exact(comment: str) -> bool:
    """Whether a mark is in the comment as it is spelt: it marks something, or is in the wrong place."""
    return _EXACT.search(comment) is not None


def is_like_a_mark(comment: str) -> bool:
    """Whether a comment begins with nearly the words of a mark: `# stduent: hint`, `#: student - hint`, `# solutions only`.

    The TODO of a starter is one, too: whoever writes it into a solution means the mark.
    """
    begins = _BEGINS.match(comment.lower())
    if _LIKE_A_MARK.search(comment) or begins is None:
        return begins is not None
    todo, first, between, second = begins.groups()
    if _is_nearly(first, "student"):
        return bool(todo) or first not in ("student", "students") or between.strip(" _")[:1] in tuple(":：;=-–—>")
    return _is_nearly(first, "solution") and (_is_nearly(second, "only") or between.strip()[:1] in tuple(":："))


def is_like_a_mark_of_a_def(comment: str) -> bool:
    """The same where a mark is to be expected: `# student`, without its colon, is enough."""
    return is_like_a_mark(comment) or _LIKE_A_MARK_OF_A_DEF.search(comment) is not None


def _is_nearly(word, other):
    return difflib.SequenceMatcher(None, word, other).ratio() >= 0.75
