"""The files of the playground: their permissions, caching and origin."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from pathlib import Path

import httpx
import pytest

from service.api.playground import read_web

WEB = Path(__file__).parents[2] / "service" / "web"
OURS = [name for name in read_web() if not name.startswith("vendor/")]
LIBRARIES = [name for name in read_web() if name.startswith("vendor/")]


async def test_the_policy_forbids_other_hosts_and_inline_scripts(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", answer.text) == []


async def test_the_overlay_may_run_its_own_script_and_any_style(client: httpx.AsyncClient) -> None:
    """OBS puts the CSS of its user into the page. Only our own pages may show it in a frame."""
    answer = await client.get("/live")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)

    assert policy["script-src"] == f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert (policy["style-src"], policy["frame-ancestors"]) == ("'unsafe-inline'", "'self'")
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")


def test_the_example_chat_is_the_one_of_the_examples() -> None:
    assert (WEB.parent / "chat/example.ndjson").read_bytes() == (WEB.parents[1] / "examples/chat.ndjson").read_bytes()


@pytest.mark.parametrize("name", OURS)
def test_our_files_name_no_other_host(name: str) -> None:
    text = read_web()[name].body.decode()

    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}


async def test_everything_that_the_page_names_exists(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    named = re.findall(r"(?:src|href)=\"(static/[^\"]+)\"", page)
    imported = [
        f"static/{name}" for script in OURS for name in re.findall(r'from "\./(.+?)"', read_web()[script].body.decode())
    ]

    assert named and imported
    assert {f"static/{name}" for name in read_web()} - {"static/index.html", "static/live.html"} == {*named, *imported}
    for path in named:
        assert (await client.get(f"/{path}")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/live", "/static/app.js", f"/static/{LIBRARIES[0]}"])
async def test_a_file_is_sent_once(client: httpx.AsyncClient, path: str) -> None:
    """Our files are revalidated and not sent again; a library has its version in its name and is not even requested."""
    first = await client.get(path)
    again = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
    other = await client.get(path, headers={"If-None-Match": 'W/"another"'})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert other.content == first.content
    assert ("immutable" in first.headers["cache-control"]) == ("vendor" in path)
    assert (first.headers["cache-control"] == "no-cache") == ("vendor" not in path)


@pytest.mark.parametrize("name", read_web())
async def test_files_are_compressed_for_clients_that_accept_it(client: httpx.AsyncClient, name: str) -> None:
    path = {"index.html": "/", "live.html": "/live"}.get(name, f"/static/{name}")
    packed = await client.get(path, headers={"Accept-Encoding": "gzip"})
    plain = await client.get(path, headers={"Accept-Encoding": "identity"})

    assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    assert packed.content == plain.content == (WEB / name).read_bytes()
    assert packed.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("name", ["../app.py", "vendor/README.md", "index.html", "live.html", "", "%2e%2e/settings.py"])
async def test_other_files_are_not_served(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/static/{name}")

    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


def test_the_libraries_are_those_that_their_packages_hold() -> None:
    """Their checksums are those of the files in their npm packages."""
    rows = re.findall(
        r"^\| (\S+\.js) \|.*\| ([0-9a-f]{64}) \|$", (WEB / "vendor" / "README.md").read_text("utf-8"), re.M
    )

    assert {f"vendor/{name}": checksum for name, checksum in rows} == {
        name: hashlib.sha256(read_web()[name].body).hexdigest() for name in LIBRARIES
    }
    assert (WEB / "vendor" / "LICENSES.txt").read_text("utf-8").count("Permission is hereby granted") == len(rows)


def test_both_languages_have_every_word() -> None:
    text = read_web()["words.js"].body.decode()
    chinese, english = (
        re.findall(r"^ {4,6}(\w+): ", part, re.M) for part in re.split(r"^  (?:zh|en): \{$", text, flags=re.M)[1:]
    )
    page = read_web()["index.html"].body.decode()
    asked = {word for script in OURS for word in re.findall(r'\bsay\(\s*"(\w+)"', read_web()[script].body.decode())}

    assert chinese == english
    assert {*re.findall(r'data-(?:t|label|placeholder)="(\w+)"', page), *asked} <= set(chinese)
