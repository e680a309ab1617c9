"""Batches are the same from memory or disk and for any number of workers.

Evaluation sees no augmentation.
"""

import gc
import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unmask.data.augment.crops import Augmentation
from unmask.data.listing.listing import list_images
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.folders import StoredImages, splits_from_listing
from unmask.data.loading.in_memory import (
    InMemory,
    place_on_device,
    should_move_to_device,
)
from unmask.data.loading.module import (
    FeatureData,
    ImageData,
    LoaderSettings,
    normalise,
)
from unmask.data.loading.shared_memory import SLOTS_PER_WORKER
from unmask.data.loading.views import Views
from unmask.data.loading.workers import kill_workers

FORMAT = ImageFormat((8, 8), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
AUGMENT = Augmentation("random", flip=True)
Splits = tuple[InMemory | StoredImages, InMemory | StoredImages]


def fake_trainer(batches_done: int = 0) -> SimpleNamespace:
    """Give a DataModule what it needs of a trainer: its progress and this rank."""
    progress = SimpleNamespace(total=SimpleNamespace(ready=batches_done))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(
        fit_loop=loop, accumulate_grad_batches=1, global_rank=0, world_size=1
    )


def data(
    splits: Splits,
    augment: Augmentation = AUGMENT,
    workers: int = 0,
    batches_done: int = 0,
) -> ImageData:
    module = ImageData(
        *splits,
        FORMAT,
        augment,
        list(range(len(splits[0]))),
        4,
        0,
        LoaderSettings(workers),
    )
    module.trainer = fake_trainer(batches_done)  # type: ignore[assignment]
    return module


def batches(module: ImageData, loader: str = "train") -> list[Batch]:
    """Return the batches as a model gets them: cropped and normalised."""
    loaded = getattr(module, f"{loader}_dataloader")()
    return [module.on_after_batch_transfer(batch, 0) for batch in loaded]


def assert_same(ours: list[Batch], theirs: list[Batch], tolerance: float = 0.0) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.images_BCHW, b.images_BCHW, rtol=0, atol=tolerance)
        assert a.labels_B.equal(b.labels_B)
        assert a.ids_B.equal(b.ids_B)
        assert a.epoch == b.epoch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / f"class{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            path
        )
    return tmp_path


def splits(root: Path, in_memory: bool) -> Splits:
    return splits_from_listing(list_images(root, holdout=0.5), 3, (8, 8), in_memory)


@pytest.mark.parametrize("loader", ["train", "val"])
def test_memory_and_disk_give_the_same_batches(loader: str, root: Path) -> None:
    """They may differ by one level of 255.

    Resizing a cropped image and cropping while resizing round ties differently.
    """
    loaded = data(splits(root, in_memory=True))
    stored = data(splits(root, in_memory=False))
    assert_same(
        batches(loaded, loader), batches(stored, loader), tolerance=1.01 / 255 / 0.2
    )


def test_workers_do_not_change_batches_or_crops(root: Path) -> None:
    stored = splits(root, in_memory=False)
    assert_same(batches(data(stored, workers=2)), batches(data(stored, workers=0)))


def test_crops_change_from_epoch_to_epoch_and_repeat_with_it(root: Path) -> None:
    loaded = splits(root, in_memory=True)
    first = batches(data(loaded))
    again = batches(data(loaded))
    later = batches(data(loaded, batches_done=2))
    assert_same(first, again)
    by_id = [
        {
            int(i): image
            for batch in part
            for i, image in zip(batch.ids_B, batch.images_BCHW, strict=True)
        }
        for part in (first, later)
    ]
    shared = by_id[0].keys() & by_id[1].keys()
    assert any(not by_id[0][i].equal(by_id[1][i]) for i in shared)
    assert later[0].epoch == 1


def test_a_view_is_a_function_of_its_key_not_of_its_batch(root: Path) -> None:
    views = data(splits(root, in_memory=False)).train_views
    together = views.__getitems__([(3, i) for i in range(6)]).images_BCHW
    apart = [views.__getitems__([(3, i)]).images_BCHW for i in range(6)]
    assert together.equal(torch.cat(apart))


