"""A bot that follows a chat of danmaku: take it as the beginning of yours.

    .venv/bin/python -m examples.bot examples/chat.ndjson --speed 60 --script examples/script.tsv --watch 草

    recorder's file, stdin, room ─▶ sources ─▶ lines ─▶ bot ─▶ gateway: observe, topics, /similar
                                                        ├─▶ script: replies
                                                        └─▶ views: what a terminal shows

`bot.py` is the story; `sources.py` and `lines.py` are where danmaku come from.
Left out: sending what the bot says into the room, which needs an account of yours, and Bilibili's consent.
"""
