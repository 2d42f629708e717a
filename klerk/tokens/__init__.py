"""Tokens, which let a command take effect once."""
