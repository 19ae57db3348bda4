"""docs/operations.md: its table of settings equals the code, and its backup procedure works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from deploy.kustomize import build_own
from processes import serving

from docs.settings import PAGE, with_table

TEXT = PAGE.read_text(encoding="utf-8")
KEPT_AT = "/var/lib/danmaku/collections"


def test_the_table_of_settings_is_up_to_date() -> None:
    assert with_table(TEXT) == TEXT, "make docs"


def test_a_backup_made_during_writes_can_be_searched(tiny_model: Path, tmp_path: Path) -> None:
    """It uses the command of the page."""
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


def test_the_overlay_of_a_new_model_changes_the_workers_model_and_image() -> None:
    (block,) = re.findall(r"```yaml\n(resources: .*?)```", TEXT, re.DOTALL)

    (workers,) = [
        manifest
        for manifest in build_own(yaml.safe_load(block))
        if (manifest["kind"], manifest["metadata"]["name"]) == ("Deployment", "workers")
    ]

    (container,) = workers["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/danmaku-bert-2:1"
    assert {"name": "MODEL", "value": "danmaku-bert-2"} in container["env"]
    assert "-model_dir=models/$(MODEL)" in container["args"]
