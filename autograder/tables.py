"""A table that came back from those who grade -> its rows, or a sentence with the line that is not one."""

import csv
import io
from pathlib import Path

from .errors import UsageError

_AS_CSV = "save the table as 'CSV UTF-8' in the spreadsheet"
_MOST_CELL = 1 << 20  # characters; the csv module's own limit is smaller than a question with its rubric may be


def rows_of(path: Path) -> list[tuple[str, dict[str, str]]]:
    """(Where the row is: its number as a spreadsheet counts, and its line in the file; column -> cell), without empty rows.

    Raises:
        UsageError: the file cannot be read, is not CSV, or lacks the columns.
    """
    text = _text_of(path)
    lines = _lines_of(path, text)
    _, names = lines[0] if lines else (1, [])
    names = [name.strip().lower() for name in names]
    for name in ("key", "points"):
        if names.count(name) != 1:
            raise UsageError(f"{path} has {names.count(name)} columns {name!r}: it should have one, as it was exported")
    found = []
    for at, (line, cells) in enumerate(lines[1:], 2):
        if not any(map(str.strip, cells)):
            continue
        where = f"row {at}, line {line}"
        if any(map(str.strip, cells[len(names) :])):
            raise UsageError(
                f"{path}, {where}: it has {len(cells)} cells and the first row {len(names)}: put a text with a comma in quotes"
            )
        found.append((where, dict(zip(names, [*cells, *[""] * len(names)], strict=False))))
    return found


def _text_of(path):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if content.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise UsageError(f"{path} is a spreadsheet's own file, not CSV: {_AS_CSV}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: it is not UTF-8: {_AS_CSV}") from error


def _lines_of(path, text):
    """(The line on which a row begins, its cells)."""
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    before = csv.field_size_limit(_MOST_CELL)
    lines, begins = [], 1
    try:
        for cells in reader:
            lines.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{path}, line {begins}: it is not CSV ({error}): {_AS_CSV}") from error
    finally:
        csv.field_size_limit(before)
    return lines
