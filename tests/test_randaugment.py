"""RandAugment and erasing equal timm's, the probe's crop the official port's.

All are functions of (seed, epoch, sample id).
"""

import inspect
import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from sample_pictures import scenes
from test_module import FORMAT, assert_same, batches, channels, data, splits
from unmask.data.augment.crops import Augmentation, single_try_boxes
from unmask.data.augment.randaugment import (
    RandAugment,
    erase_boxes,
    make_rand_augment,
    safe_posterize,
)
from unmask.data.loading.module import ImageData
from unmask.data.loading.views import Views
from unmask.randomness import Key, make_key, random_words, seeded_generators, uniform

POLICIES = ["rand-m9-mstd0.5", "rand-m9-mstd0.5-inc1"]  # Table 9's and the port's
MEAN = (0.485, 0.456, 0.406)


@pytest.fixture
def policy(key: Key) -> RandAugment:
    return make_rand_augment(POLICIES[0], MEAN, (32, 32), key)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return scenes(24, 3, 32, 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write 20 images of 8 x 8 pixels in two classes."""
    for i, image in enumerate(scenes(20, 3, 8, 8)):
        path = tmp_path / f"class{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path


def states() -> tuple:
    _, numpy_words, *numpy_rest = np.random.get_state()
    return (
        random.getstate(),
        numpy_words.tobytes(),
        tuple(numpy_rest),
        torch.get_rng_state().numpy().tobytes(),
    )  # type: ignore[union-attr]


@pytest.fixture
def unchecked(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., AbstractContextManager[None]]:
    """Return `seeded_generators` without type checks.

    The checker draws from Python's generator to look into sequences; runs have none.
    """
    seeded = contextmanager(inspect.unwrap(seeded_generators))
    monkeypatch.setattr("unmask.data.augment.randaugment.seeded_generators", seeded)
    return seeded


def disturb(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def test_the_change_depends_only_on_seed_epoch_and_id(
    policy: RandAugment, photos: Tensor
) -> None:
    ids = torch.arange(100, 124)
    disturb(0)
    whole = policy(photos, 3, ids)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    parts = []
    for start in range(0, 24, 5):
        disturb(start)
        part = order[start : start + 5]
        parts.append(policy(photos[part], 3, ids[part]))
    assert torch.cat(parts).equal(whole[order])
    changed = [
        policy(photos, 4, ids),
        policy(photos, 3, ids + 24),
        RandAugment(policy.transform, make_key(1, "test"))(photos, 3, ids),
    ]
    assert all(
        (other != whole).flatten(1).any(1).float().mean() > 0.5 for other in changed
    )


def test_the_same_image_under_many_ids_is_changed_in_many_ways(
    policy: RandAugment, photos: Tensor
) -> None:
    """A quarter stays unchanged: each of two operations is skipped half of the time."""
    changed = policy(photos[:1].expand(400, -1, -1, -1), 0, torch.arange(400))
    unchanged = (changed == photos[:1]).flatten(1).all(1).float().mean()
    # some operations do nothing either
    assert unchanged == pytest.approx(0.25, abs=4 * (0.1875 / 400) ** 0.5 + 0.02)
    assert len(changed.flatten(1).unique(dim=0)) > 200


def test_samples_get_unrelated_numbers_from_each_generator(key: Key) -> None:
    drawn = []
    for state in random_words(key, 0, torch.arange(2_000), 2).tolist():
        with seeded_generators(state):
            drawn.append(
                [
                    random.random(),
                    np.random.rand(),
                    float(torch.rand(())),
                    random.random(),
                    np.random.rand(),
                ]
            )
    table = np.array(drawn)
    assert all(len(np.unique(column)) > 1_990 for column in table.T)
    assert np.abs(table.mean(0) - 0.5).max() < 4.5 / (12 * 2_000) ** 0.5
    # with one another and the sample before
    together = np.corrcoef(np.concatenate([table[1:], table[:-1]], axis=1).T)
    assert np.abs(together - np.eye(10)).max() < 4.5 / 2_000**0.5


@pytest.mark.parametrize("bit", [0, 1, 30, 31])
@pytest.mark.parametrize("word", [0, 1])
def test_every_bit_of_a_state_counts_for_each_generator(word: int, bit: int) -> None:
    """Of a seed of 64 bits torch's generator takes 32."""
    state = [0x12345678, 0x9ABCDEF0]
    other = [*state]
    other[word] ^= 1 << bit
    drawn = []
    for words in (state, other):
        with seeded_generators(words):
            drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert all(a != b for a, b in zip(*drawn, strict=True))


def test_torchs_generator_is_the_twister_that_numpy_seeds() -> None:
    """Else the bytes of its state would lie elsewhere than they are written."""
    expected = np.random.RandomState([3, 4, 1]).randint(
        0, 2**32, 2_000, dtype=np.uint32
    )
    with seeded_generators([3, 4]):
        drawn = torch.cat([torch.rand(1) for _ in range(2_000)])
    assert (drawn.double() * 2**24).long().tolist() == (expected & 0xFFFFFF).tolist()


@pytest.mark.parametrize("failing", [False, True])
def test_seeded_generators_are_restored(
    failing: bool, unchecked: Callable[..., Any]
) -> None:
    disturb(5)
    before = states()
    with (
        pytest.raises(ZeroDivisionError) if failing else unchecked([1, 2]),
        unchecked([3, 4]),
    ):
        random.random(), np.random.rand(3), torch.rand(3)
        assert states() != before
        if failing:
            raise ZeroDivisionError
    assert states() == before


@pytest.mark.usefixtures("unchecked")
def test_augmenting_leaves_the_global_generators_alone(
    policy: RandAugment, photos: Tensor, key: Key
) -> None:
    disturb(5)
    before = states()
    policy(photos, 0, torch.arange(24))
    erase_boxes(photos.float(), 0.9, key, 0, torch.arange(24))
    assert states() == before


@pytest.mark.parametrize("name", POLICIES)
def test_the_transform_equals_timms(name: str, key: Key, photos: Tensor) -> None:
    """The settings are those of timm.data.create_transform for 32 pixels.

    It translates by up to 14 pixels, fills with the mean and resamples bicubically.
    """
    settings = {
        "translate_const": 14,
        "img_mean": (124, 116, 104),
        "interpolation": Image.Resampling.BICUBIC,
    }
    theirs = rand_augment_transform(name, settings)
    ours = make_rand_augment(name, MEAN, (32, 32), key)(photos, 7, torch.arange(24))
    for i, ((low, high), image) in enumerate(
        zip(random_words(key, 7, torch.arange(24), 2).tolist(), photos, strict=True)
    ):
        random.seed(low << 32 | high)
        np.random.seed(np.array([low, high], dtype=np.uint32))
        expected = theirs(Image.fromarray(image.permute(1, 2, 0).numpy()))
        assert ours[i].permute(1, 2, 0).equal(torch.from_numpy(np.array(expected)))


def test_the_shorter_side_bounds_translation() -> None:
    transform = make_rand_augment(POLICIES[0], MEAN, (32, 64), make_key(0)).transform
    assert {op.hparams["translate_const"] for op in transform.ops} == {14}


@pytest.mark.parametrize("name", POLICIES)
def test_grey_images_are_changed_by_every_operation_there_is(
    name: str, key: Key
) -> None:
    """With 300 images, each of 15 operations is used."""
    grey = scenes(300, 1, 16, 16)
    changed = make_rand_augment(name, (0.5,), (16, 16), key)(grey, 0, torch.arange(300))
    assert changed.shape == grey.shape
    assert changed.dtype == torch.uint8
    assert (changed != grey).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name",
    [
        "rand-m0",
        "rand-m1",
        "rand-m10",
        "rand-m0-inc1",
        "rand-m10-inc1",
        "rand-m20-mmax20-inc1",
    ],
)
def test_every_operation_works_at_every_strength(
    name: str, channels: int, key: Key
) -> None:
    """The port's noise on the strength reaches 10.

    There timm's posterize keeps no bit, which newer releases of Pillow refuse.
    """
    policy = make_rand_augment(f"{name}-p1", MEAN[:channels], (16, 16), key)
    image = to_pil_image(scenes(1, channels, 16, 16)[0])
    for operation in policy.transform.ops:
        changed = operation(image)
        assert (changed.mode, changed.size) == (image.mode, image.size)
        if operation.name == "PosterizeIncreasing" and "m0" not in name:
            assert changed.getextrema() == ((0, 0) if channels == 1 else ((0, 0),) * 3)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_posterizing_keeps_the_highest_bits(bits: int) -> None:
    image = scenes(1, 3, 16, 16)[0]
    kept = torch.from_numpy(
        np.array(safe_posterize(to_pil_image(image), bits))
    ).permute(2, 0, 1)
    assert kept.equal(image & (256 - 2 ** (8 - bits)))


