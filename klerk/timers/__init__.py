"""Timers: when they are due, firing them, and computing them anew for a changed design."""
