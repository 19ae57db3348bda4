"""docs/http.md: the routes, from the gateway's own OpenAPI document, each with a request and its response.

`make docs` writes it. `service/api/` describes fields and errors; this file has only the requests, in an order in which
they work, and says which parts of a response are left out (`…`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any]

HEAD = """# HTTP

This page lists every route of the gateway. `make docs` generates it from the OpenAPI document, which a running
gateway shows at `/docs` and serves at `/openapi.json`. The responses come from the bundled model; `…` marks omissions.

Bodies are JSON, or NDJSON if `Content-Type` is `application/x-ndjson`. Changes of collections need one of these
types, `curl --json` or `-H 'Content-Type: application/json'`; other routes accept any type. Bodies may have
`Content-Encoding: gzip`. Any request may have the headers `Authorization: Bearer KEY` or `X-API-Key: KEY`,
`X-Timeout-Ms` (how long the caller waits) and `X-Request-ID` (returned, and included in the logs).
"""

PUT = "curl -s -X PUT 127.0.0.1:8000"
DELETE = "curl -s -X DELETE 127.0.0.1:8000"
GET = "curl -s 127.0.0.1:8000"

# By route, the requests that show it.
EXAMPLES = {
    "POST /embed": [
        f"""{GET}/embed -d '["草", "awsl", " "]'""",
        f"""{GET}/embed -d '{{"texts": ["草"], "normalize": true, "encoding": "base64"}}'""",
        f"""printf '"草"\\n{{"text": "awsl", "id": 7}}\\n' | {GET}/embed -H 'Content-Type: application/x-ndjson' """
        "--data-binary @-",
    ],
    "POST /tokenize": [f"""{GET}/tokenize -d '{{"texts": ["阿夸awsl"]}}'"""],
    "POST /classify": [
        f"""{GET}/classify -d '{{"texts": ["这是什么歌", "晚安"]}}'""",
        f"""printf '"这是什么歌"\\n{{"text": "晚安", "id": 7}}\\n' | {GET}'/classify?heads=question' """
        "-H 'Content-Type: application/x-ndjson' --data-binary @-",
        f"""{GET}/classify -d '{{"input": "这是什么歌", "model": "question"}}' | grep -o '"data":.*'""",
    ],
    "POST /predict": [f"""{GET}/predict -d '{{"inputs": "这是什么歌"}}'"""],
    "POST /similar": [
        f"""{GET}/similar -d '{{"query": "阿夸", "candidates": ["aqua", "晚安"], "top_k": 1}}'""",
    ],
    "POST /merge": [
        f"""{GET}/merge --json '{{"lines": [{{"text": "来了", "time": 1}}, {{"text": "来了来了！", "time": 2}}, """
        """{"text": "没来", "time": 3}]}'""",
    ],
    "POST /highlights": [
        f"""{GET}/highlights --json '{{"lines": [{{"text": "来了", "time": 1}}, {{"text": "哈哈", "time": 300}}, """
        """{"text": "哈哈哈", "time": 301}, {"text": "哈哈", "time": 302}, """
        """{"text": "晚安", "time": 600}], "count": 1}' | grep -o '"peaks":.*'""",
    ],
    "PUT /collections/{name}": [f"{PUT}/collections/room"],
    "POST /collections/{name}/danmaku": [
        f"""{GET}/collections/room/danmaku --json '["草", {{"text": "晚安", "id": "n1", "metadata": {{"room": 3}}, """
        """"ttl_s": 600}, ""]'""",
        f"""{GET}/similar -d '{{"query": "草", "collection": "room", "top_k": 1}}'""",
        f"""{GET}/similar -d '{{"query": "草", "collection": "room", "filter": {{"room": 3}}}}'""",
    ],
    "POST /collections/{name}/observe": [
        f"""{GET}/collections/room/observe --json '[{{"text": "晚安", "time": 1}}, {{"text": "晚安！", "time": 2}}]'""",
    ],
    "GET /collections/{name}/topics": [f"{GET}/collections/room/topics"],
    "GET /collections": [f"{GET}/collections"],
    "GET /collections/{name}": [f"{GET}/collections/room"],
    "GET /collections/{name}/map": [
        f"""{GET}'/collections/default/map?limit=3' | grep -o '"danmaku":.*'""",
    ],
    "GET /collections/{name}/danmaku": [f"{GET}'/collections/room/danmaku?limit=1'"],
    "GET /collections/{name}/danmaku/{id}": [f"{GET}/collections/room/danmaku/n1"],
    "DELETE /collections/{name}/danmaku/{id}": [f"{DELETE}/collections/room/danmaku/n1"],
    "POST /collections/{name}/delete": [
        f"""{GET}/collections/room/delete --json '{{"filter": {{"room": {{"in": [3, 4]}}}}}}'"""
    ],
    "POST /collections/{name}/rebuild": ["curl -s -X POST 127.0.0.1:8000/collections/room/rebuild"],
    "DELETE /collections/{name}": [f"{DELETE}/collections/room"],
    "POST /v1/embeddings": [f"""{GET}/v1/embeddings -d '{{"input": "草", "model": "danmaku-bert-mini"}}'"""],
    "GET /v1/models": [f"{GET}/v1/models"],
    "GET /v1/models/{id}": [f"{GET}/v1/models/danmaku-bert-mini"],
    "POST /": [f"""{GET}/ -d '{{"inputs": ["草", "awsl"]}}'"""],
    "POST /similarity": [
        f"""{GET}/similarity -d '{{"inputs": {{"source_sentence": "阿夸", "sentences": ["aqua", "晚安"]}}}}'"""
    ],
    "POST /encode": [f"""{GET}/encode -d '{{"id": 123, "texts": ["草"]}}'"""],
    "GET /status/server": [f"""{GET}/status/server | grep -o '"server_version":"[^"]*"'"""],
    "GET /status/client": [f"{GET}/status/client"],
    "GET /healthz": [f"{GET}/healthz"],
    "GET /health": [f"{GET}/health"],
    "GET /readyz": [f"{GET}/readyz"],
    "GET /info": [f"{GET}/info"],
    "GET /usage": [f"{GET}/usage"],
    "GET /metrics": [f"{GET}/metrics | grep '^# .* danmaku_cache_lookups_total '"],
}


