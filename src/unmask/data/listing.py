"""What is in a folder of images, and its identity: names and sizes of the files, never where they lie.

Standard library only: a finished run is recognised before torch is imported.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".npy"])
UNCOMPRESSED = frozenset([".npy", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"])
TRAIN_NAMES, VAL_NAMES = ("train",), ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Listing:
    """Files of both splits relative to the root; labels are indices into classes, or -1 without classes."""

    root: Path
    train: tuple[tuple[str, int], ...]
    val: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    identity: str


def list_images(root: str | Path, holdout: float = 0.1) -> Listing:
    """Find train/ and val/ (or test/), class folders below them, or a flat heap of images.

    Without a split every 1/holdout-th image (of each class, in name order) is held out.
    Raises ValueError where the folder is missing or holds too few images.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root={root} is not a folder; give an existing folder of images: data.root=/path/to/it")
    train_dir, val_dir = _split_folder(root, TRAIN_NAMES), _split_folder(root, VAL_NAMES)
    if train_dir and val_dir:
        train_files, val_files = _files(root, train_dir), _files(root, val_dir)
        classes = _classes(train_files, depth=1)
        train, val = _label(train_files, classes, 1), _label(val_files, classes, 1)
    else:
        depth = 1 if train_dir else 0  # a lone train/ is no class
        files = _files(root, train_dir or root)
        classes = _classes(files, depth)
        train, val = _hold_out(_label(files, classes, depth), holdout)
    if not train or not val:
        allowed = " ".join(sorted(SUFFIXES))
        raise ValueError(
            f"data.root={root} has {len(train)} training and {len(val)} validation images; "
            f"both need at least one ({allowed})"
        )
    return Listing(root, train, val, classes, _identity(root, [*train, *val], classes))


def _split_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _files(root: Path, folder: Path) -> list[str]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        base = Path(parent).relative_to(root)
        found += [str(base / name) for name in names if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
    return sorted(found)


def _classes(files: list[str], depth: int) -> tuple[str, ...]:
    """Names of the class folders; none if any image lies outside a class folder."""
    parts = [Path(name).parts for name in files]
    if not parts or any(len(part) < depth + 2 for part in parts):
        return ()
    return tuple(sorted({part[depth] for part in parts}))


def _label(files: list[str], classes: tuple[str, ...], depth: int) -> tuple[tuple[str, int], ...]:
    if not classes:
        return tuple((name, -1) for name in files)
    loose = [name for name in files if len(Path(name).parts) < depth + 2]
    if loose:
        raise ValueError(
            f"{loose[0]} and {len(loose) - 1} more validation images lie in no class folder, but training has "
            f"{len(classes)} classes; sort them into folders of those names (ImageNet's val/ comes flat: its "
            f"devkit's ground truth says which image goes where)"
        )
    index = {name: i for i, name in enumerate(classes)}
    labels = [index.get(Path(name).parts[depth]) for name in files]
    unknown = sorted({Path(name).parts[depth] for name, label in zip(files, labels, strict=True) if label is None})
    if unknown:
        raise ValueError(
            f"validation has {len(unknown)} classes that training lacks: {', '.join(unknown[:5])}; training has "
            f"{', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}: give both the same class folders"
        )
    return tuple((name, label) for name, label in zip(files, labels, strict=True) if label is not None)


def _hold_out(files: tuple[tuple[str, int], ...], holdout: float) -> tuple[tuple, tuple]:
    """Every k-th image of each class; of all images where no class has k."""
    every = max(2, round(1 / holdout))
    seen: dict[int, int] = {}
    held = []
    for _, label in files:
        seen[label] = seen.get(label, 0) + 1
        held.append(seen[label] % every == 0)
    if not any(held):
        held = [i % min(every, max(2, len(files))) == 1 for i in range(len(files))]
    train = tuple(file for file, out in zip(files, held, strict=True) if not out)
    return train, tuple(file for file, out in zip(files, held, strict=True) if out)


def _mark(path: Path) -> str:
    """The size, and the content where other pixels would leave the size as it is."""
    if path.suffix.lower() in UNCOMPRESSED:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return str(path.stat().st_size)


def _identity(root: Path, files: list[tuple[str, int]], classes: tuple[str, ...]) -> str:
    lines = [*classes, *(f"{name}\0{_mark(root / name)}\0{label}" for name, label in files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
