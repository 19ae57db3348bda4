"""Contains `danmaku worker`, a replacement for bert-serving-server 1.10. Start reading at `server.py`."""
