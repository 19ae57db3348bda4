"""Regenerates the table of settings in docs/operations.md from service/settings.py: `make docs`.

What a setting is for stands in one place, its description, which `danmaku serve --help` prints as well.
"""

from __future__ import annotations

from pathlib import Path

from pydantic.fields import FieldInfo

from service.settings import Settings

PAGE = Path(__file__).with_name("operations.md")
BEGIN, END = "<!-- The table is written by `make docs`. -->\n", "<!-- The end of the table. -->"


def table() -> str:
    rows = [
        f"| `--{name.replace('_', '-')}` | {_default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | what it is, and when to change it |", "|---|---|---|", *rows, ""])


def _default(field: FieldInfo) -> str:
    """None, an empty list and what depends on the machine are told by the description."""
    if field.default_factory or field.default in (None, ()):
        return ""
    words = field.default if isinstance(field.default, tuple) else (field.default,)
    return f"`{' '.join(map(str, words))}`"


def with_table(page: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} lacks the lines between which the table stands: {BEGIN.strip()} and {END}")
    return before + begin + table() + end + after


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