@pytest.mark.parametrize("in_memory", [True, False])
def test_evaluation_sees_whole_images_in_order_without_augmentation(
    in_memory: bool, root: Path
) -> None:
    module = data(splits(root, in_memory))
    seen = batches(module, "val")
    memory = splits(root, in_memory=True)[1]
    assert isinstance(memory, InMemory)
    expected = (memory.images_NCHW / 255 - channels(FORMAT.mean)) / channels(FORMAT.std)
    torch.testing.assert_close(
        torch.cat([batch.images_BCHW for batch in seen]), expected
    )
    assert torch.cat([batch.ids_B for batch in seen]).tolist() == list(range(10))
    bank, _ = module.predict_dataloader()
    whole = torch.cat(
        [module.on_after_batch_transfer(batch, 0).images_BCHW for batch in bank]
    )
    train = splits(root, in_memory=True)[0]
    assert isinstance(train, InMemory)
    torch.testing.assert_close(
        whole, (train.images_NCHW / 255 - channels(FORMAT.mean)) / channels(FORMAT.std)
    )


def channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def test_pixels_are_normalised_channel_by_channel() -> None:
    images = torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)
    normalised = normalise(
        Batch(images, torch.tensor([0]), torch.tensor([0]), 0), FORMAT
    ).images_BCHW
    expected = [
        (0.2 - mean) / std for mean, std in zip(FORMAT.mean, FORMAT.std, strict=True)
    ]
    torch.testing.assert_close(normalised[0, :, 0, 0], torch.tensor(expected))


def test_only_the_chosen_samples_are_trained_on(root: Path) -> None:
    train, val = splits(root, in_memory=True)
    module = ImageData(
        train, val, FORMAT, AUGMENT, [1, 3, 5, 7], 2, 0, LoaderSettings(0)
    )
    module.trainer = fake_trainer()  # type: ignore[assignment]
    assert sorted(
        torch.cat([batch.ids_B for batch in module.train_dataloader()]).tolist()
    ) == [1, 3, 5, 7]


def test_precomputed_features_come_in_the_same_batches_as_their_images(
    root: Path,
) -> None:
    """A probe on stored features equals the probe on images: same order, same labels."""
    train, val = splits(root, in_memory=True)
    features = (
        (torch.arange(10.0)[:, None], train.labels_N),
        (
            torch.arange(10.0)[:, None],
            val.labels_N,
        ),
    )
    stored = FeatureData((*features, torch.arange(10)), batch_size=4, seed=0)
    stored.trainer = fake_trainer()  # type: ignore[assignment]
    for ours, theirs in zip(
        stored.train_dataloader(), batches(data((train, val))), strict=True
    ):
        assert ours.ids_B.equal(theirs.ids_B)
        assert ours.labels_B.equal(theirs.labels_B)
        assert ours.images_BCHW[:, 0].equal(ours.ids_B.float())


def test_evaluation_batches_are_no_larger_than_the_device_allows() -> None:
    from small_runs import plan_for
    from unmask.training.build import build_loading

    assert build_loading(plan_for("trainer.micro_batch=100").config).eval_batch == 100
    assert build_loading(plan_for().config).eval_batch == 256
    split = InMemory(
        torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.zeros(10, dtype=torch.long)
    )
    module = ImageData(
        split, split, FORMAT, AUGMENT, [0], 1, 0, LoaderSettings(0, eval_batch=4)
    )
    assert [len(batch.ids_B) for batch in batches(module, "val")] == [4, 4, 2]


AUGMENTS = [
    Augmentation("padded", flip=True),
    Augmentation("random", flip=True),
    Augmentation("none", flip=True),
    Augmentation("padded"),
]


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize(
    "augment", AUGMENTS, ids=lambda augment: f"{augment.crop}-{augment.flip}"
)
def test_images_on_the_device_give_the_bits_of_images_in_memory(
    augment: Augmentation, repeats: int, root: Path
) -> None:
    train, val = splits(root, in_memory=True)
    assert isinstance(train, InMemory)
    assert isinstance(val, InMemory)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_device = place_on_device(train, val, "device", device)
    augment = replace(augment, repeats=repeats)
    for loader in ("train", "val"):
        assert_same(
            batches(data((train, val), augment), loader),
            batches(data(on_device, augment), loader),
        )


