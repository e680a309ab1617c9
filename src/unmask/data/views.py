"""A split seen through an augmentation: whole batches by (epoch, sample id), the same for any number of workers."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from unmask.data.crops import Augment, centre_boxes, crop_resize
from unmask.data.decoding import BadImageError, Encoded, opened, view
from unmask.data.jitter import colour_jitter
from unmask.data.policies import rand_augment
from unmask.data.sampler import Ticket
from unmask.data.sources import InMemory
from unmask.data.stores import Files
from unmask.randomness import make_key


class Bad(NamedTuple):
    """An image that could not be read, in whose place another stands."""

    id: int
    name: str
    reason: str


class Batch(NamedTuple):
    """images: uint8 from the loader; normalised float once on the device. Labels are -1 where there are none."""

    images_BCHW: Tensor
    labels_B: Int[Tensor, "B"]
    ids_B: Int[Tensor, "B"]
    epoch: int
    boxes_B5: Int[Tensor, "B 5"] | None  # crops still to be made, on the device
    mirrored_B: Bool[Tensor, "B"] | None = None  # images still to be mirrored, on the device
    bad: tuple[Bad, ...] = ()


@dataclass(frozen=True)
class Format:
    """What the model sees: (height, width), the mean and std per channel of pixels in [0, 1], the evaluation crop."""

    shape: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eval_crop: float = 1.0


Change = Callable[[Tensor, int, Tensor], Tensor]  # (uint8 images, epoch, sample ids) to uint8 images


class Views(Dataset):
    """change: what is done to the cropped images; unless given it is the augmentation's RandAugment or colour jitter.

    threads: that decode the images of a batch. ids: the samples that may stand in for one that cannot be read;
    where there are none, that is an error.
    """

    def __init__(
        self, split: InMemory | Files, form: Format, augment: Augment | None, seed: int, change: Change | None = None,
        ids: Sequence[int] | None = None, threads: int = 1,
    ) -> None:  # fmt: skip
        self.split, self.form, self.augment, self.key = split, form, augment, make_key(seed, "crop")
        self.ids = range(len(split)) if ids is None else ids
        self.threads, self.change = threads, change
        self._pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
        if augment and augment.policy:
            self.change = rand_augment(augment.policy, form.mean, form.shape, make_key(seed, "policy"))
        elif augment and augment.jitter:
            self.change = colour_jitter(augment.jitter, make_key(seed, "jitter"))

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, tickets: list[Ticket]) -> Batch:
        epoch, ids = tickets[0][0], torch.tensor([i for _, i in tickets])
        return self._held(epoch, ids) if isinstance(self.split, InMemory) else self._read(self.split, epoch, ids)

    def _held(self, epoch: int, ids: Tensor) -> Batch:
        assert isinstance(self.split, InMemory)
        images, labels = self.split.images_NCHW[ids], self.split.labels_N[ids]
        boxes = self._boxes(ids, epoch, [images.shape[2:]] * len(ids))
        whole = torch.tensor([0, 0, *images.shape[2:], 0])
        as_is = tuple(images.shape[2:]) == self.form.shape and bool((boxes == whole).all())
        if self.change is None:
            return Batch(images, labels, ids, epoch, None if as_is else boxes)
        images = images if as_is else crop_resize(images, boxes, self.form.shape).byte()
        return Batch(self.change(images, epoch, ids), labels, ids, epoch, None)

    def _read(self, files: Files, epoch: int, ids: Tensor) -> Batch:
        """All headers, then all crops, then all pixels: crops of a batch are drawn at once."""
        found = list(self._map(self._header, ids.tolist()))
        boxes = self._boxes(ids, epoch, [each.image.size for each in found])
        images, places = new_batch(len(ids), *self.form.shape, files.channels), boxes[:, :4].tolist()
        pixels = images.numpy()

        def fill(k: int) -> Found:
            used, box = found[k], places[k]
            while True:
                try:
                    pixels[k] = view(used.image, tuple(box), self.form.shape, files.decode)
                    return used
                except BadImageError as error:
                    if not self.ids:
                        raise
                    bad = Bad(used.id, error.name, error.reason)
                    used = self._header(int(ids[k]), (*used.bad, bad))
                    box = self._boxes(ids[k : k + 1], epoch, [used.image.size])[0, :4].tolist()

        found = list(self._map(fill, range(len(ids))))
        labels = files.labels_N[torch.tensor([each.id for each in found])]
        bad = tuple(dict.fromkeys(bad for each in found for bad in each.bad))
        images_BCHW, mirrored = images.permute(0, 3, 1, 2), boxes[:, 4].bool()
        if self.change is None:
            return Batch(images_BCHW, labels, ids, epoch, None, mirrored if mirrored.any() else None, bad)
        images_BCHW = flipped(images_BCHW, mirrored).contiguous()
        return Batch(self.change(images_BCHW, epoch, ids), labels, ids, epoch, None, None, bad)

    def _header(self, i: int, bad: tuple[Bad, ...] = ()) -> "Found":
        """Of the sample, or of the next of the stage's samples that can be read: never by chance, never by workers."""
        assert isinstance(self.split, Files)
        tried = {each.id for each in bad}
        for other in self._from(i):
            if other in tried:
                continue
            name = self.split.store.name(other)
            try:
                return Found(other, opened(self.split.store.read(other), name, self.split.channels), bad)
            except BadImageError as error:
                fault = error
            except OSError as error:
                fault = BadImageError(name, error.strerror or error)
            if not self.ids:
                raise fault
            bad = (*bad, Bad(other, name, fault.reason))
        raise ValueError(f"none of {len(self.ids)} images can be read; the first: {bad[0].name} ({bad[0].reason})")

    def _from(self, i: int) -> Any:
        yield i
        start = self._place.get(i, 0) if len(self.ids) < len(self.split) else i
        yield from (self.ids[(start + k) % len(self.ids)] for k in range(1, len(self.ids)))

    @cached_property
    def _place(self) -> dict[int, int]:
        return {i: k for k, i in enumerate(self.ids)}

    def _map(self, function: Callable[[int], Any], items: Sequence[int]) -> list[Any]:
        """Of each item in order; threads take the next one as they are free."""
        if self.threads == 1 or len(items) == 1:
            return list(map(function, items))
        found: list[Any] = [None] * len(items)
        turns = iter(enumerate(items))

        def work() -> None:
            for k, item in turns:
                found[k] = function(item)

        for done in [self._pool.submit(work) for _ in range(self.threads)]:
            done.result()
        return found

    @property
    def _pool(self) -> ThreadPoolExecutor:
        """Of this process: one that is forked inherits what stands here, but no threads."""
        key = os.getpid(), self.threads
        if key not in self._pools:
            self._pools[key] = ThreadPoolExecutor(self.threads)
        return self._pools[key]

    def __getstate__(self) -> dict[str, Any]:
        """Threads stay where they are."""
        return self.__dict__ | {"_pools": {}}

    def _boxes(self, ids_B: Tensor, epoch: int, sizes: Sequence[Sequence[int]]) -> Int[Tensor, "B 5"]:
        sizes_B2 = torch.tensor([list(size) for size in sizes])
        if self.augment is None:
            return centre_boxes(sizes_B2, self.form.shape, self.form.eval_crop)
        return self.augment.boxes(self.key, ids_B, epoch, sizes_B2, self.form.shape)


class Found(NamedTuple):
    """An image with its header read, the sample it is, and those that could not be read before it."""

    id: int
    image: Encoded
    bad: tuple[Bad, ...]


def new_batch(*shape: int) -> Tensor:
    """In a loader's process in memory that is shared with the one that trains: it need not be copied there."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)  # type: ignore[call-overload]


def flipped(images_BCHW: Tensor, mirrored_B: Bool[Tensor, "B"]) -> Tensor:
    return torch.where(mirrored_B[:, None, None, None], images_BCHW.flip(3), images_BCHW)


def normalised(batch: Batch, form: Format) -> Batch:
    """Crop and mirror what is still to be, and bring pixels to zero mean and unit variance, on the batch's device."""
    images, boxes = batch.images_BCHW, batch.boxes_B5
    if boxes is not None:
        images = crop_resize(images, boxes, form.shape)
    if batch.mirrored_B is not None:
        images = flipped(images, batch.mirrored_B)
    mean, std = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (form.mean, form.std))
    pixels = ((images.float() / 255 - mean) / std).contiguous()
    return batch._replace(images_BCHW=pixels, boxes_B5=None, mirrored_B=None)
