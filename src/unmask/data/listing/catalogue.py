"""What a source of images holds, whichever its container, and how names and labels become splits and classes."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from unmask.data.listing.names import Names
from unmask.data.listing.stores import Store

TRAIN_NAMES, VAL_NAMES = ("train",), ("val", "valid", "validation", "test")
# of shards, by `source`
SUFFIX_OF = {
    "webdataset": ".tar",
    "parquet": ".parquet",
    "litdata": ".bin",
    "raw": ".pixels",
}
# in a folder that src/prepare.py writes, and has written
PREPARING, PREPARED = ".preparing", "prepared.json"
# labels of images in no class folder, and in one that training lacks
LOOSE, UNKNOWN = -1, -2


@dataclass(frozen=True)
class Catalogue:
    """All images of a source in the order of their names, which are relative to its root: train/cat/1.jpg.

    labels: that stand beside the images, of classes; None: class folders tell. splits: those it has, of TRAIN_NAMES
    and VAL_NAMES. digest: the sha256 of an image; marked: whether that is what it is known by, at any size.
    """

    names: Names
    sizes: Int64[np.ndarray, "N"]
    store: Store
    splits: tuple[str, ...]
    digest: Callable[[int], str]
    labels: Int32[np.ndarray, "N"] | None = None
    classes: tuple[str, ...] = ()
    marked: bool = False


def within(names: Names, folder: str) -> slice:
    """The places of sorted names that begin with folder/."""
    # 0 follows the slash
    return slice(_first(names, f"{folder}/"), _first(names, f"{folder}0"))


def _first(names: Names, bound: str) -> int:
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if names[middle] < bound else (low, middle)
    return low


@dataclass(frozen=True)
class ClassFolders:
    """The folders at a depth below the root, in the order in which names meet them, and each name's own."""

    folders: tuple[str, ...]
    ids_N: Int32[np.ndarray, "N"]

    @classmethod
    def at(cls, depth: int, names: Names) -> "ClassFolders":
        met: dict[str, int] = {}
        ids = np.empty(len(names), dtype=np.int32)
        for place, name in enumerate(names):
            parts = name.split("/", depth + 1)
            ids[place] = (
                met.setdefault(parts[depth], len(met))
                if len(parts) > depth + 1
                else LOOSE
            )
        return cls(tuple(met), ids)

    def classes(self, train: slice) -> tuple[str, ...]:
        """Those of training; none if any of its images lies outside a class folder."""
        ids = np.unique(self.ids_N[train])
        return (
            ()
            if len(ids) and ids[0] == LOOSE
            else tuple(sorted(self.folders[i] for i in ids))
        )

    def labels(self, classes: tuple[str, ...]) -> Int32[np.ndarray, "N"]:
        if not classes:
            return np.full(len(self.ids_N), -1, dtype=np.int32)
        index = {name: i for i, name in enumerate(classes)}
        return np.array(
            [*(index.get(name, UNKNOWN) for name in self.folders), LOOSE],
            dtype=np.int32,
        )[self.ids_N]

    def among(self, places: Int[np.ndarray, "M"]) -> list[str]:
        return sorted(self.folders[i] for i in np.unique(self.ids_N[places]))


def held_out(labels_N: Int[np.ndarray, "N"], holdout: float) -> Bool[np.ndarray, "N"]:
    """The share of each class, to within one image; of all together where no class is large enough."""
    # as it was written: 0.29 * 100 is less than 29 in binary
    share = Fraction(str(holdout))
    numbers, sizes = _within_class(labels_N)
    largest = int(sizes.max(initial=0))
    chosen = [floor((k + 1) * share) > floor(k * share) for k in range(largest)]
    held = np.array([*chosen, False], dtype=bool)[numbers]
    if not held.any():
        # the second image in every few, but never one that is alone in its class:
        # training would not know it
        every = min(max(2, round(1 / holdout)), max(2, len(labels_N)))
        held[np.flatnonzero(sizes > 1)[1::every]] = True
    return held


def _within_class(
    labels_N: Int[np.ndarray, "N"],
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Of each image its number in its class, and how many that has."""
    order = np.argsort(labels_N, kind="stable")
    _, starts, inverse, counts = np.unique(
        labels_N[order], return_index=True, return_inverse=True, return_counts=True
    )
    numbers, sizes = np.empty_like(order), np.empty_like(order)
    numbers[order] = np.arange(len(labels_N)) - starts[inverse]
    sizes[order] = counts[inverse]
    return numbers, sizes


def refuse_unfinished(root: Path) -> None:
    """Raises ValueError where a conversion was begun and never was whole."""
    if (root / PREPARING).is_dir() and not (root / PREPARED).is_file():
        raise ValueError(
            f"data.root={root} is not finished: run the same src/prepare.py again,"
            " which goes on"
        )
