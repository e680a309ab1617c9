"""FLOPs per image, counted by torch on the very modules that train, without values and without arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unmask.initialisation import without_values
from unmask.mae import num_parameters
from unmask.training.outline import Outline

BATCH = 2  # images: BatchNorm wants more than one; counts are linear in them


@dataclass(frozen=True)
class Flops:
    """Of one image, 2 to a multiply-add, matrix products alone; training is forward and backward.

    after: of what follows the encoder, a decoder or a head. parameters: as in published sizes, with fixed positions.
    """

    encoder: float
    after: float
    encoder_training: float
    after_training: float
    parameters: int
    trained: int

    @property
    def forward(self) -> float:
        return self.encoder + self.after

    @property
    def training(self) -> float:
        return self.encoder_training + self.after_training


def count(make: Callable[[], Outline], backward: bool = True) -> Flops:
    """Build the outline where there are no values and count one forward pass, then one with its backward pass.

    Without `backward`, training is taken to be a forward pass.
    """
    with torch.device("meta"), without_values():
        outline = make()
        model = outline.model.train()
        forward, after = _counted(outline, backward=False)
        trained = num_parameters(model, trainable_only=True)
        training, after_training = (
            _counted(outline, backward=True)
            if trained and backward
            else (forward, after)
        )
    return Flops(
        forward - after,
        after,
        training - after_training,
        after_training,
        num_parameters(model),
        trained,
    )


def _counted(outline: Outline, backward: bool) -> tuple[float, float]:
    """FLOPs an image: of everything, and of what follows the encoder."""
    with FlopCounterMode(display=False) as counter:
        loss = outline.loss(outline.inputs(BATCH))
        if backward:
            loss.backward()
    counts = {
        name: sum(of.values()) / BATCH for name, of in counter.get_flop_counts().items()
    }
    after = sum(counts.get(_name(outline.model, part), 0.0) for part in outline.after)
    return counts["Global"], after


def _name(model: nn.Module, part: nn.Module) -> str:
    """As the counter names it: the class of the whole, then the path."""
    path = next(name for name, module in model.named_modules() if module is part)
    return f"{type(model).__name__}.{path}"
