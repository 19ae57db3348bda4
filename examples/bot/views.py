"""Views for a terminal: lines of text, also for a file or a pipe, or a full screen drawn with the package rich."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Protocol, Self

from danmaku_client import Topic

from .report import Counts, Report, clock
from .script import Reply

DRAW_EVERY_S = 0.25
REPLIES_SHOWN = 6


class View(Protocol):
    """A context manager. Times are in seconds since the first line."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def progress(self, at_s: float, counts: Counts) -> None: ...
    def report(self, report: Report) -> None: ...
    def reply(self, at_s: float, reply: Reply) -> None: ...
    def trouble(self, reason: str) -> None: ...
    def end(self, counts: Counts) -> None: ...


def open_view(*, is_plain: bool) -> View:
    if not is_plain and sys.stdout.isatty():
        try:
            return Screen()
        except ModuleNotFoundError:
            print("rich is not installed, so lines are plain: .venv/bin/pip install -e '.[bot]'", file=sys.stderr)
    return Plain()


class Plain:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, at_s: float, counts: Counts) -> None:
        pass

    def report(self, report: Report) -> None:
        print(f"{clock(report.at_s)}  {report.lines} lines in a minute, about", flush=True)
        for topic in report.topics:
            print(f"  {topic.count:5}  {told(topic)}")
        if report.watch is not None:
            count = sum(copy.count for copy in report.copies)
            wordings = " ".join(f"「{copy.text}」" for copy in report.copies[:5])
            print(f"  copies of 「{report.watch}」: {f'{count}, as {wordings}' if count else 'none'}")

    def reply(self, at_s: float, reply: Reply) -> None:
        print(f"{clock(at_s)}  「{reply.line}」 → 「{reply.says}」", flush=True)

    def trouble(self, reason: str) -> None:
        print(f"still trying: {reason}", file=sys.stderr, flush=True)

    def end(self, counts: Counts) -> None:
        print(summary(counts))


def summary(counts: Counts) -> str:
    return (
        f"{counts.read:,} lines read, {counts.embedded:,} embedded, {counts.without_vector:,} without a vector, "
        f"{counts.waiting:,} lost; delay {counts.delay_ms(50):.0f} ms, p99 {counts.delay_ms(99):.0f} ms"
    )


def told(topic: Topic) -> str:
    others = " ".join(f"「{other}」" for other, _ in topic.said[1:])
    return f"「{topic.text}」" + (f", also {others}" if others else "")


class Screen:
    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False)
        self._drawn_at = 0.0
        self._report: Report | None = None
        self._replies: deque[str] = deque(maxlen=REPLIES_SHOWN)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def progress(self, at_s: float, counts: Counts) -> None:
        if time.monotonic() - self._drawn_at < DRAW_EVERY_S:
            return
        self._drawn_at = time.monotonic()
        title = (
            f"{clock(at_s)}  {counts.read:,} lines, {counts.waiting} waiting, "
            f"delay {counts.delay_ms(50):.0f} ms, p99 {counts.delay_ms(99):.0f} ms"
        )
        self._draw(title)

    def report(self, report: Report) -> None:
        self._report = report

    def reply(self, at_s: float, reply: Reply) -> None:
        self._replies.append(f"{clock(at_s)}  {reply.line}  →  {reply.says}")

    def trouble(self, reason: str) -> None:
        self._draw(f"still trying: {reason}")

    def end(self, counts: Counts) -> None:
        self._draw(summary(counts))

    def _draw(self, title: str) -> None:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        topics = Table.grid(padding=(0, 2))
        copies = ""
        if report := self._report:
            for topic in report.topics:
                others = "  ".join(other for other, _ in topic.said[1:])
                topics.add_row(str(topic.count), Text(topic.text, "bold"), Text(others, "dim"))
            if report.watch is not None:
                copies = f"{sum(copy.count for copy in report.copies)} copies of {report.watch}"
        about = f"what the chat was about at {clock(report.at_s)}" if report else "listening"
        self._live.update(
            Group(
                Text(title, "reverse"),
                Panel(topics, title=about, subtitle=Text(copies)),
                Panel(Text("\n".join(self._replies)), title="replies"),
            ),
            refresh=True,
        )
