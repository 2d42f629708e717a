"""The demo: every flight that left New York in January 2013, replayed through durable commands."""
