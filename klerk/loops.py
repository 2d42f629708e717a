"""Event loops, in which nothing must wait."""

import asyncio


def is_in_loop() -> bool:
    """Return whether the caller runs in an event loop, which must not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
