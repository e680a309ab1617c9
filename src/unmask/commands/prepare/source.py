"""The source of a conversion: what kind it is, and which images it holds."""

from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath

from unmask.commands.prepare.arguments import Prepare
from unmask.commands.prepare.lists import catalogue_lists, train_list
from unmask.config.checks import ConfigError
from unmask.data.containers.contents import sort_order
from unmask.data.containers.index import INDEX_FILE, read_index_kind
from unmask.data.containers.litdata import CHUNK_INDEX
from unmask.data.containers.shard_stores import ShardStore
from unmask.data.containers.source import CONTAINERS, catalogue_container
from unmask.data.images.unreadable import printable
from unmask.data.listing.catalogue import Catalogue
from unmask.data.listing.conventions import find_splits, is_hidden, split_word
from unmask.data.listing.csv_lists import read_csv_lists
from unmask.data.listing.listing import catalogue_folder
from unmask.data.listing.names import pack_names, unpack_names
from unmask.data.listing.odd_folders import refuse_splits_below
from unmask.data.listing.scan import list_folders
from unmask.data.listing.stores import Subset


def detect_container(path: str) -> str:
    """Return the kind of container that a folder holds.

    It is a folder of images unless shards lie in it. Raises ConfigError where shards of
    several kinds do.
    """
    folder = Path(path).expanduser()
    if "://" in path or not folder.is_dir():
        raise ConfigError(
            f"from={path}: no such folder; for object storage say what it holds:"
            " source=webdataset"
        )
    indexed_kind = read_index_kind(folder / INDEX_FILE)
    if indexed_kind:
        return indexed_kind
    # two levels and no deeper: a folder of images may hold a million files
    try:
        train = find_splits(list_folders(folder)).train
    except ValueError as error:
        raise ConfigError(f"from={path}: {error}") from None
    if train:
        folder = folder / train
    kinds = [
        kind
        for kind, container in CONTAINERS.items()
        if container.scan
        # .bin is the suffix of many files
        and _holds_files(folder, CHUNK_INDEX if kind == "litdata" else container.suffix)
    ]
    if len(kinds) > 1:
        raise ConfigError(
            f"from={path}: it holds {' and '.join(kinds)}; say which: source={kinds[0]}"
        )
    return kinds[0] if kinds else "folder"


def _holds_files(folder: Path, suffix: str) -> bool:
    found = chain(folder.glob(f"*{suffix}"), folder.glob(f"*/*{suffix}"))
    return any(not is_hidden(str(path.relative_to(folder))) for path in found)


def check_arguments(arguments: Prepare, target: Path, kind: str) -> None:
    """Raise ConfigError for folders or formats that do not go together."""
    source_path = Path(arguments.input_path).resolve()
    target_path = target.resolve()
    if target_path.is_relative_to(source_path) or source_path.is_relative_to(
        target_path
    ):
        raise ConfigError(
            f"to={arguments.to}: it must not lie in from={arguments.input_path}, nor"
            " that in it"
        )
    if kind == "raw":
        _require_encoding(arguments)


def _require_encoding(arguments: Prepare) -> None:
    """Raise ConfigError where pixels would have to be stored as files."""
    is_compressed = arguments.short_side or arguments.quality
    if arguments.format != "raw" and not is_compressed:
        raise ConfigError(
            f"format={arguments.format} stores compressed images, and the source has"
            " raw pixels; add quality=90"
        )


def read_catalogue(kind: str, arguments: Prepare) -> Catalogue:
    """List the images of the source, as the target's format needs them.

    Raises ConfigError where there are none, where splits would become classes, or where
    the format cannot hold their names.
    """
    path = arguments.input_path
    try:
        if kind == "folder":
            catalogue = _read_folder(Path(path).expanduser(), arguments)
        else:
            catalogue = catalogue_container(kind, path)
        if not catalogue.splits:
            root = Path(path).expanduser() if kind == "folder" else PurePath(path)
            refuse_splits_below(root, catalogue.names)
    except ValueError as error:
        # in training the same folder is data.root
        raise ConfigError(str(error).replace("data.root=", "from=")) from None
    store = catalogue.store
    # of other writers' LitData
    if isinstance(store, ShardStore) and store.contents.shapes is not None:
        _require_encoding(arguments)
    if not len(catalogue.names):
        raise ConfigError(f"from={path}: there are no images in it")
    if arguments.format in ("parquet", "litdata"):
        names = unpack_names(catalogue.names)
        odd_name = next((name for name in names if not _is_utf8(name)), None)
        if odd_name is not None:
            raise ConfigError(
                f"format = {arguments.format}: it stores names as text, and"
                f" {printable(odd_name)} is none (UTF-8); rename it, or choose"
                " webdataset, raw or folder"
            )
    if arguments.format == "folder" and catalogue.labels is not None:
        return move_into_class_folders(catalogue)
    return catalogue


def _read_folder(root: Path, arguments: Prepare) -> Catalogue:
    """List a folder, by train.csv and val.csv where they tell the labels."""
    catalogue = catalogue_folder(root)
    found = None if arguments.source else train_list(root, catalogue)
    if found is None:
        return catalogue
    try:
        annotations = read_csv_lists(root)
        listed = catalogue_lists(root, annotations.val is not None)
    except ValueError as error:
        note = f"{found.name} is not read, nor labels in it: {error}"
        return replace(catalogue, notes=(*catalogue.notes, note))
    note = (
        f"labels and splits are those of {found.name}; source=folder takes folders for"
        " classes"
    )
    return replace(listed, notes=(note,))


def _is_utf8(name: str) -> bool:
    """Say whether a name is text: file systems allow any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def move_into_class_folders(catalogue: Catalogue) -> Catalogue:
    """Turn labels that are stored beside the images into class folders.

    A folder of images has no other way to hold its labels.
    """
    assert catalogue.labels is not None

    def with_class_folder(name: str, label: int) -> str:
        top, _, below = name.partition("/")
        # a folder's classes lie right below its splits
        folder, below = (top, below) if split_word(top) and below else ("", name)
        # images without a label stay where they are
        class_folder = ""
        if label >= 0:
            class_folder = catalogue.classes[label].replace("/", "_")
        return "/".join(part for part in (folder, class_folder, below) if part)

    before, labels = unpack_names(catalogue.names), catalogue.labels.tolist()
    names = pack_names(
        with_class_folder(name, label)
        for name, label in zip(before, labels, strict=True)
    )
    # catalogues are sorted by name
    order = sort_order(names)
    return replace(
        catalogue,
        names=names.take(order),
        sizes=catalogue.sizes[order],
        store=Subset(catalogue.store, order),
        labels=None,
        digest=lambda i: catalogue.digest(int(order[i])),
        classes=(),
    )
