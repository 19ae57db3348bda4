"""Contains the code that all routes share: bodies, callers, keys, responses, errors and middleware."""
