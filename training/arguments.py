"""Flags and printing that several commands of `danmaku-train` share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

STOPPED = 3  # exit status of a run that has not reached its last step, so the next command of a script does not start


def add_paths(parser: argparse.ArgumentParser, flag: str, dest: str, help_text: str, *, metavar: str = "PATH") -> None:
    """Adds a flag that takes one or more paths and may be repeated."""
    parser.add_argument(
        flag, dest=dest, type=Path, nargs="+", action="extend", required=True, metavar=metavar, help=help_text
    )


def add_heldout(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--heldout", type=float, default=0.05, metavar="SHARE", help=help_text)


def add_config(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds CONFIG and --set, which becomes `overrides`."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="TOML file, such as those in training/configs/")
    add_overrides(parser, example)


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override a setting of the config, such as {example}",
    )


def report_end(newest: Path, num_train_steps: int) -> int:
    """Prints how a run ended; returns the exit status, 0 or STOPPED."""
    is_finished = newest.name.endswith(f"-{num_train_steps}")
    print(f"{newest}: {'finished' if is_finished else 'stopped; run the same command to resume'}")
    return 0 if is_finished else STOPPED


def print_report(report: Mapping[str, object], prefix: str = "") -> None:
    """Prints a nested report as lines such as `kept, train, lines: 1,234`."""
    for key, value in report.items():
        name = prefix + key.replace("_", " ")
        if isinstance(value, Mapping) and key.endswith("characters"):
            print(f"{name}: {', '.join(f'{item} {count:,}' for item, count in value.items()) or 'none'}")
        elif isinstance(value, Mapping):
            print_report(value, f"{name}, ")
        elif isinstance(value, list):
            print(f"{name}: {len(value):,}")
        else:
            print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
