"""Commands of README and docs that no test runs as printed, by their beginning, with the reason.

All others are run (`test_docs.py`), so a new command needs no entry unless it cannot be run. Sub-commands and flags of
those listed are checked nevertheless.
"""

from __future__ import annotations

from pages import Command

NOT_RUN = {
    # What tests do by other means.
    "make serve": "installs, and serves until it is stopped; every test of a gateway runs the command behind it",
    "danmaku serve": "serves until it is stopped, and names other machines; flags are looked up, `serving` runs it",
    "danmaku worker": "as `danmaku serve`; one is started by the test of README's block",
    "danmaku-train": "minutes of TensorFlow; the small example is run by tests/training/test_cli.py",
    'python -c "from transformers': "needs transformers; tests/service/test_huggingface.py has the sentence",
    "make clients": "downloads an environment of its own",
    "DANMAKU_CLIENTS_PYTHON=": "that environment; without it the test is skipped",
    "TEXTS=danmaku.txt": "that environment; without it the test is skipped",
    "bert-serving-start": "the genuine server; run by tests/classic in its own environment",
    "docker": "a Docker engine; tests/deploy reads the Dockerfile and docker-compose.yml",
    "make images": "a Docker engine; `make image-check` builds without one",
    "kustomize": "a registry; tests/deploy/kustomize.py reads k8s/",
    "kubectl": "a cluster; tests/deploy/test_kubernetes.py validates what is applied",
    "pip install openapi-python-client": "downloads; tests/clients runs the generator",
    "pip install ./client": "downloads; tests/deploy/test_package.py installs the client's wheel",
    "pip install 'danmaku-embedding[gpu]'": "downloads, and would replace what runs the tests",
    "pip uninstall": "would remove what runs the tests",
    "pip install --no-deps onnxruntime-gpu": "downloads, and would replace what runs the tests",
    # What takes too long, or a machine that is not here.
    "make train-mini": "hours, with the corpus",
    ".venv/bin/python -m examples.bot danmaku_dataset/": "a minute, with the corpus",
    "gcloud": "an account of Google's cloud",
    "git clone": "the network, and an address that is the reader's",
    "python3.11 -m venv": "part of a block for a TPU's own machine",
    ".venv/bin/pip install": "downloads",
    ".venv/bin/danmaku-train train training/configs/chinese-base": "a TPU",
}

# Packages that examples in Python may need and that are not installed here; tests/clients has them.
ELSEWHERE = (
    *("sentence_transformers", "langchain_openai", "llama_index.embeddings.text_embeddings_inference", "litellm"),
    *("huggingface_hub", "pymilvus.model.dense", "transformers"),
)


def is_run(command: Command) -> bool:
    return not command.is_in_prose and not any(command.text.startswith(beginning) for beginning in NOT_RUN)
