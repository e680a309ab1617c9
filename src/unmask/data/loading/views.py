"""A split as an augmentation shows it: whole batches by (epoch, sample id).

Batches are the same for any number of workers.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.augment.crops import Augmentation
from unmask.data.augment.resampling import Crops, crop_images
from unmask.data.augment.transforms import Transform, make_transform
from unmask.data.images.decoding import (
    EncodedImage,
    decode_crop,
    decode_image,
    read_header,
    resize_crop,
)
from unmask.data.images.depth import Pixels
from unmask.data.images.evaluation import decode_view, resize_view
from unmask.data.images.tensors import PixelBatch, PixelTensor, bytes_to_shares
from unmask.data.images.unreadable import (
    BadImage,
    BadImageError,
    no_substitute_error,
    read_again,
    substitutes,
)
from unmask.data.loading import shared_memory
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.nvjpeg import PackedBatch, can_decode_on_device
from unmask.data.loading.sampler import SampleKey
from unmask.randomness import make_key

SAMPLES_PER_DRAW = 2**15  # bounds the memory of the random numbers

Item = TypeVar("Item")
Result = TypeVar("Result")


class OpenedImage(NamedTuple):
    """An image whose header has been read, and where the batch shows it.

    wanted: the sample that the batch asked for, in its rows `rows`. id: the sample that
    is used, `wanted` itself or a substitute. bad: those that could not be read before.
    """

    wanted: int
    rows: list[int]
    id: int
    image: EncodedImage
    bad: tuple[BadImage, ...]


class Views(Dataset):
    """The views of a split: each sample cropped and changed as (epoch, id) determines.

    augment: None for evaluation, which crops the centre. transform: what is done to the
    cropped images, by default the augmentation's RandAugment or colour jitter.
    allow_substitutes: use another image of the split for one that cannot be read;
    otherwise that is an error. The substitute is the split's next image, whichever
    subset of it the stage uses: so that a split in memory can hold the same one for all
    stages. threads: how many decode the images of a batch.
    """

    def __init__(
        self,
        split: InMemory | StoredImages,
        image_format: ImageFormat,
        augment: Augmentation | None,
        seed: int,
        transform: Transform | None = None,
        allow_substitutes: bool = True,
        threads: int = 1,
    ) -> None:
        self.split = split
        self.count = len(split)
        # of batches, unless a file has more bits
        self.dtype = (
            split.images_NCHW.dtype if isinstance(split, InMemory) else split.dtype
        )
        self.image_format = image_format
        self.augment = augment or image_format.evaluation
        self.key = make_key(seed, "crop")
        self.allow_substitutes = allow_substitutes
        self.threads = threads
        # the crops of all samples of one epoch, for images in memory
        self._drawn: tuple[int, Crops] | None = None
        made = make_transform(self.augment, image_format.mean, image_format.shape, seed)
        self.transform = made or transform

    def __len__(self) -> int:
        return self.count

    @property
    def device(self) -> torch.device:
        """Return where batches are made, except for packed JPEGs."""
        # a transform needs the pixels on the CPU
        if isinstance(self.split, InMemory) and self.transform is None:
            return self.split.device
        return torch.device("cpu")

    @property
    def packs_jpegs(self) -> bool:
        """Return whether JPEGs are left to the training device."""
        split = self.split
        packs = isinstance(split, StoredImages) and split.decode == "nvjpeg"
        return packs and self.transform is None

    def batch(self, epoch: int, ids: Sequence[int]) -> Batch:
        """Make one batch of samples of one epoch."""
        made = self.__getitems__([(epoch, i) for i in ids])
        return made.decode() if isinstance(made, PackedBatch) else made

    def __getitems__(self, keys: list[SampleKey]) -> Batch | PackedBatch:
        """Make one batch as torch asks for it, in a loader worker or not."""
        epoch = keys[0][0]
        ids_B = torch.tensor([i for _, i in keys])
        batch: Batch | PackedBatch
        if isinstance(self.split, InMemory):
            batch = self._crop_in_memory(self.split, ids_B, epoch)
        else:
            batch = self._decode_crops(self.split, ids_B, epoch)
        if self.transform is None or isinstance(batch, PackedBatch):
            return batch
        images = self.transform(batch.images_BCHW, epoch, ids_B)
        return batch._replace(images_BCHW=images)

    def _crop_in_memory(self, split: InMemory, ids_B: Tensor, epoch: int) -> Batch:
        device = self.device
        image_B = ids_B % self.count
        rows_B = ids_B.to(device)
        # index_select copies whole rows: up to ten times as fast as indexing
        crops = self._crops_of_epoch(split, epoch).map(
            lambda crops_N: crops_N.index_select(0, rows_B)
        )
        images_NCHW = split.images_NCHW if self.transform else split.images_on_device
        images = images_NCHW.index_select(0, image_B.to(device))
        bad: dict[BadImage, None] = {}
        if split.bad_images:
            for i in image_B.tolist():
                bad |= dict.fromkeys(split.bad_images.get(i, ()))
        return Batch(
            crop_images(images, crops, self.image_format.shape),
            split.labels_N[image_B],
            ids_B,
            epoch,
            tuple(bad),
        )

    def _crops_of_epoch(self, split: InMemory, epoch: int) -> Crops:
        """Draw the crops of a whole epoch when its first batch is made.

        Drawing for a batch of small images alone would take longer than its pixels.
        """
        if self._drawn is not None and self._drawn[0] == epoch:
            return self._drawn[1]
        size = tuple(split.images_NCHW.shape[2:])
        parts = torch.arange(self.count * self.augment.repeats).split(SAMPLES_PER_DRAW)
        boxes = [self._draw_boxes(ids, epoch, [size] * len(ids)) for ids in parts]
        shifts = [self._draw_shifts(ids, epoch) for ids in parts]
        boxes_N5 = torch.cat(boxes)
        shifts_N2 = None
        if self.augment.crop == "padded":
            shifts_N2 = torch.cat([each.int() for each in shifts if each is not None])
        keeps_all = size == self.image_format.shape and bool(
            (boxes_N5[:, :4] == torch.tensor([0, 0, *size])).all()
        )
        mirrored_N = None
        # where images are resized, the same matrix product also mirrors them
        if (keeps_all or shifts_N2 is not None) and boxes_N5[:, 4].any():
            mirrored_N = boxes_N5[:, 4].bool()
            boxes_N5[:, 4] = 0
        drawn = Crops(None if keeps_all else boxes_N5, shifts_N2, mirrored_N)
        crops = drawn.map(lambda crops_N: crops_N.to(self.device))
        self._drawn = (epoch, crops)
        return crops

    def _decode_crops(
        self, split: StoredImages, ids_B: Tensor, epoch: int
    ) -> Batch | PackedBatch:
        """Read all headers, then draw all crops at once, then decode all pixels."""
        opened = self._open_images(split, ids_B)
        sizes = {row: each.image.size for each in opened for row in each.rows}
        boxes_B5 = self._draw_boxes(ids_B, epoch, [sizes[row] for row in sorted(sizes)])
        shifts_B2 = self._draw_shifts(ids_B, epoch)
        views_BhwC = self._empty_views(split, len(ids_B))
        pixels = views_BhwC.numpy()
        # rows of files with more bits than the pixels have
        deep: dict[int, Pixels] = {}
        # shifts come first, and packed batches are mirrored on the device
        mirrors = shifts_B2 is None and not self.packs_jpegs
        is_packed_B = np.zeros(len(ids_B), dtype=np.bool_)

        def decode(image: OpenedImage) -> OpenedImage:
            while True:
                if self.packs_jpegs and can_decode_on_device(image.image):
                    is_packed_B[image.rows] = True
                    return image
                boxes = boxes_B5[image.rows].tolist()
                try:
                    views = self._decode_views(split, image.image, boxes)
                    for row, box, view in zip(image.rows, boxes, views, strict=True):
                        view = mirror(view) if box[4] and mirrors else view
                        if view.dtype == pixels.dtype:
                            pixels[row] = view
                        else:
                            deep[row] = view
                    return image
                except BadImageError as error:
                    bad = self._add_bad_image(image.bad, image.id, error)
                    image = self._open_readable(split, image.wanted, image.rows, bad)
                    # it may have another size: its boxes are drawn anew
                    sizes = [image.image.size] * len(image.rows)
                    redrawn = self._draw_boxes(ids_B[image.rows], epoch, sizes)
                    boxes_B5[image.rows] = redrawn

        opened = map_in_threads(decode, opened, self.threads)
        if deep:
            views_BhwC = bytes_to_shares(views_BhwC)
            for row, view in deep.items():
                views_BhwC[row] = torch.from_numpy(view)
        images_BCHW = views_BhwC.permute(0, 3, 1, 2)
        if shifts_B2 is not None and not self.packs_jpegs:
            crops = Crops(None, shifts_B2, boxes_B5[:, 4].bool())
            images_BCHW = crop_images(images_BCHW, crops, self.image_format.shape)
        batch = self._make_batch(split, images_BCHW, opened, ids_B, epoch)
        if not self.packs_jpegs:
            return batch
        jpegs = [each for each in opened if is_packed_B[each.rows[0]]]
        rows = [(each.image, each.rows) for each in jpegs]
        return PackedBatch(batch, rows, Crops(boxes_B5, shifts_B2))

    def _empty_views(self, split: StoredImages, count: int) -> PixelTensor:
        """Return memory for a batch, in a slot that is shared where there is one."""
        shape = (count, *self.image_format.shape, split.channels)
        slots = shared_memory.worker_slots
        shared = slots.empty(shape, self.dtype) if slots else None
        return torch.empty(shape, dtype=self.dtype) if shared is None else shared

    def _make_batch(
        self,
        split: StoredImages,
        images_BCHW: PixelBatch,
        opened: list[OpenedImage],
        ids_B: Int[Tensor, "B"],
        epoch: int,
    ) -> Batch:
        """Add labels and bad images."""
        # a substitute brings its own label
        used_B = torch.empty(len(ids_B), dtype=torch.long)
        for each in opened:
            used_B[each.rows] = each.id
        bad_images = dict.fromkeys(bad for each in opened for bad in each.bad)
        labels_B = split.labels_N[used_B]
        return Batch(images_BCHW, labels_B, ids_B, epoch, tuple(bad_images))

    def _decode_views(
        self, split: StoredImages, image: EncodedImage, boxes: Sequence[Sequence[Any]]
    ) -> Iterator[Pixels]:
        """Yield the view of each box; several views share one decoding of the image."""
        decode: Callable[..., Pixels] = decode_crop
        resize: Callable[..., Pixels] = resize_crop
        if self.augment.is_official_view:
            decode, resize = decode_view, resize_view
        shape = self.image_format.shape
        pixels = decode_image(image) if self.augment.repeats > 1 else None
        for top, left, height, width, _ in boxes:
            box = (top, left, height, width)
            if pixels is None:
                yield decode(image, box, shape, split.decode)
            else:
                yield resize(pixels, box, shape, split.decode)

    def _open_images(self, split: StoredImages, ids_B: Tensor) -> list[OpenedImage]:
        """Open the image of each row, once for all rows that show it."""
        rows: dict[int, list[int]] = {}
        for row, image in enumerate((ids_B % self.count).tolist()):
            rows.setdefault(image, []).append(row)
        return map_in_threads(
            lambda item: self._open_readable(split, *item),
            list(rows.items()),
            self.threads,
        )

    def _open_readable(
        self,
        split: StoredImages,
        wanted: int,
        rows: list[int],
        bad: tuple[BadImage, ...] = (),
    ) -> OpenedImage:
        """Open the wanted sample, or the first substitute whose header can be read.

        The choice depends on nothing but the sample: neither on chance nor on workers.
        bad: what has been tried before.
        """
        if not bad:
            try:
                image = self._read_header(split, wanted)
                return OpenedImage(wanted, rows, wanted, image, bad)
            except BadImageError as error:
                bad = self._add_bad_image(bad, wanted, error)
        tried = {each.id for each in bad}
        for candidate in substitutes(wanted, self.count):
            if candidate in tried:
                continue
            try:
                image = self._read_header(split, candidate)
                return OpenedImage(wanted, rows, candidate, image, bad)
            except BadImageError as error:
                bad = self._add_bad_image(bad, candidate, error)
        raise no_substitute_error(bad)

    def _read_header(self, split: StoredImages, i: int) -> EncodedImage:
        try:
            content = split.store.read(i)
        except OSError as error:
            content = read_again(split.store, i, error)
        name = split.store.name(i)
        return read_header(content, name, split.channels, split.ranges)

    def _add_bad_image(
        self, bad: tuple[BadImage, ...], i: int, error: BadImageError
    ) -> tuple[BadImage, ...]:
        """Add sample i. Raises the error if there may be no substitute."""
        if not self.allow_substitutes:
            raise error
        return (*bad, BadImage(i, error.name, error.reason))

    def _draw_shifts(self, ids_B: Tensor, epoch: int) -> Int[Tensor, "B 2"] | None:
        shape = self.image_format.shape
        return self.augment.draw_shifts(self.key, ids_B, epoch, shape)

    def _draw_boxes(
        self, ids_B: Tensor, epoch: int, sizes: Sequence[Sequence[int]]
    ) -> Int[Tensor, "B 5"] | Float64[Tensor, "B 5"]:
        # for many sizes, this is much faster than torch.tensor
        sizes_B2 = torch.from_numpy(np.array(sizes))
        shape = self.image_format.shape
        return self.augment.draw_boxes(self.key, ids_B, epoch, sizes_B2, shape)


def mirror(view_hwC: Pixels) -> Pixels:
    """Mirror by torch, which is five times as fast as NumPy here."""
    return torch.from_numpy(view_hwC).flip(1).numpy()


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> list[Result]:
    """Apply the function to all items, and keep their order."""
    if threads == 1 or len(items) <= 1:
        return list(map(function, items))
    results: dict[int, Result] = {}
    queue = iter(enumerate(items))

    # each thread takes the next item as soon as it is free; iterators of enumerate are
    # safe to share under the interpreter's lock
    def work() -> None:
        for k, item in queue:
            results[k] = function(item)

    pool = _thread_pool(threads, os.getpid())
    for future in [pool.submit(work) for _ in range(threads)]:
        future.result()
    return [results[k] for k in range(len(items))]


# one for each process: forked processes inherit no threads
@cache
def _thread_pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
