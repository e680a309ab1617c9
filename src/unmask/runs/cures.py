"""What is usually tried when a loss is not finite, on the very step: each cure alone, then all together."""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from unmask.runs.arithmetic import computed
from unmask.runs.recorded import Scene
from unmask.runs.worst import Worst
from unmask.tasks.again import loss_again, rows
from unmask.tasks.classify import Classify
from unmask.tasks.pretrain import Pretrain

CLIP = 1.0  # the largest norm of the gradient
PARTS = ("decoder", "attention")


@dataclass(frozen=True)
class Cure:
    """Ways in which a step is made otherwise than recorded; None and () are as recorded.

    exact: parts of the model, of PARTS, that are computed in float32. rate: on the learning rate.
    """

    name: str
    bfloat16: bool | None = None
    exact: tuple[str, ...] = ()
    clip: bool = False
    rate: float = 1.0
    without: Worst | None = None


class Outcome(NamedTuple):
    """A step under a cure. losses: of each micro-batch, over their number; after: the step's loss once it is made."""

    cure: Cure
    losses: list[float]
    gradient: float  # its norm
    clipped: float | None  # its norm once it is clipped
    after: float
    processes: int

    @property
    def loss(self) -> float:
        return sum(self.losses) / self.processes

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for value in (self.loss, self.gradient, self.after))


def cures(scene: Scene, worst: Worst) -> list[Cure]:
    """As recorded, each cure that would change something, and those together that go together."""
    bfloat16, module = scene.record.bfloat16, scene.module
    attends = any(isinstance(part, Block) for part in module.modules())
    alone = [Cure("float32 throughout", bfloat16=False)] if bfloat16 else []
    if bfloat16 and isinstance(module, Pretrain):
        alone.append(Cure("float32 decoder", exact=("decoder",)))
    if attends:
        alone.append(Cure("float32 attention", exact=("attention",)))
    alone.append(Cure(f"gradient clipping at {CLIP}", clip=True))
    alone += [] if bfloat16 else [Cure("bf16", bfloat16=True)]
    alone += [Cure("half the learning rate", rate=0.5), Cure("without this batch's worst image", without=worst)]
    together = Cure(
        "all together" if bfloat16 else "all together but bf16", False, PARTS[1:] if attends else (), True, 0.5, worst
    )
    return [Cure("as recorded"), *alone, together]


def attempt(scene: Scene, cure: Cure) -> Outcome:
    """The recorded step under a cure, from the recorded state: forward, backward, update, and the loss after it."""
    module, processes = scene.module, len(scene.record.ranks)
    module.load_state_dict(scene.record.state["state_dict"])
    module.zero_grad()
    share = len(scene.parts) // processes
    losses = []
    for loss in _forward(scene, cure):
        (loss / share / processes).backward()
        losses.append(float(loss.detach() / share))
    gradient, clipped = _norm(module), None
    if cure.clip:
        clip_grad_norm_(module.parameters(), CLIP)
        clipped = _norm(module)
    made: Any = module.configure_optimizers()
    # load_state_dict would take the moments themselves, and the step would change the record
    made["optimizer"].load_state_dict(deepcopy(scene.record.state["optimizer_states"][0]))
    for group in made["optimizer"].param_groups:
        group["lr"] *= cure.rate
    made["optimizer"].step()
    with torch.no_grad():
        after = sum(float(loss.detach() / share) for loss in _forward(scene, cure)) / processes
    return Outcome(cure, losses, gradient, clipped, after, processes)


def _norm(module: nn.Module) -> float:
    """Of the gradient, as the recorder computes it."""
    return float(get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def _forward(scene: Scene, cure: Cure) -> Iterator[Tensor]:
    """The loss of each micro-batch in turn."""
    for index, batch in enumerate(scene.parts):
        without = cure.without if cure.without and cure.without.part == index else None
        if without:
            count, mixed = len(batch.ids_B), isinstance(scene.module, Classify) and scene.module.mixing is not None
            gone = {without.row, count - 1 - without.row} if mixed else {without.row}  # mixed with its mirror image
            batch = rows(batch, [i for i in range(count) if i not in gone])
            if not len(batch.ids_B):
                continue
        bfloat16 = scene.record.bfloat16 if cure.bfloat16 is None else cure.bfloat16
        with computed(scene.module, bfloat16, cure.exact):
            loss = loss_again(scene.module, batch, scene.record.step - 1)
        yield loss
