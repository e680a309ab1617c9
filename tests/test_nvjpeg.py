"""Batches whose JPEGs the device decodes are those of the loader, here with the CPU as the device."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from small_runs import plan_for
from test_module import batches, data
from unmask.config.checks import ConfigError
from unmask.data.augment.crops import Augmentation
from unmask.data.augment.resampling import Crops
from unmask.data.images.decoding import BadImageError, read_header
from unmask.data.listing.listing import list_images
from unmask.data.loading.batch import Batch
from unmask.data.loading.folders import StoredImages, splits_from_listing
from unmask.data.loading.nvjpeg import PackedBatch
from unmask.training.execute import execute

# levels of 255 that views may differ: both decode to the same pixels, but the loader
# resizes in whole numbers
LEVELS = 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write JPEGs, one of them grey, and what nvJPEG does not support.

    That is a PNG, a rotated JPEG and a CMYK one.
    """
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(12):
        path = tmp_path / f"class{i % 2}" / f"{i:02d}.{'png' if i == 3 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        small = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize(
            (40 + i, 60 - i), Image.Resampling.BICUBIC
        )
        image = image.convert({4: "L", 5: "CMYK"}.get(i, "RGB"))
        image.save(path, **({"exif": exif} if i == 6 else {}))
    return tmp_path


def splits(root: Path, decode: str) -> tuple[StoredImages, StoredImages]:
    both = splits_from_listing(
        list_images(root, holdout=0.5), 3, (8, 8), in_memory=False
    )
    train, val = (
        replace(split, decode=decode)
        for split in both
        if isinstance(split, StoredImages)
    )
    return train, val


@pytest.mark.parametrize(("repeats", "workers"), [(1, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("crop", ["random", "padded"])
def test_the_device_decodes_what_the_loader_decodes_within_a_bound(
    crop: str, repeats: int, workers: int, root: Path
) -> None:
    augment = Augmentation(crop, flip=True, repeats=repeats)  # type: ignore[arg-type]
    for loader in ("train", "val"):
        reference = batches(data(splits(root, "fast"), augment), loader)
        ours = batches(data(splits(root, "nvjpeg"), augment, workers=workers), loader)
        assert len(ours) == len(reference) > 0
        for a, b in zip(ours, reference, strict=True):
            assert a.ids_B.equal(b.ids_B)
            assert a.labels_B.equal(b.labels_B)
            assert (a.images_BCHW - b.images_BCHW).abs().max() <= LEVELS / 255 / 0.2
            assert (a.images_BCHW - b.images_BCHW).abs().mean() <= 0.6 / 255 / 0.2


def test_the_loader_decodes_what_nvjpeg_does_not_support(root: Path) -> None:
    train, _ = splits(root, "nvjpeg")
    views = data((train, train), Augmentation("random")).train_views
    names = [Path(train.store.name(i)).name for i in range(len(train))]
    packed = views.__getitems__([(0, i) for i in range(len(train))])
    assert isinstance(packed, PackedBatch)
    assert {names[i] for i in packed.other_rows} == {
        "03.png",
        "05.jpg",
        "06.jpg",
    } & set(names)
    assert packed.bytes_N.numel() == sum(
        Path(name).stat().st_size for name, _, _ in packed.jpegs
    )


def test_the_loader_replaces_a_truncated_file(root: Path) -> None:
    train, _ = splits(root, "nvjpeg")
    path = Path(train.store.name(0))
    path.write_bytes(path.read_bytes()[:-200])
    batch = data((train, train), Augmentation("random")).train_views.batch(0, [0, 1])
    assert [bad.id for bad in batch.bad_images] == [0]


def test_the_loader_replaces_a_file_whose_header_only_pillow_refuses(
    root: Path,
) -> None:
    train, _ = splits(root, "nvjpeg")
    path = Path(train.store.name(0))
    content = bytearray(path.read_bytes())
    # a table of 16 bits, which is too short for one
    content[content.find(b"\xff\xdb") + 4] = 0x10
    path.write_bytes(content)
    assert read_header(bytes(content), path.name, 3).header
    batch = data((train, train), Augmentation("random")).train_views.batch(0, [0, 1])
    assert [bad.id for bad in batch.bad_images] == [0]


def test_a_file_that_neither_decoder_reads_is_named(root: Path) -> None:
    train, _ = splits(root, "nvjpeg")
    name = train.store.name(1)
    whole = train.store.read(1)
    broken = whole[:30] + bytes(len(whole) - 32) + whole[-2:]
    image = replace(read_header(whole, name, 3), content=broken)
    row = torch.zeros(1, dtype=torch.long)
    batch = Batch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), row, row, 0)
    boxes_B5 = torch.tensor([[0, 0, *image.size, 0]])
    packed = PackedBatch(batch, [(image, [0])], Crops(boxes_B5))
    with pytest.raises(BadImageError, match=r"jpg cannot be read as an image"):
        packed.decode()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_nvjpeg_without_a_gpu_is_refused_at_the_start(
    root: Path, tmp_path: Path
) -> None:
    plan = plan_for(
        "data=image_folder",
        f"data.root={root}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.decode=nvjpeg",
        "stages=[pretrain]",
        "trainer=auto",
        f"runs_dir={tmp_path / 'runs'}",
    )
    with pytest.raises(
        ConfigError,
        match=r"data.decode = nvjpeg: torch finds no GPU here; use data.decode=auto",
    ):
        execute(plan, Console(quiet=True))
