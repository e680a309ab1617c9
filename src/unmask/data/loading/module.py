"""The DataModule: batches of uint8 images with their sample ids, cropped and normalised on the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unmask.data.augment.crops import Augment
from unmask.data.augment.randaugment import erase
from unmask.data.loading.bad_images import Seen
from unmask.data.loading.batch import Batch, Format, normalised
from unmask.data.loading.folders import Files
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.sampler import EpochBatches, EvalBatches, Repeats, SampleKey
from unmask.data.loading.shared_memory import BatchMessage, slots_for
from unmask.data.loading.views import Views
from unmask.data.loading.workers import QuietLoader, quiet_worker
from unmask.distributed.processes import cores_per_rank
from unmask.randomness import make_key

EVAL_BATCH = 256  # images; fewer where the device takes fewer at once
MOST, TOGETHER = 16, 4  # cores that read images, and threads that share an interpreter


def unwrapped(batch: Any) -> Any:
    """A view gives whole batches: there is nothing to collate."""
    return batch


class ImageData(L.LightningDataModule):
    """Train and validation loaders of one stage.

    ids: the training samples (a labelled subset, say). batch_size is the effective one; micro_batch is what one
    process takes at once. workers apply to images on disk only: memory needs none.
    """

    def __init__(
        self,
        train: InMemory | Files,
        val: InMemory | Files,
        form: Format,
        augment: Augment,
        ids: Sequence[int],
        batch_size: int,
        seed: int,
        loading: "Loading",
    ) -> None:
        super().__init__()
        self.form, self.loading, self.ids, self.batch_size, self.seed = (
            form,
            loading,
            ids,
            batch_size,
            seed,
        )
        self.repeats = Repeats(augment.repeats, len(train))
        self.erasing, self.erasing_key = augment.erasing, make_key(seed, "erasing")
        self.train_views = Views(train, form, augment, seed)
        self.val_views = Views(val, form, None, seed)

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        progress = trainer.fit_loop.epoch_loop.batch_progress
        batches = EpochBatches(
            self.ids,
            self.batch_size,
            trainer.accumulate_grad_batches,
            make_key(self.seed, "order"),
            lambda: progress.total.ready,
            trainer.global_rank,
            trainer.world_size,
            self.repeats,
        )
        return loader(self.train_views, batches, self.loading)

    def val_dataloader(self) -> DataLoader:
        return self._eval_loader(self.val_views, range(len(self.val_views)))

    def predict_dataloader(self) -> list[DataLoader]:
        """The training images as evaluation sees them, then the validation images: what features are made of."""
        bank = Views(self.train_views.split, self.form, None, self.seed)
        return [self._eval_loader(bank, self.ids), self.val_dataloader()]

    def seen(self, loader: int) -> Seen:
        """Which images those of `predict_dataloader` are, and how many."""
        return (
            Seen("validation", len(self.val_views))
            if loader
            else Seen("training", len(self.ids))
        )

    def _eval_loader(self, views: Views, ids: Sequence[int]) -> DataLoader:
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size)
            if self.trainer
            else (0, 1)
        )
        return loader(
            views, EvalBatches(ids, self.loading.eval_batch, rank, world), self.loading
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return self._prepared(
            batch, bool(self.erasing and self.trainer and self.trainer.training)
        )

    def training_batch(self, epoch: int, ids: list[int], device: torch.device) -> Batch:
        """These samples once more, as training is given them in that epoch."""
        return self._prepared(
            move_data_to_device(
                self.train_views.__getitems__([(epoch, i) for i in ids]), device
            ),
            True,
        )

    def _prepared(self, batch: Batch, erased: bool) -> Batch:
        batch = normalised(batch, self.form)
        if self.erasing and erased:
            erase(
                batch.images_BCHW,
                self.erasing,
                self.erasing_key,
                batch.epoch,
                batch.ids_B,
            )
        return batch


class Evaluation(L.LightningDataModule):
    """Some images of a split, to be predicted: cropped, changed and normalised as they were made to be.

    name: of the images, where those that cannot be read are listed.
    """

    def __init__(
        self, views: Views, ids: list[int], loading: "Loading", name: str = "validation"
    ) -> None:
        super().__init__()
        self.views, self.ids, self.loading, self.name = views, ids, loading, name

    def seen(self, loader: int) -> Seen:
        return Seen(self.name, len(self.ids))

    def predict_dataloader(self) -> DataLoader:
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size)
            if self.trainer
            else (0, 1)
        )
        return loader(
            self.views,
            EvalBatches(self.ids, self.loading.eval_batch, rank, world),
            self.loading,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return normalised(batch, self.views.form)


class FeatureData(L.LightningDataModule):
    """Features computed beforehand, for a probe that sees no augmentation; batches as from ImageData."""

    def __init__(
        self, train: Sequence[Tensor], val: Sequence[Tensor], batch_size: int, seed: int
    ) -> None:
        super().__init__()
        self.splits, self.batch_size, self.seed = (train, val), batch_size, seed

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        progress = trainer.fit_loop.epoch_loop.batch_progress
        ids = list(range(len(self.splits[0][1])))
        batches = EpochBatches(
            ids,
            self.batch_size,
            trainer.accumulate_grad_batches,
            make_key(self.seed, "order"),
            lambda: progress.total.ready,
            trainer.global_rank,
            trainer.world_size,
        )
        return DataLoader(
            Rows(*self.splits[0]), batch_sampler=batches, collate_fn=unwrapped
        )

    def training_batch(self, epoch: int, ids: list[int], device: torch.device) -> Batch:
        """These samples once more."""
        return move_data_to_device(
            Rows(*self.splits[0]).__getitems__([(epoch, i) for i in ids]), device
        )

    def val_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        ids = list(range(len(self.splits[1][1])))
        batches = EvalBatches(
            ids, EVAL_BATCH, self.trainer.global_rank, self.trainer.world_size
        )
        return DataLoader(
            Rows(*self.splits[1]), batch_sampler=batches, collate_fn=unwrapped
        )


class Rows(Dataset):
    """Vectors and labels by batches of (epoch, id)."""

    def __init__(self, features_ND: Tensor, labels_N: Tensor) -> None:
        self.features_ND, self.labels_N = features_ND, labels_N

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitems__(self, tickets: list[SampleKey]) -> Batch:
        ids = torch.tensor([i for _, i in tickets])
        return Batch(
            self.features_ND[ids], self.labels_N[ids], ids, tickets[0][0], None
        )


@dataclass(frozen=True)
class Loading:
    """How batches are read, which never changes what they are.

    patience: seconds after which a worker that gives no batch is given up. threads: that decode in each process.
    """

    num_workers: int | None = None
    eval_batch: int = EVAL_BATCH
    patience: float = 1800.0
    threads: int | None = None

    def spread(self, changing: bool) -> tuple[int, int]:
        """(loader processes, threads in each); where nobody says, all of its cores but one, at most 16.

        Processes that train on one machine share its cores out.

        Decoders work without the interpreter's lock, so that threads are enough, and share a process in fours; what
        changes images holds it (RandAugment, jitter), and gets a process for each core.
        """
        wanted = min(MOST, max(1, cores_per_rank() - 1))
        if self.threads is None and self.num_workers is None:
            threads = 1 if changing else min(TOGETHER, wanted)
        else:
            threads = self.threads or (
                1
                if changing
                else min(TOGETHER, max(1, wanted // (self.num_workers or 1)))
            )
        return (
            -(-wanted // threads) if self.num_workers is None else self.num_workers
        ), threads


def loader(
    views: Views, batches: EpochBatches | EvalBatches, loading: Loading
) -> DataLoader:
    workers, views.threads = loading.spread(views.change is not None)
    # cutting out of memory is quicker than handing over to a process; what changes
    # single images is not
    workers = (
        0 if isinstance(views.split, InMemory) and views.change is None else workers
    )
    slots = slots_for(
        workers, batches.largest * math.prod(views.form.shape) * len(views.form.mean)
    )
    return QuietLoader(
        views,
        batch_sampler=batches,
        collate_fn=BatchMessage if workers else unwrapped,
        num_workers=workers,
        worker_init_fn=partial(quiet_worker, slots),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        timeout=loading.patience if workers else 0,
    )
