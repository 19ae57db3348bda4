"""Trains heads: from a user's labelled texts to a classifier that the service applies to its vectors.

labelled texts ─▶ texts: without copies, split ─┬▶ linear: on frozen vectors, in seconds ─┬▶ report ─▶ heads/NAME/
                                                └▶ tuning: of the whole model ────────────┘
"""
