"""`danmaku merge`: recordings in which what says the same is shown once, with its count."""
