"""Subscriptions to what commands change, live and from the commit log."""
