"""Whatever is sent, the answer is one that the OpenAPI document declares, and the gateway goes on.

FUZZ_EXAMPLES and FUZZ_BODIES make it thorough.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from processes import ROOT, serving

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10"))
BODIES = int(os.environ.get("FUZZ_BODIES", "4000"))
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
PIECES = [
    *(b"[", b"]", b"{", b"}", b'"', b":", b",", b"null", b"true", b"-1e999", b"1e400", b"\\ud83d", b"\\u0000", b"\xff"),
    *(b'"texts"', b'"query"', b'"candidates"', b'"normalize"', b'"encoding"', b'"input"', b'"model"', b'"top_k"', b" "),
    *(
        "草".encode(),
        b'"awsl"',
        b"\n",
        b"0",
        b'"float"',
        b"[[",
        b"\x00",
        "😂".encode(),
        b'"id"',
        b'"min_score"',
        b"NaN",
    ),
]


def test_no_answer_is_undeclared(tiny_model: Path) -> None:
    """Schemathesis makes requests of all kinds, valid and not, from the document."""
    with serving("--access-log", "false", model=f"onnx://{tiny_model}") as (client, _):
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{client.base_url}/openapi.json"]
        command += ["--checks", CHECKS, "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-color"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280 + EXAMPLES)

    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.timeout(300 + BODIES // 100)
async def test_random_bodies_get_answers_of_the_one_shape(tiny_model: Path) -> None:
    values = random.Random(5)
    statuses: Counter[int] = Counter()
    routes = ("/embed", "/similar", "/v1/embeddings", "/encode", "/tokenize")
    with serving("--access-log", "false", model=f"onnx://{tiny_model}") as (client, _):
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as http:

            async def ask(count: int) -> None:
                for _ in range(count):
                    body = b"".join(values.choices(PIECES, k=values.randint(0, 12)))
                    answer = await http.post(values.choice(routes), content=body)
                    statuses[answer.status_code] += 1
                    content = json.loads(answer.content)
                    assert answer.status_code < 500, (body, answer.text)
                    assert answer.status_code == 200 or {"error", "description"} & content.keys(), (body, answer.text)

            await asyncio.gather(*(ask(BODIES // 8) for _ in range(8)))
        assert client.post("/embed", json=["草"]).status_code == 200
    print(dict(statuses))

    assert sum(statuses.values()) == BODIES // 8 * 8
