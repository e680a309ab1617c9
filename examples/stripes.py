"""A data set: grey images of stripes, in four directions.

python src/train.py data=image_folder data.source=examples.stripes.STRIPES \\
    data.image_size=32 data.patch_size=8 data.channels=1
"""

from pathlib import Path
from typing import Any

from unmask.config.datasets import Arrays, Dataset, DatasetSize

CLASSES = ("0 degrees", "45 degrees", "90 degrees", "135 degrees")


def load(root: Path, download: bool) -> Any:
    import numpy as np

    def split(count: int, seed: int) -> Any:
        labels_N = np.arange(count) % len(CLASSES)
        draws = np.random.default_rng(seed)
        phase, width = draws.uniform(0, 6, count), draws.uniform(4, 10, count)
        y, x = np.mgrid[:32, :32]
        angle = labels_N[:, None, None] * np.pi / 4
        along = x * np.cos(angle) + y * np.sin(angle)
        waves = np.sin(6.28 * along / width[:, None, None] + phase[:, None, None])
        return (127.5 + 127.5 * waves).astype(np.uint8)[:, None], labels_N

    return split(400, seed=0), split(100, seed=1)


STRIPES = Dataset(
    "Stripes",
    DatasetSize(train=400, val=100, classes=4),
    Arrays(load, "stripes-1", 1, CLASSES, [100] * 4, size=(32, 32)),
)
