"""Regenerates the output that README and docs show, and docs/http.md: `make docs`.

It replaces only output below a command and compares nothing: review the difference before you commit it.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from http_page import render
from not_run import is_run
from pages import PAGES, ROOT, Command, commands, forget_collections, run, train_head, workplace
from processes import serving

HTTP_PAGE = "docs/http.md"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = workplace(Path(scratch))
        flags = ("--collections", f"sqlite://{scratch}/collections", "--access-log", "false")
        with serving(*flags, "--heads", str(train_head(directory))) as (http, _):
            ask = partial(run, url=str(http.base_url), directory=directory)
            while http.get("/collections/default").status_code == 404:  # made once the gateway serves
                time.sleep(0.1)
            page = render(http.get("/openapi.json").json(), lambda text: ask(Command(HTTP_PAGE, text)))
            _write(ROOT / HTTP_PAGE, page)
            told: dict[str, str] = {}  # by command: a page in another language shows what the first one does
            for name in PAGES:
                if name == HTTP_PAGE:
                    continue
                forget_collections(http)
                text = before = (ROOT / name).read_text(encoding="utf-8")
                for command in commands(name):
                    if command.shown and is_run(command):
                        if command.text not in told:
                            told[command.text] = ask(command)
                        shown, given = f"{command.text}\n{command.shown}", f"{command.text}\n{told[command.text]}"
                        text = text.replace(shown, given)
                if text != before:
                    _write(ROOT / name, text)


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    print(f"{path.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
