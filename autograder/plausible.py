"""What a scorecard.json may say: a stranger's can hold any number and any name. Each of these raises ValueError with a sentence."""

MOST = 1e9  # points, seconds, MB: what is more is nothing that can be added
_MOST_SEED = 1 << 64
_LONGEST_NAME = 255  # bytes, as file systems have it
_DEEPEST = 100  # each join of cards may add one


def amount(value: object, what: str) -> None:
    """Of points, seconds or memory."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
        raise ValueError(f"{what} should be a number from 0 to {MOST:g} and is {_short(value)}")


def seeds(*values: object) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST_SEED:
            raise ValueError(f"a seed should be a whole number and is {_short(value)}")


def _short(value):
    """A number can have more digits than Python writes."""
    return "larger" if isinstance(value, int) and abs(value) > _MOST_SEED else repr(str(value)[:40])


def name_of_a_folder(student: object) -> None:
    """A card is kept in a folder of the student's name: one harmless part of a path, and not of this system's alone."""
    if not isinstance(student, str):
        raise ValueError("a student's name should be a text")
    length = len(student.encode("utf-8", "replace"))
    if student in ("", ".", "..") or set(student) & set("/\\\0") or student[1:2] == ":" or length > _LONGEST_NAME:
        raise ValueError(f"the student's name {student[:40]!r} cannot be a folder's")


def depth(value: object, what: str, left: int = _DEEPEST) -> None:
    """Of objects in objects."""
    if isinstance(value, dict | list):
        if left == 0:
            raise ValueError(f"{what} is more than {_DEEPEST} deep")
        for item in value.values() if isinstance(value, dict) else value:
            depth(item, what, left - 1)
