"""Compares highlights with density alone, judged blind, and measures the time to find them.

`--ask DIR` writes questions.txt, the first five moments of either method in one shuffled list without its name, and
key.json. Write one verdict per line, in the same order, into verdicts.txt: `h` for a highlight, `g` for a flood of
greetings or farewells, `o` for all others. `--score DIR` then prints how often each method is right. The rule:

    h: one can tell from the lines that something particular happened within these seconds that viewers react to: a
       joke, a fright, a win or a loss, a climax, a surprise, an embarrassment. o: talk without a common subject, a
       lasting dispute or question, thanks, gifts, raffles and bots, sound and picture, slogans.

    .venv/bin/python benchmarks/highlights.py danmaku_live_2020/*.csv --ask judged
    .venv/bin/python benchmarks/highlights.py --score judged
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from contextlib import aclosing
from pathlib import Path

import numpy as np

from service.chat.highlights import STEP_S, WINDOW_S, Kinds, _find_maxima, find_highlights, read_kinds
from service.chat.merging import Line
from service.commands.recording_flags import add_embedding_flags
from service.commands.timed_vectors import embed_recordings

FIRST = 5
SHOWN, BEFORE = 24, 6  # lines of a moment, and of the minutes before it
METHODS = ("highlights", "density")


async def ask(parsed: argparse.Namespace) -> tuple[list[str], list[dict[str, object]]]:
    """Returns the questions and their sources."""
    names, examples = zip(*read_kinds(), strict=True)
    parsed.command = "highlights"
    questions: list[str] = []
    key: list[dict[str, object]] = []
    rng = random.Random(0)
    async with aclosing(embed_recordings(parsed, examples)) as recordings:
        async for recording in recordings:
            lines = [Line(line.text, line.seconds, str(line.number)) for line in recording.timed.lines]
            started = time.perf_counter()
            found = find_highlights(
                lines, recording.vectors, recording.judge, Kinds(names, recording.extra), most=FIRST
            )
            taken = time.perf_counter() - started
            hours = (lines[-1].time - lines[0].time) / 3600
            print(f"{recording.path.name}: {len(lines):,} lines, {hours:.1f} h: {taken:.1f} s", flush=True)
            moments = [(peak.at, "highlights") for peak in found.peaks]
            moments += [(found.start + STEP_S * at, "density") for at in _find_maxima(found.density, FIRST)]
            for at in sorted({at for at, _ in moments}, key=lambda _: rng.random()):
                methods = [method for other, method in moments if other == at]
                questions.append(describe(len(key), lines, at, rng))
                key.append({"recording": recording.path.name, "at": at, "methods": methods})
    return questions, key


def describe(number: int, lines: list[Line], at: float, rng: random.Random) -> str:
    """Shows lines of the window around a moment, in order, and some of the five minutes before it."""
    around = [line.text for line in lines if abs(line.time - at) <= WINDOW_S / 2]
    before = [line.text for line in lines if WINDOW_S < at - line.time <= 300]
    shown, earlier = (
        [texts[place] for place in sorted(rng.sample(range(len(texts)), min(most, len(texts))))]
        for texts, most in ((around, SHOWN), (before, BEFORE))
    )
    return f"#{number} [{' | '.join(earlier)}]\n{' | '.join(shown)}"


def score(directory: Path) -> None:
    key = json.loads((directory / "key.json").read_text())
    verdicts = (directory / "verdicts.txt").read_text().split()
    assert len(verdicts) == len(key) and set(verdicts) <= set("hgo"), "expected a verdict h, g or o of every question"
    recordings = sorted({entry["recording"] for entry in key})
    rng = np.random.default_rng(0)
    means = {}
    for method in METHODS:
        found = {
            name: [v for v, e in zip(verdicts, key, strict=True) if e["recording"] == name and method in e["methods"]]
            for name in recordings
        }
        right = means[method] = np.array([np.mean([verdict == "h" for verdict in found[name]]) for name in recordings])
        drawn = right[rng.integers(0, len(right), (10_000, len(right)))].mean(axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        floods = [verdict == "g" for verdicts_of in found.values() for verdict in verdicts_of]
        print(f"{method}: precision at {FIRST} {right.mean():.2f} [{low:.2f}, {high:.2f}], ", end="")
        print(f"{sum(floods)} of {len(floods)} floods of greetings or farewells")
    gain = means["highlights"] - means["density"]
    low, high = np.percentile(gain[rng.integers(0, len(gain), (10_000, len(gain)))].mean(axis=1), [2.5, 97.5])
    print(f"{len(recordings)} recordings; highlights less density {gain.mean():+.2f} [{low:+.2f}, {high:+.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_embedding_flags(parser)
    next(action for action in parser._actions if action.dest == "recordings").nargs = "*"
    parser.add_argument("--ask", type=Path, metavar="DIR", help="write questions there")
    parser.add_argument("--score", type=Path, metavar="DIR", help="compare the verdicts there")
    parsed = parser.parse_args()
    if parsed.score:
        score(parsed.score)
    elif parsed.ask:
        questions, key = asyncio.run(ask(parsed))
        parsed.ask.mkdir(exist_ok=True)
        (parsed.ask / "questions.txt").write_text("\n\n".join(questions) + "\n", encoding="utf-8")
        (parsed.ask / "key.json").write_text(json.dumps(key), encoding="utf-8")
    else:
        parser.error("expected --ask or --score")


if __name__ == "__main__":
    main()
