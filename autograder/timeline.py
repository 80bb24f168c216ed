"""Draws who did what when: one lane a rank, of what ranks told that talked over gloo (gloo.py).

    upper half of a lane    boxes: what the code marked with span("…"), coloured by the letters of its name;
                            pale: the rank can do nothing else than wait for a message or a collective
    lower half              bars: collectives under way, with the bytes that the rank gave; while a box is above, both go on
    between lanes           arrows: from where a send began to where its receive ended

It needs matplotlib, which nothing else of a handout does. A copy of this file is in every handout.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from .box.ranks.listener import Event

_COLORS = ("#4878cf", "#ee854a", "#6acc64", "#d5bb67", "#956cb4", "#82c6e2", "#d65f5f")
_COLLECTIVES = ("#5b5ea6", "#9b2335", "#00746b", "#7d6608", "#6c3483", "#2e4053")
_WAITS, _ARROW, _GRID = "#e4e6ea", "#3c3f46", "#d9dbe0"
_INCHES, _LANE = 11.0, 0.9  # the width of a picture, the height of a lane
_CHAR = 0.068  # inches that a character of a label takes
_SHORTEST_WAIT = 0.004  # of the picture's width: what is shorter is a hair


def timeline(events: Sequence, path: str | Path, title: str = "", words: dict[str, str] | None = None) -> Path:
    """Draws the events of `run_ranks` into the file `path`, whose ending says how: .png, .svg, .pdf.

    Args:
        events: what run_ranks returned, or its `events`.
        words: what the letters of spans stand for, such as {"F": "forward"}.

    Returns:
        where the picture is.

    Raises:
        ImportError: matplotlib is not installed. ValueError: there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no window, whatever the machine
    except ImportError:
        raise ImportError("a timeline is drawn by matplotlib, which is not installed: pip install matplotlib") from None
    known: list[Event] = list(getattr(events, "events", events))
    if len(known) == 0:
        raise ValueError("there is nothing to draw: the ranks sent nothing and marked nothing with span()")
    picture = _Picture(known, Figure)
    picture.draw(title, words or {})
    picture.figure.savefig(path, dpi=150, facecolor="white")
    return Path(path).resolve()


