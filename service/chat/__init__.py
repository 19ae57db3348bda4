"""What a chat is saying: which danmaku say the same, and what is left when they are merged.

    text ─▶ spelling: folded characters, sounds ─┐
    two texts ─▶ polarity: what speaks against ──┼─▶ sameness: a probability, a relation and a reason ─▶ merging
    two vectors ─▶ cosine ───────────────────────┘

Nothing here knows HTTP or files of recordings.
"""
