"""Receiving from student code, and what is said when nothing comes: the same for every kind of process it runs in."""

import socket
import time

from ..errors import BadReply, NotImported, StudentDied, StudentTimeout, shown
from . import wire


def receive(connection: socket.socket, timeout: float, doing: str):
    """The value that comes within `timeout` seconds.

    Raises:
        StudentTimeout, StudentDied, BadReply
    """
    try:
        return wire.receive(connection, time.monotonic() + timeout)
    except wire.DeadlinePassed:
        raise StudentTimeout(f"{doing} took more than {round(timeout, 1):g} s") from None
    except wire.ProtocolError as error:
        raise BadReply(f"{doing} sent something that is no reply: {error}") from None
    except (EOFError, OSError):
        raise StudentDied(f"the process ended while {doing}") from None


def check_import(module: str, reply) -> None:
    """Raises NotImported, which says, in the student's terms, why the module could not be imported, if so."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if error is None:
        return
    error = error if isinstance(error, dict) else {}
    types = error.get("types") if isinstance(error.get("types"), list) else []
    text, where = shown(error.get("text"), 300), shown(error.get("where"), 300)
    name = shown(types[0], 80) if types else "an exception"
    place = f" ({where})" if where else ""
    detail = shown(error.get("traceback"), 6000, keep="\n")
    raise NotImported(f"{module}.py cannot be imported: {name}: {text}{place}", detail=detail)
