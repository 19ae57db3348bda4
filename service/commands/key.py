"""`danmaku key`: makes an API key."""

from __future__ import annotations

import argparse

NAME = "key"
HELP = "make an API key"
DESCRIPTION = "Prints a new API key, for a client, and its hash, for --api-key-hashes. Neither is stored."
EXAMPLE = """example:
  danmaku key
  danmaku serve --host 0.0.0.0 --api-key-hashes HASH
  curl -s 127.0.0.1:8000/embed -H 'Authorization: Bearer KEY' -d '["草"]'
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    pass


def run(_: argparse.Namespace) -> int:
    from service.api.keys import hash_key, make_key

    key = make_key()
    print(f"key  {key}\nhash {hash_key(key)}")
    return 0
