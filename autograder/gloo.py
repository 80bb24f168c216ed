"""Runs a function of yours as several ranks on this machine, which talk to each other over torch's own gloo.

    from grading.gloo import run_ranks, span
    from grading.timeline import timeline

    def step(rows):                                  # at the top of a file: each rank imports it anew
        import torch.distributed as dist             # the default process group is there already
        with span("F"):
            numbers = torch.ones(rows) * dist.get_rank()
        dist.all_reduce(numbers)
        return numbers.tolist()

    if __name__ == "__main__":                       # or each rank would start ranks of its own
        ranks = run_ranks(step, 4, 8)                # step(8) on four ranks: a list, one value a rank
        timeline(ranks, "step.png")

or, without the last three lines, `python -m grading.gloo step.py:step 8 --ranks 4 --timeline step.png`.

It is for practice, never for grades. A copy of this file is in every handout.
"""

import argparse
import ast
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .arguments import require_plain
from .box import replies
from .box.clock import Limits
from .box.inside import gloo as inside
from .box.inside.gloo import span
from .box.ranks.listener import Event
from .box.ranks.local import LocalTeam
from .box.ranks.post import Message
from .errors import BoxError, StudentFault

__all__ = ["RankError", "Ranks", "run_ranks", "span"]
_STARTS_S = 30.0  # for the ranks to import torch and the function's file, and to meet


class RankError(RuntimeError):
    """A rank raised, ended, or waited in vain: which one, and for what."""


class Ranks(list):
    """What each rank returned.

    Attributes:
        traffic: what the ranks sent to each other, in order, as `student.on(ranks=…).traffic` lists it.
        events: what took time: each operation, and what `span` marked.
    """

    def __init__(self, values: Sequence[object], traffic: list[Message], events: list[Event]):
        super().__init__(values)
        self.traffic, self.events = traffic, events


def run_ranks(function: Callable | str, ranks: int, *args, timeout: float = 60.0, seed: int = 0, **kwargs) -> Ranks:
    """Calls `function(*args, **kwargs)` in `ranks` processes that have a default process group.

    Args:
        function: stands at the top of a file, where each process imports it; or its place, "module:function".
        args, kwargs: plain values and tensors, as all that crosses between processes here; the same for each rank.
        timeout: seconds in which all ranks must have returned.
        seed: rank r's generators have seed + r.

    Returns:
        one value a rank: plain values and tensors; anything else arrives as the name of its type.

    Raises:
        RankError: a rank raised, with its traceback; or ended; or was not done in time, with what each of them waits for.
    """
    if multiprocessing.parent_process() is not None or getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError('each rank imports this file: call run_ranks below `if __name__ == "__main__":`')
    place = function if isinstance(function, str) else _place(function)
    if type(ranks) is not int or ranks < 1:
        raise ValueError(f"ranks must be a number of processes, not {ranks!r}")
    require_plain(f"run_ranks({place})", args, kwargs)
    team = LocalTeam([_folder(function)], ranks, seed, gloo=True)
    try:
        _ask(team, _request(f"{inside.__name__}:warm_up"), ranks, _STARTS_S)
        values = _ask(team, _request(place, args, kwargs), ranks, timeout)
        return Ranks(values, team.traffic, team.events)
    finally:
        team.close()


def _request(place, args=(), kwargs=None):
    return {"call": place, "args": list(args), "kwargs": kwargs or {}, "device": "cpu"}


def _ask(team, request, ranks, timeout):
    """One value a rank."""
    try:
        answers = team.ask(request, Limits(ranks * timeout, timeout, timeout))
    except StudentFault as fault:
        raise RankError(f"{fault}\n\n{fault.detail}".rstrip()) from None
    except BoxError as fault:  # the machine gave them no processor
        raise RankError(str(fault)) from None
    by_rank = {rank: replies.read(reply) for rank, reply in answers.items()}
    for rank, reply in by_rank.items():  # in the order in which they came: the first to raise speaks for all
        if reply.raised is not None:
            raised = reply.raised
            place = f" ({raised.where})" if raised.where else ""
            raise RankError(f"rank {rank}: {raised.types[0]}: {raised.text}{place}\n\n{raised.traceback}".rstrip())
    return [by_rank[rank].value for rank in range(ranks)]


def _place(function):
    """Where each process finds the function."""
    module, name = function.__module__, function.__qualname__
    if "<" in name:
        raise ValueError(f"{function.__name__} must stand at the top of a file, where each rank can import it")
    if module == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise ValueError(f"{name} is in a session or a notebook: write it into a file, which each rank can import")
    return f"{module}:{name}"


def _folder(function):
    """That of the file in which the function is."""
    file = None if isinstance(function, str) else getattr(sys.modules[function.__module__], "__file__", None)
    return str(Path(file).resolve().parent) if file else str(Path.cwd())


# ---------------------------------------------------------------------------------------------- in a shell


def main(words: Sequence[str] | None = None) -> int:
    """`python -m grading.gloo FILE:FUNCTION [VALUE …] --ranks N`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.gloo", description="Calls a function in several processes that talk over gloo."
    )
    parser.add_argument("function", metavar="FILE:FUNCTION", help="such as try.py:step")
    parser.add_argument("values", metavar="VALUE", nargs="*", help="what the function is given: 8, 0.5, text")
    parser.add_argument("--ranks", type=int, default=2, help="how many processes (2)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds in which all must be done (60)")
    parser.add_argument("--timeline", metavar="PICTURE", help="draw who did what when: a .png or .svg")
    given = parser.parse_args(words)
    file, colon, name = given.function.rpartition(":")
    if not colon or given.ranks < 1:
        parser.error("say which function, and a number of ranks above 0: try.py:step --ranks 4")
    path = Path(file if file.endswith(".py") else f"{file.replace('.', '/')}.py").resolve()
    if not path.is_file():
        parser.error(f"{path.name} is not in {path.parent}")
    sys.path.insert(0, str(path.parent))
    try:
        ranks = run_ranks(f"{path.stem}:{name}", given.ranks, *map(_value, given.values), timeout=given.timeout)
    except RankError as error:
        print(error, file=sys.stderr)
        return 1
    for rank, value in enumerate(ranks):
        print(f"rank {rank}: {value}")
    if given.timeline:
        from .timeline import timeline

        print(f"the timeline is in {timeline(ranks, given.timeline, title=given.function)}")
    return 0


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    raise SystemExit(main())
