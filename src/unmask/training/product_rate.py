"""Measure how many FLOPs a second this machine does in products of large matrices."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from unmask import kernels
from unmask.config.hardware import Precision
from unmask.distributed.machine import cpu_identity
from unmask.kernels import Kernels
from unmask.stages.fingerprint import digest
from unmask.storage.atomic import read_note
from unmask.storage.user_cache import keep, user_cache

# rows and columns of the factors
SIZES = (512, 1024, 2048, 4096, 8192, 16384)
# seconds that one size may take in a turn
TIME_LIMIT = 0.3
# products of one size are repeated until they have taken this long
LEAST_SECONDS = 0.02
DTYPES: dict[Precision, torch.dtype] = {
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,
}


class ProductRate:
    """Time products of square matrices; a call returns the best FLOP/s of its turn.

    It ends at a size for which the memory is too full: 0 where none has fitted.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.dtype = DTYPES[precision]
        self.device = device
        self.best = 0.0

    def __call__(self) -> float:
        best = 0.0
        for size in SIZES:
            flops = 2.0 * size**3
            # a size that would take too long at the rate so far is left out
            if self.best and flops / self.best > TIME_LIMIT:
                break
            seconds = self._seconds_where_it_fits(size)
            if seconds is None:
                break
            rate = flops / seconds
            best = max(best, rate)
            self.best = max(self.best, rate)
        return best

    def _seconds_where_it_fits(self, size: int) -> float | None:
        """Return the seconds of one product, None where the device's memory is full."""
        with suppress(torch.OutOfMemoryError):
            return self._seconds(size)
        # what was allocated before it did not suffice
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _seconds(self, size: int) -> float:
        """Return the seconds of one product: the fastest of several, by any library."""
        left, right = (
            torch.ones(size, size, dtype=self.dtype, device=self.device)
            for _ in range(2)
        )
        out = torch.empty_like(left)
        seconds = self._fastest(lambda: torch.mm(left, right, out=out))
        if self.device.type == "cpu" and kernels.has_onednn():
            with kernels.using(Kernels(linear="onednn")):
                by_onednn = self._fastest(lambda: kernels.linear(left, right, None))
            seconds = min(seconds, by_onednn)
        return seconds

    def _fastest(self, run: Callable[[], object]) -> float:
        """Return the seconds of the fastest call, of as many as LEAST_SECONDS allow."""
        best = float("inf")
        began = time.perf_counter()
        # the first call may load a library
        run()
        while True:
            start = self._time()
            run()
            best = min(best, self._time() - start)
            if time.perf_counter() - began > LEAST_SECONDS:
                return best

    def _time(self) -> float:
        """Return the seconds of a clock, once the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def best_product_rate(precision: Precision, device: torch.device) -> float:
    """Measure FLOP/s in under a second; return the best of this machine's so far.

    0 where no product has fitted into the memory. The user's cache keeps it: what was
    measured while other programs ran does not count for ever.
    """
    rate = ProductRate(precision, device)()
    path = _cache_path(precision, device)
    if path is None:
        return rate
    earlier = read_note(path).get("flops_per_second", 0.0)
    if earlier >= rate:
        return earlier
    keep(path, json.dumps({"flops_per_second": rate}))
    return rate


def _cache_path(precision: Precision, device: torch.device) -> Path | None:
    """Return where the rate of this machine is kept: its threads and torch included."""
    is_gpu = device.type == "cuda"
    key = {
        "cpu": cpu_identity(),
        "device": torch.cuda.get_device_name(device) if is_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": precision,
    }
    folder = user_cache()
    return folder and folder / "product_rate" / f"{digest(key)}.json"
