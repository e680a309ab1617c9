"""Pixels as tensors: bytes, or the shares of a range that `depth` computes."""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

PixelTensor = UInt8[Tensor, "..."] | Float32[Tensor, "..."]
PixelBatch = UInt8[Tensor, "B C H W"] | Float32[Tensor, "B C H W"]


def bytes_to_shares(pixels: PixelTensor) -> Float32[Tensor, "..."]:
    """Return bytes as shares of 255; shares stay as they are."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def shares_to_bytes(pixels: PixelTensor) -> UInt8[Tensor, "..."]:
    """Round shares to 8 bits; bytes stay as they are."""
    return pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().byte()


def concatenate(batches: list[PixelTensor]) -> PixelTensor:
    """Return one batch; of bytes only where all are, otherwise of shares."""
    if any(batch.is_floating_point() for batch in batches):
        batches = [bytes_to_shares(batch) for batch in batches]
    return torch.cat(batches)
