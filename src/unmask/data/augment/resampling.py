"""Make the crops of images in memory: whole batches at once, on any device."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from unmask.data.augment.crops import margin_sizes
from unmask.data.images.tensors import PixelTensor
from unmask.data.images.view_box import covers, resizes_height_first

CUBIC = -0.5  # Pillow's bicubic coefficient
FLOATS_PER_CHUNK = 2**18  # a megabyte
# of all boxes of a small image; 32 x 32 pixels need half of it
MAX_CACHED_WEIGHTS = 2**22


class Crops(NamedTuple):
    """What is done to each image of a batch, in this order; None: nothing.

    boxes: cut out and resize (top, left, height, width, mirrored), or resize and cut
    out where they lie between pixels. shifts: move (down, right) over black. mirrored:
    mirror images that their boxes do not mirror.
    """

    boxes_B5: Int[Tensor, "B 5"] | Float64[Tensor, "B 5"] | None = None
    shifts_B2: Int[Tensor, "B 2"] | None = None
    mirrored_B: Bool[Tensor, "B"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Crops":
        """Apply a function to each tensor that is not None."""
        return Crops(*(None if each is None else change(each) for each in self))


def crop_images(
    images_BCHW: PixelTensor, crops: Crops, shape: tuple[int, int]
) -> PixelTensor:
    """Return the crops of `shape`, on the images' device."""
    boxes_B5, shifts_B2, mirrored_B = crops
    if boxes_B5 is not None:
        is_view = boxes_B5.is_floating_point()
        resize = resize_views if is_view else resize_crops
        images_BCHW = resize(images_BCHW, boxes_B5, shape)
    if shifts_B2 is None and mirrored_B is None:
        return images_BCHW
    if mirrored_B is None:
        mirrored_B = images_BCHW.new_zeros(len(images_BCHW), dtype=torch.bool)
    if shifts_B2 is not None:
        return shift_images(images_BCHW, shifts_B2, mirrored_B)
    # to select whole rows of bytes is five times as fast as to choose at each pixel
    both = torch.cat([images_BCHW, images_BCHW.flip(3)])
    return both.index_select(0, _rows_of_both(mirrored_B))


def _rows_of_both(mirrored_B: Bool[Tensor, "B"]) -> Int[Tensor, "B"]:
    """Return the row of each image in [all images, all mirror images]."""
    count = len(mirrored_B)
    return torch.arange(count, device=mirrored_B.device) + count * mirrored_B


def shift_images(
    images_BCHW: Tensor, shifts_B2: Int[Tensor, "B 2"], mirrored_B: Bool[Tensor, "B"]
) -> Tensor:
    """Shift each image (down, right) over black, at most by the margins, then mirror.

    The images and their mirror images are laid into one black canvas. There each
    shifted image is one contiguous run of memory: copying runs is many times faster
    than gathering pixels.
    """
    batch, channels, height, width = images_BCHW.shape
    up, left = margin_sizes((height, width))
    # one margin between two rows, channels or images serves both, and one more goes
    # before the first
    tall = height + up
    wide = width + left
    start = up * wide + left
    per_image = channels * tall * wide
    canvas = images_BCHW.new_zeros(2 * batch * per_image + start)
    inner = canvas.as_strided(
        (2, batch, channels, height, width),
        (batch * per_image, per_image, tall * wide, wide, 1),
        start,
    )
    inner[0] = images_BCHW
    inner[1] = images_BCHW.flip(3)
    # from the first to the last pixel of an image
    run = (channels - 1) * tall * wide + (height - 1) * wide + width
    # a mirrored image moves the other way before it is mirrored
    right_B = torch.where(mirrored_B, -shifts_B2[:, 1], shifts_B2[:, 1])
    start_B = start + _rows_of_both(mirrored_B) * per_image
    start_B = start_B - shifts_B2[:, 0] * wide - right_B
    runs = canvas.as_strided((len(canvas) - run + 1, run), (1, 1))
    shifted = runs.index_select(0, start_B)
    return shifted.as_strided(
        (batch, channels, height, width), (run, tall * wide, wide, 1)
    )


def resize_crops(
    images_BCHW: PixelTensor, boxes_B5: Int[Tensor, "B 5"], shape: tuple[int, int]
) -> PixelTensor:
    """Cut out the boxes, resize them to `shape`, and mirror them.

    The width is resized first. Both passes are clipped, and those of bytes rounded,
    like Pillow's.
    """
    top, left, height, width, mirrored = boxes_B5.unbind(1)
    height_in, width_in = images_BCHW.shape[2:]
    unmirrored = torch.zeros_like(mirrored)
    rows = resampling_matrix(top, height, height_in, shape[0], unmirrored)
    cols = resampling_matrix(left, width, width_in, shape[1], mirrored)
    return _resample(images_BCHW, rows, cols, clips_shares=True)


def resize_views(
    images_BCHW: PixelTensor, boxes_B5: Float64[Tensor, "B 5"], shape: tuple[int, int]
) -> PixelTensor:
    """Resize the images as a whole, cut out the boxes of `shape`, and mirror them.

    The images have one size, and therefore one box.
    """
    size = (images_BCHW.shape[2], images_BCHW.shape[3])
    top, left, height, width = box = tuple(boxes_B5[0, :4].tolist())
    mirrored_B11 = boxes_B5[:, 4, None, None].bool()
    if covers(box, size):
        return resize_crops(images_BCHW, boxes_B5.long(), shape)
    down_hH = view_matrix(top, height, size[0], shape[0]).to(images_BCHW.device)
    across_wW = view_matrix(left, width, size[1], shape[1]).to(images_BCHW.device)
    rows = down_hH.expand(len(boxes_B5), -1, -1)
    cols = torch.where(mirrored_B11, across_wW.flip(0), across_wW)
    if not resizes_height_first(size, box, shape):
        return _resample(images_BCHW, rows, cols)
    return _resample(images_BCHW.transpose(2, 3), cols, rows).transpose(2, 3)


