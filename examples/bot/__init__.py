"""A bot that follows a danmaku chat; use it as the start of your own.

    .venv/bin/python -m examples.bot examples/chat.ndjson --speed 60 --script examples/script.tsv --watch 草

    recorder's file, stdin, room ─▶ sources ─▶ lines ─▶ bot ─▶ gateway: observe, topics, /similar
                                                        ├─▶ script: replies
                                                        └─▶ views: what a terminal shows

`bot.py` has the main loop; `sources.py` and `lines.py` read the danmaku. Left out: sending replies to the room, which
needs your own account and Bilibili's consent.
"""
