"""Convert images: print the price first, then progress, then what was made."""

import shutil
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jaxtyping import Int64
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from unmask.commands.prepare.arguments import Prepare
from unmask.commands.prepare.conversion import Conversion
from unmask.commands.prepare.records import BAD_IMAGES_FILE, ShardRecord, load_records
from unmask.commands.prepare.shard_tasks import (
    SHARD_MB,
    estimate_sizes,
    hash_plan,
    plan_shards,
)
from unmask.commands.prepare.source import (
    check_arguments,
    detect_container,
    read_catalogue,
)
from unmask.commands.prepare.target import begin_or_continue, lock_target
from unmask.commands.prepare.transcode import Transcode
from unmask.data.containers.source import catalogue_container
from unmask.data.listing.catalogue import Catalogue
from unmask.data.listing.listing import catalogue_folder, make_listing
from unmask.distributed.processes import available_cores

MEBIBYTE = 2**20
GIB = 2**30
# headers and indexes take space beside the images
OVERHEAD_FACTOR = 1.02
JPEG_QUALITY = 90


def prepare(arguments: Prepare, console: Console) -> None:
    """Convert images, or go on with a conversion that was interrupted.

    Raises ConfigError for arguments that do not fit, ValueError for images that cannot
    be converted, OSError for a full disk.
    """
    target = Path(arguments.to)
    kind = arguments.source or detect_container(arguments.input_path)
    check_arguments(arguments, target, kind)
    catalogue = read_catalogue(kind, arguments)
    if kind == "folder":
        _print_notes(catalogue, arguments, console)
    transcode = _build_transcode(arguments)
    sizes_N = estimate_sizes(catalogue, transcode)
    shard_mb = arguments.shard_mb or SHARD_MB[arguments.format]
    tasks = plan_shards(catalogue, sizes_N, arguments.format, shard_mb * MEBIBYTE)
    facts: dict[str, Any] = {
        "plan": hash_plan(catalogue, transcode, arguments.format, tasks),
        "format": arguments.format,
        "images": len(catalogue.names),
        "short_side": transcode.short_side,
        "quality": transcode.quality,
        "channels": transcode.channels,
    }
    with lock_target(target):
        begin_or_continue(target, facts)
        earlier = load_records(target, tasks, arguments.format)
        conversion = Conversion(
            catalogue, arguments.format, target, transcode, tasks, earlier
        )
        _print_price(conversion, sizes_N, console)
        records = _convert(conversion, arguments.workers or available_cores(), console)
        conversion.finish(records, facts)
    num_unread = _print_result(conversion, records, console)
    was_copied = transcode.keeps_bytes and not num_unread
    _print_identity(conversion, was_copied, console)


def _print_notes(catalogue: Catalogue, arguments: Prepare, console: Console) -> None:
    for note in catalogue.notes:
        console.print(note, soft_wrap=True, markup=False)
    label_lists = sorted(Path(arguments.input_path).glob("train.csv"))
    # without notes it was not tried
    if label_lists and not catalogue.notes:
        console.print(
            f"{label_lists[0]}: labels of a list are not carried over, where class"
            " folders tell them; to train on the list: data=listed"
            f" data.root={arguments.input_path}",
            soft_wrap=True,
        )


def _build_transcode(arguments: Prepare) -> Transcode:
    if arguments.format == "raw":
        return Transcode(arguments.short_side, None, arguments.channels or 3)
    # images that keep their size keep their bytes, unless quality= is set
    quality = arguments.quality
    if quality is None and arguments.short_side:
        quality = JPEG_QUALITY
    return Transcode(arguments.short_side, quality)


