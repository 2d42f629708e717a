"""The machine that figures come from: nothing is comparable without it."""

import os
import platform
import sqlite3
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles

PACKAGES = ("klerk", "rocksdict", "msgspec", "numpy", "eventsourcing", "huey", "readerwriterlock")
IN_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
SYNCS = 500
SYNC_BYTES = 200

# macOS has no fdatasync.
sync_data = getattr(os, "fdatasync", os.fsync)


def describe(directory: Path) -> dict[str, object]:
    """The machine block of the report; measures a sync in `directory`, where the stores will be."""
    syncs_us = _measure_syncs_us(directory)
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil_switch_interval_s": sys.getswitchinterval(),
        "sqlite": sqlite3.sqlite_version,
        "packages": _versions(),
        "file_system": file_system(directory),
        "fdatasync_us_p50": round(median(syncs_us), 1),
        "fdatasync_us_p99": round(quantiles(syncs_us, n=100)[98], 1),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`, or "unknown" where the system doesn't tell."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    best, kind = "", "unknown"
    for line in mounts.read_text().splitlines():
        _, mount_point, mount_kind, *_ = line.split(" ")
        if directory.resolve().is_relative_to(mount_point) and len(mount_point) >= len(best):
            best, kind = mount_point, mount_kind
    return kind


def _cpu_model() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> Mapping[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _measure_syncs_us(directory: Path) -> list[float]:
    """What one appended record costs to sync: the floor under every durable figure of one command."""
    path = directory / "fdatasync"
    durations_us = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(SYNC_BYTES))
            started = time.perf_counter()
            sync_data(file.fileno())
            durations_us.append((time.perf_counter() - started) * 1e6)
    path.unlink()
    return durations_us
