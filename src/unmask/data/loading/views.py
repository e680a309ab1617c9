"""A split seen through an augmentation: whole batches by (epoch, sample id), the same for any number of workers."""

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from operator import not_
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.augment.colour_jitter import colour_jitter
from unmask.data.augment.crops import Augment, centre_boxes
from unmask.data.augment.randaugment import rand_augment
from unmask.data.images.decoding import (
    Decode,
    Encoded,
    decoded,
    opened,
    resized,
    resized_by_pillow,
    view,
)
from unmask.data.images.nvjpeg import Packed, is_for_device
from unmask.data.images.unreadable import (
    Bad,
    BadImageError,
    candidates,
    content_of,
    none_of,
)
from unmask.data.loading.batch import Batch, Format, drawn
from unmask.data.loading.folders import Files
from unmask.data.loading.in_memory import Draws, InMemory, all_draws, side_by_side
from unmask.data.loading.sampler import SampleKey
from unmask.data.loading.shared_memory import new_batch
from unmask.data.loading.workers import Threads
from unmask.randomness import make_key

# (uint8 images, epoch, sample ids) to uint8 images
Change = Callable[[Tensor, int, Tensor], Tensor]


class Views(Dataset):
    """change: what is done to the cropped images; unless given it is the augmentation's RandAugment or colour jitter.

    threads: that decode the images of a batch. stand_ins: another image of the split stands in for one that cannot be
    read, else that is an error. It is the split's next, not the stage's: in memory the same one stands in for all.
    """

    def __init__(
        self,
        split: InMemory | Files,
        form: Format,
        augment: Augment | None,
        seed: int,
        change: Change | None = None,
        stand_ins: bool = True,
        threads: int = 1,
    ) -> None:
        self.split, self.form, self.augment, self.key = (
            split,
            form,
            augment,
            make_key(seed, "crop"),
        )
        self.stand_ins, self.threads, self.change = stand_ins, threads, change
        self._drawn: Draws | None = None
        self.pool = Threads()
        if augment and augment.policy:
            self.change = rand_augment(
                augment.policy, form.mean, form.shape, make_key(seed, "policy")
            )
        elif augment and augment.jitter:
            self.change = colour_jitter(augment.jitter, make_key(seed, "jitter"))

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, tickets: list[SampleKey]) -> Batch:
        epoch, ids = tickets[0][0], torch.tensor([i for _, i in tickets])
        if isinstance(self.split, InMemory):
            return self._held(self.split, epoch, ids)
        packed = self.split.decode == "nvjpeg" and self.change is None
        return (self._packed if packed else self._read)(self.split, epoch, ids)

    def _held(self, split: InMemory, epoch: int, ids: Tensor) -> Batch:
        if self._drawn is None or self._drawn.epoch != epoch:
            _, _, *size = split.images_NCHW.shape
            whole = self.form.shape if tuple(size) == self.form.shape else None
            samples = len(split) * (self.augment.repeats if self.augment else 1)

            def draw(some: Tensor) -> tuple[Tensor, Tensor | None]:
                return self._boxes(some, epoch, [size] * len(some)), self._shifts(
                    some, epoch
                )

            self._drawn = all_draws(epoch, samples, whole, draw)
        which, draws = ids % len(split), self._drawn
        # index_select takes whole rows: in places an order of magnitude quicker than an
        # index
        boxes = (
            None
            if draws.boxes_N5 is None
            else draws.boxes_N5.index_select(0, ids).long()
        )
        shifts = (
            None
            if draws.shifts_N2 is None
            else draws.shifts_N2.index_select(0, ids).long()
        )
        mirrored = (
            None if draws.mirrored_N is None else draws.mirrored_N.index_select(0, ids)
        )
        resident = split.resident if self.change is None else None
        images = (
            split.images_NCHW[:0]
            if resident
            else split.images_NCHW.index_select(0, which)
        )
        faults = (
            (bad for i in which.tolist() for bad in split.bad.get(i, ()))
            if split.bad
            else ()
        )
        bad = tuple(dict.fromkeys(faults))
        return self._changed(
            Batch(
                images,
                split.labels_N[which],
                ids,
                epoch,
                boxes,
                mirrored,
                bad,
                shifts,
                resident,
            )
        )

    def _changed(self, batch: Batch) -> Batch:
        """Cut, and changed as the augmentation asks, where it works on single images; else left for the device."""
        if self.change is None:
            return batch
        images = self.change(
            drawn(batch, self.form.shape).byte(), batch.epoch, batch.ids_B
        )
        return batch._replace(
            images_BCHW=images, boxes_B5=None, mirrored_B=None, shifts_B2=None
        )

    def _read(self, files: Files, epoch: int, ids: Tensor) -> Batch:
        """All headers, then all crops, then all pixels: crops of a batch are drawn at once."""
        found = self._headers(files, ids, together=self._repeated)
        boxes = self._boxes(ids, epoch, _sizes(found))
        images = new_batch(len(ids), *self.form.shape, files.channels)
        pixels = images.numpy()

        def fill(used: Found) -> Found:
            own = boxes[used.rows]
            while True:
                try:
                    for row, seen in zip(
                        used.rows,
                        self._seen(used.image, own, files.decode),
                        strict=True,
                    ):
                        pixels[row] = seen
                    return used
                except BadImageError as error:
                    used = self._next(used, error)
                    own = self._boxes(
                        ids[used.rows], epoch, [used.image.size] * len(own)
                    )

        found = self.pool.map(fill, found, self.threads)
        return self._changed(
            self._batch(files, images, found, ids, epoch, boxes)._replace(boxes_B5=None)
        )

    def _packed(self, files: Files, epoch: int, ids: Tensor) -> Batch:
        """Headers and crops here; JPEGs are decoded on the device, and the loader decodes what is none."""
        found = self._headers(files, ids, together=True)
        there = [is_for_device(each.image) for each in found]
        jpegs = list(compress(found, there))
        # before crops are drawn: from here on it is known that they can be read
        wholes = self.pool.map(
            self._whole, list(compress(found, map(not_, there))), self.threads
        )
        found = jpegs + [used for used, _ in wholes]
        boxes = self._boxes(ids, epoch, _sizes(found))
        others = [(row, whole) for used, whole in wholes for row in used.rows]
        images = new_batch(len(others), *self.form.shape, files.channels)
        for k, (row, whole) in enumerate(others):
            top, left, height, width = boxes[row, :4].tolist()
            images[k] = torch.from_numpy(
                resized(whole, (top, left, height, width), self.form.shape)
            )
        packed = Packed(
            [each.image for each in jpegs],
            [each.rows for each in jpegs],
            [row for row, _ in others],
        )
        return self._batch(files, images, found, ids, epoch, boxes)._replace(
            packed=packed
        )

    def _batch(
        self,
        files: Files,
        images: UInt8[Tensor, "K h w C"],
        found: list["Found"],
        ids: Tensor,
        epoch: int,
        boxes: Int[Tensor, "B 5"],
    ) -> Batch:
        """What is known of it besides pixels."""
        used = torch.empty(len(ids), dtype=torch.long)
        for each in found:
            used[each.rows] = each.id
        bad = tuple(dict.fromkeys(bad for each in found for bad in each.bad))
        mirrored, shifts = (
            (boxes[:, 4].bool() if boxes[:, 4].any() else None),
            self._shifts(ids, epoch),
        )
        return Batch(
            images.permute(0, 3, 1, 2),
            files.labels_N[used],
            ids,
            epoch,
            boxes,
            mirrored,
            bad,
            shifts,
        )

    @property
    def _repeated(self) -> bool:
        return self.augment is not None and self.augment.repeats > 1

    def _seen(
        self, image: Encoded, boxes_K5: Int[Tensor, "K 5"], decode: Decode
    ) -> Iterator[UInt8[np.ndarray, "h w C"]]:
        """Each view of it; several of one decoding."""
        places = [
            (top, left, height, width)
            for top, left, height, width, _ in boxes_K5.tolist()
        ]
        shape = self.form.shape
        if not self._repeated:
            yield from (view(image, place, shape, decode) for place in places)
            return
        whole, cut = (
            decoded(image),
            (resized_by_pillow if decode == "reference" else resized),
        )
        yield from (cut(whole, place, shape) for place in places)

    def _headers(self, files: Files, ids: Tensor, together: bool) -> list["Found"]:
        """Of each row of the batch, or of each image with all rows that are views of it."""
        which = (ids % len(files)).tolist()
        groups = (
            list(side_by_side(which).items())
            if together
            else [(i, [row]) for row, i in enumerate(which)]
        )
        return self.pool.map(lambda group: self._header(*group), groups, self.threads)

    def _whole(self, used: "Found") -> tuple["Found", UInt8[np.ndarray, "H W C"]]:
        """All of the image, or of the one that stands in for it."""
        while True:
            try:
                return used, decoded(used.image)
            except BadImageError as error:
                used = self._next(used, error)

    def _next(self, used: "Found", error: BadImageError) -> "Found":
        """That stands in for one whose pixels cannot be read. Raises the error where none may."""
        if not self.stand_ins:
            raise error
        return self._header(
            used.wanted, used.rows, (*used.bad, Bad(used.id, error.name, error.reason))
        )

    def _header(self, i: int, rows: list[int], bad: tuple[Bad, ...] = ()) -> "Found":
        """Of the sample, or of the next that can be read: never by chance, never by workers."""
        assert isinstance(self.split, Files)
        tried = {each.id for each in bad}
        for other in candidates(i, len(self.split)):
            if other in tried:
                continue
            name = self.split.store.name(other)
            try:
                image = opened(
                    content_of(self.split.store, other), name, self.split.channels
                )
                return Found(i, rows, other, image, bad)
            except BadImageError as error:
                if not self.stand_ins:
                    raise
                bad = (*bad, Bad(other, name, error.reason))
        raise none_of(bad)

    def _shifts(self, ids_B: Tensor, epoch: int) -> Int[Tensor, "B 2"] | None:
        return (
            self.augment.shifts(self.key, ids_B, epoch, self.form.shape)
            if self.augment
            else None
        )

    def _boxes(
        self, ids_B: Tensor, epoch: int, sizes: Sequence[Sequence[int]]
    ) -> Int[Tensor, "B 5"]:
        # of many sizes much quicker than torch.tensor
        sizes_B2 = torch.from_numpy(np.array(sizes))
        if self.augment is None:
            return centre_boxes(sizes_B2, self.form.shape, self.form.eval_crop)
        return self.augment.boxes(self.key, ids_B, epoch, sizes_B2, self.form.shape)


class Found(NamedTuple):
    """An image with its header read. wanted: the sample that it is or stands in for, which the batch has in `rows`.

    id: the sample that it is; bad: those that could not be read before it.
    """

    wanted: int
    rows: list[int]
    id: int
    image: Encoded
    bad: tuple[Bad, ...]


def _sizes(found: Sequence[Found]) -> list[tuple[int, int]]:
    """In the order of the batch's rows."""
    by_row = {row: each.image.size for each in found for row in each.rows}
    return [by_row[row] for row in range(len(by_row))]
