"""Each kind of image file is read correctly, whole and as a view, or bad for a stated reason."""

import errno
import io
import os
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data.images.decoding import (
    decode_crop,
    decode_image,
    read_header,
)
from unmask.data.images.pillow import silence_pillow
from unmask.data.images.unreadable import BadImageError
from unmask.data.listing.listing import list_images
from unmask.data.listing.names import FolderStore, pack_names
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages, splits_from_listing
from unmask.data.loading.views import Views

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
BLOCKS = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
PHOTO = Image.fromarray(
    np.stack([np.kron(BLOCKS, np.ones((10, 10), np.uint8))] * 3, axis=2)
)
FORMAT = ImageFormat((8, 8), (0.5,) * 3, (0.25,) * 3)


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def with_alpha(mode: str) -> bytes:
    """Make half of the pixels transparent; their colours stay as they are stored."""
    image = Image.fromarray(COLOURS).convert(mode)
    image.putalpha(
        Image.fromarray((np.arange(600).reshape(20, 30) % 2 * 255).astype(np.uint8))
    )
    return encoded(image, "PNG")


def palette(**settings: object) -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(COLOURS).quantize(16)
    return encoded(image, "PNG", **settings), np.asarray(image.convert("RGB"))


def frames() -> tuple[bytes, np.ndarray]:
    images = [
        Image.fromarray(np.roll(COLOURS, k, axis=0)).quantize(16) for k in range(3)
    ]
    return encoded(
        images[0], "GIF", save_all=True, append_images=images[1:]
    ), np.asarray(images[0].convert("RGB"))


GREY = np.asarray(Image.fromarray(COLOURS).convert("L"))
READ: dict[str, tuple[bytes, np.ndarray]] = {
    "grey PNG": (encoded(Image.fromarray(GREY), "PNG"), GREY[:, :, None].repeat(3, 2)),
    "palette": palette(),
    "palette with a transparent colour": palette(transparency=3),
    "palette with opacities": palette(transparency=bytes(range(16))),
    "RGBA": (with_alpha("RGB"), COLOURS),
    "LA": (with_alpha("L"), GREY[:, :, None].repeat(3, 2)),
    "animated GIF": frames(),
    "JPEG with damaged EXIF": (
        encoded(PHOTO, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        np.asarray(Image.open(io.BytesIO(encoded(PHOTO, "JPEG", quality=95)))),
    ),
    "PNG with damaged EXIF": (
        encoded(Image.fromarray(COLOURS), "PNG", exif=b"Exif\0\0no such thing"),
        COLOURS,
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_a_kind_of_file_is_read_as_it_is_meant_whole_and_as_a_view(kind: str) -> None:
    content, expected = READ[kind]
    with warnings.catch_warnings(record=True) as caught:
        silence_pillow()
        image = read_header(content, "x", 3)
        assert (decode_image(image) == expected).all()
        assert (decode_crop(image, (3, 5, 8, 8), (8, 8)) == expected[3:11, 5:13]).all()
        assert decode_image(read_header(content, "x", 4)).shape == (
            *expected.shape[:2],
            4,
        )
    assert not caught


@pytest.mark.parametrize("adobe", [0, 2], ids=["CMYK", "YCCK"])
def test_inverted_cmyk_of_adobe_is_not_shown_as_a_negative(adobe: int) -> None:
    cyan, magenta, yellow, black = 180, 90, 140, 20
    content = encoded(
        Image.new("CMYK", (16, 16), (cyan, magenta, yellow, black)), "JPEG", quality=100
    )
    place = content.index(b"Adobe") + 11
    content = content[:place] + bytes([adobe]) + content[place + 1 :]
    inks = np.array([cyan, magenta, yellow], dtype=float)
    if adobe == 2:  # what is stored, 255 - ink, is luma and chroma then
        luma, blue, red = 255 - inks
        inks = np.array(
            [
                luma + 1.402 * (red - 128),
                luma - 0.344 * (blue - 128) - 0.714 * (red - 128),
                luma + 1.772 * (blue - 128),
            ]
        )
    expected = (255 - inks.clip(0, 255)) * (255 - black) / 255
    image = read_header(content, "x.jpg", 3)
    for pixels in (decode_image(image), decode_crop(image, (2, 3, 8, 8), (8, 8))):
        assert np.abs(pixels.astype(float) - expected).max() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(10))
def test_all_eight_orientations_are_turned_upright_and_other_values_are_ignored(
    turn: int, kind: str
) -> None:
    exif = Image.Exif()
    settings = {"lossless": True} if kind == "WEBP" else {}
    exif[0x0112] = turn
    content, plain = (
        encoded(PHOTO, kind, exif=exif, **settings),
        np.asarray(Image.open(io.BytesIO(encoded(PHOTO, kind, **settings)))),
    )
    turns = [
        None,
        None,
        np.fliplr,
        lambda a: np.rot90(a, 2),
        np.flipud,
        lambda a: a.transpose(1, 0, 2),
        lambda a: np.rot90(a, -1),
        lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        np.rot90,
        None,
    ]
    expected = turns[turn](plain) if turns[turn] else plain
    image = read_header(content, "x", 3)
    assert image.size == expected.shape[:2]
    assert (decode_image(image) == expected).all()
    assert (decode_crop(image, (1, 4, 9, 7), (9, 7)) == expected[1:10, 4:11]).all()


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1)])
def test_the_thinnest_images_can_be_viewed(shape: tuple[int, int]) -> None:
    image = read_header(
        encoded(Image.new("RGB", shape[::-1], (9, 80, 200)), "PNG"), "x", 3
    )
    assert image.size == shape
    assert (decode_crop(image, (0, 0, *shape), (8, 8)) == (9, 80, 200)).all()


