"""Processes that this project starts: what they must not inherit, and that they do not outlive who started them."""

import ctypes
import signal
import sys

PREEMPTED = 75  # exit code: run me again
LEAKING = (
    "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "PL_GLOBAL_SEED",
)  # fmt: skip
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """To be called in a new process: Linux sends it SIGTERM when its parent dies, so that none is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
