"""The job manager: keeps what is to be run, in order, runs it, and records what became of it."""
