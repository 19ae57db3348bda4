"""What docs/operations.md says: its table of settings is that of the code, and a backup made its way is one."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from processes import serving

from docs.settings import PAGE, with_table

TEXT = PAGE.read_text(encoding="utf-8")
KEPT_AT = "/var/lib/danmaku/collections"


def test_the_table_of_settings_is_up_to_date() -> None:
    assert with_table(TEXT) == TEXT, "make docs"


def test_a_backup_made_while_danmaku_come_in_can_be_searched(tiny_model: Path, tmp_path: Path) -> None:
    """By the page's own command."""
    (command,) = re.findall(rf"kubectl exec .* -- python (-c '.*{KEPT_AT}.*')", TEXT)
    kept, restored = tmp_path / "kept", tmp_path / "restored"
    restored.mkdir()
    with serving("--collections", f"sqlite://{kept}", model=f"onnx://{tiny_model}") as (client, _):
        client.put("/collections/room").raise_for_status()
        client.post("/collections/room/danmaku", json=[{"text": "草"}, {"text": "晚安"}]).raise_for_status()
        subprocess.run([sys.executable, *shlex.split(command.replace(KEPT_AT, str(kept)))], check=True)
        client.post("/collections/room/danmaku", json=[{"text": "可爱"}]).raise_for_status()
    (kept / "copy.db").rename(restored / "collections.db")

    with serving("--collections", f"sqlite://{restored}", model=f"onnx://{tiny_model}") as (client, _):
        answer = client.post("/similar", json={"query": "草", "collection": "room"}).raise_for_status().json()

    (result,) = answer["results"]
    assert [match["text"] for match in result["matches"]] == ["草", "晚安"]
