"""`danmaku merge`: merges danmaku that mean the same in recordings, and counts them."""
