"""Flags and report of `danmaku bench`; `replay.py` and `load.py` do the work.

The file is replayed once and in its own order: danmaku repeat as they did in the stream, so the cache hit rate is
realistic. The end of the file ends the replay, since a second pass would be answered from the cache.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.recording_flags import add_recording_flags, recording_options
from service.errors import ConfigurationError
from service.event_loop import run_until_complete

if TYPE_CHECKING:
    from service.commands.bench.load import Result

NAME = "bench"
HELP = "benchmark a gateway with a file of danmaku"
DESCRIPTION = "Replays a file of danmaku in order, at a given rate or with a given number of concurrent requests."
EXAMPLE = """example:
  danmaku bench danmaku.txt --rate 200 --seconds 30
  danmaku bench danmaku.txt --concurrency 8 --requests 5000 --encoding base64 --json bench.json
"""
LATE_S = 0.01  # a request that starts later than this is the generator's fault, not the gateway's
LATE_SHARE = 0.01
BUSY_SHARE = 0.9  # of a core; above this the generator may have been slower than the gateway


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="FILE", type=Path, help="recording, or text file with one danmaku per line")
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        help="URL of the gateway; DANMAKU_API_KEY holds its API key [http://127.0.0.1:8000]",
    )
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument(
        "--rate",
        type=_positive(float),
        metavar="N",
        help="requests to send per second, even if earlier ones are pending",
    )
    loop.add_argument(
        "--concurrency", type=_positive(int), default=8, metavar="N", help="number of requests in flight [8]"
    )
    parser.add_argument(
        "--texts-per-request", type=_positive(int), default=16, metavar="N", help="texts per request [16]"
    )
    parser.add_argument("--requests", type=_positive(int), metavar="N", help="stop after N requests [all lines]")
    parser.add_argument("--seconds", type=_positive(float), metavar="S", help="stop after S seconds [all lines]")
    parser.add_argument(
        "--encoding", choices=("float", "base64"), default="base64", help="encoding of the vectors [base64]"
    )
    parser.add_argument("--timeout-s", type=_positive(float), default=30.0, help="timeout of a request in seconds [30]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--quiet", action="store_true", help="hide the progress bar")
    add_recording_flags(parser, encoding_flag="--file-encoding")


def _positive(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> float:
        if not 0 < (value := kind(text)) < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse puts it into its error message
    return parse


def run(parsed: argparse.Namespace) -> int:
    from service.commands.bench.replay import replay
    from service.recordings.lines import open_lines

    if parsed.json and not parsed.json.parent.is_dir():
        raise ConfigurationError(f"invalid --json: the directory {parsed.json.parent} does not exist")
    source, read = open_lines(parsed.input, recording_options(parsed))
    with source:
        result, hit_rate = run_until_complete(replay(source, parsed, os.environ.get("DANMAKU_API_KEY")))
    if not result.requests:
        raise ConfigurationError(f"{parsed.input} is empty; expected one danmaku per line")
    figures = _figures(result, hit_rate, parsed)
    if parsed.json:
        _write_json(parsed.json, figures)
    print(_format_report(figures))
    if read and read.dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in read.dropped.most_common())
        print(f"danmaku bench: not danmaku, and left out: {reasons}", file=sys.stderr)
    is_whole = parsed.lenient or not (read and read.unreadable)
    return 0 if figures["answered"] and is_whole else 1


def _figures(result: Result, hit_rate: float | None, parsed: argparse.Namespace) -> dict[str, Any]:
    return {
        "url": parsed.url,
        "loop": "open" if parsed.rate else "closed",
        "rate": parsed.rate,
        "concurrency": None if parsed.rate else parsed.concurrency,
        "texts_per_request": parsed.texts_per_request,
        "encoding": parsed.encoding,
        "elapsed_s": result.elapsed_s,
        "requests": result.requests,
        "answered": len(result.seconds),
        "requests_per_s": len(result.seconds) / result.elapsed_s,
        "texts_per_s": result.texts / result.elapsed_s,
        "latency_ms": _quantiles_ms(result.seconds),
        "late_ms": _quantiles_ms(result.late) if parsed.rate else None,
        "hit_rate": hit_rate,
        "errors": dict(sorted(result.errors.items())),
        "refused": result.refused,
        "generator_limits": _generator_limits(result, parsed.rate),
    }


def _quantiles_ms(seconds: list[float]) -> dict[str, float] | None:
    """Returns nearest-rank percentiles, or None without values."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    shares = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: 1000 * ordered[-(-len(ordered) * percent // 100) - 1] for name, percent in shares.items()}


def _generator_limits(result: Result, rate: float | None) -> list[str]:
    """Lists the reasons why the load generator, not the gateway, may have limited the figures."""
    from service.commands.bench.load import MAX_CONNECTIONS

    limits = []
    late = sum(seconds > LATE_S for seconds in result.late)
    if rate and late > LATE_SHARE * len(result.late):
        limits.append(
            f"it did not reach {rate:g} requests/s: {late:,} of {len(result.late):,} requests started over "
            f"{LATE_S * 1000:.0f} ms late, one of them {max(result.late) * 1000:,.0f} ms"
        )
    if result.most_in_flight > MAX_CONNECTIONS:
        limits.append(f"{result.most_in_flight:,} concurrent requests shared {MAX_CONNECTIONS} connections")
    if (share := result.cpu_s / result.elapsed_s) > BUSY_SHARE:
        limits.append(f"it used {share:.0%} of a core and has one thread")
    return limits


def _format_report(figures: dict[str, Any]) -> str:
    how = f"{figures['rate']:g} requests/s" if figures["rate"] else f"{figures['concurrency']} callers"
    hit_rate = "unknown" if figures["hit_rate"] is None else f"{figures['hit_rate']:.1%} of look-ups found"
    errors = ", ".join(f"{count:,} {error_type}" for error_type, count in figures["errors"].items())
    since_due = ", counted from the due time" if figures["rate"] else ""
    lines = [
        f"{figures['url']}, {figures['loop']} loop, {how}, {figures['texts_per_request']} texts each, "
        f"{figures['encoding']}",
        f"  requests    {figures['requests']:,} in {figures['elapsed_s']:.1f} s, {figures['answered']:,} answered",
        f"  throughput  {figures['texts_per_s']:,.0f} texts/s, {figures['requests_per_s']:,.1f} requests/s",
        f"  latency     {_format_quantiles(figures['latency_ms'])}{since_due}",
    ]
    if figures["rate"]:
        lines.append(f"  start delay {_format_quantiles(figures['late_ms'])}, included in the latency")

    lines += [
        f"  cache       {hit_rate}",
        f"  errors      {errors + '; ' if errors else ''}{figures['refused']:,} refused, "
        f"{sum(figures['errors'].values()) - figures['refused']:,} failed",
    ]
    lines += [f"  the generator may have been the limit: {limit}" for limit in figures["generator_limits"]]
    return "\n".join(lines)


def _format_quantiles(quantiles: dict[str, float] | None) -> str:
    return "  ".join(f"{name} {value:,.2f} ms" for name, value in quantiles.items()) if quantiles else "none"


def _write_json(path: Path, figures: dict[str, Any]) -> None:
    import orjson

    draft = path.with_name(path.name + ".tmp")
    draft.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    os.replace(draft, path)
