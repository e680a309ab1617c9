"""Read DALL-E's published encoder without its package, and without running its code.

The file is a pickled module whose classes are not installed here.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from unmask.exchange.files import load_content, load_pickle
from unmask.exchange.header import read_header
from unmask.exchange.stand_ins import StandIn, collect_state
from unmask.tokenizers import DallEEncoder

URL = "https://cdn.openai.com/dall-e/encoder.pkl"
# The classes that the published file is made of; any other is refused.
PUBLISHED_CLASSES = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.linear.Identity",
)


def read_dalle(path: Path) -> DallEEncoder:
    """Read the published encoder.pkl, or a file of its state dict.

    A state dict may be in PyTorch's format or in safetensors. Raises ValueError if
    the file is damaged, needs other classes, or has other tensors.
    """
    tensors = _read_tensors(path)
    first = tensors.get("blocks.input.w")
    last = tensors.get("blocks.output.conv.w")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        raise ValueError(
            f"{path} is not DALL-E's encoder: its tensors are"
            f" [{', '.join(sorted(tensors)[:3])}, ...]; wanted are those of"
            f" {URL} (blocks.input.w, ...)"
        )
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path}: {broken[0]} is not finite; copy or download the file again"
        )
    # Convolution kernels are (outputs, inputs, height, width).
    encoder = DallEEncoder(
        codes=last.shape[0], width=first.shape[0], channels=first.shape[1]
    )
    try:
        encoder.load_state_dict(tensors)
    # torch has a line for each tensor that is missing, unknown or of another shape.
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit DALL-E's encoder: {' '.join(str(error).split())}"
        ) from None
    return encoder


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.is_file() and path.suffix != ".safetensors":
        content = load_pickle(path, [(StandIn, name) for name in PUBLISHED_CLASSES])
        if isinstance(content, StandIn):
            return collect_state(content)
    else:
        content = load_content(read_header(path))
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not DALL-E's encoder; wanted is"
            f" {URL}"
        )
    return {str(n): value for n, value in content.items() if isinstance(value, Tensor)}
