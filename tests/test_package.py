"""The two distributions: the contents of their wheels, whether they work in empty environments, and where they install.

Tests that need a package index are skipped if none can be reached.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from processes import ROOT, free_ports, wait_until_ready

import service

CLIENT = ROOT / "client"
MODEL = Path("models", "danmaku-bert-mini")
# Platforms by uv's names, and versions of Python. onnxruntime's wheels for macOS are of version 14 on.
PLATFORMS = [
    ("x86_64-pc-windows-msvc", "3.11"),
    ("x86_64-pc-windows-msvc", "3.14"),
    ("aarch64-apple-darwin", "3.14"),
    ("x86_64-manylinux_2_28", "3.14"),
    ("aarch64-manylinux_2_28", "3.11"),
]
MACOS = "14.0"
UNREACHABLE = re.compile("Failed to fetch|NewConnectionError|Temporary failure in name resolution|ConnectTimeoutError")


def project(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return values


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Builds the wheels from the sdists, as `python -m build` does; returns them by the name of the distribution."""
    directory = tmp_path_factory.mktemp("dist")
    for source in (ROOT, CLIENT):
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(source)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, timeout=240)
    return {path.name.split("-")[0].replace("_", "-"): path for path in directory.glob("*.whl")}


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return BytesParser().parsebytes(archive.read(name))


def files_below(directory: Path) -> set[str]:
    paths = [path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(directory.parent).as_posix() for path in paths}


def test_the_wheel_holds_the_packages_and_the_model_and_nothing_else(wheels: dict[str, Path]) -> None:
    """Lists and pictures that training reads are files of its packages."""
    files = (path for path in (ROOT / MODEL).rglob("*") if path.is_file())
    model = {f"service/{path.relative_to(ROOT).as_posix()}" for path in files}

    assert (
        names_in(wheels["danmaku-embedding"]) == files_below(ROOT / "service") | files_below(ROOT / "training") | model
    )
    assert names_in(wheels["danmaku-client"]) == files_below(CLIENT / "danmaku_client")


@pytest.mark.parametrize("name", ["danmaku-embedding", "danmaku-client"])
def test_a_wheel_has_its_metadata_and_license(wheels: dict[str, Path], name: str) -> None:
    metadata = metadata_of(wheels[name])

    assert metadata["Version"] == service.__version__
    assert metadata["License-Expression"] == "MIT"
    assert "LICENSE" in (metadata.get_all("License-File") or [])
    assert metadata["Author"] == "danmaku-embedding authors"
    assert metadata["Requires-Python"] == ">=3.11"


def test_separate_parts_carry_the_license() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")

    assert text.startswith("MIT License")
    for copy in (CLIENT / "LICENSE", ROOT / MODEL / "LICENSE"):
        assert copy.read_text(encoding="utf-8") == text


def test_the_service_requires_the_client_of_its_own_version() -> None:
    dependencies = [str(line) for line in project(ROOT)["dependencies"]]

    assert f"danmaku-client=={service.__version__}" in dependencies
    assert project(CLIENT)["version"] == service.__version__


