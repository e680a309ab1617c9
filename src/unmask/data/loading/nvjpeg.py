"""JPEGs that the training device decodes by nvJPEG: workers hand over the bytes.

The decoder is torchvision.io.decode_jpeg. What nvJPEG does not support (other formats,
CMYK, EXIF orientations, files without an end) is decoded by the loader as usual. If the
device is a CPU, torchvision decodes there, which is how the tests run this.
"""

import io
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from unmask.data.augment.resampling import Crops, crop_images, resize_views
from unmask.data.images.decoding import (
    END_OF_IMAGE,
    START_OF_IMAGE,
    EncodedImage,
    decode_image,
)
from unmask.data.images.pillow import exif_orientation
from unmask.data.images.tensors import bytes_to_shares
from unmask.data.images.view_box import covers
from unmask.data.loading.batch import Batch

# the end must be in the last so many bytes: some programs write after it
TAIL = 1024
MODES = {1: "GRAY", 3: "RGB"}  # torchvision's, by number of channels
# Pillow's modes of files: its grey of coloured images is not the JPEG's luma
FILE_MODES = {1: ("L",), 3: ("L", "RGB")}


def can_decode_on_device(image: EncodedImage) -> bool:
    """Return whether nvJPEG supports the image, by its header and the file's end.

    A truncated file must fail in the loader, where a substitute can be used.
    """
    if not isinstance(image.content, bytes) or image.channels not in MODES:
        return False
    if image.content[:2] != START_OF_IMAGE:
        return False
    if END_OF_IMAGE not in image.content[-TAIL:]:
        return False
    try:
        with Image.open(io.BytesIO(image.content)) as file:
            return (
                exif_orientation(file) == 1
                and file.format == "JPEG"
                and file.mode in FILE_MODES[image.channels]
            )
    # Pillow reads more of the header than `read_header` did
    except Exception:
        return False


class PackedBatch:
    """A batch without the crops of its JPEGs, which it brings as one run of bytes.

    One tensor for each image would cost a loader worker one open file each.
    """

    def __init__(
        self,
        batch: Batch,
        jpegs: Sequence[tuple[EncodedImage, list[int]]],
        crops: Crops,
    ) -> None:
        """Pack each JPEG with the rows that show it; `batch` has the other images."""
        self.jpegs = [(image.name, image.size, rows) for image, rows in jpegs]
        contents = [bytes(image.content) for image, _ in jpegs]
        # a copy: torch warns about buffers that cannot be written
        joined = np.frombuffer(b"".join(contents), np.uint8).copy()
        self.bytes_N = torch.from_numpy(joined)
        self.sizes = [len(content) for content in contents]
        packed = {row for _, rows in jpegs for row in rows}
        self.other_rows = [k for k in range(len(batch.ids_B)) if k not in packed]
        # the others' pixels alone are handed over
        self.batch = batch._replace(images_BCHW=batch.images_BCHW[self.other_rows])
        self.crops = crops

    def decode(self) -> Batch:
        """Decode and crop on the training GPU, or on the CPU if there is none.

        Raises BadImageError with the name if neither nvJPEG nor Pillow can.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        boxes_B5, shifts_B2, _ = self.crops
        assert boxes_B5 is not None
        others = self.batch.images_BCHW
        shape = (others.shape[2], others.shape[3])
        images_BCHW = others.new_empty(
            (len(boxes_B5), *others.shape[1:]), device=device
        )
        images_BCHW[self.other_rows] = others.to(device)
        has_shares = others.is_floating_point()
        decoded = self._decode_jpegs(others.shape[1], device)
        for image, (_, _, rows) in zip(decoded, self.jpegs, strict=True):
            for row in rows:
                view = _cut_out(image, boxes_B5[row], shape)
                images_BCHW[row] = bytes_to_shares(view) if has_shares else view
        finish = Crops(None, shifts_B2, boxes_B5[:, 4].bool())
        finish = finish.map(lambda crops_B: crops_B.to(device))
        return self.batch._replace(images_BCHW=crop_images(images_BCHW, finish, shape))

    def _decode_jpegs(self, channels: int, device: torch.device) -> list[Tensor]:
        contents = list(self.bytes_N.split(self.sizes))
        try:
            images = _decode(contents, channels, device)
        # one bad image fails the whole call: decode them one by one, so that the
        # pixels of the good ones do not change
        except RuntimeError:
            images = []
            for content in contents:
                try:
                    images += _decode([content], channels, device)
                except RuntimeError:
                    images.append(torch.empty(0, 0, 0))
        for k, (name, size, _) in enumerate(self.jpegs):
            if tuple(images[k].shape[1:]) != size:
                content = contents[k].numpy().tobytes()
                pixels = decode_image(EncodedImage(content, name, channels, size))
                images[k] = torch.from_numpy(pixels).permute(2, 0, 1).to(device)
        return images


def _decode(
    contents: list[Tensor], channels: int, device: torch.device
) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    if not contents:
        return []
    with warnings.catch_warnings():
        # torchvision announces that it will drop its decoders
        warnings.simplefilter("ignore")
        return decode_jpeg(contents, mode=ImageReadMode[MODES[channels]], device=device)


def _cut_out(
    image_CHW: UInt8[Tensor, "C H W"], box_5: Tensor, shape: tuple[int, int]
) -> UInt8[Tensor, "C h w"]:
    """Cut out the box and resize it, or both at once where it lies between pixels.

    Boxes are mirrored later. As `decoding.resize_crop`, but in floats: GPUs have no
    kernel for bytes.
    """
    size = (image_CHW.shape[1], image_CHW.shape[2])
    top, left, height, width = box = tuple(box_5[:4].tolist())
    if box_5.is_floating_point():
        if not covers(box, size):
            unmirrored_15 = box_5[None] * box_5.new_tensor([1, 1, 1, 1, 0])
            return resize_views(image_CHW[None], unmirrored_15, shape)[0]
        top, left, height, width = 0, 0, *size
    crop_CHW = image_CHW[:, top : top + height, left : left + width]
    if tuple(crop_CHW.shape[1:]) == shape:
        return crop_CHW
    batch = crop_CHW[None].float()
    out = interpolate(batch, size=shape, mode="bicubic", antialias=True)
    return out[0].round().clamp(0, 255).byte()
