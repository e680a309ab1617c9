"""JPEGs that are decoded on the training device by nvJPEG (torchvision.io.decode_jpeg): batches carry their bytes.

What nvJPEG does not take (other formats, CMYK, turned by EXIF, without an end) is decoded as ever, by the loader. With
a CPU as the device torchvision decodes there, which is how this is tested.
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

from unmask.data.images.decoding import Encoded, decoded, orientation

START, END = b"\xff\xd8", b"\xff\xd9"
TAIL = 1024  # bytes in which the end has to be: some programs write after it
MODES = {1: "GRAY", 3: "RGB"}
# of files: Pillow's grey of colours is not the JPEG's luma
KINDS = {1: ("L",), 3: ("L", "RGB")}


def is_for_device(image: Encoded) -> bool:
    """By the header, and by the file's end: what is cut off is told in the loader, where another can stand in."""
    if not isinstance(image.content, bytes) or image.channels not in MODES:
        return False
    if image.content[:2] != START or END not in image.content[-TAIL:]:
        return False
    try:
        with Image.open(io.BytesIO(image.content)) as file:
            return (
                orientation(file) == 1
                and file.format == "JPEG"
                and file.mode in KINDS[image.channels]
            )
    except Exception:  # Pillow looks at more of a header than has been looked at before
        return False


class Packed:
    """Encoded images of a batch as one run of bytes: each of many small tensors would cost a loader's process a file.

    rows: of the batch, by image; others: the rows that the loader decoded. It stays in the host's memory: nothing here
    is a tensor that Lightning knows of.
    """

    def __init__(
        self, images: Sequence[Encoded], rows: list[list[int]], others: list[int]
    ) -> None:
        self.names, self.channels = (
            [image.name for image in images],
            (images[0].channels if images else 3),
        )
        self.sizes, self.rows, self.others = (
            [image.size for image in images],
            rows,
            others,
        )
        contents = [
            image.content for image in images if isinstance(image.content, bytes)
        ]
        self.bytes_N = torch.from_numpy(
            np.frombuffer(b"".join(contents), np.uint8).copy()
        )
        self.ends = np.cumsum([0, *map(len, contents)]).tolist()

    def contents(self) -> list[UInt8[Tensor, "N"]]:
        return [
            self.bytes_N[start:end]
            for start, end in zip(self.ends[:-1], self.ends[1:], strict=True)
        ]

    def decoded(self, device: torch.device) -> list[UInt8[Tensor, "C H W"]]:
        """Raises BadImageError with the name where neither nvJPEG nor Pillow can."""
        from torchvision.io import ImageReadMode, decode_jpeg

        if not self.rows:
            return []
        mode, contents = ImageReadMode[MODES[self.channels]], self.contents()

        def decode(some: list[Tensor]) -> list[Tensor]:
            with warnings.catch_warnings():
                # torchvision is to give its decoders up
                warnings.simplefilter("ignore")
                return decode_jpeg(some, mode=mode, device=device)

        try:
            found = decode(contents)
        # one that is bad loses the batch: each alone, so that its neighbours' pixels
        # stay
        except RuntimeError:
            found = [self._alone(k, decode, device) for k in range(len(contents))]
        fits = [
            tuple(image.shape[1:]) == size
            for image, size in zip(found, self.sizes, strict=True)
        ]
        return [
            image if fits[k] else self._by_pillow(k, device)
            for k, image in enumerate(found)
        ]

    def _alone(
        self,
        k: int,
        decode: Callable[[list[Tensor]], list[Tensor]],
        device: torch.device,
    ) -> Tensor:
        try:
            return decode([self.contents()[k]])[0]
        except RuntimeError:
            return self._by_pillow(k, device)

    def _by_pillow(self, k: int, device: torch.device) -> UInt8[Tensor, "C H W"]:
        content = self.contents()[k].numpy().tobytes()
        image = decoded(Encoded(content, self.names[k], self.channels, self.sizes[k]))
        return torch.from_numpy(image).permute(2, 0, 1).to(device)


def unpacked(
    packed: Packed,
    others_BCHW: UInt8[Tensor, "K C h w"],
    boxes_B5: Int[Tensor, "B 5"],
    shape: tuple[int, int],
) -> UInt8[Tensor, "B C h w"]:
    """All of the batch on the boxes' device: its JPEGs decoded, cut and resized there; mirroring is left to be done."""
    device, boxes = boxes_B5.device, boxes_B5[:, :4].tolist()
    out = torch.empty(
        (len(boxes), packed.channels, *shape), dtype=torch.uint8, device=device
    )
    if packed.others:
        out[torch.tensor(packed.others, device=device)] = others_BCHW
    for image, rows in zip(packed.decoded(device), packed.rows, strict=True):
        for row in rows:
            top, left, height, width = boxes[row]
            out[row] = _resized(
                image[:, top : top + height, left : left + width], shape
            )
    return out


def _resized(
    cut_CHW: UInt8[Tensor, "C H W"], shape: tuple[int, int]
) -> UInt8[Tensor, "C h w"]:
    """As `decoding.resized`, in floats: a GPU has no other."""
    if tuple(cut_CHW.shape[1:]) == shape:
        return cut_CHW
    out = interpolate(cut_CHW[None].float(), size=shape, mode="bicubic", antialias=True)
    return out[0].round().clamp(0, 255).byte()
