"""Serves danmaku embeddings over HTTP. Start reading at `embedder.py`; docs/design.md has the map of the layers."""

__version__ = "0.2.0"
