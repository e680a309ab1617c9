"""Values of any depth and sign reach the normalisation as NumPy computes them."""

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from small_runs import call, plan_for, raw_config
from unmask.config.checks import ConfigError, check
from unmask.data.augment.crops import Augmentation
from unmask.data.images.decoding import (
    BadImageError,
    decode_crop,
    decode_image,
    read_header,
)
from unmask.data.images.depth import Ranges
from unmask.data.listing.listing import list_images
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.folders import narrow_values, splits_from_listing
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import normalise
from unmask.data.loading.views import Views

GENERATOR = np.random.default_rng(0)
MEAN, STD = (0.3, 0.4, 0.5), (0.1, 0.2, 0.3)
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}

# of few images: the bank of kNN holds no more
FEW = ("data=image_folder", "knn.k=2")


def deep_png(array_HWC: np.ndarray) -> bytes:
    """Write a PNG of 16 bits, which Pillow cannot where it has colours."""
    height, width, channels = array_HWC.shape
    rows = b""
    for k, row in enumerate(array_HWC.astype(">u2").view(np.uint8).reshape(height, -1)):
        # each other row holds differences to the left (the filter "sub")
        left = np.pad(row, (2 * channels, 0))[: len(row)] * (k % 2)
        rows += bytes([k % 2]) + (row - left).astype(np.uint8).tobytes()

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    kind = COLOUR_TYPES[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array: np.ndarray, **settings: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **({"photometric": "minisblack"} | settings))
    return file.getvalue()


def pillow_tiff(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "TIFF")
    return file.getvalue()