class _Picture:
    """One timeline, in milliseconds; lane 0 is the uppermost."""

    def __init__(self, events, figure):
        self._events, self._size = events, max(event.rank for event in events) + 1
        begin = min(event.begin for event in events)
        end = max(event.end or event.begin for event in events)
        self._zero, self._length = begin, max(1e3 * (end - begin), 1e-3)
        height = _LANE * self._size + 1.35
        self.figure = figure(figsize=(_INCHES, height))
        left, right = 0.75 / _INCHES, 1 - 0.95 / _INCHES
        self._axes = self.figure.add_axes((left, 0.55 / height, right - left, _LANE * self._size / height))
        self._inches = _INCHES * (right - left) / self._length  # a millisecond
        self._top = height

    def draw(self, title, words):
        self._lanes()
        spans = [event for event in self._events if event.is_span]
        kinds = dict.fromkeys(_kind(event.name) for event in spans)
        colors = dict(zip(kinds, _COLORS * len(kinds), strict=False))
        operations = [event for event in self._events if not event.is_span]
        self._waits(operations)
        for event in spans:
            self._box(event, colors[_kind(event.name)])
        collectives = [event for event in operations if event.name not in ("send", "recv")]
        names = dict.fromkeys(event.name for event in collectives)
        shades = dict(zip(names, _COLLECTIVES * len(names), strict=False))
        for rank in range(self._size):
            self._bars([event for event in collectives if event.rank == rank], shades)
        sent = self._arrows(operations)
        self._busy(spans)
        named = {words.get(kind, kind): color for kind, color in colors.items()}
        self._legend(title, named, shades, sent)

    # ------------------------------------------------------------------------------------------ parts

    def _lanes(self):
        axes = self._axes
        axes.set_xlim(0, self._length * 1.005)
        axes.set_ylim(self._size - 0.5, -0.5)
        axes.set_yticks(range(self._size), [f"rank {rank}" for rank in range(self._size)], fontsize=10)
        axes.tick_params(length=0)
        axes.grid(axis="x", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        for rank in range(self._size + 1):
            axes.axhline(rank - 0.5, color=_GRID, linewidth=0.8, zorder=1)
        axes.set_xlabel("milliseconds", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)

    def _at(self, seconds):
        return 1e3 * (seconds - self._zero)

    def _rectangle(self, rank, begin, end, top, bottom, color, label="", fontsize=8.0, **style):
        from matplotlib.patches import Rectangle

        width = max(end - begin, 0.02 / self._inches)  # what took no time is a hair
        patch = Rectangle((begin, rank + top), width, bottom - top, facecolor=color, **{"zorder": 3, **style})
        self._axes.add_patch(patch)
        if label and len(label) * _CHAR < width * self._inches:
            self._axes.text(
                begin + width / 2, rank + (top + bottom) / 2, label, ha="center", va="center", fontsize=fontsize, color="white",
                zorder=5, clip_on=True,
            )  # fmt: skip

    def _box(self, event, color):
        self._rectangle(
            event.rank, self._at(event.begin), self._at(event.end), -0.36, 0.1, color, event.name,
            edgecolor="white", linewidth=0.8,
        )  # fmt: skip

    def _waits(self, operations):
        for event in operations:
            if event.waited is not None:
                end = self._length if event.end is None else self._at(event.end)
                begin = self._at(event.waited)
                if end - begin > _SHORTEST_WAIT * self._length:
                    self._rectangle(event.rank, begin, end, -0.36, 0.1, _WAITS, zorder=2)

    def _bars(self, events, shades):
        """Those of one lane, in two rows where some are under way at the same time."""
        ends: list[float] = []  # of each row
        placed = []
        for event in sorted(events, key=lambda event: event.begin):
            end = self._length if event.end is None else self._at(event.end)
            row = next((row for row, busy in enumerate(ends) if busy <= self._at(event.begin)), len(ends))
            row = min(row, 1)
            placed.append((event, row, end))
            ends[row : row + 1] = [end]
        height = 0.3 / max(len(ends), 1)
        for event, row, end in placed:
            self._bar(
                event, end, 0.14 + row * height, 0.14 + (row + 1) * height, shades[event.name], min(8, 46 * height)
            )

    def _bar(self, event, end, top, bottom, color, fontsize):
        size = _size(event.bytes) if event.bytes else ""
        words = (f"{event.name} {size}".strip(), size, "")
        room = (end - self._at(event.begin)) * self._inches
        label = next(each for each in words if len(each) * _CHAR < room or not each)
        begin = self._at(event.begin)
        self._rectangle(
            event.rank, begin, end, top, bottom, color, label, fontsize, edgecolor="white", linewidth=0.6
        )  # fmt: skip

    def _arrows(self, operations):
        """Whether there are any; the n-th send between two ranks belongs to the n-th receive."""
        waiting = defaultdict(list)
        for event in sorted(operations, key=lambda event: event.begin):
            if event.name == "send":
                waiting[event.rank, event.peer, event.group, event.tag].append(event)
        pairs = []
        for event in sorted(operations, key=lambda event: event.begin):
            sends = waiting[event.peer, event.rank, event.group, event.tag] if event.name == "recv" else []
            if sends:
                pairs.append((sends.pop(0), event))
        drawn: dict[
            tuple[int, int], float
        ] = {}  # (from, to) -> where the last arrow ended: of a header and its tensor one is enough
        for send, receive in pairs:
            end = self._length if receive.end is None else self._at(receive.end)
            if end - drawn.get((send.rank, receive.rank), -self._length) > _SHORTEST_WAIT * self._length:
                self._arrow(send, receive, end)
                drawn[send.rank, receive.rank] = end
        return bool(pairs)

    def _arrow(self, send, receive, end):
        down = 1 if receive.rank > send.rank else -1
        start, tip = 0.1 if down > 0 else -0.36, -0.36 if down > 0 else 0.1
        self._axes.annotate(
            "", xy=(end, receive.rank + tip), xytext=(self._at(send.begin), send.rank + start), zorder=6,
            arrowprops={"arrowstyle": "-|>", "color": _ARROW, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0,
                        "mutation_scale": 8},
        )  # fmt: skip

    def _busy(self, spans):
        """At the right, what share of the time each rank computes."""
        if not spans:
            return
        for rank in range(self._size):
            busy = sum(1e3 * (event.end - event.begin) for event in spans if event.rank == rank) / self._length
            self._axes.text(
                1.01, rank, f"computes\n{busy:.0%}", transform=self._axes.get_yaxis_transform(), fontsize=8, va="center",
                color=_ARROW,
            )  # fmt: skip

    def _legend(self, title, colors, shades, sent):
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        handles: list = [Patch(color=color, label=name) for name, color in {**colors, **shades}.items()]
        handles.append(Patch(color=_WAITS, label="waits"))
        if sent:
            handles.append(Line2D([], [], color=_ARROW, marker=">", markersize=4, linewidth=0.8, label="send"))
        self.figure.legend(
            handles=handles, loc="upper left", ncols=len(handles), frameon=False, fontsize=8.5, handlelength=1.1,
            bbox_to_anchor=(0.6 / _INCHES, 1 - 0.36 / self._top), columnspacing=1.4, handletextpad=0.5,
        )  # fmt: skip
        title = title or f"{self._size} ranks"
        self.figure.text(0.75 / _INCHES, 1 - 0.12 / self._top, title, fontsize=11.5, fontweight="bold", va="top")


def _kind(name):
    """What spans of one colour have in common: the letters before a number."""
    return re.split(r"[\d(\[ ]", name, maxsplit=1)[0] or name


def _size(count):
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.3g} kB" if count < 1_000_000 else f"{count / 1e6:.3g} MB"