def _print_price(
    conversion: Conversion, sizes_N: Int64[np.ndarray, "N"], console: Console
) -> None:
    """Print the disk space that is still needed.

    sizes_N: bytes of the images in the target. Raises OSError where the disk is too
    small.
    """
    catalogue, tasks, target = conversion.catalogue, conversion.tasks, conversion.target
    finished = [task for task in tasks if task.name in conversion.earlier]
    finished_bytes = sum(int(sizes_N[task.indices].sum()) for task in finished)
    needed = int(OVERHEAD_FACTOR * (int(sizes_N.sum()) - finished_bytes))
    free = shutil.disk_usage(target).free
    # only bytes that are copied have a known size
    about = "" if sizes_N is catalogue.sizes else "about "
    continued = f"; {len(finished)} shards stand already" if finished else ""
    console.print(
        f"{len(catalogue.names)} images, {int(catalogue.sizes.sum()) / GIB:.2f} GiB,"
        f" into {len(tasks)} shards: {about}{needed / GIB:.2f} GiB still to be written,"
        f" {free / GIB:.1f} GiB free{continued}",
        soft_wrap=True,
    )
    if needed > free:
        raise OSError(
            f"to={target}: {about}{needed / GIB:.2f} GiB are needed and"
            f" {free / GIB:.2f} GiB are free; make room, or choose another disk, a"
            " smaller short_side or a lower quality"
        )


def _convert(
    conversion: Conversion, workers: int, console: Console
) -> list[ShardRecord]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(conversion.kind, total=len(conversion.catalogue.names))
        return conversion.run(workers, lambda images: bar.advance(task, images))


def _print_result(
    conversion: Conversion, records: list[ShardRecord], console: Console
) -> int:
    """Print what was made, and return how many images could not be read."""
    target = conversion.target
    if conversion.damaged:
        console.print(
            "damaged or missing, and made again:"
            f" {', '.join(sorted(conversion.damaged))}",
            soft_wrap=True,
        )
    num_images = len(conversion.catalogue.names)
    num_empty = sum(image.size == 0 for record in records for image in record.images)
    count = f"{num_images - num_empty} of {num_images}" if num_empty else num_images
    console.print(
        f"{target}: {count} images in {len(conversion.tasks)} shards, each read back"
        " and compared",
        soft_wrap=True,
    )
    bad = [image for record in records for image in record.images if image.bad]
    # unread: the disk gave no bytes; undecoded: no pixels could be made of them
    num_unread = sum(image.is_unread for image in bad)
    num_undecoded = len(bad) - num_unread
    if num_undecoded:
        result = " and were copied as they are"
        if conversion.kind == "raw":
            result = "; empty pixels stand in their place"
        console.print(
            f"{num_undecoded} could not be decoded{result}: {target / BAD_IMAGES_FILE}",
            soft_wrap=True,
        )
    if num_unread:
        console.print(
            f"{num_unread} could not be read, and nothing stands in their place:"
            f" {target / BAD_IMAGES_FILE}; once they can be read, the same command adds"
            " them",
            soft_wrap=True,
        )
    return num_unread


def _print_identity(conversion: Conversion, was_copied: bool, console: Console) -> None:
    """Print whether the target is the same data set as the source.

    Then runs on both have the same fingerprints. was_copied: every byte was. Raises
    OSError where they were copied and the identities differ.
    """
    target, kind = conversion.target, conversion.kind
    try:
        if kind == "folder":
            made = catalogue_folder(target)
        else:
            made = catalogue_container(kind, str(target))
        identity = make_listing(made, PurePath(), 0.1).identity
        source_identity = make_listing(conversion.catalogue, PurePath(), 0.1).identity
    # too few images for two splits, for one
    except ValueError as error:
        console.print(f"not yet a data set to train on: {error}", soft_wrap=True)
        return
    if identity == source_identity:
        console.print(
            f"identity {identity}, the source's: runs share their fingerprints"
        )
        return
    # in a folder labels became class folders, which changes the names
    if was_copied and kind != "folder":
        raise OSError(
            f"{target}: identity {identity}, the source's is {source_identity}; what"
            " was written is not what was read"
        )
    console.print(f"identity {identity}, another than the source's {source_identity}")
