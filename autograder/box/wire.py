"""Messages through a socket, with limits of time: all that the processes of the box say to each other.

A message is its length and what codec.py makes of a value. Both sides use this module, so it imports torch and the
standard library only; a copy is in every handout.
"""

import socket
import struct
import time
from collections.abc import Callable

from .caps import REPLY, Caps
from .codec import MAX_MESSAGE, Opaque, ProtocolError, TooLarge, TooMuch, decode, encode

__all__ = [
    "REPLY",
    "Caps",
    "DeadlinePassed",
    "Opaque",
    "ProtocolError",
    "TooLarge",
    "TooMuch",
    "decode",
    "encode",
    "receive",
    "receive_command",
    "send",
    "send_command",
]

_CHUNK = 1 << 20  # bytes
Deadline = float | Callable[[], float] | None  # a time.monotonic(), or a clock.Clock; None waits for ever


class DeadlinePassed(Exception):
    """The other side did not finish in its time."""


def send(connection: socket.socket, value, deadline: Deadline = None) -> None:
    """Sends one message."""
    message = encode(value)
    for buffer in (struct.pack("<Q", sum(map(len, message))), *message):
        rest = memoryview(buffer).cast("B")
        while len(rest):
            _arm(connection, deadline)
            try:
                rest = rest[connection.send(rest[:_CHUNK]) :]
            except TimeoutError:
                continue  # _arm says whether the time is over


def receive(connection: socket.socket, deadline: Deadline = None, caps: Caps | None = None):
    """Receives one message before the deadline, which is absolute, however slowly it drips, that holds no more than caps allow.

    Raises:
        EOFError: the other side closed, or is gone.
        DeadlinePassed, ProtocolError
    """
    (total,) = struct.unpack("<Q", _exactly(connection, 8, deadline))
    if not 4 <= total <= MAX_MESSAGE:
        raise ProtocolError(f"a message of {total} bytes")
    return decode(_exactly(connection, total, deadline), caps)


def send_command(connection: socket.socket, command: bytes, value, descriptors=()) -> None:
    """Sends one byte that carries file descriptors, then a message: how the processes of the box are told what to do."""
    connection.settimeout(None)
    socket.send_fds(connection, [command], list(descriptors))
    send(connection, value)


def receive_command(connection: socket.socket, most_descriptors: int):
    """Waits for (command, value, descriptors); the command is b"" when the other side closed."""
    connection.settimeout(None)
    command, descriptors, _, _ = socket.recv_fds(connection, 1, most_descriptors)
    return (command, receive(connection), descriptors) if command else (b"", None, [])


def _exactly(connection, count, deadline):
    buffer = bytearray(count)
    rest = memoryview(buffer)
    while len(rest):
        _arm(connection, deadline)
        try:
            received = connection.recv_into(rest[:_CHUNK])
        except TimeoutError:
            continue
        except ConnectionError as error:
            raise EOFError(str(error)) from None
        if not received:
            raise EOFError("the other side closed the connection")
        rest = rest[received:]
    return buffer


def _arm(connection, deadline):
    if deadline is None:
        connection.settimeout(None)
        return
    left = deadline() if callable(deadline) else deadline - time.monotonic()
    if left <= 0:
        raise DeadlinePassed
    connection.settimeout(left)
