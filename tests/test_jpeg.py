"""Every decoder gives Pillow's pixels, whole or by region, and Pillow decides what is damaged."""

import io
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unmask.data.images import native
from unmask.data.images.decoding import (
    BadImageError,
    EncodedImage,
    choose_scale,
    decode_crop,
    decode_image,
    decode_region,
    decode_with_simplejpeg,
    read_header,
    resize_crop,
    scaled_box,
)
from unmask.data.images.native.__main__ import build

SIZES = [(1, 1), (7, 5), (64, 48), (61, 83), (130, 97)]
KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "fine": {"quality": 100},
    "coarse": {"quality": 3},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True, "quality": 60},
    "restarts": {"restart_marker_blocks": 3},
    "restarts in rows": {"restart_marker_rows": 1, "subsampling": 2},
}
LEFT_TO_PILLOW: dict[str, dict[str, Any]] = {
    "RGB inside": {"keep_rgb": True, "subsampling": 0},
    "CMYK": {},
}


@cache
def build_decoder(folder: Path) -> native.RegionDecoder | None:
    path, description = build(folder)
    return native.load_decoder(path) if path else pytest.skip(description)


@pytest.fixture(params=["native", "simplejpeg"])
def decoder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    region = (
        build_decoder(tmp_path_factory.getbasetemp() / "native")
        if request.param == "native"
        else None
    )
    monkeypatch.setattr(native, "region_decoder", lambda: region)
    return request.param


