"""How a classifier fares on images it was not trained for: corrupted ones, and other sets of the same classes."""

from dataclasses import dataclass

import lightning as L
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from unmask.data.corruptions import corrupt
from unmask.data.module import Evaluation
from unmask.randomness import Key
from unmask.tasks.features import Extract, joint


@dataclass(frozen=True)
class Corruption:
    """One of the 15 at one severity, for whole batches: the same for an image in any batch."""

    name: str
    severity: int
    key: Key

    def __call__(
        self, images_BCHW: UInt8[Tensor, "B C H W"], epoch: int, ids_B: Int[Tensor, "B"]
    ) -> UInt8[Tensor, "B C H W"]:
        return corrupt(images_BCHW, self.name, self.severity, self.key, ids_B)


def accuracy(trainer: L.Trainer, model: nn.Module, data: Evaluation, classes: tuple[int, ...]) -> float:
    """Top-1 in per cent, among `classes` alone.

    ImageNet-A and -R hold 200 of the 1,000 classes; their authors leave the other logits out.
    """
    predicted = trainer.predict(Extract(model), datamodule=data)
    assert predicted is not None
    logits_NK, labels_N = joint(predicted).measured()
    return 100 * right(logits_NK, labels_N, classes).double().mean().item()


def right(logits_NK: Float[Tensor, "N K"], labels_N: Int[Tensor, "N"], classes: tuple[int, ...]) -> Int[Tensor, "N"]:
    """1 where the best of the allowed classes is the label."""
    allowed = torch.full((logits_NK.shape[1],), float("-inf")).index_fill(0, torch.tensor(classes), 0.0)
    return ((logits_NK + allowed).argmax(dim=1) == labels_N).int()
