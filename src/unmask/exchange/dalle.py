"""DALL-E's published encoder, a pickled module of classes that are not here, opened without running any of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unmask.exchange.files import open_weights, unpickled
from unmask.tokenizers import DallEEncoder

PICKLED = (  # the classes that https://cdn.openai.com/dall-e/encoder.pkl is made of
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.linear.Identity",
)


class Inert:
    """In place of every class of the file: it keeps what was stored in an instance and can do nothing."""


def read_dalle(path: Path) -> DallEEncoder:
    """The encoder of the published encoder.pkl, or of a file of its state dict (PyTorch's or safetensors).

    Raises ValueError where the file is damaged, wants any class but those of the published one, or has other tensors.
    """
    tensors = _tensors(path)
    first, last = tensors.get("blocks.input.w"), tensors.get("blocks.output.conv.w")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        raise ValueError(
            f"{path} is not DALL-E's encoder: its tensors are"
            f" [{', '.join(sorted(tensors)[:3])}, ...]; wanted are those of"
            " https://cdn.openai.com/dall-e/encoder.pkl (blocks.input.w, ...)"
        )
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path}: {broken[0]} is not finite; copy or download the file again"
        )
    encoder = DallEEncoder(
        codes=last.shape[0], width=first.shape[0], channels=first.shape[1]
    )
    try:
        encoder.load_state_dict(tensors)
    # one line for each tensor that is missing, unknown or of another shape
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit DALL-E's encoder: {' '.join(str(error).split())}"
        ) from None
    return encoder


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.is_file() and path.suffix != ".safetensors":
        content = unpickled(path, [(Inert, name) for name in PICKLED])
        if isinstance(content, Inert):
            return _collected(content, "")
    return open_weights(path).tensors


def _collected(module: Inert, prefix: str) -> dict[str, Tensor]:
    """Parameters and buffers by their names in a state dict, out of the dictionaries that nn.Module keeps them in."""
    held, found = vars(module), {}
    for kind in ("_parameters", "_buffers"):
        for name, value in _mapping(held.get(kind)).items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value.detach()
    for name, child in _mapping(held.get("_modules")).items():
        if isinstance(child, Inert):
            found |= _collected(child, f"{prefix}{name}.")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