def _resample(
    images_BCHW: PixelTensor,
    rows: Float[Tensor, "B h H"],
    cols: Float[Tensor, "B w W"],
    clips_shares: bool = False,
) -> PixelTensor:
    """Multiply the width, then the height, with these weights.

    In between bytes are rounded and clipped, as by Pillow, and shares where that is
    wanted.
    """
    is_bytes = images_BCHW.dtype == torch.uint8
    clips = is_bytes or clips_shares
    white = 255 if is_bytes else 1
    batch, channels, height_in, _ = images_BCHW.shape
    shape = (rows.shape[1], cols.shape[1])
    # rows outermost, so that each chunk is one plain product
    out_BhCw = images_BCHW.new_empty(batch, shape[0], channels, shape[1])
    # on a CPU, chunks whose intermediate results stay in its caches are three times as
    # fast
    chunk = batch
    if not images_BCHW.is_cuda:
        chunk = max(1, FLOATS_PER_CHUNK // images_BCHW[0].numel())
    parts = (each.split(chunk) for each in (images_BCHW, rows, cols, out_BhCw))
    for images, row, col, out in zip(*parts, strict=True):
        # the rows of all channels side by side: one product for each image is several
        # times faster than one for each channel
        pixels = images.transpose(1, 2).contiguous().float().flatten(1, 2)
        across = torch.bmm(pixels, col.mT)
        across = across.round_() if is_bytes else across
        across = across.clamp_(0, white) if clips else across
        resized = torch.bmm(row, across.view(len(images), height_in, -1))
        resized = resized.round_() if is_bytes else resized
        out.copy_(resized.clamp_(0, white).view_as(out))
    return out_BhCw.transpose(1, 2)


def resampling_matrix(
    start_B: Int[Tensor, "B"],
    length_B: Int[Tensor, "B"],
    size_in: int,
    size_out: int,
    mirrored_B: Int[Tensor, "B"],
) -> Float[Tensor, "B out in"]:
    """Return weights that cut [start, start + length) out of `size_in` pixels.

    They resize it to `size_out`, and mirror it where wanted. This is Pillow's
    antialiased bicubic: the kernel widens when shrinking and is renormalised at the
    box's edges.
    """
    if 2 * size_in**3 * size_out > MAX_CACHED_WEIGHTS:
        weight = _cubic_weights(start_B, length_B, size_in, size_out)
        return torch.where(mirrored_B[:, None, None].bool(), weight.flip(1), weight)
    cached = _all_weights(size_in, size_out, start_B.device)
    index_B = (mirrored_B * size_in + start_B) * size_in + length_B - 1
    return cached.index_select(0, index_B)


@lru_cache(maxsize=8)
def view_matrix(
    start: float, length: float, size_in: int, size_out: int
) -> Float[Tensor, "out in"]:
    """Return weights that resize a box whose edges may lie between pixels.

    What lies around the box counts, too, as far as the kernel reaches.
    """
    scale = length / size_out
    pixel_1I = torch.arange(size_in, dtype=torch.float64)[None] + 0.5
    out_O1 = torch.arange(size_out, dtype=torch.float64)[:, None] + 0.5
    weight = _keys_cubic((pixel_1I - start - out_O1 * scale) / max(scale, 1))
    return (weight / weight.sum(dim=1, keepdim=True)).float()


def _keys_cubic(distance: Tensor) -> Tensor:
    """Return Keys's cubic (a = -0.5) of distances in pixels."""
    x = distance.abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


@lru_cache(maxsize=8)
def _all_weights(
    size_in: int, size_out: int, device: torch.device
) -> Float[Tensor, "all out in"]:
    """Compute the weights of every start and length, and their mirror images.

    For a batch of small images, computing its weights would take longer than applying
    them.
    """
    index = torch.arange(size_in, device=device)
    start, length = torch.meshgrid(index, index, indexing="ij")
    weight = _cubic_weights(start.flatten(), length.flatten() + 1, size_in, size_out)
    return torch.cat([weight, weight.flip(1)])


def _cubic_weights(
    start_B: Int[Tensor, "B"], length_B: Int[Tensor, "B"], size_in: int, size_out: int
) -> Float[Tensor, "B out in"]:
    """Weigh each input pixel for each output pixel."""
    device = start_B.device
    scale_B11 = (length_B.float() / size_out)[:, None, None]
    width_B11 = scale_B11.clamp(min=1)
    pixel_1I = torch.arange(size_in, device=device, dtype=torch.float32)[None, None, :]
    out_1O1 = torch.arange(size_out, device=device)[None, :, None] + 0.5
    centre_BO1 = out_1O1 * scale_B11 + start_B[:, None, None]
    weight = _keys_cubic((pixel_1I + 0.5 - centre_BO1) / width_B11)
    # pixels outside of the box count nothing, as if the image ended there
    is_inside = (pixel_1I >= start_B[:, None, None]) & (
        pixel_1I < (start_B + length_B)[:, None, None]
    )
    weight = weight * is_inside
    return weight / weight.sum(dim=2, keepdim=True)
