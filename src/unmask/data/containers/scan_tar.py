"""Tar shards as WebDataset and the Hub write them.

What belongs to an image has the image's name with another suffix.
"""

import json
import tarfile
from typing import Any, NamedTuple

from unmask.data.listing.conventions import is_image


class ImageEntry(NamedTuple):
    """Describe an image in a shard; label: -1 where none is stored with it."""

    name: str
    label: int
    size: int
    offset: int


class ScannedShard(NamedTuple):
    """List what one shard holds; classes: their names, where the shard stores them."""

    entries: list[ImageEntry]
    classes: tuple[str, ...] = ()


def scan_tar(file: Any, shard: str) -> ScannedShard:
    """List the images of a tar by its headers; of the contents only labels are read.

    Raises ValueError where the shard is damaged or ends too early.
    """
    entries: list[ImageEntry] = []
    labels: dict[str, int] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    _scan_member(tar, member, entries, labels)
            # A tar that was cut between two members looks complete, but for the
            # block of zeros at its end.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end of the archive at byte {tar.offset}")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{shard} is not a complete tar file ({error}); copy or make it again"
        ) from None
    # labels may follow the image that they belong to
    return ScannedShard(
        [entry._replace(label=_find_label(entry.name, labels)) for entry in entries]
    )


def _scan_member(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    entries: list[ImageEntry],
    labels: dict[str, int],
) -> None:
    name = member.name.removeprefix("./")
    stem, _, suffix = name.rpartition(".")
    if is_image(member.name):
        entries.append(ImageEntry(name, -1, member.size, member.offset_data))
    elif suffix in ("cls", "json"):
        content = tar.extractfile(member)
        assert content is not None
        label = _parse_label(suffix, content.read())
        if label is not None:
            labels[stem] = label


def _find_label(name: str, labels: dict[str, int]) -> int:
    """Return the label stored with an image, or -1.

    What belongs together has one name up to the last point, or as in WebDataset up to
    the first point.
    """
    stem = name.rpartition(".")[0]
    folder, slash, base = name.rpartition("/")
    webdataset_key = folder + slash + base.partition(".")[0]
    return labels.get(stem, labels.get(webdataset_key, -1))


def _parse_label(suffix: str, content: bytes) -> int | None:
    try:
        if suffix == "cls":
            return int(content)
        metadata = json.loads(content)
    except ValueError:
        return None
    if not isinstance(metadata, dict):
        return None
    label = metadata.get("label", metadata.get("cls"))
    return label if isinstance(label, int) else None
