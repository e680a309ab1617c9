"""The three conversions that change tensors, and not only their names."""

import torch
from torch import Tensor

from unmask.exchange.names import QKV, QKV_PIECE, split_name


def split_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split fused matrices into query, key and value."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        pieces = value.chunk(3) if ".qkv." in name else (value,)
        result.update(zip(split_name(name), pieces, strict=True))
    return result


def fuse_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fuse query, key and value: the inverse of split_qkv."""
    result = {}
    for name, value in tensors.items():
        if not QKV_PIECE.search(name):
            result[name] = value
        # The query stands for all three.
        elif ".attn.q." in name:
            pieces = [
                tensors[name.replace(".attn.q.", f".attn.{part}.")] for part in QKV
            ]
            result[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(pieces)
    return result


def flatten_kernel(kernel: Tensor) -> Tensor:
    """Turn a convolution's (width, channel, row, column) into this project's matrix.

    Returns (width, row * column * channel).
    """
    return kernel.permute(0, 2, 3, 1).flatten(1)


def to_conv_kernel(matrix: Tensor, patch_size: int) -> Tensor:
    """Return the convolution's kernel: the inverse of flatten_kernel."""
    return matrix.unflatten(1, (patch_size, patch_size, -1)).permute(0, 3, 1, 2)


def shape_text(tensor: Tensor) -> str:
    """Return the shape as a tuple is printed: (3, 16, 16)."""
    return str(tuple(tensor.shape))
