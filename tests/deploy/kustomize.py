"""Manifests as kustomize builds them, with the pinned version of kubectl."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from deploy.images import ROOT

K8S = ROOT / "k8s"
Manifest = dict[str, Any]


def build(directory: Path) -> list[Manifest]:
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def build_own(kustomization: dict[str, Any]) -> list[Manifest]:
    """Builds an overlay as users write one; its paths are relative to k8s/overlays/theirs."""
    with tempfile.TemporaryDirectory() as directory:
        theirs = os.path.relpath(K8S / "overlays" / "theirs", os.path.realpath(directory))
        for kind in ("resources", "components"):
            kustomization[kind] = [os.path.normpath(f"{theirs}/{path}") for path in kustomization.get(kind, ())]
        (Path(directory) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        return build(Path(directory))
