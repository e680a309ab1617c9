"""Name the machine that was measured."""

import platform
import re
from pathlib import Path
from typing import Any

import torch

from unmask.commands.bench.contestants.ours import set_up_device
from unmask.commands.units import count_noun

CPU_FILE = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """Return what the maker calls the CPU; its kind where the system does not say."""
    try:
        found = re.search(r"^model name\s*: (.+)$", CPU_FILE.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def describe_machine(spec: dict[str, Any]) -> str:
    """Return the device, the threads and the version of torch in one line."""
    device = set_up_device(spec)
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    threads = count_noun(torch.get_num_threads(), "thread")
    return f"{cpu_name()}, {threads}, torch {torch.__version__}"
