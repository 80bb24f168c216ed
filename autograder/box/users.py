"""User ids for slots: such as nobody else on this machine has, found by looking and not by a promise.

systemd gives 61184 to 65519 to services without a user of their own and 60001 to 60577 to homes and hosts; what is between
them it gives to nobody (systemd's "Users, Groups, UIDs and GIDs"). A distribution may still have given some of it away: to an
account, to somebody's containers (/etc/subuid), to a process that runs.
"""

import grp
import pwd
import secrets
import socket
from collections.abc import Iterator

from ..errors import BoxError
from .zygote.processes import table

FIRST, COUNT = 60578, 606
_GIVEN_AWAY = ("/etc/subuid", "/etc/subgid")  # lines of name:first:count
_MAPS = ("/proc/self/uid_map", "/proc/self/gid_map")  # lines of: first here, first outside, count


def take() -> tuple[int, socket.socket]:
    """A free user id, and what holds it for this process until it is closed.

    Raises:
        BoxError: there is none.
    """
    for uid in _in_random_order():
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0llm-autograder-slot-{uid}")  # an abstract name is free again when its holder ends
        except OSError:
            lock.close()
            continue
        if is_nobodys(uid):
            return uid, lock
        lock.close()
    raise BoxError(
        f"no user id from {FIRST} to {FIRST + COUNT - 1} is free for a slot: "
        "are other graders running, or have these ids been given away (/etc/passwd, /etc/subuid)?"
    )


def is_nobodys(uid: int) -> bool:
    """Whether no account, no range of a container and no running process has it, and this process may become it."""
    if any(_knows(find, uid) for find in (pwd.getpwuid, grp.getgrgid)):
        return False
    if any(uid in given for path in _GIVEN_AWAY for given in _ranges(path, ":", 1, 2)):
        return False
    if not all(any(uid in here for here in _ranges(path, None, 0, 2)) for path in _MAPS):
        return False
    return all(entry.uid != uid for entry in table(ended=True).values())


def _in_random_order() -> Iterator[int]:
    """From a random place on: graders that start at once do not all try the same."""
    start = secrets.randbelow(COUNT)
    for step in range(COUNT):
        yield FIRST + (start + step) % COUNT


def _knows(find, number):
    try:
        find(number)
    except KeyError:
        return False
    return True


def _ranges(path, between, first, count):
    """The ranges of a file's lines; of /proc's maps where there are none (no Linux): everything."""
    try:
        with open(path) as file:
            lines = [line.split(between) for line in file]
    except OSError:
        return [range(1 << 32)] if path in _MAPS else []
    return [range(int(words[first]), int(words[first]) + int(words[count])) for words in lines if _is_range(words)]


def _is_range(words):
    return len(words) == 3 and all(word.strip().isdigit() for word in words[1:])
