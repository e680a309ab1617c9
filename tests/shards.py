"""A small ImageNet in class folders and in containers, of src/prepare.py and the Hub."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from unmask.commands.prepare.arguments import Prepare
from unmask.commands.prepare.prepare import prepare

WNIDS = ("n01440764", "n01443537", "n02123045")
UNSET_ARGUMENTS = dict.fromkeys(
    ("source", "short_side", "quality", "channels", "shard_mb", "workers")
)


def encode_jpeg(seed: int, width: int = 40, height: int = 32) -> bytes:
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    with io.BytesIO() as file:
        small.resize((width, height)).save(file, "JPEG", quality=90)
        return file.getvalue()


def write_imagenet(root: Path, per_class: int = 8) -> Path:
    """Write train/<wnid>/<wnid>_<number>.JPEG and val/<wnid>/ILSVRC2012_val_<number>.JPEG."""
    for label, wnid in enumerate(WNIDS):
        for split in ("train", "val"):
            (root / split / wnid).mkdir(parents=True)
        for k in range(per_class):
            content = encode_jpeg(100 * label + k, 40 + k, 32 + label)
            (root / "train" / wnid / f"{wnid}_{k * 7}.JPEG").write_bytes(content)
        for k in range(2):
            # numbers of validation images do not follow the classes
            number = 3 * k + (label + 1) % 3 + 1
            (root / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(
                encode_jpeg(1000 + number)
            )
    return root


def run_prepare(source: Path, target: Path, kind: str, /, **more: object) -> str:
    """Convert as src/prepare.py does, and return what it prints."""
    printed = io.StringIO()
    arguments = {
        "from": str(source),
        "to": str(target),
        "format": kind,
        **UNSET_ARGUMENTS,
        "workers": 2,
        **more,
    }
    prepare(Prepare.model_validate(arguments), Console(file=printed, width=300))
    return printed.getvalue()


def read_images(folder: Path, split: str) -> list[tuple[str, int, bytes]]:
    """Return (file name, label, content) of a split, not sorted by name."""
    rows = [
        (p.name, WNIDS.index(p.parent.name), p.read_bytes())
        for p in (folder / split).rglob("*.JPEG")
    ]
    return sorted(rows, key=lambda row: row[0][::-1])


def write_hub_tars(
    folder: Path, root: Path, label_suffix: str = "cls", shards: int = 3
) -> Path:
    """Write shards like timm/imagenet-1k-wds.

    Flat members, labels beside them, splits by the names of shards.
    """
    root.mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "validation")):
        rows = read_images(folder, split)
        for number in range(shards):
            with tarfile.open(root / f"imagenet1k-{name}-{number:04d}.tar", "w") as tar:
                for file, label, content in rows[number::shards]:
                    stem = file.rpartition(".")[0]
                    text = (
                        str(label)
                        if label_suffix == "cls"
                        else json.dumps({"label": label, "width": 40})
                    )
                    for member, body in (
                        (f"{stem}.{label_suffix}", text.encode()),
                        (f"{stem}.jpg", content),
                    ):
                        info = tarfile.TarInfo(member)
                        info.size = len(body)
                        tar.addfile(info, io.BytesIO(body))
    return root


def write_hub_parquet(
    folder: Path,
    root: Path,
    named: bool = True,
    names: tuple[str, ...] = ("a", "b", "c"),
) -> Path:
    """Write shards like ILSVRC/imagenet-1k: snappy, row groups, ClassLabel.

    named: the column path has file names.
    """
    (root / "data").mkdir(parents=True)
    label = {"names": list(names), "_type": "ClassLabel"}
    metadata = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", kind), ("label", pa.int64())],
        metadata={"huggingface": json.dumps(metadata)},
    )
    for split, name in (("train", "train"), ("val", "validation")):
        rows = read_images(folder, split)
        for number in range(2):
            part = rows[number::2]
            images = [
                {
                    "bytes": content,
                    "path": f"{file[:-5]}_{WNIDS[label]}.JPEG" if named else None,
                }
                for file, label, content in part
            ]
            table = pa.table(
                {"image": pa.array(images, kind), "label": [row[1] for row in part]},
                schema=schema,
            )
            path = root / "data" / f"{name}-{number:05d}-of-00002.parquet"
            pq.write_table(table, path, compression="snappy", row_group_size=5)
    return root
