"""Learns when two danmaku mean the same, for `service/chat/sameness.py`, and measures the judgements."""
