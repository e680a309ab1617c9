"""Sources of images in shards, listed as a folder of the same images is."""

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple

from unmask.data.containers.contents import Contents
from unmask.data.containers.index import save_index, saved_indexes, scan_lock
from unmask.data.containers.litdata import missing_chunks, scan_chunk
from unmask.data.containers.naming import (
    labels_match_folders,
    named_splits,
    rename_as_in_folders,
)
from unmask.data.containers.parquet import holds_path, scan_parquet
from unmask.data.containers.roots import (
    LocalRoot,
    Root,
    Shard,
    missing_shards,
    open_root,
)
from unmask.data.containers.scan import scan_shards
from unmask.data.containers.scan_tar import ScannedShard, scan_tar
from unmask.data.containers.shard_stores import RawPixelStore, ShardStore
from unmask.data.containers.streamed import StreamedRoot, fetch_index
from unmask.data.listing.catalogue import (
    SHARD_SUFFIXES,
    Catalogue,
    require_finished,
)
from unmask.data.listing.conventions import split_word
from unmask.data.listing.listing import Listing, make_listing
from unmask.data.listing.names import folder_slice


class Container(NamedTuple):
    """Describe a kind of shards; scan: None where only src/prepare.py writes them.

    Then their index is written with them.
    """

    suffix: str
    description: str
    scan: Callable[..., ScannedShard] | None


# By the values of `source`.
CONTAINERS: dict[str, Container] = {
    "webdataset": Container(SHARD_SUFFIXES["webdataset"], "tar shards", scan_tar),
    "parquet": Container(SHARD_SUFFIXES["parquet"], "Parquet files", scan_parquet),
    "litdata": Container(SHARD_SUFFIXES["litdata"], "LitData chunks", scan_chunk),
    "raw": Container(SHARD_SUFFIXES["raw"], "files of raw pixels", None),
}


def list_container(kind: str, location: str, holdout: float) -> Listing:
    """List the images of shards at a path or URL.

    Raises ValueError where shards are missing, damaged or of another kind.
    """
    catalogue = catalogue_container(kind, location)
    return make_listing(catalogue, PurePath(location), holdout)


def catalogue_container(kind: str, location: str) -> Catalogue:
    """Catalogue the images of shards; raises ValueError as `list_container` does."""
    if kind == "litdata" and "://" in location:
        contents = fetch_index(location)
        streamed = StreamedRoot(location, contents.shards)
        return _to_catalogue(contents, ShardStore(streamed, contents))
    root = open_root(location)
    if kind == "raw":
        if not isinstance(root, LocalRoot):
            raise ValueError(
                f"data.root={location}: raw pixels are mapped into memory, so they must"
                " lie in a local folder"
            )
        contents = read_contents(kind, root)
        catalogue = _to_catalogue(contents, RawPixelStore(root, contents))
        # sizes of raw pixels say little: all images may have one size
        return replace(catalogue, identified_by_digest=True)
    contents = read_contents(kind, root)
    in_rows = (contents.offsets < 0) & (contents.sizes > 0)
    has_path = holds_path(contents.offsets)
    if (in_rows & ~has_path).any():
        warnings.warn(
            f"{location}: these Parquet files are compressed, so reading an image"
            " decodes a whole row group; uncompressed ones are read as fast as files:"
            f" python src/prepare.py from={location} to=... format=parquet",
            stacklevel=1,
        )
    return _to_catalogue(contents, ShardStore(root, contents))


def _to_catalogue(contents: Contents, store: ShardStore | RawPixelStore) -> Catalogue:
    digests = contents.digests

    def digest(i: int) -> str:
        if digests is not None:
            return digests[i].tobytes().hex()
        content = store.read(i)
        encoded = content if isinstance(content, bytes) else content.tobytes()
        return hashlib.sha256(encoded).hexdigest()

    catalogue = Catalogue(
        contents.names,
        contents.sizes,
        store,
        named_splits(contents.names),
        digest,
        notes=contents.notes,
    )
    has_labels = bool((contents.labels >= 0).any())
    if not has_labels or labels_match_folders(contents):
        return catalogue
    # targets of src/prepare.py 0.1 may have no names of classes: numbers are the names
    num_classes = int(contents.labels.max(initial=-1)) + 1
    classes = contents.classes or tuple(map(str, range(num_classes)))
    return replace(catalogue, labels=contents.labels, classes=classes)


