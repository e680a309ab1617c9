"""Say which precision is faster for a config's blocks on this machine.

`python -m unmask.training.precision_choice` reads the config from stdin, as JSON.
"""

import json
import sys

import torch

from unmask.config.schema import Config
from unmask.config.trainer import Settled
from unmask.encoder import transformer_blocks
from unmask.training.build import count_visible, training_device
from unmask.training.kernel_choice import (
    MIN_GAIN,
    ROUNDS,
    BlockShape,
    cached_choice,
    measure,
    stage_shapes,
    time_block,
)


def faster_precision(config: Config) -> Settled:
    """Return the precision in which the blocks of pretraining take less time.

    float32 where bfloat16 is not faster by MIN_GAIN.
    """
    images = min(
        config.pretrain.batch_size,
        config.trainer.micro_batch or config.pretrain.batch_size,
    )
    shapes = stage_shapes(config, "pretrain", images, count_visible(config))
    device = training_device(config)
    float32, bfloat16 = (
        (cached_choice(shapes, is_mixed) or measure(shapes, is_mixed)).seconds
        if device.type == "cpu"
        else sum(_seconds_on(device, shape, is_mixed) for shape in shapes)
        for is_mixed in (False, True)
    )
    return "bf16-mixed" if bfloat16 * MIN_GAIN < float32 else "32-true"


def _seconds_on(device: torch.device, shape: BlockShape, is_mixed: bool) -> float:
    """Return the seconds of all blocks of a shape on a GPU, back and forth."""
    (block,) = transformer_blocks(shape.width, 1, shape.heads, shape.mlp_ratio)
    block.to(device)
    size = (shape.images, shape.tokens, shape.width)
    tokens_BTD = torch.randn(size, device=device, requires_grad=True)
    taken = [time_block(block, tokens_BTD, is_mixed) for _ in range(ROUNDS)]
    return shape.depth * min(taken[1:])


if __name__ == "__main__":
    print(faster_precision(Config.model_validate(json.load(sys.stdin))))
