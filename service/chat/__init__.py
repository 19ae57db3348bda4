"""Analyses what a chat is saying: which danmaku mean the same, topics and highlights.

    text ─▶ spelling: folded characters, sounds ─┐
    two texts ─▶ polarity: contrary evidence ────┼─▶ sameness: a probability, a relation and a reason ─▶ merging
    two vectors ─▶ cosine ───────────────────────┘

Nothing here depends on HTTP or on recording files.
"""
