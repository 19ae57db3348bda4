"""Analyses what a chat is saying: which danmaku mean the same, topics and highlights.

    text ─▶ spelling: folded characters, sounds ─┐
    two texts ─▶ polarity: what speaks against ──┼─▶ sameness: a probability, a relation and a reason ─▶ merging
    two vectors ─▶ cosine ───────────────────────┘

Nothing here knows HTTP or files of recordings.
"""
