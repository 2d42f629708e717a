"""Which start of the machine this is: what only the kernel remembered is gone after the next one."""

from pathlib import Path
from typing import Final

NO_BOOT: Final = bytes(16)


def current_boot() -> bytes:
    """Return 16 bytes that name this start of the machine, or `NO_BOOT` where it cannot be told."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return bytes.fromhex(text.strip().replace("-", ""))
    except (OSError, ValueError):
        return NO_BOOT