@pytest.mark.parametrize(
    "augment", AUGMENTS, ids=lambda augment: f"{augment.crop}-{augment.flip}"
)
def test_crops_are_made_where_the_images_are(augment: Augmentation, root: Path) -> None:
    """The device "meta" computes shapes alone: an operation on the CPU would fail."""
    train, val = splits(root, in_memory=True)
    assert isinstance(train, InMemory)
    assert isinstance(val, InMemory)
    on_device = place_on_device(train, val, "device", torch.device("meta"))
    for split in on_device:
        batch = Views(split, FORMAT, augment, 0).batch(1, [3, 5])
        assert batch.images_BCHW.device.type == "meta"
        assert batch.images_BCHW.shape == (2, 3, 8, 8)
        assert batch.labels_B.device.type == "cpu"


@pytest.mark.parametrize("augment", AUGMENTS[::2], ids=lambda augment: augment.crop)
def test_files_and_memory_give_the_same_pixels_if_nothing_is_resized(
    augment: Augmentation, root: Path
) -> None:
    loaded = data(splits(root, in_memory=True), augment)
    stored = data(splits(root, in_memory=False), augment)
    assert_same(batches(loaded), batches(stored))


def test_transforms_of_single_images_run_in_the_loader_though_the_device_has_the_images(
    root: Path,
) -> None:
    train, val = splits(root, in_memory=True)
    assert isinstance(train, InMemory)
    assert isinstance(val, InMemory)
    jitter = Augmentation("padded", flip=True, jitter=0.4)
    on_device = place_on_device(train, val, "device", torch.device("cpu"))
    assert_same(batches(data((train, val), jitter)), batches(data(on_device, jitter)))


def test_without_a_gpu_images_go_to_the_device_only_if_that_is_wanted() -> None:
    cpu = torch.device("cpu")
    assert [
        should_move_to_device(10, wanted, cpu) for wanted in (None, True, "device")
    ] == [
        False,
        False,
        True,
    ]


class CountingStore:
    """A store that counts how often each image is read."""

    def __init__(self, store: object) -> None:
        self.store = store
        self.reads = Counter()

    def __len__(self) -> int:
        return len(self.store)  # type: ignore[arg-type]

    def name(self, i: int) -> str:
        return self.store.name(i)  # type: ignore[attr-defined]

    def read(self, i: int) -> bytes:
        self.reads[i] += 1
        return self.store.read(i)  # type: ignore[attr-defined]


def test_each_image_is_read_once_for_all_its_views_and_they_differ(root: Path) -> None:
    (train, val), augment = (
        splits(root, in_memory=False),
        Augmentation("random", flip=True, repeats=2),
    )
    assert isinstance(train, StoredImages)
    counting = CountingStore(train.store)
    module = data((replace(train, store=counting), val), augment)
    seen = batches(module)
    assert len(seen) == 5  # 10 images, batches of 4 views: 2 images a step
    assert set(counting.reads.values()) == {1}
    for batch in seen:
        assert (batch.ids_B % 10).tolist() == [
            batch.ids_B[0],
            batch.ids_B[0],
            batch.ids_B[2],
            batch.ids_B[2],
        ]
        assert batch.labels_B.equal(train.labels_N[batch.ids_B % 10])
        assert not batch.images_BCHW[0].equal(batch.images_BCHW[1])
        again = module.training_batch(
            batch.epoch, batch.ids_B[1:2].tolist(), torch.device("cpu")
        )
        # a view is a function of its sample
        assert again.images_BCHW.equal(batch.images_BCHW[1:2])
    assert_same(seen, batches(data((train, val), augment, workers=2)))
    loaded = data(splits(root, in_memory=True), augment)
    assert_same(seen, batches(loaded), tolerance=1.01 / 255 / 0.2)


