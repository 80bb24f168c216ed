"""The text of a handout -> the pieces of a notebook: prose and code."""

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^(```+|~~~+)(\w*)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$")


@dataclass(frozen=True)
class Piece:
    """A stretch of a handout.

    Attributes:
        heading: the nearest above it. text: without the fence, if it is code. is_code: whether it is Python to be run.
        starts: whether a heading is its first line.
    """

    heading: str
    text: str
    is_code: bool = False
    starts: bool = False


def pieces_of(text: str) -> list[Piece]:
    """The handout in order: a piece of prose begins at each heading, and each python block is one of code."""
    reader = _Reader()
    for line in text.splitlines():
        reader.read(line)
    reader.end_piece()
    return reader.found


class _Reader:
    """Takes a handout line by line."""

    def __init__(self) -> None:
        self.found: list[Piece] = []
        self._heading, self._starts = "", False
        self._lines: list[str] = []
        self._fence, self._in_code = "", False

    def read(self, line: str) -> None:
        mark, title = _FENCE.match(line), _HEADING.match(line)
        if self._fence:
            self._read_fenced(line)
        elif mark:
            self._begin_fence(line, mark[1], mark[2] == "python")
        else:
            if title:
                self.end_piece()
                self._heading, self._starts = title[1], True
            self._lines.append(line)

    def _begin_fence(self, line: str, fence: str, is_code: bool) -> None:
        self._fence, self._in_code = fence, is_code
        if is_code:
            self.end_piece()
        else:
            self._lines.append(line)

    def _read_fenced(self, line: str) -> None:
        ends = line.strip() == self._fence
        if ends and self._in_code:
            self.end_piece(is_code=True)
        else:
            self._lines.append(line)
        if ends:
            self._fence, self._in_code = "", False

    def end_piece(self, is_code: bool = False) -> None:
        content = "\n".join(self._lines).strip("\n")
        if content.strip():
            self.found.append(Piece(self._heading, content, is_code, self._starts and not is_code))
        self._lines, self._starts = [], False


def starts_ranks(code: str) -> bool:
    """Whether a block is a program of several processes, which must be a file that each of them imports."""
    return "from grading.gloo import" in code
