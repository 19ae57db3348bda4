"""Holds what all routes share: reading bodies, callers and their keys, answers, errors, and the middleware."""
