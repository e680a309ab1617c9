"""The DataModules of the stages, and the loaders that they use.

A loader yields crops in bytes, or in floats where files have more bits; they are
normalised on the training device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unmask.data.augment.crops import Augmentation
from unmask.data.augment.randaugment import erase_boxes
from unmask.data.images.tensors import PixelBatch
from unmask.data.loading.bad_images import SplitProgress
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.nvjpeg import PackedBatch
from unmask.data.loading.sampler import (
    NO_REPEATS,
    EpochBatches,
    EvalBatches,
    Repeats,
    SampleKey,
)
from unmask.data.loading.shared_memory import BatchMessage, make_slots
from unmask.data.loading.views import Views
from unmask.data.loading.workers import SignalBlockingLoader, init_worker
from unmask.distributed.processes import cores_per_rank
from unmask.randomness import make_key

EVAL_BATCH = 256  # images; fewer if the device takes fewer at once
MAX_CORES = 16  # that read images, of one rank
THREADS_PER_WORKER = 4  # that share an interpreter
FLOATS_PER_CHUNK = 2**19  # two megabytes


@dataclass(frozen=True)
class LoaderSettings:
    """How batches are read, which never changes what is in them.

    num_workers: data.num_workers. eval_batch: images in a batch of evaluation. timeout:
    seconds after which a worker that delivers no batch is given up. threads:
    data.threads, which decode in each process.
    """

    num_workers: int | None = None
    eval_batch: int = EVAL_BATCH
    timeout: float = 1800.0
    threads: int | None = None

    def split_cores(self, has_transform: bool) -> tuple[int, int]:
        """Return (loader workers, threads in each).

        By default they use all cores of this rank but one, at most 16. Decoders release
        the interpreter's lock, so four threads share a worker. Transforms of images
        (RandAugment, jitter) hold it, and get one worker for each core.
        """
        cores = min(MAX_CORES, max(1, cores_per_rank() - 1))
        if self.threads:
            threads = self.threads
        elif has_transform:
            threads = 1
        else:
            per_worker = max(1, cores // (self.num_workers or 1))
            threads = min(THREADS_PER_WORKER, per_worker)
        if self.num_workers is not None:
            return self.num_workers, threads
        return -(-cores // threads), threads


def make_loader(
    views: Views, batches: EpochBatches | EvalBatches, settings: LoaderSettings
) -> DataLoader:
    """Make a DataLoader of these batches; also sets the views' number of threads."""
    has_transform = views.transform is not None
    workers, views.threads = settings.split_cores(has_transform)
    # to crop in memory is faster than to hand over to a process; a transform of single
    # images is not
    if isinstance(views.split, InMemory) and not has_transform:
        workers = 0
    channels = len(views.image_format.mean)
    bytes_per_image = math.prod(views.image_format.shape) * channels
    if isinstance(views.split, StoredImages):
        bytes_per_image *= views.split.dtype.itemsize
    slots = make_slots(workers, batches.max_samples * bytes_per_image)
    loader = SignalBlockingLoader(
        views,
        batch_sampler=batches,
        collate_fn=send_batch if workers else keep_batch,
        num_workers=workers,
        worker_init_fn=partial(init_worker, slots),
        pin_memory=torch.cuda.is_available() and views.device.type == "cpu",
        # starting workers anew in each epoch would take seconds
        persistent_workers=workers > 0,
        timeout=settings.timeout if workers else 0,
    )
    if views.packs_jpegs:
        loader.unpack = PackedBatch.decode
    return loader


def keep_batch(batch: Any) -> Any:
    """Return the batch as it is: `Views` already makes whole batches."""
    return batch


def send_batch(batch: Any) -> Any:
    """Let a worker's batch travel through shared memory."""
    return BatchMessage(batch) if isinstance(batch, Batch) else batch


def normalise(batch: Batch, image_format: ImageFormat) -> Batch:
    """Bring the images to zero mean and unit variance, on the device where they are."""
    images_BCHW = normalise_images(batch.images_BCHW, image_format)
    return batch._replace(images_BCHW=images_BCHW)


