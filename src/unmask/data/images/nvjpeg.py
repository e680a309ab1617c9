"""JPEGs that the training device decodes by nvJPEG: batches carry the encoded bytes.

The decoder is torchvision.io.decode_jpeg. What nvJPEG does not support (other formats,
CMYK, EXIF orientations, files without an end) is decoded by the loader as usual. If the
device is a CPU, torchvision decodes there, which is how the tests run this.
"""

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from unmask.data.images.decoding import EncodedImage, decode_image, exif_orientation
from unmask.data.images.jpeg import END_OF_IMAGE, START_OF_IMAGE

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


class PackedJpegs:
    """The JPEGs of a batch as one run of bytes.

    One tensor for each image would cost a loader worker one open file each. rows: the
    batch rows that show each image. other_rows: the batch rows that the loader has
    decoded. The class holds its tensor where Lightning does not look, so that the bytes
    stay in the host's memory.
    """

    def __init__(
        self,
        images: Sequence[EncodedImage],
        rows: list[list[int]],
        other_rows: list[int],
    ) -> None:
        self.names = [image.name for image in images]
        self.channels = images[0].channels if images else 3
        self.sizes = [image.size for image in images]
        self.rows = rows
        self.other_rows = other_rows
        contents = [
            image.content for image in images if isinstance(image.content, bytes)
        ]
        # a copy: torch warns about buffers that cannot be written
        joined = np.frombuffer(b"".join(contents), np.uint8).copy()
        self.bytes_N = torch.from_numpy(joined)
        self.ends = np.cumsum([0, *map(len, contents)]).tolist()

    def contents(self) -> list[UInt8[Tensor, "N"]]:
        """Return the bytes of each image, sharing the memory."""
        return [
            self.bytes_N[start:end]
            for start, end in zip(self.ends[:-1], self.ends[1:], strict=True)
        ]

    def decode(self, device: torch.device) -> list[UInt8[Tensor, "C H W"]]:
        """Decode all images on the device.

        Raises BadImageError with the name if neither nvJPEG nor Pillow can.
        """
        from torchvision.io import ImageReadMode, decode_jpeg

        if not self.rows:
            return []
        mode = ImageReadMode[MODES[self.channels]]
        contents = self.contents()

        def decode(some: list[Tensor]) -> list[Tensor]:
            with warnings.catch_warnings():
                # torchvision announces that it will drop its decoders
                warnings.simplefilter("ignore")
                return decode_jpeg(some, mode=mode, device=device)

        try:
            images = decode(contents)
        # one bad image fails the whole call: decode them one by one, so that the
        # pixels of the good ones do not change
        except RuntimeError:
            images = [self._decode_one(k, decode, device) for k in range(len(contents))]
        has_right_size = [
            tuple(image.shape[1:]) == size
            for image, size in zip(images, self.sizes, strict=True)
        ]
        return [
            image if has_right_size[k] else self._decode_with_pillow(k, device)
            for k, image in enumerate(images)
        ]

    def _decode_one(
        self,
        k: int,
        decode: Callable[[list[Tensor]], list[Tensor]],
        device: torch.device,
    ) -> Tensor:
        try:
            return decode([self.contents()[k]])[0]
        except RuntimeError:
            return self._decode_with_pillow(k, device)

    def _decode_with_pillow(
        self, k: int, device: torch.device
    ) -> UInt8[Tensor, "C H W"]:
        content = self.contents()[k].numpy().tobytes()
        image = EncodedImage(content, self.names[k], self.channels, self.sizes[k])
        return torch.from_numpy(decode_image(image)).permute(2, 0, 1).to(device)


def decode_packed(
    packed: PackedJpegs,
    others_BCHW: UInt8[Tensor, "K C h w"],
    boxes_B5: Int[Tensor, "B 5"],
    shape: tuple[int, int],
) -> UInt8[Tensor, "B C h w"]:
    """Return the whole batch on the boxes' device, cropped and resized to `shape`.

    JPEGs are decoded there; `others_BCHW` are the views that the loader decoded.
    Mirroring is left to the caller.
    """
    device = boxes_B5.device
    boxes = boxes_B5[:, :4].tolist()
    batch_shape = (len(boxes), packed.channels, *shape)
    out = torch.empty(batch_shape, dtype=torch.uint8, device=device)
    if packed.other_rows:
        out[torch.tensor(packed.other_rows, device=device)] = others_BCHW
    for image, rows in zip(packed.decode(device), packed.rows, strict=True):
        for row in rows:
            top, left, height, width = boxes[row]
            crop = image[:, top : top + height, left : left + width]
            out[row] = _resize(crop, shape)
    return out


def _resize(
    crop_CHW: UInt8[Tensor, "C H W"], shape: tuple[int, int]
) -> UInt8[Tensor, "C h w"]:
    """Resize like `decoding.resize_crop`, but in floats: GPUs have no uint8 kernel."""
    if tuple(crop_CHW.shape[1:]) == shape:
        return crop_CHW
    batch = crop_CHW[None].float()
    out = interpolate(batch, size=shape, mode="bicubic", antialias=True)
    return out[0].round().clamp(0, 255).byte()