def render(document: Schema, run: Callable[[str], str]) -> str:
    """Returns the page. `run` returns the output of a command."""
    parts, tag = [HEAD], ""
    told_at: dict[str, str] = {}  # by schema, the route where its fields are listed
    for name, operation in _operations(document):
        if operation["tags"][0] != tag:
            tag = operation["tags"][0]
            parts.append(f"## {tag}\n")
        parts.append(_route(name, operation, document, run, told_at))
    parts.append(_errors(document))
    return "\n".join(parts)


def _operations(document: Schema) -> list[tuple[str, Schema]]:
    routes = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    if missing := routes.keys() ^ EXAMPLES.keys():
        raise ValueError(f"docs/http.py has an example of every route, but for {', '.join(sorted(missing))}")
    return [(name, routes[name]) for name in EXAMPLES]


def _route(name: str, operation: Schema, document: Schema, run: Callable[[str], str], told_at: dict[str, str]) -> str:
    parts = [f"### {name}\n"]
    if told := operation.get("description"):
        parts.append(f"{told}\n")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if takes := [*_parameters(operation), *_fields(body, body, "")]:
        parts.append(_table("request", takes))
    answer = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
    route = told_at.setdefault(answer.get("$ref", name), name)
    if route != name:
        parts.append(f"The response is that of `{route}`.\n")
    elif gives := list(_fields(answer, document, "")):
        parts.append(_table("response", gives))
    shown = []
    for command in EXAMPLES[name]:
        shown += [f"$ {command}", _shorten(run(command))]
    parts.append("\n".join(["```console", *shown, "```\n"]))
    return "\n".join(parts)


def _table(title: str, rows: list[str]) -> str:
    return "\n".join([f"| {title} | | |", "|---|---|---|", *rows]) + "\n"


def _parameters(operation: Schema) -> Iterator[str]:
    for each in operation.get("parameters", []):
        if each["in"] != "path":
            yield _row(f"?{each['name']}", each["schema"], each.get("description") or each["schema"].get("description"))


def _fields(schema: Schema, document: Schema, place: str) -> Iterator[str]:
    """Returns a row for every field, including those of nested objects."""
    schema = _resolved(schema, document)
    if schema.get("type") == "array":
        yield from _fields(schema["items"], document, f"{place}[]")
    for option in schema.get("anyOf", []):
        if option.get("type") == "object" or "$ref" in option:
            yield from _fields(option, document, place)
    for name, field in schema.get("properties", {}).items():
        path = f"{place}.{name}".lstrip(".")
        yield _row(path, field, field.get("description"))
        inner = _resolved(field.get("items", field), document)
        if "properties" in inner:
            yield from _fields(inner, document, f"{path}[]" if field.get("type") == "array" else path)


def _row(name: str, schema: Schema, description: str | None) -> str:
    told = _type(schema)
    if schema.get("default") is not None and schema["default"] != {}:
        told += f", default `{json.dumps(schema['default'])}`"
    return " | ".join((f"| `{name}`", told, description or "")).rstrip() + " |"


def _type(schema: Schema) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        inner = _type(schema.get("items", {}))
        return f"list of {inner}" if inner else "list"
    return str(schema.get("type", ""))


def _resolved(schema: Schema, document: Schema) -> Schema:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = (document.get("components", {}).get("schemas") or document.get("$defs", {}))[name]
    return schema


def _shorten(output: str) -> str:
    """Leaves out the middle of long lists of numbers, long texts and long lines, and all times, which vary."""
    output = re.sub(r'("(?:created_at|expires_at)":)\d+\.\d+', r"\1…", output)
    output = re.sub(r"\[(-?\d+\.\d+),(-?\d+\.\d+),[^\]]{40,}?\]", r"[\1,\2,…]", output)
    output = re.sub(r'"([A-Za-z0-9+/]{12})[A-Za-z0-9+/=]{60,}"', r'"\1…"', output)
    output = re.sub(r"\[(\d+),\d+(,\d+){2,}\]", r"[\1,…]", output)
    return "\n".join(line if len(line) < 400 else f"{line[:300]}…" for line in output.split("\n"))


def _errors(document: Schema) -> str:
    told: dict[str, str] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status != "200":
                    told.setdefault(status, response["description"])
    rows = [f"| {status} | {told[status]} |" for status in sorted(told)]
    return "\n".join(
        [
            "## Errors\n",
            'An error is `{"error": "a sentence", "error_type": "overloaded"}`: `error` is for people, and programs',
            "branch on `error_type` (`service/errors.py` lists them). Errors below `/v1` have OpenAI's format.\n",
            "| status | |",
            "|---|---|",
            *rows,
            "",
        ]
    )
