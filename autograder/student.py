"""What a test sees of a submission: run this there, give me back values.

`Student` turns a probe into a request and a reply into a value or a StudentFault. Where the request is answered is not
its business: it asks `Processes` (box/seam.py), which are in the box when grading, and this process for authors and in
handouts (in_process.py). This file is copied into every handout.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .arguments import require_plain
from .box.codec import TooLarge
from .box.ranks.post import Message
from .box.replies import Raised, Reply
from .box.seam import Processes
from .errors import AuthorError, CheckFailed, StudentRaised, builtin_among, nearest
from .probes import request_of, require_its_arguments

DEFAULT_TIMEOUT = 10.0  # seconds of processor time that a call may take
MOST_RANKS = 16
_OPTIONS = ("device", "ranks", "timeout")
_NOT_FOUND = {"AttributeError", "ModuleNotFoundError", "ImportError"}  # of a path that leads nowhere


@dataclass(frozen=True)
class Student:
    """The submission as tests see it.

    Args:
        processes: what answers the requests.
        inside: source of the lesson's inside.py, the helpers that probes may use.
        device: where tensors among the arguments are put before the call.
        timeout: seconds of processor time that one call may take; a sleep or a deadlock may last as long.
        ranks: 0 is one process; above, as many of one torch.distributed process group.
        traffic: with ranks: what they sent to each other during the last call, in order.
        replies: what came so far, whichever options it was asked with; no more than the first two.
        misnamed: path -> why the lesson has no function of that name; empty where it may have one (lesson.py).
    """

    processes: Processes
    inside: str = ""
    device: str = "cpu"
    timeout: float = DEFAULT_TIMEOUT
    ranks: int = 0
    traffic: list[Message] = field(default_factory=list, compare=False)
    replies: list[Reply] = field(default_factory=list, compare=False)
    misnamed: Callable[[str], str] = lambda path: ""

    def __repr__(self) -> str:
        return "<student>"  # in a traceback of pytest

    def on(self, **options) -> "Student":
        """The same submission with other options: `device`, `timeout` in seconds of processor time, `ranks`.

        With `ranks=n` a call runs in n processes that have a default process group, with the same arguments in each, and
        gives a list: one value a rank. The processes live as long as the test. Their messages go through the grader,
        which counts them in `traffic`.
        """
        for unknown in sorted(set(options) - set(_OPTIONS)):
            near = nearest(unknown, _OPTIONS)
            raise AuthorError(f"student.on() has no option {unknown!r}: it takes {', '.join(_OPTIONS)}{near}")
        if "device" in options:
            options["device"] = str(options["device"])
            if options["device"].partition(":")[0] not in ("cpu", "cuda"):
                raise AuthorError(f"student.on(device={options['device']!r}): the device is 'cpu' or 'cuda'")
        ranks, timeout = options.get("ranks", self.ranks), options.get("timeout", self.timeout)
        if type(ranks) is not int or not 0 <= ranks <= MOST_RANKS:
            raise AuthorError(f"student.on(ranks={ranks!r}): ranks is a number from 1 to {MOST_RANKS}")
        if type(timeout) not in (int, float) or not 0 < timeout < float("inf"):
            raise AuthorError(f"student.on(timeout={timeout!r}): timeout is a number of seconds above 0")
        return replace(self, **options, traffic=[])

    def cpu_s(self) -> float:
        """Seconds of processor time that all processes of the submission have used: what two calls differ by is its cost.

        When grading it is read from outside, so that nothing which the submission says makes it less, and a busy machine
        makes it hardly more; in steps of 0.01 s. Work in many children that live for less than 0.1 s and that nobody waits for
        may be missed in part (docs/security.md). In a handout it is the time of the one process that there is.
        """
        return self.processes.cpu_s()

    def peak(self, probe: Callable, *args, **kwargs) -> tuple[object, int]:
        """(what `run` gives, the most bytes that one of the processes had in memory at once meanwhile, torch's own among them).

        When grading it is read from outside: in processes that start for this call and end after it, that can start no process
        and no thread meanwhile, and of which what they had before counts only as far as they still have it. Where one ends
        before its reply, or becomes another program, it is without end. What a call keeps in files or sockets does not count,
        and a call can always take more than it needs: a test that looks at what it grows by has a limit for the small call, too.
        0 where nobody can read it, as in a handout.
        """
        self.processes.begin_peak()
        try:
            value = self.run(probe, *args, **kwargs)
        finally:
            peak = self.processes.end_peak()
        return value, peak

    def run(self, probe: Callable, *args, **kwargs):
        """Runs `probe`, a function of the test, in the student's process and returns what it returns, as plain data.

        Raises:
            StudentFault: the code raised, hung, died, or sent something that is not plain data.
            AuthorError: the probe cannot be shipped.
        """
        return self._value(self._replies(probe, args, kwargs))

    def call(self, path: str, *args, **kwargs):
        """Calls the student's function at "module.name" and returns its result as plain data.

        Raises:
            StudentFault: as of `run`.
            AuthorError: an argument cannot be passed, or the lesson has no function of this name.
        """
        if not isinstance(path, str):
            raise AuthorError(
                f"student.call({path!r}): it takes a path, such as 'module.function'; a probe is for student.run()"
            )
        return self._value(self._replies(path, args, kwargs))

    def raises(self, error: type, target, *args, says: object = (), kwargs: dict | None = None) -> None:
        """Expects that `target` (a path or a probe) raises `error`, and that its message says what is wrong.

        It does if it holds one of `says`: the name of an argument, or a usual word for it (USUAL_WORDS), or the value at
        fault; `says` is a name or a tuple of names and values, a name first. With ranks, each of them must.
        """
        if not (isinstance(error, type) and issubclass(error, BaseException)):
            raise AuthorError(
                f"student.raises({error!r}, …): the first argument is a type of error, such as ValueError"
            )
        names = tuple(says) if isinstance(says, (tuple, list)) else (says,)
        for reply in self._replies(target, args, kwargs or {}).values():
            _expect(reply, error, names, _called(target))

    def accepts(self, target, *args, kwargs: dict | None = None) -> None:
        """Expects that `target` (a path or a probe) returns; what it returns is not looked at, so it may be of any kind.

        It stands beside each `raises`, with arguments as near to the refused ones as the contract allows: without it, code
        that refuses everything gets the points.
        """
        for rank, reply in self._replies(target, args, kwargs or {}, silent=True).items():
            _accept(reply, rank, _called(target))

    def _replies(
        self, target: str | Callable, args: tuple, kwargs: dict, silent: bool = False
    ) -> dict[int | None, Reply]:
        """rank -> reply of a path's function or of a probe, in the order in which they came; one process has the rank None."""
        request: dict[str, object] = {"call": target} if isinstance(target, str) else request_of(target, self.inside)
        if isinstance(target, str) and ("." not in target or not all(target.split("."))):
            raise AuthorError(f"student.call({target!r}): a path is 'module.function' or 'module.Class.method'")
        called = f"student.call({target!r})" if isinstance(target, str) else f"the probe {target.__name__!r}"
        require_plain(called, args, kwargs)
        request |= {"args": list(args), "kwargs": kwargs, "device": str(self.device)}
        if silent:
            request["silent"] = True
        by_rank: dict[int | None, Reply]
        try:
            if self.ranks:
                answers, self.traffic[:] = self.processes.ask_ranks(request, self.ranks, self.timeout)
                by_rank = dict(answers.items())
            else:
                by_rank = {None: self.processes.ask(request, self.timeout)}
        except TooLarge as error:
            raise AuthorError(f"{called}: what is passed does not fit into a message: {error}") from None
        self.replies.extend(
            list(by_rank.values())[: 2 - len(self.replies)]
        )  # more say no more than two: it was not one
        for reply in by_rank.values():
            if reply.raised is not None:
                self._refuse_what_cannot_work(target, args, kwargs, reply.raised)
        return by_rank

    def _refuse_what_cannot_work(self, target, args, kwargs, raised):
        """Raises AuthorError where a call failed whatever the student wrote: it is looked at only when one has failed."""
        if isinstance(target, str):
            why = self.misnamed(target) if raised.types[0] in _NOT_FOUND else ""
            if why:
                raise AuthorError(f"student.call({target!r}): {why}")
        elif raised.types[0] == "TypeError":
            require_its_arguments(target, args, kwargs)

    def _value(self, by_rank: dict[int | None, Reply]) -> object:
        """The first rank that raised speaks for all: what the others say may be no more than its consequence."""
        values = {rank: _unpack(reply, rank) for rank, reply in by_rank.items()}
        return [values[rank] for rank in range(self.ranks)] if self.ranks else values[None]


def _called(target) -> str:
    return f"{target.partition('.')[2]}()" if isinstance(target, str) else ""


def _accept(reply: Reply, rank: int | None, call: str) -> None:
    """Raises CheckFailed if the reply is an error, but for one that says itself why nothing came: it is not written, it died."""
    try:
        _unpack(reply, rank)
    except StudentRaised as raised:
        if raised.types[0] == "NotImplementedError" or raised.cause:
            raise
        mistake = "your code raises an error for arguments that are allowed"
        raise _failed(mistake, call, f": {raised}", raised.detail) from None


def _expect(reply: Reply, error: type, names: tuple, call: str) -> None:
    """Raises CheckFailed unless the reply is an `error` whose text has one of the names.

    The message says what the code did, not what it did it for: which argument was the bad one only the test knows.
    """
    wanted = f"it should raise {error.__name__}" + (f" and name `{names[0]}` in its message" if names else "")
    try:
        _unpack(reply)
    except StudentRaised as raised:
        if raised.types[0] == "NotImplementedError" and error is not NotImplementedError:
            raise
        if error.__name__ not in raised.types:
            name, known = raised.types[0], builtin_among(raised.types)  # a class's table counts no free text
            said = ": ".join(filter(None, ["" if name == known else name, raised.text]))
            said = f" ({said})" if said else ""
            raise _failed(f"your code raises {known}; {wanted}", call, said, raised.detail) from None
        if names and not any(_names(name, raised.text) for name in names):
            text = f"the message of the {error.__name__} should name `{names[0]}`"
            raise _failed(text, call, detail=raised.detail) from None
        return
    raise _failed(f"your code raises nothing; {wanted}", call)


def _failed(mistake, call, said="", detail=""):
    return CheckFailed(f"{call}: {mistake}{said}" if call else mistake + said, mistake=mistake, detail=detail)


# What people call an argument, besides its name and the parts of that.
USUAL_WORDS = {
    "constraints": "phrase",
    "d_model": "dim dimension width size embed_dim embedding hidden_size",
    "dim": "dimension size even odd",
    "hypotheses": "hypothesis length sentence",
    "ids": "id token index index indices vocabulary prompt text sequence",
    "lengths": "length",
    "max_len": "length long longer limit exceed context position sequence",
    "max_length": "length long longer limit exceed context position sequence room",
    "max_tokens": "limit negative",
    "positions": "position",
    "prompt": "id token index indices vocabulary empty sequence",
    "references": "length sentence",
    "scaling": "key missing rope",
    "special_tokens": "empty",
    "token": "id index vocabulary",
    "top_k": "k",
    "top_p": "p nucleus",
    "type": "kind",
    "vocab_size": "vocabulary",
}
_NO_WORDS = {"num", "n", "d", "of", "top"}  # parts of names that say nothing alone


def _names(what, text):
    """Whether a message speaks of an argument (by its name) or of a value."""
    if not isinstance(what, str):
        return _holds_value(what, text)
    if len(what) == 1:  # k, p, x: as it is written, since "a" and "X" are in many messages
        return _holds_word(re.escape(what), text)
    words = {what, *USUAL_WORDS.get(what, "").split(), *(set(what.split("_")) - _NO_WORDS)}
    return any(_holds_word(rf"(?i:{re.escape(word)}(?:e?s|ing)?)", text) for word in words)


def _holds_word(pattern, text):
    return re.search(rf"(?<![A-Za-z0-9_]){pattern}(?![A-Za-z0-9_])", text) is not None


def _holds_value(value, text):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value) in text
    forms = {str(value), f"{value:g}"}
    return any(re.search(rf"(?<![\w.-]){re.escape(form)}(?!\w|\.\d)", text) for form in forms)


def _unpack(reply: Reply, rank: int | None = None) -> object:
    """A reply's value; its error as a StudentRaised."""
    raised = reply.raised
    if raised is None:
        return reply.value
    raise StudentRaised(_raised_message(raised, rank), types=raised.types, text=raised.text, detail=raised.traceback)


def _raised_message(raised: Raised, rank: int | None) -> str:
    name = raised.types[0]
    if name == "NotImplementedError":
        return raised.text or "not implemented yet"
    message = f"{name}: {raised.text}" if raised.text else name
    message = f"{message} ({raised.where})" if raised.where else f"your code raised {message}"
    return message if rank is None else f"rank {rank}: {message}"