def normalise_images(
    images_BCHW: PixelBatch, image_format: ImageFormat
) -> Float[Tensor, "B C H W"]:
    """Normalise images alone, as `normalise` does a batch's."""
    device = images_BCHW.device
    mean = torch.tensor(image_format.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(image_format.std, device=device).view(1, -1, 1, 1)
    pixels = torch.empty(images_BCHW.shape, device=device)
    chunk = len(images_BCHW)
    # chunks that fit into a CPU's caches: each step on a large batch would fetch all of
    # it from memory again
    if device.type == "cpu":
        chunk = max(1, FLOATS_PER_CHUNK // pixels[0].numel())
    for images, out in zip(images_BCHW.split(chunk), pixels.split(chunk), strict=True):
        # channels-last images are put in order as bytes, a quarter of the floats' size
        images = images if images.stride(3) == 1 else images.contiguous()
        out.copy_(images)
        if images.dtype == torch.uint8:
            out.div_(255)
        out.sub_(mean).div_(std)
    return pixels


class ImageData(L.LightningDataModule):
    """The training and validation loaders of a stage.

    ids: the training samples (a labelled subset, say). batch_size: the effective one,
    of an optimiser step. Workers are only used for images that are read as needed.
    """

    def __init__(
        self,
        train: InMemory | StoredImages,
        val: InMemory | StoredImages,
        image_format: ImageFormat,
        augment: Augmentation,
        ids: Sequence[int],
        batch_size: int,
        seed: int,
        settings: LoaderSettings,
    ) -> None:
        super().__init__()
        self.image_format = image_format
        self.settings = settings
        self.ids = ids
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = Repeats(augment.repeats, len(train))
        self.erasing = augment.erasing
        self.erasing_key = make_key(seed, "erasing")
        self.train_views = Views(train, image_format, augment, seed)
        self.val_views = Views(val, image_format, None, seed)

    def train_dataloader(self) -> DataLoader:
        batches = _epoch_batches(
            self.trainer, self.ids, self.batch_size, self.seed, self.repeats
        )
        return make_loader(self.train_views, batches, self.settings)

    def val_dataloader(self) -> DataLoader:
        return self._eval_loader(self.val_views, range(len(self.val_views)))

    def predict_dataloader(self) -> list[DataLoader]:
        """Return the images that features are computed from.

        They are the training images as evaluation crops them, then the validation
        images.
        """
        # without augmentation
        bank = Views(self.train_views.split, self.image_format, None, self.seed)
        return [self._eval_loader(bank, self.ids), self.val_dataloader()]

    def split_progress(self, loader: int) -> SplitProgress:
        """Name the images of that loader of `predict_dataloader`, and count them."""
        if loader:
            return SplitProgress("validation", len(self.val_views))
        return SplitProgress("training", len(self.ids))

    def _eval_loader(self, views: Views, ids: Sequence[int]) -> DataLoader:
        batches = _eval_batches(self.trainer, ids, self.settings.eval_batch)
        return make_loader(views, batches, self.settings)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        erases = bool(self.erasing and self.trainer and self.trainer.training)
        return self._prepare(batch, erases)

    def training_batch(self, epoch: int, ids: list[int], device: torch.device) -> Batch:
        """Make a batch of these samples as training gets them in that epoch."""
        batch = self.train_views.batch(epoch, ids)
        return self._prepare(move_data_to_device(batch, device), True)

    def _prepare(self, batch: Batch, erases: bool) -> Batch:
        """Normalise the images, and erase random boxes for training."""
        batch = normalise(batch, self.image_format)
        if self.erasing and erases:
            erase_boxes(
                batch.images_BCHW,
                self.erasing,
                self.erasing_key,
                batch.epoch,
                batch.ids_B,
            )
        return batch


class EvaluationData(L.LightningDataModule):
    """Some images of a split for prediction, as their views define them.

    name: of the images, in the list of bad images.
    """

    def __init__(
        self, views: Views, ids: list[int], settings: LoaderSettings, name: str
    ) -> None:
        super().__init__()
        self.views = views
        self.ids = ids
        self.settings = settings
        self.name = name

    def split_progress(self, loader: int) -> SplitProgress:
        """Name the images, and count them."""
        return SplitProgress(self.name, len(self.ids))

    def predict_dataloader(self) -> DataLoader:
        batches = _eval_batches(self.trainer, self.ids, self.settings.eval_batch)
        return make_loader(self.views, batches, self.settings)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return normalise(batch, self.views.image_format)


class FeatureData(L.LightningDataModule):
    """Features computed beforehand, for a probe without augmentation.

    rows: (features, labels) of training and of validation, and the ids of the latter.
    Batches are like those of ImageData.
    """

    def __init__(
        self,
        rows: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor],
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        train, val, val_ids_N = rows
        self.train_rows = FeatureRows(*train, torch.arange(len(train[0])))
        self.val_rows = FeatureRows(*val, val_ids_N)
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader:
        ids = list(range(len(self.train_rows)))
        batches = _epoch_batches(self.trainer, ids, self.batch_size, self.seed)
        return DataLoader(self.train_rows, batch_sampler=batches, collate_fn=keep_batch)

    def val_dataloader(self) -> DataLoader:
        ids = list(range(len(self.val_rows)))
        batches = _eval_batches(self.trainer, ids, EVAL_BATCH)
        return DataLoader(self.val_rows, batch_sampler=batches, collate_fn=keep_batch)

    def training_batch(self, epoch: int, ids: list[int], device: torch.device) -> Batch:
        """Make a batch of these samples as training gets them."""
        batch = self.train_rows.__getitems__([(epoch, i) for i in ids])
        return move_data_to_device(batch, device)


class FeatureRows(Dataset):
    """Features, labels and ids, as batches of (epoch, row)."""

    def __init__(
        self,
        features_ND: Float[Tensor, "N D"],
        labels_N: Int[Tensor, "N"],
        ids_N: Int[Tensor, "N"],
    ) -> None:
        self.features_ND = features_ND
        self.labels_N = labels_N
        self.ids_N = ids_N

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        epoch = keys[0][0]
        rows_B = torch.tensor([row for _, row in keys])
        return Batch(
            self.features_ND[rows_B], self.labels_N[rows_B], self.ids_N[rows_B], epoch
        )


def _epoch_batches(
    trainer: Any,
    ids: Sequence[int],
    batch_size: int,
    seed: int,
    repeats: Repeats = NO_REPEATS,
) -> EpochBatches:
    """Return the training batches of this rank, from where the trainer stands."""
    assert trainer is not None
    # counts the micro-batches of all epochs, and is restored from checkpoints
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return EpochBatches(
        ids,
        batch_size,
        trainer.accumulate_grad_batches,
        make_key(seed, "order"),
        lambda: progress.total.ready,
        trainer.global_rank,
        trainer.world_size,
        repeats,
    )


def _eval_batches(trainer: Any, ids: Sequence[int], batch_size: int) -> EvalBatches:
    """Return the evaluation batches of this rank; without a trainer, all of them."""
    if trainer is None:
        return EvalBatches(ids, batch_size)
    return EvalBatches(ids, batch_size, trainer.global_rank, trainer.world_size)