AUGMENTS = {
    "policy": Augmentation(flip=True, policy=POLICIES[0]),
    "all": Augmentation("random", flip=True, policy=POLICIES[1], erasing=0.5),
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_workers_and_global_generators_do_not_change_batches(
    augment: Augmentation, in_memory: bool, root: Path
) -> None:
    here = training(root, augment, in_memory, workers=0)
    disturb(9)
    assert_same(batches(here), batches(training(root, augment, in_memory, workers=2)))


def training(
    root: Path,
    augment: Augmentation,
    in_memory: bool,
    workers: int = 0,
    batches_done: int = 0,
) -> ImageData:
    module = data(splits(root, in_memory), augment, workers, batches_done)
    module.trainer.training = True  # type: ignore[union-attr]
    return module


def test_the_policy_gets_the_same_image_from_memory_and_disk(root: Path) -> None:
    augment = AUGMENTS["policy"]
    loaded, stored = (
        batches(training(root, augment, in_memory)) for in_memory in (True, False)
    )
    assert_same(loaded, stored)
    plain = batches(training(root, Augmentation(flip=True), in_memory=True))
    assert any(
        not a.images_BCHW.equal(b.images_BCHW)
        for a, b in zip(loaded, plain, strict=True)
    )


def test_the_policy_gets_the_same_crop_from_memory_and_disk(root: Path) -> None:
    """Crops may differ by one level of 255, which an operation may amplify."""
    augment = Augmentation("random", flip=True, policy=POLICIES[0])
    loaded, stored = (
        torch.cat([b.images_BCHW for b in batches(training(root, augment, in_memory))])
        for in_memory in (True, False)
    )
    assert ((loaded - stored).abs() > 1.01 / 255 / 0.2).float().mean() < 0.01


def test_the_policy_comes_after_the_crop(root: Path, key: Key) -> None:
    """As in timm, pixels that move in have the mean colour and are never cropped away."""
    split = splits(root, in_memory=False)[0]
    cropped = (
        Views(split, FORMAT, Augmentation("random"), 0)
        .__getitems__([(0, i) for i in range(10)])
        .images_BCHW
    )  # type: ignore[arg-type]
    views = Views(split, FORMAT, Augmentation("random", policy=POLICIES[0]), 0)  # type: ignore[arg-type]
    assert views.transform is not None
    seen = views.__getitems__([(0, i) for i in range(10)]).images_BCHW
    assert seen.equal(views.transform(cropped, 0, torch.arange(10)))
    assert not seen.equal(cropped)


def erased(
    share: float, key: Key, count: int, height: int = 24, width: int = 24
) -> Tensor:
    """Return where `count` images of zeros were overwritten."""
    images = torch.zeros(count, 2, height, width)
    erase_boxes(images, share, key, 0, torch.arange(count))
    assert (images != 0).any(1).equal((images != 0).all(1))  # all channels of a pixel
    return (images != 0).any(1)


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_the_wanted_share_of_images_is_erased(share: float, key: Key) -> None:
    found = erased(share, key, 2_000).flatten(1).any(1).float().mean().item()
    assert found == pytest.approx(share, abs=4.5 * (share * (1 - share) / 2_000) ** 0.5)


def test_one_box_of_2_to_33_per_cent_is_erased(key: Key) -> None:
    gone = erased(0.999, key, 600)
    gone = gone[gone.flatten(1).any(1)]
    rows, columns = gone.any(2), gone.any(1)
    assert gone.equal(rows[:, :, None] & columns[:, None, :])
    for sides in (rows, columns):  # without gaps
        assert (
            sides.int().diff(dim=1).clamp(min=0).sum(1) + sides[:, 0].int() == 1
        ).all()
    height, width = rows.sum(1), columns.sum(1)
    rounding = (height + width + 1) / 2  # of each side by half a pixel
    area = height * width
    assert (area + rounding >= 0.02 * 24**2).all()
    assert (area - rounding <= 24**2 / 3).all()
    assert area.float().mean().item() / 24**2 == pytest.approx(
        (0.02 + 1 / 3) / 2, abs=0.03
    )
    assert ((height / width).log().abs().max()) < math.log(1 / 0.3) + 0.5


def test_a_box_is_filled_with_standard_normal_noise(key: Key) -> None:
    images = torch.full((300, 3, 24, 24), 7.0)
    erase_boxes(images, 0.9, key, 0, torch.arange(300))
    noise = images[images != 7.0].double()
    assert noise.mean().item() == pytest.approx(0, abs=4.5 / len(noise) ** 0.5)
    assert noise.std().item() == pytest.approx(1, abs=4.5 / (2 * len(noise)) ** 0.5)
    assert noise.unique().numel() > 0.99 * len(noise)


def test_erasing_does_not_depend_on_the_batch(key: Key, photos: Tensor) -> None:
    ids = torch.arange(24)
    whole, other = photos.float(), photos.float()
    erase_boxes(whole, 0.5, key, 2, ids)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for part in order.split(5):
        piece = photos[part].float()
        erase_boxes(piece, 0.5, key, 2, ids[part])
        assert piece.equal(whole[part])
    erase_boxes(other, 0.5, key, 3, ids)
    assert not other.equal(whole)


def test_only_training_images_are_erased(root: Path) -> None:
    """Validation inside a fit and features have no box, no policy and no crop."""
    whole = data(splits(root, in_memory=True), Augmentation())
    module = training(root, AUGMENTS["all"], in_memory=True)
    changed = batches(module)
    module.trainer.training = False  # type: ignore[union-attr]
    unerased = batches(module)
    assert any(
        not a.images_BCHW.equal(b.images_BCHW)
        for a, b in zip(changed, unerased, strict=True)
    )
    assert_same(batches(module, "val"), batches(whole, "val"))
    bank, _ = module.predict_dataloader()
    seen = torch.cat(
        [module.on_after_batch_transfer(batch, 0).images_BCHW for batch in bank]
    )
    train = splits(root, in_memory=True)[0]
    torch.testing.assert_close(
        seen, (train.images_NCHW / 255 - channels(FORMAT.mean)) / channels(FORMAT.std)
    )  # type: ignore[union-attr]


def official_crop(
    height: int, width: int, scale: tuple[float, float], drawn: list[float]
) -> list[int]:
    """Follow facebookresearch/mae util/crop.py with its four random numbers.

    It has no loop, and clips sides to the image.
    """
    area = height * width
    target_area = area * (scale[0] + (scale[1] - scale[0]) * drawn[0])
    log_ratio = math.log(3 / 4), math.log(4 / 3)
    aspect_ratio = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * drawn[1])
    w = round(math.sqrt(target_area * aspect_ratio))
    h = round(math.sqrt(target_area / aspect_ratio))
    w, h = min(w, width), min(h, height)
    i, j = (
        math.floor(drawn[2] * (height - h + 1)),
        math.floor(drawn[3] * (width - w + 1)),
    )
    return [i, j, h, w, 0]


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (500, 10), (20, 5000)])
def test_the_probes_crop_equals_the_official_ports(
    size: tuple[int, int], key: Key
) -> None:
    """There is one try; a box that does not fit is clipped, not drawn again."""
    ids = torch.arange(500)
    found = single_try_boxes(
        key, ids, 1, torch.tensor([size]).expand(500, -1), (0.08, 1.0)
    )
    drawn = uniform(key, 1, ids, 4).double().tolist()
    assert found.tolist() == [
        official_crop(*size, (0.08, 1.0), numbers) for numbers in drawn
    ]
    assert (found[:, 2:4] == torch.tensor(size)).any(), (
        "some box is as long as the image"
    )


