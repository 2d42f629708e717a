"""The commit log as an audit trail: found, read as rules say, erased on request, printed."""