def read_contents(kind: str, root: Root) -> Contents:
    """Read the index of these shards if it still fits them, otherwise scan them.

    Raises ValueError where shards are missing or damaged.
    """
    container = CONTAINERS[kind]
    if isinstance(root, LocalRoot):
        require_finished(root.folder)
    shards = root.list_shards(container.suffix)
    if not shards:
        raise ValueError(
            f"data.root={root} has no {container.description}"
            f" (*{container.suffix}){_hint_without_shards(kind, root)}"
        )
    indexed = _read_saved_index(kind, root, shards)
    if indexed is not None:
        return indexed
    if container.scan is None:
        # their shapes are described nowhere else
        raise ValueError(
            f"data.root={root} has {container.description} but no readable"
            " unmask.index; copy it too, or make both: python src/prepare.py from=..."
            f" to={root} format={kind}"
        )
    # LitData lists its chunks, whose numbers are of workers, too
    missing = (
        missing_chunks(root, shards)
        if kind == "litdata"
        else list(missing_shards(shards))
    )
    if missing:
        raise ValueError(
            f"{root}/{missing[0]} is missing ({len(missing)} of the numbered shards"
            " are); copy it too"
        )
    # of the processes of a run or a sweep one scans, and the others wait here
    with scan_lock(root):
        indexed = _read_saved_index(kind, root, shards)
        if indexed is not None:
            return indexed
        contents = rename_as_in_folders(scan_shards(container.scan, root, shards))
        _check_counts(contents, root)
        save_index(contents, root, kind)
        return contents


def _hint_without_shards(kind: str, root: Root) -> str:
    """Describe what there is instead of shards of this kind, and what to type."""
    others = [
        source
        for source, container in CONTAINERS.items()
        if source != kind and root.list_shards(container.suffix)
    ]
    if others:
        hint = f", but {CONTAINERS[others[0]].description}: set source={others[0]}"
    else:
        hint = "; for folders of images leave source out"
    if kind == "webdataset":
        compressed = [*root.list_shards(".tar.gz"), *root.list_shards(".tgz")]
        if compressed:
            # images could only be read after all that precedes them
            hint += f"; {compressed[0].name} is compressed as a whole: unpack it"
    return hint


def _read_saved_index(kind: str, root: Root, shards: list[Shard]) -> Contents | None:
    for contents in saved_indexes(root, kind):
        if list(contents.shards) == shards:
            return contents
        # copied shards have other times, but never other sizes
        if contents.is_prepared:
            _require_prepared_shards(contents.shards, shards, root)
            return contents
    return None


def _require_prepared_shards(
    prepared: tuple[Shard, ...], present: list[Shard], root: Root
) -> None:
    """Raise ValueError unless the shards are those that src/prepare.py wrote.

    Such shards never change; they can only be missing or cut off.
    """
    sizes = {shard.name: shard.size for shard in present}
    added = sorted(sizes.keys() - {shard.name for shard in prepared})
    if added:
        raise ValueError(
            f"{root}/{added[0]} was not written by src/prepare.py, unlike the other"
            " shards in this folder; move it away"
        )
    for shard in prepared:
        if shard.name not in sizes:
            raise ValueError(
                f"{root}/{shard.name} is missing; copy it again, or run the same"
                " src/prepare.py again"
            )
        if sizes[shard.name] != shard.size:
            raise ValueError(
                f"{root}/{shard.name} has {sizes[shard.name]} bytes, but was written"
                f" with {shard.size}; copy it again, or run the same src/prepare.py"
                " again"
            )


def _check_counts(contents: Contents, root: Root) -> None:
    """Raise ValueError where a split has other images than the Hub's _info.json says.

    It lies beside the shards, and shows where the last of them were not copied.
    """
    if not isinstance(root, LocalRoot) or not (root.folder / "_info.json").is_file():
        return
    try:
        splits = json.loads((root.folder / "_info.json").read_bytes())["splits"]
        expected = {name: int(facts["num_samples"]) for name, facts in splits.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    counts: dict[str, int] = {}
    for split in named_splits(contents.names):
        part = folder_slice(contents.names, split)
        role = _split_role(split)
        counts[role] = counts.get(role, 0) + part.stop - part.start
    for split, count in expected.items():
        actual = counts.get(_split_role(split))
        # a split that is left out as a whole is left out on purpose
        if actual is not None and actual != count:
            raise ValueError(
                f"{root}/_info.json says {count} images in {split}, the shards hold"
                f" {actual}; some shards are missing: copy all of them"
            )


def _split_role(split: str) -> str:
    """Return one word for a split: the Hub's validation may be called val here."""
    word = split_word(split) or split
    return "val" if word in ("valid", "validation") else word
