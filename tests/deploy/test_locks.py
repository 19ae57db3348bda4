"""locks/: what the images install, with hashes. `make locks` regenerates it."""

from __future__ import annotations

import re
import tomllib

import pytest
from deploy.images import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# By name, the extras in it.
LOCKS = {"build": "build", "service": "milvus otel", "gpu": "milvus otel gpu", "training": "training parquet"}
OURS = {"danmaku-client", "danmaku-embedding"}


def pins(path: str) -> dict[str, set[str]]:
    text = (ROOT / path).read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_the_tested_versions_and_hashes(name: str) -> None:
    tested, locked = pins("constraints.txt"), pins(f"locks/{name}.txt")
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")

    assert {each: versions for each, versions in locked.items() if tested.get(each, versions) != versions} == {}
    assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=\w)", text, flags=re.MULTILINE) if entry)


@pytest.mark.parametrize("name", ["service", "gpu", "training"])
def test_a_lock_has_all_that_is_needed(name: str) -> None:
    """If not: `make locks`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    client = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *client["dependencies"]]
    for extra in LOCKS[name].split():
        needed += project["optional-dependencies"][extra]

    names = {canonicalize_name(Requirement(each).name) for each in needed}
    instead = {"onnxruntime"} if name == "gpu" else set()  # of which onnxruntime-gpu would overwrite the files
    assert names - pins(f"locks/{name}.txt").keys() - OURS == instead
