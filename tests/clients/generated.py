"""Generates a client from a gateway's OpenAPI document and asks with it: `URL`, in an empty directory."""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> None:
    url = sys.argv[1]
    options = ("--url", f"{url}/openapi.json", "--meta", "none", "--output-path", "generated_client")
    generate = [sys.executable, "-m", "openapi_python_client", "generate", *options]
    subprocess.run(generate, check=True, capture_output=True)  # it warns of the streams, for which it has no code
    sys.path.insert(0, ".")
    from generated_client import Client
    from generated_client.api.embeddings import embed
    from generated_client.api.similarity import similar
    from generated_client.models import EmbedJsonEmbedRequest, SimilarSimilarRequest

    client = Client(base_url=url)
    embedded = embed.sync(client=client, body=EmbedJsonEmbedRequest(texts=["草", "awsl", " "]))
    bare = embed.sync(client=client, body=["草", "awsl"])
    found = similar.sync(client=client, body=SimilarSimilarRequest(query="草", candidates=["awsl", "草"]))
    refused = similar.sync(client=client, body=SimilarSimilarRequest(query="草"))
    answers = {
        "vectors": embedded.embeddings,
        "bare": bare.embeddings,
        "reason": embedded.errors[0].error,
        "best": found.results[0].matches[0].text,
        "refused": refused.error,
    }
    json.dump(answers, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
