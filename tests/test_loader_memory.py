"""Loader workers do not grow, however many epochs they read."""

import gc
import io
import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from unmask.data.augment.crops import Augmentation
from unmask.data.listing.names import Names, name_at, pack_names
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import LoaderSettings, make_loader
from unmask.data.loading.sampler import EvalBatches
from unmask.data.loading.views import Views

MANY = 300_000


@dataclass(frozen=True)
class OneImage:
    """A store of many names for one file."""

    names: Names
    content: bytes

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return name_at(self.names, i)

    def read(self, i: int) -> bytes:
        return self.content


def private_megabytes(pid: int) -> float:
    """Return the memory that the process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return (
        sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        / 1024
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports private memory")
def test_workers_do_not_grow_over_ten_epochs_nor_copy_the_names() -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 80, 200)).save(file, "JPEG")
    names = pack_names(
        f"train/n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG" for i in range(MANY)
    )
    files = StoredImages(
        OneImage(names, file.getvalue()), torch.zeros(MANY, dtype=torch.long), 3
    )
    views = Views(
        files, ImageFormat((16, 16), (0.5,) * 3, (0.5,) * 3), Augmentation("random"), 0
    )
    batches = make_loader(
        views,
        EvalBatches(range(0, MANY, MANY // 128), 16),
        LoaderSettings(2, threads=2),
    )
    seen, sizes = 0, []
    for _ in range(10):
        seen += sum(len(batch.ids_B) for batch in batches)
        workers = [
            child.pid for child in multiprocessing.active_children() if child.daemon
        ]
        sizes.append(sum(private_megabytes(pid) for pid in workers if pid))
    del batches
    gc.collect()  # ends the workers
    assert seen >= 10 * 128
    # pages that were shared are touched for the first time, fewer in each epoch
    assert sizes[-1] < sizes[4] + 6
    assert sizes[-1] < 100