def picture(size: tuple[int, int], seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Draw waves with noise: every frequency, in luma and in chroma."""
    generator = np.random.default_rng(seed)
    down, across = np.mgrid[: size[0], : size[1]]
    waves = [
        128 + 90 * np.sin(down / a + across / b)
        for a, b in ((9, 14), (5, -11), (21, 3))
    ]
    pixels = np.stack(waves, axis=2) + generator.normal(0, 12, (*size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, **kind: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 85} | kind)
    return file.getvalue()


def draw_boxes(
    size: tuple[int, int], count: int, seed: int = 0
) -> list[tuple[int, int, int, int]]:
    drawn = random.Random(seed)
    boxes = [(0, 0, *size)]
    for _ in range(count):
        height, width = drawn.randint(1, size[0]), drawn.randint(1, size[1])
        boxes.append(
            (
                drawn.randint(0, size[0] - height),
                drawn.randint(0, size[1] - width),
                height,
                width,
            )
        )
    return boxes


def decode_by_pillow(content: bytes, channels: int) -> np.ndarray:
    array = np.array(
        Image.open(io.BytesIO(content)).convert({1: "L", 3: "RGB"}[channels])
    )
    return array[:, :, None] if channels == 1 else array


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_any_region_has_the_pixels_that_pillow_decodes(
    mode: str, kind: str, decoder: str
) -> None:
    for size in SIZES:
        content = encoded(picture(size, mode=mode), **KINDS[kind])
        for channels in (1, 3):
            image = read_header(content, "x.jpg", channels)
            assert image.header is not None
            assert image.size == size
            whole = decode_by_pillow(content, channels)
            np.testing.assert_array_equal(decode_image(image), whole)
            for top, left, height, width in draw_boxes(size, 6):
                crop = decode_crop(image, (top, left, height, width), (height, width))
                np.testing.assert_array_equal(
                    crop, whole[top : top + height, left : left + width]
                )


@pytest.mark.parametrize(
    "kind", ["4:2:0", "restarts", "restarts in rows", "progressive"]
)
def test_regions_come_from_the_fast_decoder_not_from_pillow(
    kind: str, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_header(encoded(picture((61, 83)), **KINDS[kind]), "x.jpg", 3)
    for box in draw_boxes((61, 83), 20):
        region = decode_region(image, box)
        is_left = decoder == "simplejpeg" and kind == "progressive"
        assert (region is None) == is_left


@pytest.mark.parametrize("kind", LEFT_TO_PILLOW)
def test_unusual_colours_are_left_to_pillow(kind: str, decoder: str) -> None:
    image = picture((61, 83)).convert("CMYK") if kind == "CMYK" else picture((61, 83))
    content = encoded(image, **LEFT_TO_PILLOW[kind])
    image = read_header(content, "x.jpg", 3)
    assert image.header is None or decode_region(image, (0, 0, 61, 83)) is None
    np.testing.assert_array_equal(decode_image(image), decode_by_pillow(content, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_is_decoded_upright(
    orientation: int, decoder: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    rotated = read_header(encoded(picture((40, 64)), exif=exif), "x.jpg", 3)
    assert rotated.size == ((64, 40) if orientation >= 5 else (40, 64))
    assert (rotated.header is not None) == (orientation == 1)
    np.testing.assert_array_equal(
        decode_crop(rotated, (2, 3, 30, 20), (30, 20)),
        decode_image(rotated)[2:32, 3:23],
    )


def outcome(
    content: bytes, box: tuple[int, int, int, int], decode: Any
) -> np.ndarray | str:
    try:
        image = read_header(content, "x.jpg", 3)
        top, left = min(box[0], image.size[0] - 1), min(box[1], image.size[1] - 1)
        height, width = (
            min(box[2], image.size[0] - top),
            min(box[3], image.size[1] - left),
        )
        return decode_crop(image, (top, left, height, width), (height, width), decode)
    except BadImageError:
        return "bad"


def damaged(content: bytes, drawn: random.Random) -> bytes:
    kind, at = drawn.random(), drawn.randrange(2, len(content))
    if kind < 0.2:
        return content[:at]
    if kind < 0.3:
        return content[:at] + b"\xff\xd9"
    if kind < 0.4:
        return content[:at] + bytes(drawn.randrange(1, 300)) + content[at:]
    spoilt = bytearray(content)
    for _ in range(drawn.choice([1, 1, 2, 5, 20])):
        spoilt[drawn.randrange(2, len(spoilt))] = drawn.choice(
            [0, 255, drawn.randrange(256)]
        )
    return bytes(spoilt)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["4:4:4", "4:2:0", "restarts", "progressive"])
def test_damaged_files_are_judged_as_pillow_judges_them(
    kind: str, decoder: str
) -> None:
    """Files are cut short anywhere, or have bytes changed or added.

    Whether they are bad is for Pillow to say, and so are their pixels.
    """
    content, drawn = encoded(picture((70, 90)), **KINDS[kind]), random.Random(0)
    bad = 0
    for box in draw_boxes((70, 90), 300):
        file = damaged(content, drawn)
        ours, theirs = outcome(file, box, "fast"), outcome(file, box, "reference")
        bad += isinstance(theirs, str)
        assert type(ours) is type(theirs)
        np.testing.assert_array_equal(ours, theirs)
    assert 30 < bad < 270


def test_a_hostile_file_does_not_crash_the_native_decoder(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    region, drawn = (
        build_decoder(tmp_path_factory.getbasetemp() / "native"),
        random.Random(1),
    )
    assert region is not None
    num_decoded = 0
    for kind in KINDS.values():
        content = encoded(picture((48, 40)), **kind)
        for _ in range(600):
            box = drawn.choice(
                [
                    (0, 0, 48, 40),
                    (9, 3, 20, 31),
                    (40, 30, 8, 10),
                    (-1, 0, 4, 4),
                    (0, 0, 400, 400),
                ]
            )
            num_decoded += (
                region(
                    damaged(content, drawn),
                    (48, 40),
                    box,
                    drawn.choice([1, 3]),
                    drawn.choice([1, 2, 8]),
                )
                is not None
            )  # type: ignore[arg-type]
    assert num_decoded > 100


def test_scaled_decoding_does_not_depend_on_the_decoder_and_is_near_the_reference(
    decoder: str,
) -> None:
    image = read_header(encoded(picture((400, 520)), quality=95), "x.jpg", 3)
    for box in ((0, 0, 400, 520), (33, 51, 300, 410), (7, 11, 129, 131)):
        scale = choose_scale(box, (64, 64))
        assert scale == min(box[2] // 64, 4)
        scaled, exact = (
            decode_crop(image, box, (64, 64), "scaled"),
            decode_crop(image, box, (64, 64), "reference"),
        )
        assert np.abs(scaled.astype(int) - exact).mean() < 4
        assert image.header is not None
        region, inside = scaled_box(box, image.size, scale)
        assert inside[0] == box[1] / scale - region[1]
        assert inside[3] - inside[1] == pytest.approx(box[2] / scale, abs=0.51)
        top, left, height, width = region
        whole = decode_with_simplejpeg(image.content, image.header, scale)
        assert whole is not None
        part = decode_region(image, region, scale)
        np.testing.assert_array_equal(
            part, whole[top : top + height, left : left + width]
        )


def test_a_crop_of_less_than_twice_the_wanted_size_is_not_scaled() -> None:
    image = read_header(encoded(picture((130, 97))), "x.jpg", 3)
    box = (0, 0, 127, 97)
    np.testing.assert_array_equal(
        decode_crop(image, box, (64, 64), "scaled"),
        decode_crop(image, box, (64, 64), "fast"),
    )


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_torch_resizes_as_pillow_does_if_the_width_comes_first(channels: int) -> None:
    """They differ by two levels of 255 at most.

    Pillow itself begins with the cheaper pass, so that clipping in between may differ.
    """
    base = np.asarray(picture((200, 260)))
    array = np.ascontiguousarray(
        np.concatenate([base, base[::-1]], axis=2)[:, :, :channels]
    )
    for shape in ((64, 64), (96, 80), (224, 224)):
        for box in draw_boxes((200, 260), 4):
            fast = resize_crop(array, box, shape).astype(int)
            across = resize_crop(array, box, (box[2], shape[1]), "reference")
            exact = resize_crop(across, (0, 0, box[2], shape[1]), shape, "reference")
            assert np.abs(fast - exact).max() <= 2
            assert (fast != exact).mean() < 0.02
            assert (
                np.abs(fast - resize_crop(array, box, shape, "reference")).mean() < 0.3
            )


def test_a_header_that_claims_another_size_is_bad() -> None:
    content = encoded(picture((40, 64)))
    with pytest.raises(
        BadImageError,
        match=r"x.jpg cannot be read as an image \(its header says 50 x 64 pixels",
    ):
        decode_crop(EncodedImage(content, "x.jpg", 3, (50, 64)), (0, 0, 50, 64), (8, 8))


def test_a_compiler_that_fails_is_reported_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    assert build(tmp_path) == (
        None,
        "libjpeg-turbo's jpeglib.h is not there or does not fit ()",
    )
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    assert native.region_decoder.__wrapped__() is None


def test_a_library_that_decodes_other_pixels_is_not_used(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.so"
    wrong.write_bytes(b"no library")
    assert native.load_decoder(wrong) is None
    assert not native.matches_pillow(
        lambda content, size, box, channels, scale: np.zeros(
            (box[2], box[3], channels), np.uint8
        )
    )


def test_exif_after_the_frame_rotates_a_photograph() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(picture((30, 40)), exif=exif.tobytes())
    at = whole.find(b"\xff\xe1")
    end = at + 2 + int.from_bytes(whole[at + 2 : at + 4])
    segment, rest = whole[at:end], whole[:at] + whole[end:]
    frame = rest.find(b"\xff\xc0")
    after = frame + 2 + int.from_bytes(rest[frame + 2 : frame + 4])
    late = read_header(rest[:after] + segment + rest[after:], "late.jpg", 3)
    assert late.size == (40, 30)
    assert np.array_equal(
        decode_image(late), decode_image(read_header(whole, "early.jpg", 3))
    )
