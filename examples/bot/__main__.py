"""Parses the flags of `python -m examples.bot` and runs the bot."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from danmaku_client import AsyncClient, GatewayError

from .bot import Bot, Settings
from .sources import SourceError, is_followed, open_source, open_tail
from .views import open_view

EXAMPLE = """example:
  python -m examples.bot examples/chat.ndjson --speed 60 --script examples/script.tsv --watch 草
  python -m examples.bot recording.xml
  tail -f danmaku.txt | python -m examples.bot -
  python -m examples.bot room:21452505
"""
START_TIMEOUT_S = 3.0  # until a gateway is reachable
TIMEOUT_S = 10.0  # of a call, before the view reports it


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parser().parse_args(arguments)
    if fault := fault_of(parsed):
        print(f"bot: {fault}", file=sys.stderr)
        return 2
    try:
        script = read_script(parsed.script) if parsed.script else []
        asyncio.run(follow(parsed, script))
        return 0
    except GatewayError as error:
        hint = f"; is a gateway running at {parsed.url}? `make serve` starts one" if error.is_transient else ""
        print(f"bot: {error}{hint}", file=sys.stderr)
        return 1
    except (SourceError, OSError) as error:
        print(f"bot: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.bot",
        description="Follows a danmaku chat: shows its topics, counts copies of a line, and replies from a script.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="file that a recorder is writing, - for standard input, or room:NUMBER")
    parser.add_argument("--speed", type=float, metavar="N", help="replay the file N times as fast as it was recorded")
    parser.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="script of replies: one line per pair, message and reply separated by a tab",
    )
    parser.add_argument("--watch", metavar="LINE", help="count lines that mean the same as this one")
    parser.add_argument(
        "--only",
        type=read_label,
        action="append",
        default=[],
        metavar="HEAD=LABEL",
        help="reply only to lines to which a head of the gateway gives this label",
    )
    parser.add_argument(
        "--skip",
        type=read_label,
        action="append",
        default=[],
        metavar="HEAD=LABEL",
        help="do not reply to lines to which a head gives this label",
    )
    parser.add_argument("--collection", default="chat", help="collection that stores recent lines [chat]")
    parser.add_argument(
        "--ttl-s", type=float, default=600.0, help="how long to keep lines, in seconds of stream time [600]"
    )
    parser.add_argument("--every-s", type=float, default=60.0, help="how often to print the topics, in seconds [60]")
    parser.add_argument("--plain", action="store_true", help="print plain lines, even on a terminal")
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        help="URL of the gateway; DANMAKU_API_KEY holds its API key [http://127.0.0.1:8000]",
    )
    return parser


def fault_of(parsed: argparse.Namespace) -> str | None:
    if parsed.speed is None:
        return None
    if parsed.source == "-" or parsed.source.startswith("room:"):
        return "invalid --speed: standard input and rooms have their own speed; expected a file to replay"
    return None if parsed.speed > 0 else f"invalid --speed: {parsed.speed:g}; expected a number above 0"


async def follow(parsed: argparse.Namespace, script: list[tuple[str, str]]) -> None:
    settings = Settings(
        collection=parsed.collection,
        ttl_s=parsed.ttl_s / (parsed.speed or 1),
        report_every_s=parsed.every_s,
        script=script,
        watch=parsed.watch,
        only=frozenset(parsed.only),
        skip=frozenset(parsed.skip),
    )
    source = None
    if is_followed(parsed.source, parsed.speed):
        open_tail(Path(parsed.source)).close()  # reports a wrong name before the gateway is contacted
    else:
        source = await open_source(parsed.source, parsed.speed)
    async with AsyncClient(parsed.url, os.environ.get("DANMAKU_API_KEY"), timeout_s=START_TIMEOUT_S) as client:
        await client.info()
    source = source or await open_source(parsed.source, parsed.speed)
    async with AsyncClient(parsed.url, os.environ.get("DANMAKU_API_KEY"), timeout_s=TIMEOUT_S) as client:
        with open_view(is_plain=parsed.plain) as view:
            bot = Bot(client, settings, view)
            try:
                await bot.run(source)
            finally:
                view.end(bot.counts)


def read_label(text: str) -> tuple[str, str]:
    head, equals, label = text.partition("=")
    if not (head and equals and label):
        raise argparse.ArgumentTypeError(f"invalid label: {text!r}; expected HEAD=LABEL, such as question=question")
    return head, label


def read_script(path: Path) -> list[tuple[str, str]]:
    rows = [row.split("\t") for row in path.read_text(encoding="utf-8").splitlines() if row and not row.startswith("#")]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise SourceError(f"{path}: pair {number} has {len(row)} parts; expected a message, a tab and a reply")
    return [(heard, says) for heard, says in rows]


if __name__ == "__main__":
    sys.exit(main())