def test_an_image_that_cannot_be_read_is_replaced_in_all_its_views(root: Path) -> None:
    (train, val), augment = (
        splits(root, in_memory=False),
        Augmentation("random", repeats=2),
    )
    assert isinstance(train, StoredImages)
    whole = Path(train.store.name(3)).read_bytes()
    Path(train.store.name(3)).write_bytes(whole[: len(whole) // 2])
    views = data((train, val), augment).train_views
    batch = views.__getitems__([(0, 3), (0, 13), (0, 5), (0, 15)])
    assert [bad.id for bad in batch.bad_images] == [3]
    assert batch.labels_B.equal(train.labels_N[[4, 4, 5, 5]])
    fresh = Views(train, FORMAT, Augmentation("random", repeats=2), 0)
    assert not batch.images_BCHW[0].equal(batch.images_BCHW[1])
    assert fresh.__getitems__([(0, 3)]).images_BCHW.equal(batch.images_BCHW[:1])


def test_a_resumed_run_reads_nothing_that_it_has_used_before(root: Path) -> None:
    train, val = splits(root, in_memory=False)
    assert isinstance(train, StoredImages)
    counting = CountingStore(train.store)
    resumed = data((replace(train, store=counting), val), batches_done=1)
    (rest,) = batches(resumed)
    assert rest.ids_B.equal(batches(data((train, val)))[1].ids_B)
    assert set(counting.reads) == set(rest.ids_B.tolist())


@pytest.mark.parametrize("split", [(1, 3), (2, 2), (0, 4)])
def test_threads_do_not_change_batches(split: tuple[int, int], root: Path) -> None:
    stored = splits(root, in_memory=False)
    threaded = data(stored)
    threaded.settings = LoaderSettings(split[0], threads=split[1])
    assert_same(batches(threaded), batches(data(stored, workers=0)))
    # again, in workers that are forked while threads exist
    assert_same(batches(threaded), batches(data(stored, workers=0)))


def test_workers_and_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.data.loading import module

    def split(
        cores: int, has_transform: bool = False, **settings: int
    ) -> tuple[int, int]:
        monkeypatch.setattr(module, "cores_per_rank", lambda: cores)
        return LoaderSettings(**settings).split_cores(has_transform)  # type: ignore[arg-type]

    assert split(1) == split(2) == (1, 1)
    assert split(9) == (2, 4)
    assert split(64) == (4, 4)
    assert split(9, has_transform=True) == (8, 1)
    assert split(9, num_workers=4) == (4, 2)
    assert split(9, num_workers=4, has_transform=True) == (4, 1)
    assert split(9, threads=3) == (3, 3)
    assert split(9, num_workers=0) == (0, 4)


def test_memory_of_batches_is_reused_once_nothing_refers_to_it_and_not_before(
    root: Path,
) -> None:
    module = data(splits(root, in_memory=False), workers=1)
    module.ids = module.ids * 8  # 20 batches
    loader = module.train_dataloader()
    kept, addresses = [], []
    for batch in loader:
        addresses.append(batch.images_BCHW.data_ptr())
        if len(kept) < 2:
            kept.append((batch.images_BCHW[1:], batch.images_BCHW[1:].clone()))
    assert len(addresses) == 20
    # two stay in their slots; if none is free, a batch lies elsewhere
    assert len(set(addresses)) <= SLOTS_PER_WORKER + 2
    assert all(view.equal(copy) for view, copy in kept)
    # as when Python ends while something refers to the loader: nothing is raised
    kill_workers()
    assert not multiprocessing.active_children()
    del batch, loader
    gc.collect()
    # the memory outlives the loader
    assert kept[0][0].equal(kept[0][1])


def test_files_are_read_from_disk_if_data_decode_is_set(
    tmp_path: Path,
) -> None:
    from small_runs import image_folder, plan_for
    from unmask.training.build import load_splits

    common = (
        "data=image_folder",
        f"data.root={image_folder(tmp_path)}",
        "data.image_size=16",
        "data.patch_size=4",
        "knn.k=5",
    )
    assert isinstance(load_splits(plan_for(*common))[0], InMemory)
    for decode in ("fast", "scaled", "reference"):
        train, val = load_splits(plan_for(*common, f"data.decode={decode}"))
        assert isinstance(train, StoredImages)
        assert isinstance(val, StoredImages)
        assert train.decode == val.decode == decode


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.decode=scaled",
            (
                "data.decode = scaled: data=mnist5k is decoded once into memory; set"
                " data.decode=auto"
            ),
        ),
        (
            "data.threads=2",
            "data.threads = 2: data=mnist5k is held in memory; set data.threads=null",
        ),
        (
            "source=raw data.decode=scaled",
            (
                "data.decode = scaled: raw pixels are not decoded; set data.decode=auto"
                " or reference"
            ),
        ),
    ],
)
def test_settings_that_reading_would_ignore_are_refused(
    override: str, message: str
) -> None:
    from small_runs import plan_for
    from unmask.config.checks import ConfigError

    with pytest.raises(ConfigError, match=message):
        plan_for(*override.split())
