"""Evaluation sees what the official Resize and CenterCrop show, to rounding, of any source."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import resize

from small_runs import plan_for
from test_jpeg import build_decoder
from unmask.config.checks import complete_config
from unmask.data.augment.crops import Augmentation
from unmask.data.augment.resampling import Crops, crop_images
from unmask.data.images import native
from unmask.data.images.depth import to_shares
from unmask.data.images.view_box import view_boxes
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.folders import StoredImages, splits_from_listing
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.nvjpeg import PackedBatch
from unmask.data.loading.views import Views
from unmask.data.sources import list_source
from unmask.training.build import build_format, load_splits

MEAN_BOUND = 0.02  # levels of 255
BOUND = 2
# height and width: landscape, portrait, odd, tall, wide, smaller than the view, its
# own size, and a square
SIZES = [
    (75, 100),
    (121, 67),
    (83, 91),
    (200, 60),
    (50, 170),
    (20, 31),
    (9, 7),
    (56, 56),
    (64, 64),
    (57, 56),
    (63, 200),
    (151, 151),
]
SHAPES = [(56, 56), (40, 64), (64, 40)]
PICTURES = {
    "RGB.png": "RGB",
    "RGB.jpg": "RGB",
    "L.png": "L",
    "L.jpg": "L",
    "I;16.png": "I;16",
}


def picture(size: tuple[int, int], mode: str) -> Image.Image:
    """Draw noise on waves: sharp and smooth at once."""
    generator = np.random.default_rng(size[0])
    down, across = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(down / a + across / b) for a, b in ((9, 14), (5, -11), (21, 3))]
    pixels = 0.5 + 0.35 * np.stack(waves, axis=2)
    pixels = (pixels + generator.normal(0, 0.1, pixels.shape)).clip(0, 1)
    if mode == "I;16":
        return Image.fromarray((pixels[:, :, 0] * 65535).astype(np.uint16))
    return Image.fromarray((pixels * 255).astype(np.uint8)).convert(mode)


def official(image: Image.Image, shape: tuple[int, int], share: float) -> np.ndarray:
    """Return the official view of an image, in levels of 255: (height, width, C).

    A view that is no square has no official form: there the image is resized to the
    smallest size of its aspect that covers the view, on the share's scale.
    """
    sides = [int(side / share) for side in shape]
    size: int | list[int] = sides[0]
    if shape[0] != shape[1]:
        scale = max(sides[0] / image.height, sides[1] / image.width)
        size = [int(side * scale + 1e-9) for side in (image.height, image.width)]
    transform = Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(shape)])
    values = np.asarray(transform(image), dtype=np.float64)
    values = values if values.ndim == 3 else values[:, :, None]
    return values if image.mode != "F" else values.clip(0, 1) * 255


def difference(ours: torch.Tensor, theirs: np.ndarray) -> np.ndarray:
    """Return |ours - theirs| in levels of 255; ours are bytes or shares."""
    levels = ours.permute(1, 2, 0).double().numpy()
    return np.abs(levels * (1 if ours.dtype == torch.uint8 else 255) - theirs)


def assert_official(
    ours: torch.Tensor,
    image: Image.Image,
    shape: tuple[int, int],
    share: float,
    bound: float = BOUND,
) -> None:
    """Assert that they differ by rounding alone."""
    gap = difference(ours, official(image, shape, share))
    assert gap.mean() <= MEAN_BOUND, (image.size, shape, gap.mean())
    assert gap.max() <= bound, (image.size, shape, gap.max())


def write_pictures(root: Path, name: str) -> list[Path]:
    """Write a picture of each size into one class folder; return their paths."""
    suffix = name.rpartition(".")[2]
    folder = root / "train" / "class"
    folder.mkdir(parents=True)
    # with a split of its own nothing is held out
    (root / "val" / "class").mkdir(parents=True)
    picture((60, 60), PICTURES[name]).save(root / "val" / "class" / f"0.{suffix}")
    paths = [folder / f"{k:02d}.{suffix}" for k in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        picture(size, PICTURES[name]).save(path)
    return paths


def decoded(path: Path, mode: str) -> Image.Image:
    """Open a file as the official loader does; 16 bits as shares."""
    image = Image.open(path)
    if mode != "I;16":
        return image.convert(mode)
    return Image.fromarray(to_shares(np.asarray(image)[:, :, None], None)[:, :, 0])


def open_images(root: Path, channels: int, source: str = "folder") -> StoredImages:
    listing = list_source("image_folder", str(root), 0.1, source)
    train, _ = splits_from_listing(listing, channels, (56, 56), in_memory=False)
    assert isinstance(train, StoredImages)
    return train


def image_format(
    shape: tuple[int, int], share: float, between_pixels: bool = True
) -> ImageFormat:
    return ImageFormat(shape, (0.5,), (0.5,), share, between_pixels)


def views_of(
    split: InMemory | StoredImages, shape: tuple[int, int], share: float
) -> torch.Tensor:
    views = Views(split, image_format(shape, share), None, 0, allow_substitutes=False)
    return views.batch(0, range(len(split))).images_BCHW


@pytest.fixture(params=["native", "simplejpeg"])
def decoder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "native"
    region = build_decoder(folder) if request.param == "native" else None
    monkeypatch.setattr(native, "region_decoder", lambda: region)


@pytest.mark.parametrize("share", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("name", PICTURES)
def test_views_of_files_are_the_official_ones(
    name: str, share: float, tmp_path: Path, decoder: None
) -> None:
    paths, mode = write_pictures(tmp_path, name), PICTURES[name]
    train = open_images(tmp_path, 3 if mode == "RGB" else 1)
    images = [decoded(path, mode) for path in paths]
    for shape in SHAPES:
        for ours, image in zip(views_of(train, shape, share), images, strict=True):
            assert_official(ours, image, shape, share)


@pytest.mark.parametrize("decode", ["fast", "scaled", "reference"])
def test_every_mode_of_decoding_shows_the_official_view(
    decode: str, tmp_path: Path
) -> None:
    """Evaluation never decodes at a part of the size, which changes the pixels."""
    paths = write_pictures(tmp_path, "RGB.jpg")
    train = replace(open_images(tmp_path, 3), decode=decode)  # type: ignore[arg-type]
    for share in (0.875, 1.0):
        for ours, path in zip(views_of(train, (24, 24), share), paths, strict=True):
            assert_official(ours, decoded(path, "RGB"), (24, 24), share)


def test_views_from_a_tar_are_those_of_the_files(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "folder", "RGB.jpg")
    shards = tmp_path / "shards"
    shards.mkdir()
    for split in ("train", "val"):
        with tarfile.open(shards / f"{split}-000000.tar", "w") as tar:
            for path in paths:
                label = tarfile.TarInfo(f"{path.stem}.cls")
                label.size = 1
                tar.add(path, path.name)
                tar.addfile(label, io.BytesIO(b"0"))
    train = open_images(shards, 3, "webdataset")
    for ours, path in zip(views_of(train, (56, 56), 0.875), paths, strict=True):
        assert_official(ours, decoded(path, "RGB"), (56, 56), 0.875)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_views_of_images_in_memory_are_the_official_ones(
    mode: str, shape: tuple[int, int]
) -> None:
    """Of the training images, too, and mirrored ones are the mirror images."""
    for size in SIZES:
        image = picture(size, mode)
        values = np.asarray(image).reshape(*size, -1)
        pixels = to_shares(values, None) if mode == "I;16" else values
        image = Image.fromarray(pixels[:, :, 0]) if mode == "I;16" else image
        stacked = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        split = InMemory(stacked.repeat(8, 1, 1, 1), torch.zeros(8).long())
        for share in (0.875, 1.0):
            view = views_of(split, shape, share)[0]
            # of shares, whole images have always been clipped between the passes
            is_whole = share == 1 and size[0] * shape[1] == size[1] * shape[0]
            bound = 5 if is_whole and mode == "I;16" else BOUND
            assert_official(view, image, shape, share, bound)
            augment = Augmentation("none", flip=True, centre=share)
            shown = Views(split, image_format(shape, share), augment, 0)
            for mirrored in shown.batch(3, range(8)).images_BCHW:
                assert mirrored.equal(view) or mirrored.equal(view.flip(2))


def test_other_views_are_resized_as_the_reference_resizes_them() -> None:
    """The geometry equals torchvision's for every size, by its own resize."""
    generator = np.random.default_rng(0)
    for side, share in ((224, 0.875), (224, 0.9), (32, 1.0), (448, 1.0), (60, 0.95)):
        for _ in range(40):
            height, width = generator.integers(1, 700, 2).tolist()
            sizes = np.array([[height, width]])
            box = view_boxes(sizes, (side, side), share)[0]
            resized = resize(torch.empty(1, height, width), [int(side / share)])
            for k, (size, whole) in enumerate(
                zip(resized.shape[1:], (height, width), strict=True)
            ):
                corner = round((size - side) / 2.0)
                assert box[k] == pytest.approx(corner * whole / size, abs=1e-9)
                assert box[k + 2] == pytest.approx(side * whole / size, abs=1e-9)
                assert 0 <= box[k] <= box[k] + box[k + 2] <= whole + 1e-9


