"""A split seen through an augmentation: whole batches by (epoch, sample id), the same for any number of workers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.batch import Batch, Format, drawn
from unmask.data.crops import Augment, centre_boxes
from unmask.data.decoding import Encoded, decoded, opened, resized, resized_by_pillow, view
from unmask.data.draws import Draws, all_draws, side_by_side
from unmask.data.jitter import colour_jitter
from unmask.data.nvjpeg import Packed, is_for_device
from unmask.data.policies import rand_augment
from unmask.data.sampler import Ticket
from unmask.data.sources import InMemory
from unmask.data.stand_ins import Bad, BadImageError, candidates, none_of, patiently, unreadable
from unmask.data.stores import Files
from unmask.data.threads import Threads, new_batch
from unmask.randomness import make_key

Change = Callable[[Tensor, int, Tensor], Tensor]  # (uint8 images, epoch, sample ids) to uint8 images


class Views(Dataset):
    """change: what is done to the cropped images; unless given it is the augmentation's RandAugment or colour jitter.

    threads: that decode the images of a batch. stand_ins: another image of the split stands in for one that cannot be
    read, else that is an error. It is the split's next, not the stage's: in memory the same one stands in for all.
    """

    def __init__(
        self, split: InMemory | Files, form: Format, augment: Augment | None, seed: int, change: Change | None = None,
        stand_ins: bool = True, threads: int = 1,
    ) -> None:  # fmt: skip
        self.split, self.form, self.augment, self.key = split, form, augment, make_key(seed, "crop")
        self.stand_ins, self.threads, self.change = stand_ins, threads, change
        self._drawn: Draws | None = None
        self.pool = Threads()
        if augment and augment.policy:
            self.change = rand_augment(augment.policy, form.mean, form.shape, make_key(seed, "policy"))
        elif augment and augment.jitter:
            self.change = colour_jitter(augment.jitter, make_key(seed, "jitter"))

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, tickets: list[Ticket]) -> Batch:
        epoch, ids = tickets[0][0], torch.tensor([i for _, i in tickets])
        if isinstance(self.split, InMemory):
            return self._held(self.split, epoch, ids)
        if self.split.decode == "nvjpeg" and self.change is None:
            return self._packed(self.split, epoch, ids)
        repeated = self.augment is not None and self.augment.repeats > 1
        return (self._read_repeated if repeated else self._read)(self.split, epoch, ids)

    def _held(self, split: InMemory, epoch: int, ids: Tensor) -> Batch:
        if self._drawn is None or self._drawn.epoch != epoch:
            _, _, *size = split.images_NCHW.shape
            whole = self.form.shape if tuple(size) == self.form.shape else None
            samples = len(split) * (self.augment.repeats if self.augment else 1)

            def draw(some: Tensor) -> tuple[Tensor, Tensor | None]:
                return self._boxes(some, epoch, [size] * len(some)), self._shifts(some, epoch)

            self._drawn = all_draws(epoch, samples, whole, draw)
        which, draws = ids % len(split), self._drawn
        # index_select takes whole rows: in places an order of magnitude quicker than an index
        boxes = None if draws.boxes_N5 is None else draws.boxes_N5.index_select(0, ids).long()
        shifts = None if draws.shifts_N2 is None else draws.shifts_N2.index_select(0, ids).long()
        mirrored = None if draws.mirrored_N is None else draws.mirrored_N.index_select(0, ids)
        resident = split.resident if self.change is None else None
        images = split.images_NCHW[:0] if resident else split.images_NCHW.index_select(0, which)
        faults = (bad for i in which.tolist() for bad in split.bad.get(i, ())) if split.bad else ()
        bad = tuple(dict.fromkeys(faults))
        return self._changed(Batch(images, split.labels_N[which], ids, epoch, boxes, mirrored, bad, shifts, resident))

    def _changed(self, batch: Batch) -> Batch:
        """Cut, and changed as the augmentation asks, where it works on single images; else left for the device."""
        if self.change is None:
            return batch
        images = self.change(drawn(batch, self.form.shape).byte(), batch.epoch, batch.ids_B)
        return batch._replace(images_BCHW=images, boxes_B5=None, mirrored_B=None, shifts_B2=None)

    def _read(self, files: Files, epoch: int, ids: Tensor) -> Batch:
        """All headers, then all crops, then all pixels: crops of a batch are drawn at once."""
        found = self._map(self._header, ids.tolist())
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
                    if not self.stand_ins:
                        raise
                    bad = Bad(used.id, error.name, error.reason)
                    used = self._header(int(ids[k]), (*used.bad, bad))
                    box = self._boxes(ids[k : k + 1], epoch, [used.image.size])[0, :4].tolist()

        found = self._map(fill, range(len(ids)))
        labels = files.labels_N[torch.tensor([each.id for each in found])]
        bad = tuple(dict.fromkeys(bad for each in found for bad in each.bad))
        mirrored = boxes[:, 4].bool() if boxes[:, 4].any() else None
        shifts = self._shifts(ids, epoch)
        return self._changed(Batch(images.permute(0, 3, 1, 2), labels, ids, epoch, None, mirrored, bad, shifts))

    def _read_repeated(self, files: Files, epoch: int, ids: Tensor) -> Batch:
        """Each image of the batch is read and decoded once, however many views of it there are."""
        which = (ids % len(files)).tolist()
        views = side_by_side(which)
        found = dict(zip(views, self._map(self._header, list(views)), strict=True))
        boxes = self._boxes(ids, epoch, [found[i].image.size for i in which])
        images = new_batch(len(ids), *self.form.shape, files.channels)
        pixels = images.numpy()
        cut = resized_by_pillow if files.decode == "reference" else resized

        def fill(i: int) -> Found:
            used, whole = self._whole(i, found[i])
            own = boxes[views[i]]
            if used is not found[i]:
                own = self._boxes(ids[views[i]], epoch, [used.image.size] * len(own))
            for k, (top, left, height, width, _) in zip(views[i], own.tolist(), strict=True):
                pixels[k] = cut(whole, (top, left, height, width), self.form.shape)
            return used

        used = dict(zip(views, self._map(fill, list(views)), strict=True))
        labels = files.labels_N[torch.tensor([used[i].id for i in which])]
        bad = tuple(dict.fromkeys(bad for each in used.values() for bad in each.bad))
        mirrored = boxes[:, 4].bool() if boxes[:, 4].any() else None
        shifts = self._shifts(ids, epoch)
        return self._changed(Batch(images.permute(0, 3, 1, 2), labels, ids, epoch, None, mirrored, bad, shifts))

    def _packed(self, files: Files, epoch: int, ids: Tensor) -> Batch:
        """Headers and crops here; JPEGs are decoded on the device, and the loader decodes what is none."""
        which, shape = (ids % len(files)).tolist(), self.form.shape
        views = side_by_side(which)
        found: dict[int, Found] = dict(zip(views, self._map(self._header, list(views)), strict=True))
        jpegs = [i for i in views if is_for_device(found[i].image)]
        rest = [i for i in views if i not in set(jpegs)]
        found |= {i: self._whole(i, found[i])[0] for i in rest}  # that they can be read is known from here on
        boxes = self._boxes(ids, epoch, [found[i].image.size for i in which])
        others = [k for i in rest for k in views[i]]
        images = new_batch(len(others), *shape, files.channels)

        def fill(row: int) -> None:
            top, left, height, width = boxes[others[row], :4].tolist()
            images[row] = torch.from_numpy(view(found[which[others[row]]].image, (top, left, height, width), shape))

        self._map(fill, range(len(others)))
        mirrored = boxes[:, 4].bool() if boxes[:, 4].any() else None
        return Batch(
            images.permute(0, 3, 1, 2), files.labels_N[torch.tensor([found[i].id for i in which])], ids, epoch, boxes,
            mirrored, tuple(dict.fromkeys(bad for each in found.values() for bad in each.bad)),
            self._shifts(ids, epoch), packed=Packed([found[i].image for i in jpegs], [views[i] for i in jpegs], others),
        )  # fmt: skip

    def _whole(self, i: int, found: "Found") -> tuple["Found", UInt8[np.ndarray, "H W C"]]:
        """All of the image, or of the one that stands in for it."""
        while True:
            try:
                return found, decoded(found.image)
            except BadImageError as error:
                if not self.stand_ins:
                    raise
                found = self._header(i, (*found.bad, Bad(found.id, error.name, error.reason)))

    def _header(self, i: int, bad: tuple[Bad, ...] = ()) -> "Found":
        """Of the sample, or of the next that can be read: never by chance, never by workers."""
        assert isinstance(self.split, Files)
        tried = {each.id for each in bad}
        for other in candidates(i, len(self.split)):
            if other in tried:
                continue
            name = self.split.store.name(other)
            try:
                return Found(other, opened(patiently(self.split.store.read, other), name, self.split.channels), bad)
            except BadImageError as error:
                fault = error
            except OSError as error:
                fault = unreadable(name, error)
            if not self.stand_ins:
                raise fault
            bad = (*bad, Bad(other, name, fault.reason))
        raise none_of(bad)

    def _map(self, function: Callable[[int], Any], items: Sequence[int]) -> list[Any]:
        return self.pool.map(function, items, self.threads)

    def _shifts(self, ids_B: Tensor, epoch: int) -> Int[Tensor, "B 2"] | None:
        return self.augment.shifts(self.key, ids_B, epoch, self.form.shape) if self.augment else None

    def _boxes(self, ids_B: Tensor, epoch: int, sizes: Sequence[Sequence[int]]) -> Int[Tensor, "B 5"]:
        sizes_B2 = torch.from_numpy(np.array(sizes))  # of many sizes much quicker than torch.tensor
        if self.augment is None:
            return centre_boxes(sizes_B2, self.form.shape, self.form.eval_crop)
        return self.augment.boxes(self.key, ids_B, epoch, sizes_B2, self.form.shape)


class Found(NamedTuple):
    """An image with its header read, the sample it is, and those that could not be read before it."""

    id: int
    image: Encoded
    bad: tuple[Bad, ...]
