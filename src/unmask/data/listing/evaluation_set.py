"""Another set of images of the classes that a classifier knows, or of some of them.

Imports no torch.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool

from unmask.data.listing.catalogue import ClassFolders
from unmask.data.listing.conventions import IMAGE_SUFFIXES
from unmask.data.listing.identity import compute_identity, file_content_keys
from unmask.data.listing.listing import SHOWN, Listing
from unmask.data.listing.names import LabelledNames
from unmask.data.listing.scan import scan_folders


def list_evaluation_set(
    root: Path, classes: tuple[str, ...], leave_out: bool = False
) -> Listing:
    """List images in class folders as validation.

    leave_out: without those that lie in no folder of a known class; a note counts them.
    Raises ValueError where the folder is missing or holds no image of these classes,
    and for images of other classes that are not to be left out.
    """
    if not root.is_dir():
        raise ValueError(
            f"{root} is not a folder; it should hold a folder of images for each class"
        )
    names, sizes = scan_folders(root, [root])
    if not names:
        raise ValueError(f"{root} has no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
    folders = ClassFolders.from_names(0, names)
    labels = folders.labels(classes)
    is_known = labels >= 0
    unknown = _describe_unknown(folders, ~is_known)
    if unknown and (not leave_out or not is_known.any()):
        more = " ..." if len(classes) > SHOWN else ""
        raise ValueError(
            f"{root} has {unknown}; the classifier knows"
            f" {', '.join(classes[:SHOWN])}{more}: name its folders as these, or leave"
            " other images out: robustness.unknown_classes=leave_out"
        )
    names, sizes, labels = names.filter(is_known), sizes[is_known], labels[is_known]
    keys = file_content_keys(root, names, sizes)
    val = LabelledNames(names, labels)
    return Listing(
        root,
        LabelledNames(names[:0], labels[:0]),
        val,
        classes,
        compute_identity([val], keys, classes),
        notes=(f"left out of {root}: {unknown}",) if unknown else (),
    )


def _describe_unknown(
    folders: ClassFolders, is_unknown_N: Bool[np.ndarray, "N"]
) -> str:
    """Say how many images are of no known class, and in which folders; or nothing."""
    (unknown,) = is_unknown_N.nonzero()
    if not len(unknown):
        return ""
    inside = unknown[folders.folder_ids_N[unknown] >= 0]
    others = folders.folders_of(inside)
    more = " ..." if len(others) > SHOWN else ""
    names = f": {', '.join(others[:SHOWN])}{more}" if others else ""
    return (
        f"{len(unknown)} images of other classes, or of none ({len(others)} such"
        f" folders{names})"
    )
