"""Memory of a training step, by part, counted on the modules without their values.

The most memory is needed at the end of the forward pass. Then all of this is there at
once: the weights, the gradients of the last step, the optimizer's state, everything
that the backward pass will read, and the working space of the layer that is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from unmask.commands.plan.forward_bytes import FusedAttention, count_forward_bytes
from unmask.initialisation import skip_initialisation
from unmask.training.outline import Outline

FLOAT_BYTES = 4
# state of each trained parameter: AdamW has two moments, LARS has one
OPTIMIZER_STATE_BYTES = {"adamw": 2 * FLOAT_BYTES, "lars": FLOAT_BYTES, "lbfgs": 0}
# share of a device that is left to the driver and to gaps between allocations
FREE_SHARE = 0.1
# two batches tell what grows with the batch from what does not
SMALL_BATCH = 32
LARGE_BATCH = 64


@dataclass(frozen=True)
class Memory:
    """Hold bytes by part; from `encoder` on they are of one image.

    bf16_copies: autocast's copies of the weights. encoder, after_encoder (decoder or
    head): what the backward pass will read. working: what lives only within a layer,
    which is all there is of a frozen encoder.
    """

    weights: float
    gradients: float
    optimizer: float
    bf16_copies: float
    encoder: float
    after_encoder: float
    working: float
    inputs: float

    def parts(self, batch: int) -> dict[str, float]:
        """Return the bytes by part, for that many images on the device."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser state": self.optimizer,
            "bf16 copies of weights": self.bf16_copies,
            "kept by the encoder": batch * self.encoder,
            "kept by decoder or head": batch * self.after_encoder,
            "working space": batch * self.working,
            "images and masks": batch * self.inputs,
        }

    def peak(self, batch: int) -> float:
        return sum(self.parts(batch).values())

    def largest_batch(self, capacity: float) -> int:
        """Return how many images fit a device of `capacity` bytes; 0 if none does.

        A tenth of the device is left free.
        """
        # peak(batch) = fixed + batch * per_image
        fixed = self.peak(0)
        per_image = self.peak(1) - fixed
        return max(0, int(((1 - FREE_SHARE) * capacity - fixed) // per_image))

    def largest_divisor(self, capacity: float, batch: int) -> int:
        """Return the largest divisor of the batch that fits; 0 if no image does."""
        sizes = range(min(self.largest_batch(capacity), batch), 0, -1)
        return next((size for size in sizes if batch % size == 0), 0)


def count_memory(
    make: Callable[[], Outline],
    precision: str,
    optimizer: str = "adamw",
    device: str = "cuda",
    average: bool = False,
) -> Memory:
    """Count the memory of one training step of an outline.

    precision: 32-true or bf16-mixed. device: with `cpu`, short sequences take the
    explicit attention, as they do there. average: whether an averaged copy of the
    weights is kept.
    """
    is_mixed = precision == "bf16-mixed"
    autocast_device = device if is_mixed else None
    with (
        FakeTensorMode(),
        torch.device(device),
        skip_initialisation(),
        FusedAttention(),
    ):
        outline = make()
        small = count_forward_bytes(outline, SMALL_BATCH, autocast_device)
        large = count_forward_bytes(outline, LARGE_BATCH, autocast_device)
        parameters = list(outline.model.parameters())
    per_image = {
        name: (large[name] - small[name]) / (LARGE_BATCH - SMALL_BATCH)
        for name in small
    }
    # what does not grow with the batch are autocast's copies of the weights
    bf16_copies = small["peak"] - SMALL_BATCH * per_image["peak"] if is_mixed else 0.0
    num_parameters = sum(p.numel() for p in parameters)
    num_trained = sum(p.numel() for p in parameters if p.requires_grad)
    return Memory(
        weights=FLOAT_BYTES * num_parameters * (2 if average else 1),
        gradients=FLOAT_BYTES * num_trained,
        optimizer=OPTIMIZER_STATE_BYTES[optimizer] * num_trained,
        bf16_copies=bf16_copies,
        encoder=per_image["encoder"],
        after_encoder=per_image["after"],
        working=per_image["peak"] - per_image["encoder"] - per_image["after"],
        inputs=per_image["inputs"],
    )
