"""Memory of this process and of the machine, in bytes."""

import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

# 5 makes the peak what is held now
RESET = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
MACHINE = Path("/proc/meminfo")
# of a container, whose limit may be below the machine's
LIMIT = Path("/sys/fs/cgroup/memory.max")
IN_USE = Path("/sys/fs/cgroup/memory.current")


def restart_peak(device: torch.device) -> int:
    """Forget the peak so far, where the system can; return what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        RESET.write_text("5")
    return peak_bytes(device)


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held: a GPU's, or the resident set.

    Outside Linux a child's peak begins at what its parent holds.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if peak := _kilobytes(STATUS, "VmHWM"):
        return peak
    # macOS counts bytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_bytes(device: torch.device) -> int:
    """Return the memory that another process could have now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _kilobytes(MACHINE, "MemAvailable")
    if not free:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        return min(free, int(LIMIT.read_text()) - int(IN_USE.read_text()))
    except (OSError, ValueError):
        # no container, or one without a limit
        return free


def _kilobytes(path: Path, key: str) -> int:
    """Return a number of a file of /proc in bytes; 0 where it is not there."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
