"""Compute the features of images: decoded in parallel to the model, batch by batch."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.commands.device import choose_device
from unmask.commands.embed.arguments import Embed
from unmask.commands.embed.partial import RowForm
from unmask.commands.wanted_images import WantedImages
from unmask.data.listing.names import FolderStore, unpack_names
from unmask.data.loading.bad_images import is_original
from unmask.data.loading.batch import Batch
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import LoaderSettings, make_loader, normalise_images
from unmask.data.loading.sampler import EvalBatches
from unmask.data.loading.views import Views
from unmask.stages.fingerprint import weights_identity
from unmask.tasks.logits import refuse_nonfinite
from unmask.training.encoders import (
    TrainedEncoder,
    build_block_features,
    load_trained_encoder,
)

# raise it where the same job gives other numbers
VERSION = 1


class EmbeddedBatch(NamedTuple):
    """The features of a batch's images, but of those that could not be read.

    images: how many the batch asked for. skipped: what is wrong with which of them.
    """

    features: Float[Tensor, "R *form"]
    images: int
    skipped: dict[int, str]


class _Pending(NamedTuple):
    """A batch whose features are still on their way from the device."""

    batch: Batch
    features: Float[Tensor, "B *form"]
    is_there: Any


@dataclass(frozen=True)
class Embedding:
    """An encoder, the images that it is given, and how."""

    arguments: Embed
    trained: TrainedEncoder
    features: nn.Module
    images: WantedImages
    device: torch.device

    @property
    def pool(self) -> str:
        """Return what is taken from each image, as it was typed or by default."""
        return self.arguments.pool or self.trained.pool

    @property
    def batch_size(self) -> int:
        return self.arguments.batch_size or self.trained.batch_size

    def form(self) -> RowForm:
        """Return the form of an image's features."""
        encoder = self.trained.encoder
        shape: tuple[int, ...] = (encoder.width,)
        if self.pool == "patches":
            shape = (encoder.grid[0] * encoder.grid[1], encoder.width)
        return RowForm(shape, np.dtype(self.arguments.dtype))

    def names(self) -> list[str]:
        """Return the images' names, relative to their folder."""
        return list(unpack_names(self.images.names))

    def labels(self) -> list[str] | None:
        """Return the images' classes: of the list, or the folders that they lie in.

        None where nothing gives any of them a class.
        """
        if self.images.listed is not None:
            return list(self.images.listed)
        folders = [Path(name).parent.name for name in unpack_names(self.images.names)]
        return folders if any(folders) else None

    def job(self) -> dict[str, Any]:
        """Return all that the features depend on, in words and digests."""
        arguments = self.arguments
        settings = {
            "layer": arguments.layer,
            "pool": self.pool,
            "dtype": arguments.dtype,
            "eval_crop": self.trained.image_format.eval_crop,
            "batch_size": self.batch_size,
            "device": self.device.type,
            "weights": arguments.weights,
            "heads": arguments.heads,
            "grid": arguments.grid and list(arguments.grid),
        }
        return {
            "version": VERSION,
            "weights": weights_identity(arguments.checkpoint, "checkpoint"),
            "images": self._digest_images(),
            "settings": settings,
        }

    def _digest_images(self) -> str:
        """Digest the names, labels, sizes and times of all files."""
        digest = hashlib.sha256()
        for name in unpack_names(self.images.names):
            try:
                status = (self.images.root / name).stat()
                facts = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                facts = "missing"
            line = f"{name}\0{facts}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        for label in self.images.listed or ():
            digest.update(f"{label}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def views(self) -> Views:
        """Return the images as evaluation sees them.

        For one that cannot be read another is seen, whose features are dropped.
        """
        trained = self.trained
        files = StoredImages(
            FolderStore(self.images.root, self.images.names),
            torch.full((len(self.images),), -1),
            len(trained.image_format.mean),
            trained.decode,
            trained.ranges,
        )
        return Views(files, trained.image_format, None, 0)

    @torch.no_grad()
    def batches(self, start: int) -> Iterator[EmbeddedBatch]:
        """Yield the features of all images from number `start` on, in order.

        Raises ValueError where hardly any image can be read, FloatingPointError for
        features that are not finite.
        """
        ids = range(start, len(self.images))
        settings = LoaderSettings(self.arguments.num_workers, self.batch_size)
        loader = make_loader(self.views(), EvalBatches(ids, self.batch_size), settings)
        # a GPU computes this batch while the one before is fetched and written
        before: _Pending | None = None
        for batch in loader:
            pending = self._start(batch)
            if before is not None:
                yield self._finish(before)
            before = pending
        if before is not None:
            yield self._finish(before)

    def _start(self, batch: Batch) -> _Pending:
        """Let the device compute the features, without waiting for them."""
        device = self.device
        images_BCHW = batch.images_BCHW.to(device, non_blocking=True)
        images_BCHW = normalise_images(images_BCHW, self.trained.image_format)
        bfloat16 = self.trained.bfloat16
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            values = self.features(images_BCHW).float()
        if device.type != "cuda":
            return _Pending(batch, values, None)
        # memory that the GPU writes by itself
        host = torch.empty(values.shape, pin_memory=True)
        host.copy_(values, non_blocking=True)
        is_there = torch.cuda.Event()
        is_there.record()
        return _Pending(batch, host, is_there)

    def _finish(self, pending: _Pending) -> EmbeddedBatch:
        batch, values, is_there = pending
        if is_there is not None:
            is_there.synchronize()
        count = len(batch.ids_B)
        reasons = {bad.id: f"{bad.name} ({bad.reason})" for bad in batch.bad_images}
        asked = {*batch.ids_B.tolist()}
        skipped = {i: reason for i, reason in reasons.items() if i in asked}
        if skipped:
            values = values[is_original(batch)]
        if len(values):
            refuse_nonfinite(values.flatten(1), "features")
        return EmbeddedBatch(values, count, skipped)


def load_embedding(arguments: Embed, images: WantedImages) -> Embedding:
    """Load the encoder. Raises ConfigError for a wrong one, or a missing GPU."""
    device = choose_device(arguments.device)
    trained = load_trained_encoder(
        Path(arguments.checkpoint),
        arguments.hints,
        arguments.eval_crop,
        arguments.weights,
    )
    features = build_block_features(trained, arguments.layer, arguments.pool)
    features.to(device)
    # decoding on the device gives slightly other pixels on each
    if trained.decode == "nvjpeg":
        trained = replace(trained, decode="fast")
    return Embedding(arguments, trained, features, images, device)