def shares(array: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Compute what a user would with NumPy."""
    exact = (array.astype(np.float64) - low) / (np.asarray(high, np.float64) - low)
    return exact.clip(0, 1).astype(np.float32)


RGB = GENERATOR.integers(0, 65536, (9, 7, 3)).astype(np.uint16)
GREY = RGB[:, :, :1]
HOUNSFIELD = GENERATOR.integers(-1024, 3072, (9, 7, 1)).astype(np.int16)
DECIBEL = GENERATOR.normal(-12, 6, (9, 7, 2)).astype(np.float32)
BANDS = GENERATOR.integers(0, 10_001, (9, 7, 5)).astype(np.uint16)
CONTIGUOUS = {"planarconfig": "contig"}
PER_BAND = tuple((float(k), 9000.0 + k) for k in range(5))
FILES: dict[str, tuple[bytes, str, np.ndarray, Ranges | None]] = {
    "grey PNG": (deep_png(GREY), "x.png", GREY, None),
    "RGB PNG": (deep_png(RGB), "x.png", RGB, None),
    "RGBA PNG": (deep_png(RGB.repeat(2, 2)[:, :, :4]), "x.png", RGB.repeat(2, 2), None),
    "RGB TIFF": (tiff(RGB, photometric="rgb"), "x.tif", RGB, None),
    "big-endian RGB TIFF": (
        tiff(RGB, photometric="rgb", byteorder=">"),
        "x.tif",
        RGB,
        None,
    ),
    "grey TIFF": (pillow_tiff(GREY[:, :, 0]), "x.tif", GREY, None),
    "12 bits in 16": (deep_png(GREY % 4096), "x.png", GREY % 4096, ((0.0, 4095.0),)),
    "signed TIFF": (tiff(HOUNSFIELD), "x.tif", HOUNSFIELD, ((-1024.0, 3071.0),)),
    "a window of a signed TIFF": (
        tiff(HOUNSFIELD),
        "x.tif",
        HOUNSFIELD,
        ((-160.0, 240.0),),
    ),
    "float TIFF of Pillow": (
        pillow_tiff(DECIBEL[:, :, 0]),
        "x.tif",
        DECIBEL[:, :, :1],
        ((-30.0, 0.0),),
    ),
    "floats, channels first": (
        npy(np.moveaxis(DECIBEL, 2, 0)),
        "x.npy",
        DECIBEL,
        ((-30.0, 0.0), (-25.0, 5.0)),
    ),
    "bands side by side": (tiff(BANDS, **CONTIGUOUS), "x.tif", BANDS, PER_BAND),
    "bands in planes": (
        tiff(np.moveaxis(BANDS, 2, 0), planarconfig="separate"),
        "x.tif",
        BANDS,
        PER_BAND,
    ),
    "bands of .npy": (npy(BANDS), "x.npy", BANDS, PER_BAND),
    "big-endian .npy": (npy(BANDS.astype(">u2")), "x.npy", BANDS, PER_BAND),
    "int32": (npy(BANDS.astype(np.int32)), "x.npy", BANDS, PER_BAND),
    "uint32": (
        npy(BANDS.astype(np.uint32) * 7),
        "x.npy",
        BANDS.astype(np.uint32) * 7,
        ((0.0, 7e4),),
    ),
    "float64": (npy(BANDS / 1e4), "x.npy", BANDS / 1e4, None),
    "float16": (
        npy((BANDS / 1e4).astype("f2")),
        "x.npy",
        (BANDS / 1e4).astype("f2"),
        None,
    ),
    "rounded to a little more than 1": (
        npy(np.full((9, 7, 1), 1.0000001, np.float32)),
        "x.npy",
        np.ones((9, 7, 1)),
        None,
    ),
    "minus infinity, the logarithm of nothing": (
        npy(np.full((9, 7, 1), -np.inf)),
        "x.npy",
        np.full((9, 7, 1), -30),
        ((-30.0, 0.0),),
    ),
    "8 bits of a range": (
        npy(BANDS.astype(np.uint8)),
        "x.npy",
        BANDS.astype(np.uint8),
        ((10.0, 200.0),),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_values_are_numpys_bit_for_bit_whole_and_cropped(kind: str) -> None:
    content, name, array, ranges = FILES[kind]
    low, high = np.array(ranges or ((0, 65535 if array.dtype == np.uint16 else 1),)).T
    channels = 4 if kind == "RGBA PNG" else array.shape[2]
    expected = shares(array, low, high)[:, :, :channels]
    image = read_header(content, name, channels, ranges)
    assert image.size == (9, 7)
    assert np.array_equal(decode_image(image), expected)
    crop = decode_crop(image, (2, 1, 5, 6), (5, 6))
    assert np.array_equal(crop, expected[2:7, 1:7])
    # resized, they stay within the range and near to Pillow's own
    for decode in ("fast", "reference"):
        small = decode_crop(image, (0, 0, 9, 7), (4, 5), decode)
        assert small.dtype == np.float32
        assert 0 <= small.min() <= small.max() <= 1
        reference = np.asarray(
            Image.fromarray(expected[:, :, 0]).resize((5, 4), Image.Resampling.BICUBIC)
        )
        assert np.abs(small[:, :, 0] - reference.clip(0, 1)).max() < 1e-6


def test_the_same_pixels_are_the_same_values_in_any_file() -> None:
    grey = deep_png(GREY)
    files = [
        (grey, "x.png"),
        (pillow_tiff(GREY[:, :, 0]), "x.tif"),
        (npy(GREY), "x.npy"),
    ]
    first, *others = (decode_image(read_header(*each, 1)) for each in files)
    assert all(np.array_equal(first, other) for other in others)
    colours = [(deep_png(RGB), "x.png"), (tiff(RGB, photometric="rgb"), "x.tif")]
    first, other = (decode_image(read_header(*each, 3)) for each in colours)
    assert np.array_equal(first, other)
    # a range that is the type's own changes nothing
    assert np.array_equal(
        decode_image(read_header(grey, "x", 1, ((0.0, 65535.0),))),
        decode_image(read_header(grey, "x", 1)),
    )
    # grey in each colour, and opaque
    rgba = decode_image(read_header(grey, "x", 4))
    assert np.array_equal(rgba[:, :, :3], shares(GREY, 0, 65535).repeat(3, 2))
    assert (rgba[:, :, 3] == 1).all()
    luma = np.rint(RGB @ np.array([0.299, 0.587, 0.114]))
    assert np.array_equal(
        decode_image(read_header(deep_png(RGB), "x", 1))[:, :, 0],
        shares(luma, 0, 65535),
    )


def ppm(array_HWC: np.ndarray, largest: int = 65535, text: bool = False) -> bytes:
    height, width, _ = array_HWC.shape
    head = b"P%d\n# made by hand\n%d %d\n%d\n"
    head %= (3 if text else 6, width, height, largest)
    numbers = b" ".join(b"%d" % value for value in array_HWC.reshape(-1))
    return head + (numbers if text else array_HWC.astype(">u2").tobytes())


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("largest", [65535, 4095])
def test_colour_ppms_keep_their_16_bits(text: bool, largest: int) -> None:
    array = GENERATOR.integers(0, largest, (5, 7, 3), dtype=np.uint16, endpoint=True)
    content = ppm(array, largest, text)
    pixels = decode_image(read_header(content, "x.ppm", 3))
    np.testing.assert_allclose(pixels, array / largest, rtol=0, atol=0.51 / 65535)
    if largest == 65535:
        np.testing.assert_array_equal(pixels, shares(array, 0, 65535))
    # as of grey, which Pillow scales
    grey = content.replace(b"P6", b"P5").replace(b"P3", b"P2")
    assert grey[:2] in (b"P5", b"P2")
    with pytest.raises(BadImageError, match="it ends after"):
        decode_image(read_header(content[:-20], "x.ppm", 3))


@pytest.mark.parametrize(("ending", "kind"), [("ppm", b"P6"), ("pgm", b"P5")])
def test_results_of_deep_ppms_are_others_than_those_of_bytes(
    ending: str, kind: bytes, tmp_path: Path
) -> None:
    count = 8 * 8 * (3 if ending == "ppm" else 1)
    for largest, dtype in ((65535, ">u2"), (255, "u1")):
        root = tmp_path / str(largest)
        root.mkdir()
        for k in range(6):
            values = GENERATOR.integers(0, largest, count).astype(dtype)
            content = kind + b"\n8 8\n%d\n" % largest + values.tobytes()
            (root / f"{k}.{ending}").write_bytes(content)
        plan = plan_for(
            *FEW, f"data.root={root}", "stages=[pretrain]", "data.image_size=14"
        )
        is_other = ", not rounded" in str(plan.stages[0].science)
        assert is_other == (largest > 255)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((8, 8, 3), np.nan, np.float32), "it holds NaN; fill these pixels"),
        (np.array([[None]]), "objects of Python; save numbers"),
        (np.zeros((8, 8, 5), np.uint8), "data.channels=3 needs"),
    ],
)
def test_images_that_are_all_unreadable_are_refused_before_anything_starts(
    array: np.ndarray, reason: str, tmp_path: Path
) -> None:
    for k in range(40):
        np.save(tmp_path / f"{k:02d}.npy", array)
    typed = (*FEW, f"data.root={tmp_path}", "stages=[pretrain]", "data.image_size=14")
    with pytest.raises(ConfigError, match=rf"none of \d+ .* 00\.npy \(.*{reason}"):
        plan_for(*typed)
    # one good image is enough to begin: the others are bad images
    np.save(tmp_path / "04.npy", RGB[:8, :8])
    assert plan_for(*typed).stages


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_white_where_zero_is_said_to_be_white(dtype: type) -> None:
    array = GENERATOR.integers(0, np.iinfo(dtype).max, (6, 4), dtype=dtype)
    negative = tiff(np.iinfo(dtype).max - array, photometric="miniswhite")
    positive = tiff(array, photometric="minisblack")
    np.testing.assert_array_equal(
        decode_image(read_header(negative, "x.tif", 1)),
        decode_image(read_header(positive, "x.tif", 1)),
    )


def test_arrays_of_objects_are_named_without_pickle() -> None:
    content = npy(np.array([[1, None], [2, 3]], dtype=object))
    with pytest.raises(BadImageError, match="objects of Python; save numbers"):
        decode_image(read_header(content, "x.npy", 1))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (HOUNSFIELD, r"int16 values reach from -\d+ to \d+, .* set data.range="),
        (DECIBEL, r"float32 values reach from -.* set data.range="),
        (np.full((9, 7, 1), np.nan), "it holds NaN"),
    ],
    ids=["signed", "floats", "NaN"],
)
def test_values_of_no_known_range_are_refused_with_the_key(
    array: np.ndarray, reason: str
) -> None:
    image = read_header(npy(array), "x.npy", array.shape[2])
    with pytest.raises(BadImageError, match=reason):
        decode_image(image)


def folder(root: Path, count: int = 8) -> Path:
    """Write images of 16 x 16 with 12 bits, and two of 8 bits among them."""
    for i in range(count):
        pixels = GENERATOR.integers(0, 4096, (16, 16, 3)).astype(np.uint16)
        content = deep_png(pixels)
        if i in (2, 5):
            file = io.BytesIO()
            Image.fromarray((pixels // 16).astype(np.uint8)).save(file, "PNG")
            content = file.getvalue()
        path = root / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize("ranges", [None, ((0.0, 4095.0),)])
@pytest.mark.parametrize("augmentation", [None, Augmentation("padded", flip=True)])
def test_batches_are_the_same_from_memory_disk_and_whatever_stands_beside(
    ranges: Ranges | None, augmentation: Augmentation | None, tmp_path: Path
) -> None:
    listing = list_images(folder(tmp_path), holdout=0.5)
    form = ImageFormat((16, 16), MEAN, STD)
    from_memory, _ = splits_from_listing(listing, 3, (16, 16), True, "fast", ranges)
    from_disk, _ = splits_from_listing(listing, 3, (16, 16), False, "fast", ranges)
    assert isinstance(from_memory, InMemory)
    ids = list(range(len(from_disk)))

    def normalised(split: Any, ids: list[int]) -> torch.Tensor:
        batch: Batch = Views(split, form, augmentation, seed=0).batch(1, ids)
        return normalise(batch, form).images_BCHW

    together = normalised(from_disk, ids)
    assert torch.equal(together, normalised(from_memory, ids))
    alone = torch.cat([normalised(from_disk, [i]) for i in ids])
    assert torch.equal(together, alone)


def test_normalised_values_are_numpys(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RGB % 4096)
    np.save(tmp_path / "b.npy", RGB % 4096)
    listing = list_images(tmp_path, holdout=0.5)
    train, _ = splits_from_listing(listing, 3, (9, 7), False, "fast", ((0.0, 4095.0),))
    form = ImageFormat((9, 7), MEAN, STD)
    batch = normalise(Views(train, form, None, seed=0).batch(0, [0]), form)
    mean, std = (np.array(value, np.float32) for value in (MEAN, STD))
    expected = (shares(RGB % 4096, 0, 4095) - mean) / std
    assert np.array_equal(batch.images_BCHW[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("data.range=[4095,0]", r"data.range = \[4095, 0\]: give \[low,high\]"),
        ("data.range=[0,1,2]", r"data.range = \[0, 1, 2\]: give \[low,high\]"),
        ("data.range=[[0,1],[0,2]]", "data.range has 2 pairs for data.channels=3"),
        ("data.range=measured", "add data.statistics=FILE of python src/measure.py"),
        ("data.range=all", "data.range = all: give"),
        (
            "data.mean=[123.675,116.28,103.53]",
            r"of 255 they are data.mean=\[0.485, 0.456, 0.406\]",
        ),
    ],
)
def test_a_wrong_range_is_refused_with_the_right_one(
    typed: str, told: str, tmp_path: Path
) -> None:
    raw = raw_config("data=image_folder", f"data.root={tmp_path}", typed)
    with pytest.raises(ConfigError, match=told):
        check(raw)


def test_a_range_counts_in_the_fingerprint_only_where_it_is_set(tmp_path: Path) -> None:
    folder(tmp_path)
    common = (*FEW, f"data.root={tmp_path}", "data.image_size=28")

    def science(*typed: str) -> dict[str, Any]:
        return plan_for(*common, *typed).stages[0].science["data"]

    assert "range" not in science()
    one_pair = science("data.range=[0,4095]")
    assert one_pair["range"] == [[0.0, 4095.0]]
    assert science("data.range=[[0,4095],[0,4095],[0,4095]]") == one_pair
    # as arrays broadcast in NumPy
    assert science("data.mean=[[[0.3]],[[0.4]],[[0.5]]]") == science(
        "data.mean=[[[0.3,0.4,0.5]]]"
    )


def write_hounsfield(root: Path) -> Path:
    for i in range(6):
        path = root / f"class{i % 2}" / f"{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff(np.roll(HOUNSFIELD, i, 0)[:, :, 0]))
    return root


def test_values_of_no_known_range_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    write_hounsfield(tmp_path)
    common = (*FEW, f"data.root={tmp_path}", "data.channels=1")
    with pytest.raises(
        ConfigError, match=r"data.range = null: class0/.*set data.range"
    ):
        plan_for(*common, "data.image_size=28")
    plan_for(*common, "data.image_size=28", "data.range=[-1024,3071]")


def test_results_of_deep_images_are_others_than_those_of_bytes(tmp_path: Path) -> None:
    common = (*FEW, "data.image_size=28")
    deep = plan_for(*common, f"data.root={folder(tmp_path / 'deep')}")
    assert deep.stages[0].science["data"]["identity"] == (
        f"{deep.data_identity}, not rounded"
    )
    for i in range(4):
        path = tmp_path / "plain" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (i, 9, 9)).save(path)
    plain = plan_for(*common, f"data.root={tmp_path / 'plain'}")
    assert plain.stages[0].science["data"]["identity"] == plain.data_identity


def test_little_filled_ranges_are_warned_of(tmp_path: Path) -> None:
    folder(tmp_path)
    listing = list_images(tmp_path, holdout=0.5)
    assert narrow_values(listing, 3, ((0.0, 4095.0),)) is None
    told = narrow_values(listing, 3, None)
    assert told is not None
    assert re.search(
        r"values, \d+ to \d+, fill 6.2% of the range from 0 to 65535", told
    )
    # a range of the wrong scale
    assert "fill 0.0%" in str(narrow_values(listing, 3, ((1e6, 2e6),)))


@pytest.mark.process
def test_what_measure_prints_is_what_training_takes(tmp_path: Path) -> None:
    root = write_hounsfield(tmp_path / "images")
    common = ("data=image_folder", f"data.root={root}", "data.channels=1")
    done = call(
        *common, f"runs_dir={tmp_path / 'runs'}", script="measure.py", tiny=False
    )
    assert done.returncode == 0, done.stderr
    typed = re.search(r"to type: (.*)", done.stdout)
    kept = re.search(r"kept: (.*)", done.stdout)
    assert typed
    assert kept
    by_hand, by_file = (
        plan_for(*common, "knn.k=2", "data.image_size=28", *line[1].split())
        for line in (typed, kept)
    )
    assert by_hand.stages[0].science == by_file.stages[0].science
    assert by_hand.listing is not None
    pixels = np.stack(
        [tifffile.imread(root / name) for name, _ in by_hand.listing.train]
    )
    low, high = int(pixels.min()), int(pixels.max())
    data = by_hand.config.data
    assert data.range == [(low, high)]
    values = shares(pixels, low, high)
    assert data.mean == pytest.approx([values.mean()], abs=1e-6)
    assert data.std == pytest.approx([values.std()], abs=1e-6)
