"""`danmaku classify`: classifies a file of danmaku. It works like `danmaku embed`, but writes labels.

.ndjson   a JSON object per line: index, text, and for each head label and scores, or null with a reason
.csv      index, text, and for each head label and probability; empty with an error
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.csv_rows import to_csv
from service.commands.embed.command import SETTINGS
from service.commands.flags import add_settings, given_settings
from service.commands.recording_flags import add_recording_flags, recording_options
from service.errors import ConfigurationError
from service.settings import Settings

if TYPE_CHECKING:
    from danmaku_client import EmbedResponse

    from service.commands.embed.file import EmbedTexts
    from service.heads.head import Head

NAME = "classify"
HELP = "classify a file of danmaku"
DESCRIPTION = "Classifies one danmaku per line. You can stop it at any time; run the same command again to resume."
EXAMPLE = """example:
  danmaku classify danmaku.txt --head models/danmaku-bert-mini/heads/question --output labels.csv
"""
DIGITS = 6  # of a probability


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="FILE", help="recording, or text file with one danmaku per line; - reads standard input"
    )
    parser.add_argument(
        "--head",
        dest="head_paths",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders that `danmaku-train classify` wrote for the same encoder",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="output file; .ndjson or .csv")
    parser.add_argument(
        "--url",
        help="URL of a gateway that embeds the texts; DANMAKU_API_KEY holds its API key [embed in this process]",
    )
    parser.add_argument("--quiet", action="store_true", help="hide the progress bar")
    add_recording_flags(parser)
    add_settings(parser.add_argument_group("without --url"), SETTINGS)


def run(parsed: argparse.Namespace) -> int:
    from service.commands.embed.file import embed_file, open_gateway, open_model
    from service.event_loop import run_until_complete
    from service.heads.folder import read_head
    from service.recordings.lines import open_lines, open_pipe

    heads = {path.resolve().name: read_head(path) for path in parsed.head_paths}
    output, given = Labels(heads, parsed.output), given_settings(parsed)
    if parsed.url and given:
        flag = next(iter(given)).replace("_", "-")
        raise ConfigurationError(f"--{flag} cannot be combined with --url: the gateway has its own settings")
    raw = {"normalize": False}
    embedder = open_gateway(parsed.url, **raw) if parsed.url else open_model(Settings(**given), **raw)
    try:
        if parsed.input == "-":
            source, read = open_pipe(sys.stdin.buffer, "standard input", recording_options(parsed))
        else:
            source, read = open_lines(Path(parsed.input), recording_options(parsed))
        with source:
            work = embed_file(source, parsed.output, output, _with_versions(embedder, heads), **raw, quiet=parsed.quiet)
            progress = run_until_complete(work)
    except KeyboardInterrupt:
        print("danmaku classify: stopped; run the same command to resume", file=sys.stderr)
        return 130
    without = sum(progress.errors.values())
    print(f"{parsed.output}: {progress.lines:,} lines, {without:,} without a label; {progress.fingerprint}")
    return 1 if read and read.unreadable and not parsed.lenient else 0


@asynccontextmanager
async def _with_versions(
    embedder: AbstractAsyncContextManager[EmbedTexts], heads: Mapping[str, Head]
) -> AsyncIterator[EmbedTexts]:
    """Adds the heads to the fingerprint, so that a run is not resumed with others. Raises HeadError."""
    versions = ", ".join(f"head {name} {head.version}" for name, head in heads.items())
    async with embedder as embed:

        async def embed_and_name(texts: Sequence[str]) -> EmbedResponse:
            response = await embed(texts)
            for name, head in heads.items():
                head.check(response.fingerprint, response.model, f"the head {name!r}")
            return replace(response, fingerprint=f"{response.fingerprint}, {versions}")

        yield embed_and_name


class Labels:
    """An `Output` of labels. Raises ConfigurationError for a name of another kind."""

    def __init__(self, heads: Mapping[str, Head], path: Path) -> None:
        if path.suffix not in (".csv", ".ndjson"):
            raise ConfigurationError(f"invalid --output: {path}; expected a name that ends in .csv or .ndjson")
        self._heads, self._is_csv = heads, path.suffix == ".csv"

    def head(self, first: EmbedResponse) -> bytes:
        columns = [column for name in self._heads for column in (name, f"{name} probability")]
        return to_csv([["index", "text", *columns, "error"]]) if self._is_csv else b""

    def rows(self, start: int, texts: Sequence[str], response: EmbedResponse) -> bytes:
        import orjson

        from service.heads.head import to_probabilities

        errors = {error.index: error for error in response.errors}
        known = [index for index in range(len(texts)) if index not in errors]
        found: list[dict[str, Any]] = [{} for _ in texts]
        for name, head in self._heads.items():
            probabilities = to_probabilities(head.score([texts[index] for index in known], response.vectors[known]))
            for index, row in zip(known, probabilities.astype(float).round(DIGITS).tolist(), strict=True):
                scores = dict(zip(head.labels, row, strict=True))
                found[index][name] = {"label": max(scores, key=scores.__getitem__), "scores": scores}
        if self._is_csv:
            return to_csv([
                [
                    start + index,
                    text,
                    *(cell for name in self._heads for cell in _cells(labels.get(name))),
                    errors[index].error if index in errors else "",
                ]
                for index, (text, labels) in enumerate(zip(texts, found, strict=True))
            ])  # fmt: skip
        lines = []
        for index, (text, labels) in enumerate(zip(texts, found, strict=True)):
            line: dict[str, object] = {"index": start + index, "text": text, "labels": labels or None}
            if error := errors.get(index):
                line |= {"error": error.error, "error_type": error.error_type}
            lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        return b"".join(lines)

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        return work


def _cells(labelled: dict[str, Any] | None) -> tuple[object, object]:
    return (labelled["label"], labelled["scores"][labelled["label"]]) if labelled else ("", "")
