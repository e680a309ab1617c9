"""A split as an augmentation shows it: whole batches by (epoch, sample id).

Batches are the same for any number of workers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.augment.colour_jitter import make_colour_jitter
from unmask.data.augment.crops import Augmentation, centre_boxes
from unmask.data.augment.randaugment import make_rand_augment
from unmask.data.images.decoding import (
    DecodeMode,
    EncodedImage,
    decode_crop,
    decode_image,
    read_header,
    resize_crop,
    resize_crop_with_pillow,
)
from unmask.data.images.nvjpeg import PackedJpegs, can_decode_on_device
from unmask.data.images.unreadable import (
    BadImage,
    BadImageError,
    no_substitute_error,
    read_content,
    substitute_candidates,
)
from unmask.data.loading.batch import Batch, ImageFormat, apply_pending
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import (
    EpochDraws,
    InMemory,
    draw_epoch,
    rows_by_image,
)
from unmask.data.loading.sampler import SampleKey
from unmask.data.loading.shared_memory import empty_batch
from unmask.data.loading.workers import ThreadPools
from unmask.randomness import make_key

# (uint8 images, epoch, sample ids) to uint8 images
Transform = Callable[[Tensor, int, Tensor], Tensor]


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
        self.image_format = image_format
        self.augment = augment
        self.key = make_key(seed, "crop")
        self.transform = transform
        self.allow_substitutes = allow_substitutes
        self.threads = threads
        self.pools = ThreadPools()
        self._epoch_draws: EpochDraws | None = None
        if augment and augment.policy:
            self.transform = make_rand_augment(
                augment.policy,
                image_format.mean,
                image_format.shape,
                make_key(seed, "policy"),
            )
        elif augment and augment.jitter:
            self.transform = make_colour_jitter(
                augment.jitter, make_key(seed, "jitter")
            )

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """Make one batch of samples of one epoch."""
        epoch = keys[0][0]
        ids_B = torch.tensor([i for _, i in keys])
        if isinstance(self.split, InMemory):
            return self._batch_from_memory(self.split, epoch, ids_B)
        # a transform needs the pixels here
        if self.split.decode == "nvjpeg" and self.transform is None:
            return self._batch_for_device(self.split, epoch, ids_B)
        return self._batch_from_store(self.split, epoch, ids_B)

    def _batch_from_memory(self, split: InMemory, epoch: int, ids_B: Tensor) -> Batch:
        draws = self._draws_of_epoch(split, epoch)
        image_B = ids_B % len(split)
        # index_select copies whole rows: up to ten times as fast as indexing
        boxes, shifts, mirrored = (
            None if each is None else each.index_select(0, ids_B)
            for each in (draws.boxes_N5, draws.shifts_N2, draws.mirrored_N)
        )
        on_device = split.on_device if self.transform is None else None
        if on_device:
            images = split.images_NCHW[:0]
        else:
            images = split.images_NCHW.index_select(0, image_B)
        bad: dict[BadImage, None] = {}
        if split.bad_images:
            for i in image_B.tolist():
                bad |= dict.fromkeys(split.bad_images.get(i, ()))
        batch = Batch(
            images,
            split.labels_N[image_B],
            ids_B,
            epoch,
            None if boxes is None else boxes.long(),
            mirrored,
            tuple(bad),
            None if shifts is None else shifts.long(),
            on_device,
        )
        return self._apply_transform(batch)

    def _draws_of_epoch(self, split: InMemory, epoch: int) -> EpochDraws:
        """Draw the crops of a whole epoch when its first batch is made."""
        if self._epoch_draws is not None and self._epoch_draws.epoch == epoch:
            return self._epoch_draws
        height, width = split.images_NCHW.shape[2:]
        has_shape = (height, width) == self.image_format.shape
        repeats = self.augment.repeats if self.augment else 1

        def draw(ids_B: Tensor) -> tuple[Tensor, Tensor | None]:
            boxes = self._draw_boxes(ids_B, epoch, [(height, width)] * len(ids_B))
            return boxes, self._draw_shifts(ids_B, epoch)

        self._epoch_draws = draw_epoch(
            epoch,
            len(split) * repeats,
            self.image_format.shape if has_shape else None,
            draw,
        )
        return self._epoch_draws

    def _apply_transform(self, batch: Batch) -> Batch:
        """Crop the images and apply the transform, if any, which takes single images.

        Without a transform, cropping images in memory is left to the device.
        """
        if self.transform is None:
            return batch
        cropped = apply_pending(batch, self.image_format.shape).byte()
        images = self.transform(cropped, batch.epoch, batch.ids_B)
        return batch._replace(
            images_BCHW=images, boxes_B5=None, mirrored_B=None, shifts_B2=None
        )

    def _batch_from_store(
        self, images: StoredImages, epoch: int, ids_B: Tensor
    ) -> Batch:
        """Read all headers, then draw all crops at once, then decode all pixels."""
        opened = self._read_headers(images, ids_B, group=self._has_repeats)
        boxes_B5 = self._draw_boxes(ids_B, epoch, _sizes_by_row(opened))
        views_BhwC = empty_batch(len(ids_B), *self.image_format.shape, images.channels)
        pixels = views_BhwC.numpy()

        def decode(image: OpenedImage) -> OpenedImage:
            boxes_K5 = boxes_B5[image.rows]
            while True:
                try:
                    views = self._decode_views(image.image, boxes_K5, images.decode)
                    for row, view in zip(image.rows, views, strict=True):
                        pixels[row] = view
                    return image
                except BadImageError as error:
                    # a substitute may have another size: draw its boxes anew
                    image = self._open_substitute(image, error)
                    sizes = [image.image.size] * len(image.rows)
                    boxes_K5 = self._draw_boxes(ids_B[image.rows], epoch, sizes)

        opened = self.pools.map(decode, opened, self.threads)
        batch = self._make_batch(images, views_BhwC, opened, ids_B, epoch, boxes_B5)
        return self._apply_transform(batch._replace(boxes_B5=None))

    def _batch_for_device(
        self, images: StoredImages, epoch: int, ids_B: Tensor
    ) -> Batch:
        """Read headers and draw crops here, and leave JPEGs to the device.

        Images that the device cannot decode are decoded here.
        """
        opened = self._read_headers(images, ids_B, group=True)
        jpegs: list[OpenedImage] = []
        others: list[OpenedImage] = []
        for each in opened:
            (jpegs if can_decode_on_device(each.image) else others).append(each)
        # decoded before crops are drawn: after that, all are known to be readable
        decoded = self.pools.map(self._decode_or_substitute, others, self.threads)
        opened = jpegs + [image for image, _ in decoded]
        boxes_B5 = self._draw_boxes(ids_B, epoch, _sizes_by_row(opened))

        shape = self.image_format.shape
        other_rows = [(row, pixels) for image, pixels in decoded for row in image.rows]
        views_KhwC = empty_batch(len(other_rows), *shape, images.channels)
        for k, (row, pixels) in enumerate(other_rows):
            top, left, height, width = boxes_B5[row, :4].tolist()
            view = resize_crop(pixels, (top, left, height, width), shape)
            views_KhwC[k] = torch.from_numpy(view)
        packed = PackedJpegs(
            [each.image for each in jpegs],
            [each.rows for each in jpegs],
            [row for row, _ in other_rows],
        )
        batch = self._make_batch(images, views_KhwC, opened, ids_B, epoch, boxes_B5)
        return batch._replace(packed_jpegs=packed)

    def _make_batch(
        self,
        images: StoredImages,
        views: UInt8[Tensor, "K h w C"],
        opened: list[OpenedImage],
        ids_B: Tensor,
        epoch: int,
        boxes_B5: Int[Tensor, "B 5"],
    ) -> Batch:
        """Add labels, bad images and what is left to do to the views."""
        # a substitute brings its own label
        used_B = torch.empty(len(ids_B), dtype=torch.long)
        for each in opened:
            used_B[each.rows] = each.id
        bad = dict.fromkeys(bad for each in opened for bad in each.bad)
        mirrored_B = boxes_B5[:, 4].bool()
        return Batch(
            views.permute(0, 3, 1, 2),
            images.labels_N[used_B],
            ids_B,
            epoch,
            boxes_B5,
            mirrored_B if mirrored_B.any() else None,
            tuple(bad),
            self._draw_shifts(ids_B, epoch),
        )

    @property
    def _has_repeats(self) -> bool:
        return self.augment is not None and self.augment.repeats > 1

    def _decode_views(
        self, image: EncodedImage, boxes_K5: Int[Tensor, "K 5"], decode: DecodeMode
    ) -> Iterator[UInt8[np.ndarray, "h w C"]]:
        """Yield the view of each box; several views share one decoding of the image."""
        shape = self.image_format.shape
        boxes = [
            (top, left, height, width)
            for top, left, height, width, _ in boxes_K5.tolist()
        ]
        if not self._has_repeats:
            for box in boxes:
                yield decode_crop(image, box, shape, decode)
            return
        pixels = decode_image(image)
        resize = resize_crop_with_pillow if decode == "reference" else resize_crop
        for box in boxes:
            yield resize(pixels, box, shape)

    def _read_headers(
        self, images: StoredImages, ids_B: Tensor, group: bool
    ) -> list[OpenedImage]:
        """Open the image of each row; with `group`, once for all rows that show it."""
        wanted = (ids_B % len(images)).tolist()
        rows = (
            list(rows_by_image(wanted).items())
            if group
            else [(i, [row]) for row, i in enumerate(wanted)]
        )
        return self.pools.map(
            lambda item: self._open_readable(*item), rows, self.threads
        )

    def _decode_or_substitute(
        self, image: OpenedImage
    ) -> tuple[OpenedImage, UInt8[np.ndarray, "H W C"]]:
        """Decode the whole image, or the first substitute that can be decoded."""
        while True:
            try:
                return image, decode_image(image.image)
            except BadImageError as error:
                image = self._open_substitute(image, error)

    def _open_substitute(self, image: OpenedImage, error: BadImageError) -> OpenedImage:
        """Open the substitute of an image whose pixels cannot be read.

        Raises the error if there may be none.
        """
        if not self.allow_substitutes:
            raise error
        bad = BadImage(image.id, error.name, error.reason)
        return self._open_readable(image.wanted, image.rows, (*image.bad, bad))

    def _open_readable(
        self, wanted: int, rows: list[int], bad: tuple[BadImage, ...] = ()
    ) -> OpenedImage:
        """Open the wanted sample, or the first candidate whose header can be read.

        The choice depends on nothing but the sample: neither on chance nor on workers.
        """
        assert isinstance(self.split, StoredImages)
        store, channels = self.split.store, self.split.channels
        tried = {each.id for each in bad}
        for candidate in substitute_candidates(wanted, len(self.split)):
            if candidate in tried:
                continue
            name = store.name(candidate)
            try:
                image = read_header(read_content(store, candidate), name, channels)
                return OpenedImage(wanted, rows, candidate, image, bad)
            except BadImageError as error:
                if not self.allow_substitutes:
                    raise
                bad = (*bad, BadImage(candidate, name, error.reason))
        raise no_substitute_error(bad)

    def _draw_shifts(self, ids_B: Tensor, epoch: int) -> Int[Tensor, "B 2"] | None:
        if self.augment is None:
            return None
        return self.augment.draw_shifts(self.key, ids_B, epoch, self.image_format.shape)

    def _draw_boxes(
        self, ids_B: Tensor, epoch: int, sizes: Sequence[Sequence[int]]
    ) -> Int[Tensor, "B 5"]:
        # for many sizes, this is much faster than torch.tensor
        sizes_B2 = torch.from_numpy(np.array(sizes))
        shape = self.image_format.shape
        if self.augment is None:
            return centre_boxes(sizes_B2, shape, self.image_format.eval_crop)
        return self.augment.draw_boxes(self.key, ids_B, epoch, sizes_B2, shape)


def _sizes_by_row(opened: Sequence[OpenedImage]) -> list[tuple[int, int]]:
    """Return the size of the image in each row of the batch, in order."""
    by_row = {row: each.image.size for each in opened for row in each.rows}
    return [by_row[row] for row in range(len(by_row))]
