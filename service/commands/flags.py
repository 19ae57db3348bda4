"""Flags that several commands share: fields of `Settings`, each also an environment variable DANMAKU_<FLAG>."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from service.settings import Settings

SEVERAL = ("heads", "pooling_layer")  # values of one flag


def add_settings(parser: argparse._ActionsContainer, fields: Iterable[str]) -> None:
    for field in fields:
        info = Settings.model_fields[field]
        default = "" if info.default_factory or info.default in (None, ()) else f" [{_format(info.default)}]"
        parser.add_argument(
            f"--{field.replace('_', '-')}",
            dest=field,
            default=argparse.SUPPRESS,
            nargs="+" if field in SEVERAL else None,
            metavar=field.rsplit("_", 1)[-1].upper(),
            help=f"{info.description}{default}".replace("%", "%%"),
        )


def _format(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def given_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings given on the command line."""

    return {key: value for key, value in vars(parsed).items() if key in Settings.model_fields}


def print_faults(command: str, error: ValidationError) -> None:
    for fault in error.errors():
        field = ".".join(map(str, fault["loc"]))
        print(f"{command}: {field + ': ' if field else ''}{fault['msg']}", file=sys.stderr)
