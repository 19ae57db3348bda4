"""Asks a gateway with the clients of others, and prints vectors and the error for a blank text as JSON.

.venv-clients/bin/python tests/clients/ask.py http://127.0.0.1:8000
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

TEXTS = ["草", "awsl"]
Embed = Callable[[list[str]], object]


def openai(url: str) -> Embed:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    return lambda texts: [
        item.embedding for item in client.embeddings.create(model="danmaku-bert-mini", input=texts).data
    ]


def langchain(url: str) -> Embed:
    from langchain_openai import OpenAIEmbeddings

    # By default it sends tokens of another vocabulary, which the gateway refuses with this advice.
    options = {"model": "danmaku-bert-mini", "api_key": "none", "check_embedding_ctx_length": False}
    return OpenAIEmbeddings(base_url=f"{url}/v1", **options).embed_documents


def llama_index(url: str) -> Embed:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    return OpenAILikeEmbedding(
        model_name="danmaku-bert-mini", api_base=f"{url}/v1", api_key="none"
    ).get_text_embedding_batch


def llama_index_tei(url: str) -> Embed:
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    return TextEmbeddingsInference(model_name="danmaku-bert-mini", base_url=url).get_text_embedding_batch


def litellm(url: str) -> Embed:
    from litellm import embedding

    options = {"model": "openai/danmaku-bert-mini", "api_base": f"{url}/v1", "api_key": "none"}
    return lambda texts: [item["embedding"] for item in embedding(input=texts, **options).data]


def huggingface_hub(url: str) -> Embed:
    from huggingface_hub import InferenceClient

    client = InferenceClient(url)
    return lambda texts: client.feature_extraction(texts).tolist()


def milvus(url: str) -> Embed:
    from pymilvus.model.dense import TEIEmbeddingFunction

    embed = TEIEmbeddingFunction(url)
    return lambda texts: [vector.tolist() for vector in embed(texts)]


CLIENTS = (openai, langchain, llama_index, llama_index_tei, litellm, huggingface_hub, milvus)


def main() -> None:
    found = {}
    for make in CLIENTS:
        embed = make(sys.argv[1])
        vectors = embed(TEXTS)
        try:
            embed(["草", " "])
            error = ""
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        found[make.__name__] = {"vectors": vectors, "error": error}
    json.dump(found, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
