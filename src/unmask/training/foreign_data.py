"""A data set of the user's that comes as arrays is loaded once before anything else."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from unmask.config.datasets import Arrays, DatasetSize, find_dataset
from unmask.config.schema import Config


def check_data(config: Config) -> None:
    """Raise ValueError unless images and labels are what the Dataset says."""
    data = config.data
    if data.arrays:
        _check_splits(data.source, Path(data.root or "data"), data.download)
        if data.channels != data.arrays.channels:
            raise ValueError(
                f"its images have {data.arrays.channels} channels; set"
                f" data.channels={data.arrays.channels}"
            )


# the cells of a sweep share one data set
@cache
def _check_splits(source: str, root: Path, download: bool) -> None:
    dataset = find_dataset(source)
    arrays = dataset.arrays
    assert arrays
    if not isinstance(arrays.identity, str):
        raise ValueError(f"its identity is {arrays.identity!r}, and not a string")
    splits: Any = arrays.load(root, download)
    for name, (images, labels) in zip(("training", "validation"), splits, strict=True):
        _check_split(name, np.asarray(images), np.asarray(labels), arrays)
    sizes = np.bincount(splits[0][1], minlength=len(arrays.classes)).tolist()
    if sizes != list(arrays.class_sizes):
        raise ValueError(
            f"its class_sizes are {list(arrays.class_sizes)}, and load returns {sizes}"
            " training images of its classes"
        )
    found = DatasetSize(len(splits[0][1]), len(splits[1][1]), len(arrays.classes))
    if dataset.size not in (None, found):
        raise ValueError(f"its size is {dataset.size}, and load returns {found}")


def _check_split(
    name: str, images_NCHW: np.ndarray, labels_N: np.ndarray, arrays: Arrays
) -> None:
    shape = images_NCHW.shape
    if images_NCHW.dtype != np.uint8 or len(shape) != 4 or shape[1] != arrays.channels:
        raise ValueError(
            f"load returns {name} images of {images_NCHW.dtype} and shape {[*shape]},"
            f" not uint8 of shape [N, {arrays.channels}, height, width]"
        )
    if not len(images_NCHW):
        raise ValueError(f"load returns no {name} images; return at least one")
    if arrays.size not in (None, shape[2:]):
        raise ValueError(
            f"its Arrays.size is {arrays.size}, and load returns {name} images of"
            f" {shape[2]} x {shape[3]} pixels"
        )
    if labels_N.dtype != np.int64 or labels_N.shape != shape[:1]:
        raise ValueError(
            f"load returns {name} labels of {labels_N.dtype} and shape"
            f" {[*labels_N.shape]}, not int64 of shape [{shape[0]}]"
        )
    if labels_N.min() < 0 or labels_N.max() >= len(arrays.classes):
        raise ValueError(
            f"{name} labels reach from {labels_N.min()} to {labels_N.max()}, and there"
            f" are {len(arrays.classes)} classes"
        )
