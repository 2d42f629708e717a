"""Migrations: what they are declared with, and how a store is brought to a changed design."""
