"""Collections in a real Redis 8: what they have beyond the contract of every store."""