def test_the_probes_crop_does_not_depend_on_the_batch_and_is_mirrored_half_of_the_time(
    key: Key,
) -> None:
    augment, ids = (
        Augmentation("random_once", (0.08, 1.0), flip=True),
        torch.arange(2_000),
    )
    sizes = torch.tensor([[40, 30]]).expand(2_000, -1)
    whole = augment.draw_boxes(key, ids, 2, sizes, (28, 28))
    assert torch.cat(
        [
            augment.draw_boxes(key, part, 2, sizes[: len(part)], (28, 28))
            for part in ids.split(300)
        ]
    ).equal(whole)
    assert not whole[:, :4].equal(
        augment.draw_boxes(key, ids, 3, sizes, (28, 28))[:, :4]
    )
    assert whole[:, 4].double().mean().item() == pytest.approx(
        0.5, abs=4.5 * 0.5 / 2_000**0.5
    )
    # around the wanted aspect
    assert (
        augment.draw_boxes(key, ids, 2, sizes, (28, 56))[:, 3].sum() > whole[:, 3].sum()
    )


def test_a_trainer_that_only_validates_erases_nothing(root: Path) -> None:
    module = data(splits(root, in_memory=True), AUGMENTS["all"])
    module.trainer = SimpleNamespace(**vars(module.trainer), training=False)  # type: ignore[arg-type,assignment]
    assert_same(
        batches(module, "val"),
        batches(data(splits(root, in_memory=True), Augmentation()), "val"),
    )
