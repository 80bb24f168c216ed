"""Receiving from student code, what is in a reply, and what is said when none comes: for every kind of process alike."""

import socket
from dataclasses import dataclass

from ..errors import BadReply, NotImported, StudentDied, StudentTimeout, cause_of, shown
from . import wire
from .clock import Clock


def receive(connection: socket.socket, clock: Clock, doing: str, caps: wire.Caps | None = wire.REPLY):
    """The value that comes before the time of `clock` is over; caps are those of a reply, and none for what ranks say to each other.

    Raises:
        StudentTimeout, StudentDied, BadReply
    """
    try:
        return wire.receive(connection, clock, caps)
    except wire.DeadlinePassed:
        raise StudentTimeout(f"{doing} {clock.over}") from None
    except wire.TooMuch as error:
        raise BadReply(f"your code returned too much: {error}") from None
    except wire.ProtocolError as error:
        raise BadReply(f"{doing} sent something that is not a reply: {error}") from None
    except (EOFError, OSError):
        raise StudentDied(f"your code's process ended while {doing}") from None


# ---------------------------------------------------------------------------------------------- what is in a reply

_TEXT_SHOWN = 300  # characters of an exception's text in a message
_MOST_NOTES = 200


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
    if type(reply) is not dict or len({"value", "error"} & set(reply)) != 1 or not set(reply) <= _FIELDS:
        raise BadReply("your code's process sent something that is not a reply")
    used = reply.get("used")
    notes = tuple(shown(note, 200) for note in used[:_MOST_NOTES]) if type(used) is list else ()
    if "value" in reply:
        return Reply(reply["value"], used=notes)
    if type(reply["error"]) is not dict:
        raise BadReply("your code's process sent something that is not a reply")
    return Reply(raised=_raised(reply["error"]), used=notes)


_FIELDS = {"value", "error", "used"}


def _raised(error):
    names = error.get("types") if type(error.get("types")) is list else []
    types = tuple(filter(None, (shown(name, 80) for name in names[:20]))) or ("Exception",)
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
