"""Serves danmaku embeddings over HTTP.

The path of a request is the path through the files, and imports point the same way, never back:
cli → app → api → similarity → embedder → cache, batcher → encoders → checkpoint, tokenizer → errors, settings, metrics.
Start reading at `embedder.py`.
"""

__version__ = "0.1.0"
