"""`danmaku key`: generates an API key, or key files for workers."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "key"
HELP = "generate an API key, or key files for workers"
DESCRIPTION = (
    "Prints a new API key for a client and its hash for --api-key-hashes. Neither is stored. With --worker, writes "
    "two key files that encrypt connections to workers and reject clients without a key."
)
EXAMPLE = """example:
  danmaku key
  danmaku serve --host 0.0.0.0 --api-key-hashes HASH
  curl -s 127.0.0.1:8000/embed -H 'Authorization: Bearer KEY' -d '["草"]'

  danmaku key --worker keys
  danmaku worker -model_dir models/danmaku-bert-mini -key_file keys/worker.key_secret
  danmaku serve --encoder bert://127.0.0.1 --worker-key-file keys/worker.key
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worker", type=Path, metavar="DIR", help="write worker.key and worker.key_secret to DIR")


def run(parsed: argparse.Namespace) -> int:
    if parsed.worker:
        from service.worker_key import make_key_files

        public, secret = make_key_files(parsed.worker)
        print(f"for gateways and `danmaku check` {public}\nfor workers                      {secret}")
        return 0
    from service.api.http.keys import hash_key, make_key

    key = make_key()
    print(f"key  {key}\nhash {hash_key(key)}")
    return 0