@pytest.mark.parametrize(
    ("size", "shape"),
    [((40, 40), (28, 28)), ((30, 60), (28, 56)), ((28, 28), (28, 28))],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_views_of_whole_images_are_what_they_were_bit_for_bit(
    suffix: str, size: tuple[int, int], shape: tuple[int, int], tmp_path: Path
) -> None:
    folder = tmp_path / "train" / "class"
    folder.mkdir(parents=True)
    for k in range(3):
        picture((size[0], size[1]), "RGB").rotate(90 * k).resize(size[::-1]).save(
            folder / f"{k}.{suffix}"
        )
    stored = open_images(tmp_path, 3)
    loaded = torch.stack([picture_tensor(path) for path in sorted(folder.iterdir())])
    for split in (stored, InMemory(loaded, torch.zeros(3).long())):
        now, before = (
            Views(split, image_format(shape, 1.0, between), None, 0)
            .batch(0, range(3))
            .images_BCHW
            for between in (True, False)
        )
        assert now.equal(before)


def picture_tensor(path: Path) -> torch.Tensor:
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def test_digits_at_their_own_size_have_the_golden_digest() -> None:
    plan = plan_for("stages=[knn]", tiny=False)
    _, val = load_splits(plan)
    views = Views(val, build_format(plan.config), None, 0)
    pixels = views.batch(0, range(len(val))).images_BCHW
    assert hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()[:16] == (
        "fb8e189a3c37b5f9"
    )


def test_boxes_of_whole_pixels_can_still_be_chosen(tmp_path: Path) -> None:
    """They shift the view, by up to half a pixel: that is why they are no default."""
    paths = write_pictures(tmp_path, "RGB.png")
    train = open_images(tmp_path, 3)
    shape, share = (56, 56), 0.875
    views = Views(train, image_format(shape, share, between_pixels=False), None, 0)
    gaps = [
        difference(ours, official(decoded(path, "RGB"), shape, share)).mean()
        for ours, path in zip(
            views.batch(0, range(len(paths))).images_BCHW, paths, strict=True
        )
    ]
    assert max(gaps) > 50 * MEAN_BOUND


def test_a_checkpoint_without_the_key_was_evaluated_on_whole_pixels() -> None:
    assert complete_config({"data": {}})["data"] == {"eval_view": "whole_pixels"}
    kept = complete_config({"data": {"eval_view": "port"}})["data"]
    assert kept == {"eval_view": "port"}


def test_padded_crops_shift_the_official_view(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, "RGB.png")
    train = open_images(tmp_path, 3)
    augment = Augmentation("padded", centre=0.875, repeats=2)
    views = Views(train, image_format((56, 56), 0.875), augment, 0)
    batch = views.batch(0, range(len(paths)))
    shifts = augment.draw_shifts(views.key, batch.ids_B, 0, (56, 56))
    whole = views_of(train, (56, 56), 0.875)
    unmirrored = torch.zeros(len(paths)).bool()
    shifted = crop_images(whole, Crops(None, shifts, unmirrored), (56, 56))
    assert batch.images_BCHW.equal(shifted)


def test_jpegs_on_the_device_show_the_official_view(tmp_path: Path) -> None:
    """Here the device is the CPU; its decoder's pixels are within some levels."""
    paths = write_pictures(tmp_path, "RGB.jpg")
    train = replace(open_images(tmp_path, 3), decode="nvjpeg")
    views = Views(train, image_format((56, 56), 0.875), None, 0)
    packed = views.__getitems__([(0, i) for i in range(len(paths))])
    assert isinstance(packed, PackedBatch)
    assert not isinstance(packed, Batch)
    for ours, path in zip(packed.decode().images_BCHW, paths, strict=True):
        gap = difference(ours, official(decoded(path, "RGB"), (56, 56), 0.875))
        assert gap.mean() <= 0.6
