"""Learns what makes two danmaku the same, for `service/chat/sameness.py`, and measures how well that judges."""
