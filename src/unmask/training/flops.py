"""FLOPs per image, counted by torch on the very modules that train.

The modules are built without values, and nothing is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unmask.initialisation import skip_initialisation
from unmask.mae import num_parameters
from unmask.training.outline import Outline

# images: BatchNorm wants more than one, and counts are linear in their number
BATCH = 2


@dataclass(frozen=True)
class Flops:
    """Hold the FLOPs of one image, by part.

    A multiply-add is 2, and matrix products alone are counted. after_encoder: of the
    decoder or head; *_training: of forward and backward pass together. parameters: all,
    fixed positions included, as in published sizes; trained: those with gradients.
    """

    encoder: float
    after_encoder: float
    encoder_training: float
    after_encoder_training: float
    parameters: int
    trained: int

    @property
    def forward(self) -> float:
        """Return the FLOPs of a forward pass."""
        return self.encoder + self.after_encoder

    @property
    def training(self) -> float:
        """Return the FLOPs of a forward and a backward pass."""
        return self.encoder_training + self.after_encoder_training


def count_flops(build: Callable[[], Outline], backward: bool = True) -> Flops:
    """Build an outline without values and count its passes.

    Without `backward`, training counts as a forward pass.
    """
    # random weights cannot be drawn there, and would change nothing
    with torch.device("meta"), skip_initialisation():
        outline = build()
        model = outline.model.train()
        forward, after_encoder = _count_pass(outline, backward=False)
        training, after_encoder_training = forward, after_encoder
        trained = num_parameters(model, trainable_only=True)
        if trained and backward:
            training, after_encoder_training = _count_pass(outline, backward=True)
    return Flops(
        forward - after_encoder,
        after_encoder,
        training - after_encoder_training,
        after_encoder_training,
        num_parameters(model),
        trained,
    )


def _count_pass(outline: Outline, backward: bool) -> tuple[float, float]:
    """Return the FLOPs an image of all parts, and of those after the encoder."""
    with FlopCounterMode(display=False) as counter:
        loss = outline.loss(outline.inputs(BATCH))
        if backward:
            loss.backward()
    flops = {
        module: sum(by_operation.values()) / BATCH
        for module, by_operation in counter.get_flop_counts().items()
    }
    names = [_counter_name(outline.model, part) for part in outline.after_encoder]
    # parts without a matrix product are not listed
    return flops["Global"], sum(flops.get(name, 0.0) for name in names)


def _counter_name(model: nn.Module, part: nn.Module) -> str:
    """Return torch's name for a part: the class of the model, then the path in it."""
    path = next(name for name, module in model.named_modules() if module is part)
    return f"{type(model).__name__}.{path}"
