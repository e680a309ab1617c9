"""This machine: its CPU, and how the C library gives out memory."""

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

# of glibc's <malloc.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD_BYTES = 64 * 2**20
# lines of /proc/cpuinfo: makers give one name to several CPUs
CPU_LINES = ("model name", "cpu family", "model\t", "flags", "Features")


def cpu_identity() -> str:
    """Return what tells kinds of CPUs apart."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        if found := [line for line in lines if line.startswith(CPU_LINES)]:
            return "\n".join(found)
    return f"{platform.machine()} {platform.processor()}"


def gpu_identity() -> str:
    """Return the models of NVIDIA's GPUs here and which are visible, without torch."""
    folder = Path("/proc/driver/nvidia/gpus")
    models = [path.read_text() for path in sorted(folder.glob("*/information"))]
    names = [line for text in models for line in text.splitlines() if "Model" in line]
    return "\n".join([*names, os.environ.get("CUDA_VISIBLE_DEVICES", "")])


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; return whether it can.

    By default glibc gives large pieces back to the system, which fills them with zeros
    before each new use. Other C libraries have no such switch.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    settings = {
        M_MMAP_MAX: 0,
        M_TRIM_THRESHOLD: 2**31 - 1,
        M_TOP_PAD: TOP_PAD_BYTES,
    }
    taken = [libc.mallopt(name, value) for name, value in settings.items()]
    return all(taken)
