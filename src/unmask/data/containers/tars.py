"""Tar shards, as WebDataset and the Hub have them: what belongs to an image has its name with another suffix."""

import json
import tarfile
from typing import Any, NamedTuple

from unmask.data.listing.scan import is_image


class Row(NamedTuple):
    """An image of a shard: its name there, the label beside it (-1: none), where its bytes are."""

    name: str
    label: int
    size: int
    offset: int


class Found(NamedTuple):
    """What one shard holds, and the names of the classes where it tells them."""

    rows: list[Row]
    classes: tuple[str, ...] = ()


def scan_tar(file: Any, shard: str) -> Found:
    """The headers alone. Raises ValueError where the shard is damaged or ends too early."""
    rows: list[Row] = []
    labels: dict[str, int] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                stem, _, suffix = member.name.removeprefix("./").rpartition(".")
                if is_image(member.name):
                    rows.append(
                        Row(
                            member.name.removeprefix("./"),
                            -1,
                            member.size,
                            member.offset_data,
                        )
                    )
                elif suffix in ("cls", "json"):
                    content = tar.extractfile(member)
                    assert content is not None
                    if (label := _label(suffix, content.read())) is not None:
                        labels[stem] = label
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends without the mark of an end")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{shard} is no whole tar file ({error}); copy or make it again"
        ) from None
    return Found([row._replace(label=_beside(row.name, labels)) for row in rows])


def _beside(name: str, labels: dict[str, int]) -> int:
    """The label of the same name without its suffix: without the last, or as WebDataset has it all after a point."""
    stem = name.rpartition(".")[0]
    folder, slash, base = name.rpartition("/")
    return labels.get(stem, labels.get(folder + slash + base.partition(".")[0], -1))


def _label(suffix: str, content: bytes) -> int | None:
    try:
        if suffix == "cls":
            return int(content)
        found = json.loads(content)
        label = (
            found.get("label", found.get("cls")) if isinstance(found, dict) else None
        )
        return label if isinstance(label, int) else None
    except ValueError:
        return None
