"""Receiving from student code, what is in a reply, and what is said when none comes: for every kind of process alike."""

import socket
from dataclasses import dataclass

from ..errors import BadReply, NotImported, StudentDied, cause_of, class_name, shown
from . import wire
from .clock import Clock


def receive(connection: socket.socket, clock: Clock, doing: str, caps: wire.Caps | None = wire.REPLY):
    """The value that comes before the time of `clock` is over; caps are those of a reply, and none for what ranks say to each other.

    Raises:
        StudentTimeout, StudentDied, BadReply. BoxError: the machine gave the code no processor.
    """
    try:
        return wire.receive(connection, clock, caps)
    except wire.DeadlinePassed:
        raise clock.fault(doing) from None
    except wire.TooMuch as error:
        raise BadReply(f"your code returned too much: {error}") from None
    except wire.ProtocolError as error:
        raise BadReply(f"{doing} sent something that is not a reply: {error}") from None
    except (EOFError, OSError):
        raise StudentDied(f"your code's process ended while {doing}") from None


# ---------------------------------------------------------------------------------------------- what is in a reply

_TEXT_SHOWN = 300  # characters of an exception's text in a message
_MOST_NOTES = 200
_MOST_TYPES = 20  # of an exception's class and its bases


@dataclass(frozen=True)
class Raised:
    """An exception in the student's process: names of its class and bases, its text, where, the traceback; made harmless."""

    types: tuple[str, ...]
    text: str = ""
    where: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Reply:
    """What a process answered: a value, or what it raised; and the forbidden calls that tripwires noted."""

    value: object = None
    raised: Raised | None = None
    used: tuple[str, ...] = ()


def read(reply) -> Reply:
    """A reply that was received. It comes from the student's process, which can send anything: no field is trusted.

    Raises:
        BadReply: it is not of the form that box/inside/worker.py gives a reply.
    """
    if not _is_a_reply(reply):
        raise BadReply("your code's process sent something that is not a reply")
    notes = tuple(shown(note, 200) for note in reply.get("used", [])[:_MOST_NOTES])
    if "value" in reply:
        return Reply(reply["value"], used=notes)
    return Reply(raised=_raised(reply["error"]), used=notes)


def _is_a_reply(reply):
    """Whether it has the fields of one, each of its type: what is read afterwards cannot fail."""
    if type(reply) is not dict or set(reply) - {"used"} not in ({"value"}, {"error"}):
        return False
    if not _are_texts(reply.get("used", [])):
        return False
    return "value" in reply or _is_an_error(reply["error"])


def _is_an_error(error):
    if type(error) is not dict or not {"types"} <= set(error) <= {"types", "text", "where", "traceback"}:
        return False
    texts = [text for name, text in error.items() if name != "types"]
    return _are_texts(texts) and _are_texts(error["types"]) and len(error["types"]) > 0


def _are_texts(values):
    return type(values) is list and all(type(value) is str for value in values)


def _raised(error):
    types = tuple(filter(None, map(class_name, error["types"][:_MOST_TYPES]))) or ("Exception",)
    text, where = shown(error.get("text"), _TEXT_SHOWN), shown(error.get("where"), _TEXT_SHOWN)
    return Raised(types, text, where, shown(error.get("traceback"), 6000, keep="\n"))


def check_import(module: str, reply) -> None:
    """Raises NotImported, which says why the module could not be imported, in the student's terms, if so."""
    raised = read(reply).raised
    if raised is None:
        return
    place = f" ({raised.where})" if raised.where else ""
    message = f"{module}.py cannot be imported: {raised.types[0]}: {raised.text}{place}"
    raise NotImported(message, detail=raised.traceback, cause=cause_of(raised.types, raised.text))