def lying_jpeg() -> bytes:
    content = bytearray(encoded(PHOTO, "JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 20_000, 20_000)
    return bytes(content)


def flipped_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def claimed_array() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 3)}
    )
    return file.getvalue()


JPEG, PNG = (
    encoded(Image.fromarray(COLOURS), "JPEG"),
    encoded(Image.fromarray(COLOURS), "PNG"),
)
BOMB = encoded(Image.new("1", (20_000, 20_000)), "PNG")
BAD: dict[str, tuple[str, bytes, str]] = {
    "three quarters of a JPEG": ("a.jpg", JPEG[: len(JPEG) * 3 // 4], "truncated"),
    "a tenth of a JPEG": ("a.jpg", JPEG[: len(JPEG) // 10], "Truncated"),
    "half a PNG": ("a.png", PNG[: len(PNG) // 2], "truncated"),
    "a PNG with a flipped bit": ("a.png", flipped_bit(PNG), "broken data stream"),
    "empty": ("a.jpg", b"", "it is empty"),
    "text": ("a.jpg", b"<html>404</html>", "it is no image of a known format"),
    "20000 x 20000": (
        "a.png",
        BOMB,
        "more than the 178,956,970 pixels that are allowed",
    ),
    "a header of 20000 x 20000": (
        "a.jpg",
        lying_jpeg(),
        "more than the 178,956,970 pixels that are allowed",
    ),
    "an array's header of a million squared": (
        "a.npy",
        claimed_array(),
        "1000000 x 1000000 pixels are more than the 178,956,970",
    ),
    "half an array": ("a.npy", claimed_array()[:40], "EOF"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_damaged_file_is_bad_for_a_reason_in_a_line(kind: str) -> None:
    name, content, reason = BAD[kind]
    for read in (decode_image, lambda image: decode_crop(image, (0, 0, 8, 8), (8, 8))):
        with pytest.raises(BadImageError, match=reason) as error:
            read(read_header(content, name, 3))
        assert len(error.value.reason.splitlines()) == 1


def test_a_large_image_below_the_limit_is_read_without_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pillow would warn from half of its limit on, in each worker again."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with warnings.catch_warnings(record=True) as caught:
        silence_pillow()
        assert decode_image(read_header(PNG, "x", 3)).shape == (20, 30, 3)
    assert not caught


def test_an_image_of_another_size_than_its_header_says_is_bad() -> None:
    image = read_header(PNG, "x", 3)
    with pytest.raises(
        BadImageError, match=r"its header says 21 x 30 pixels, it has 20 x 30"
    ):
        decode_image(type(image)(PNG, "x", 3, (21, 30)))


def test_a_full_memory_is_not_blamed_on_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", full)
    with pytest.raises(MemoryError):
        decode_image(read_header(PNG, "x", 3))


def numbered(root: Path, count: int = 6) -> Path:
    """Write images whose brightness is ten times their number."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (10 * i,) * 3).save(root / f"{i}.png")
    return root


def views(root: Path) -> Views:
    names = pack_names(sorted(path.name for path in root.iterdir()))
    return Views(
        StoredImages(FolderStore(root, names), torch.arange(len(names)), 3),
        FORMAT,
        None,
        0,
    )


def unlinked(path: Path) -> None:
    path.unlink()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unlinked, "No such file"),
        (dangling, "No such file"),
        (pipe, "it is not a file"),
        (folder, "it is not a file|Is a directory"),
    ],
)
def test_what_is_no_file_any_more_is_replaced_and_waited_for_by_nobody(
    spoil: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    split = views(numbered(tmp_path / "images"))
    assert split.__getitems__([(0, 2)]).bad_images == ()
    spoil(tmp_path / "images" / "2.png")
    batch = split.__getitems__([(0, 1), (0, 2), (0, 5)])
    assert batch.images_BCHW[:, 0, 0, 0].tolist() == [10, 30, 50]
    assert batch.ids_B.tolist() == [1, 2, 5]
    assert batch.labels_B.tolist() == [1, 3, 5]
    (bad,) = batch.bad_images
    assert bad.id == 2
    assert re.search(reason, bad.reason)


def test_a_file_that_may_not_be_read_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is imitated, since root may read anything."""
    split, original = views(numbered(tmp_path)), FolderStore.read

    def refusing(self: FolderStore, i: int) -> bytes:
        if i == 5:
            raise PermissionError(13, "Permission denied", self.name(i))
        return original(self, i)

    monkeypatch.setattr(FolderStore, "read", refusing)
    batch = split.__getitems__([(0, 5)])
    assert batch.images_BCHW[0, 0, 0, 0] == 0, "after the last comes the first"
    assert batch.bad_images[0].reason == "Permission denied"


def test_a_disk_that_was_busy_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, reads = FolderStore.read, []

    def hesitating(self: FolderStore, i: int) -> bytes:
        reads.append(i)
        if reads.count(i) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        return original(self, i)

    monkeypatch.setattr(FolderStore, "read", hesitating)
    batch = views(numbered(tmp_path)).__getitems__([(0, 3)])
    assert (batch.labels_B.item(), batch.bad_images, reads) == (3, (), [3, 3])


def test_too_many_open_files_are_not_blamed_on_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FolderStore, i: int) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(FolderStore, "read", full)
    with pytest.raises(OSError, match="Too many open files"):
        views(numbered(tmp_path)).__getitems__([(0, 0)])


ODD_NAMES = [
    "with space.png",
    "Größe 猫.png",
    "two\nlines.png",
    os.fsdecode(b"latin\xe9.png"),
    "[bold]?.png",
    " .png",
]


@pytest.mark.parametrize("in_memory", [True, False])
def test_any_name_that_a_file_can_have_is_read_and_told(
    in_memory: bool, tmp_path: Path
) -> None:
    root = numbered(tmp_path)
    for k, name in enumerate(ODD_NAMES):
        Image.new("RGB", (8, 8), (100 + k,) * 3).save(root / "spare.png")
        (root / "spare.png").rename(root / name)
    listing = list_images(root, holdout=0.5)
    assert {name for name, _ in (*listing.train, *listing.val)} == {
        *ODD_NAMES,
        *(f"{i}.png" for i in range(6)),
    }
    for split in splits_from_listing(listing, 3, (8, 8), in_memory):
        assert (
            Views(split, FORMAT, None, 0)
            .__getitems__([(0, i) for i in range(len(split))])
            .bad_images
            == ()
        )
    for name in ODD_NAMES:
        line = str(BadImageError(name, "it is empty"))
        assert len(line.splitlines()) == 1
        line.encode()


def test_a_whole_class_of_bad_files_is_skipped_in_few_steps(tmp_path: Path) -> None:
    names = pack_names(f"{i}.png" for i in range(5000))
    for i in range(4000, 5000):
        Image.new("RGB", (8, 8), (i % 251,) * 3).save(tmp_path / f"{i}.png")
    split = Views(
        StoredImages(FolderStore(tmp_path, names), torch.arange(5000), 3),
        FORMAT,
        None,
        0,
    )
    batch = split.__getitems__([(0, 1)])
    assert batch.labels_B.item() >= 4000
    assert len(batch.bad_images) < 40


def test_where_nothing_can_be_read_that_is_told_at_once(tmp_path: Path) -> None:
    names = pack_names(f"{i}.png" for i in range(5000))
    split = Views(
        StoredImages(FolderStore(tmp_path, names), torch.arange(5000), 3),
        FORMAT,
        None,
        0,
    )
    with pytest.raises(
        ValueError,
        match=(
            r"none of \d+ images in a row can be read, the first is .*7.png \(No such"
            r" file"
        ),
    ):
        split.__getitems__([(0, 7)])
