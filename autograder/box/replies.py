"""Receiving from student code, and what is said when nothing comes: the same for every kind of process it runs in."""

import socket

from ..errors import BadReply, StudentDied, StudentFault, StudentTimeout, cause_of, shown
from . import wire
from .clock import Clock


def receive(connection: socket.socket, clock: Clock, doing: str):
    """The value that comes before the time of `clock` is over.

    Raises:
        StudentTimeout, StudentDied, BadReply
    """
    try:
        return wire.receive(connection, clock)
    except wire.DeadlinePassed:
        raise StudentTimeout(f"{doing} {clock.over}") from None
    except wire.ProtocolError as error:
        raise BadReply(f"{doing} sent something that is no reply: {error}") from None
    except (EOFError, OSError):
        raise StudentDied(f"the process ended while {doing}") from None


def check_import(module: str, reply) -> None:
    """Raises a StudentFault that says, in the student's terms, why the module could not be imported, if so."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if error is None:
        return
    error = error if isinstance(error, dict) else {}
    types = error.get("types") if isinstance(error.get("types"), list) else []
    text, where = shown(error.get("text"), 300), shown(error.get("where"), 300)
    types = [shown(kind, 80) for kind in types[:20]]
    name = types[0] if types else "an exception"
    place = f" ({where})" if where else ""
    detail = shown(error.get("traceback"), 6000, keep="\n")
    said = f"{module}.py cannot be imported: {name}: {text}{place}"
    raise StudentFault(said, detail=detail, cause=cause_of(types, text))