def test_the_changelog_has_a_section_for_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.search(rf"^## {re.escape(service.__version__)} — \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)


def install(directory: Path, *requirements: Path) -> Path:
    """Installs the requirements into an environment; returns the folder of its programs."""
    venv.create(directory, with_pip=False)
    programs = directory / "bin"
    command = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet", "--no-compile"]
    command += ["--constraint", str(ROOT / "constraints.txt"), *map(str, requirements)]
    done = subprocess.run(command, capture_output=True, text=True, env=outside())
    if UNREACHABLE.search(done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return programs


def outside() -> dict[str, str]:
    """Returns the environment variables of a process outside this clone."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DANMAKU_COLLECTIONS")}


@contextmanager
def serving_from(programs: Path, directory: Path) -> Iterator[httpx.Client]:
    """Runs `danmaku serve` of an environment in a folder, with defaults except for the port."""
    (port,) = free_ports(1)
    command = [str(programs / "danmaku"), "serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=directory, env=outside(), stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, process)
            yield client
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.mark.timeout(900)  # installing 370 MB takes 33 s of a core
def test_the_wheels_serve_from_any_folder_and_the_client_works_alone(wheels: dict[str, Path], tmp_path: Path) -> None:
    programs = install(tmp_path / "service", *wheels.values())
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with serving_from(programs, folder) as http:
        embedded = http.post("/embed", json=["草", "awsl"]).raise_for_status().json()
        ranked = http.post("/similar", json={"query": "阿夸", "candidates": ["aqua", "晚安"]}).raise_for_status().json()
        page = http.get("/").raise_for_status()
        script = http.get("/static/app.js").raise_for_status()

        alone = install(tmp_path / "client", wheels["danmaku-client"])
        code = f"from danmaku_client import Client\nwith Client('{http.base_url}') as client:\n"
        code += "    print(client.embed(['草', 'awsl']).vectors.shape)"
        done = subprocess.run([alone / "python", "-c", code], capture_output=True, text=True, env=outside())

    assert (embedded["model"], embedded["dim"]) == (MODEL.name, 256)
    assert [match["text"] for match in ranked["results"][0]["matches"]] == ["aqua", "晚安"]
    assert page.headers["content-type"].startswith("text/html")
    assert "javascript" in script.headers["content-type"]
    assert (folder / "danmaku-collections" / "collections.db").exists()
    assert done.stdout == "(2, 256)\n", done.stderr
    assert {"service", "fastapi", "onnxruntime"} & {
        path.name for path in alone.parent.glob("lib/*/site-packages/*")
    } == set()


@pytest.fixture(scope="module")
def resolving(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], subprocess.Popen[str]]:
    """Processes that resolve the requirements of the service, all at once because they wait for the index.

    They use uv, because pip evaluates markers for its own platform.
    """
    directory = tmp_path_factory.mktemp("requirements")
    return {
        (platform, python): resolve(directory, "constraints.txt", platform, python, "--only-binary", ":all:")
        for platform, python in PLATFORMS
    }


def resolve(
    directory: Path, constraints: str, platform: str, python: str, *flags: str, extra: str | None = None
) -> subprocess.Popen[str]:
    lines = [str(line) for each in (ROOT, CLIENT) for line in project(each)["dependencies"]]
    lines += project(ROOT)["optional-dependencies"][extra] if extra else []
    others = [line for line in lines if Requirement(line).name != "danmaku-client"]
    requirements = directory / f"{platform}-{python}.in"
    requirements.write_text("\n".join(others) + "\n", encoding="utf-8")
    return subprocess.Popen(
        [*(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"), *flags]
        + ["--constraint", str(ROOT / constraints), "--python-platform", platform, "--python-version", python]
        + [str(requirements)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS},
        cwd=directory,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("platform", "python"), PLATFORMS)
def test_the_pinned_versions_have_wheels(
    resolving: dict[tuple[str, str], subprocess.Popen[str]], platform: str, python: str
) -> None:
    process = resolving[platform, python]
    found, complaints = process.communicate()

    if UNREACHABLE.search(complaints):
        pytest.skip("no package index can be reached")
    assert process.returncode == 0, complaints
    resolved = {line.partition("==")[0] for line in found.splitlines()}
    assert {"fastapi", "onnxruntime", "usearch"} <= resolved
    assert ("uvloop" in resolved) == ("windows" not in platform)


@pytest.mark.timeout(600)
def test_the_genuine_server_installs_beside_ours(tmp_path: Path) -> None:
    """`make classic`: its TensorFlow 2.15 limits what ours may require."""
    process = resolve(tmp_path, "constraints-classic.txt", "x86_64-manylinux_2_28", "3.11", extra="classic")
    found, complaints = process.communicate()

    if UNREACHABLE.search(complaints):
        pytest.skip("no package index can be reached")
    assert process.returncode == 0, complaints
    assert {"bert-serving-server==1.10.0", "tensorflow-cpu==2.15.1"} <= set(found.splitlines())
