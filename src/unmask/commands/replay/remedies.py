"""Try the usual remedies for a loss that is not finite on a recorded step.

Each is tried alone, then all together.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.overrides import TorchFunctionMode

from unmask.commands.replay.rebuild import ReplayedStep
from unmask.tasks.classify import Classify
from unmask.tasks.pretrain import Pretrain
from unmask.tasks.recompute import (
    TrainingTask,
    recompute_loss,
    recompute_sample_losses,
    select_samples,
)


class Worst(NamedTuple):
    """Point to an image: row `row` of micro-batch `part`.

    bad: how many of all images have a loss that is not finite.
    """

    part: int
    row: int
    sample: int
    loss: float
    bad: int
    images: int


def worst_image(replayed: ReplayedStep) -> Worst:
    """Return the first image with pixels that are not finite.

    If there is none, the first whose loss is not finite; else that of the largest loss.
    """
    best: tuple[tuple[bool, bool, float], int, int, float] | None = None
    bad = 0
    for part, batch in enumerate(replayed.micro_batches):
        with computed(replayed.module, replayed.record.bfloat16):
            losses = recompute_sample_losses(
                replayed.module, batch, replayed.record.step - 1
            ).tolist()
        sound = batch.images_BCHW.flatten(1).isfinite().all(dim=1).tolist()
        bad += sum(not math.isfinite(loss) for loss in losses)
        for row, loss in enumerate(losses):
            finite = math.isfinite(loss)
            weight = (not sound[row], not finite, loss if finite else 0.0)
            if best is None or weight > best[0]:
                best = (weight, part, row, loss)
    assert best is not None
    _, part, row, loss = best
    images = sum(len(batch.ids_B) for batch in replayed.micro_batches)
    return Worst(
        part, row, int(replayed.micro_batches[part].ids_B[row]), loss, bad, images
    )


CLIP = 1.0  # the largest norm of the gradient
PARTS = ("decoder", "attention")


@dataclass(frozen=True)
class Cure:
    """Change how a step is made; None and () are as recorded.

    exact: parts of the model (PARTS) that are computed in float32. rate: a factor on
    the learning rate.
    """

    name: str
    bfloat16: bool | None = None
    exact: tuple[str, ...] = ()
    clip: bool = False
    rate: float = 1.0
    without: Worst | None = None


class Outcome(NamedTuple):
    """Hold a step under a remedy.

    losses: of each micro-batch, divided by their number. gradient: its norm; clipped:
    its norm after clipping. after: the loss once the step is made.
    """

    cure: Cure
    losses: list[float]
    gradient: float
    clipped: float | None
    after: float
    processes: int

    @property
    def loss(self) -> float:
        return sum(self.losses) / self.processes

    @property
    def finite(self) -> bool:
        return all(
            math.isfinite(value) for value in (self.loss, self.gradient, self.after)
        )


def cures(replayed: ReplayedStep, worst: Worst) -> list[Cure]:
    """Return no change, each remedy that changes something, and all that combine."""
    bfloat16, module = replayed.record.bfloat16, replayed.module
    attends = any(isinstance(part, Block) for part in module.modules())
    alone = [Cure("float32 throughout", bfloat16=False)] if bfloat16 else []
    if bfloat16 and isinstance(module, Pretrain):
        alone.append(Cure("float32 decoder", exact=("decoder",)))
    if attends:
        alone.append(Cure("float32 attention", exact=("attention",)))
    alone.append(Cure(f"gradient clipping at {CLIP}", clip=True))
    alone += [] if bfloat16 else [Cure("bf16", bfloat16=True)]
    alone += [
        Cure("half the learning rate", rate=0.5),
        Cure("without this batch's worst image", without=worst),
    ]
    together = Cure(
        "all together" if bfloat16 else "all together but bf16",
        False,
        PARTS[1:] if attends else (),
        True,
        0.5,
        worst,
    )
    return [Cure("as recorded"), *alone, together]


def attempt(replayed: ReplayedStep, cure: Cure) -> Outcome:
    """Repeat the recorded step under a remedy: gradient, update, and the loss after."""
    module, processes = replayed.module, len(replayed.record.ranks)
    module.load_state_dict(replayed.record.state["state_dict"])
    module.zero_grad()
    share = len(replayed.micro_batches) // processes
    losses = []
    for loss in _forward(replayed, cure):
        (loss / share / processes).backward()
        losses.append(float(loss.detach() / share))
    gradient, clipped = _norm(module), None
    if cure.clip:
        clip_grad_norm_(module.parameters(), CLIP)
        clipped = _norm(module)
    made: Any = module.configure_optimizers()
    # load_state_dict would take the moments themselves, and the step would change the
    # record
    made["optimizer"].load_state_dict(
        deepcopy(replayed.record.state["optimizer_states"][0])
    )
    for group in made["optimizer"].param_groups:
        group["lr"] *= cure.rate
    made["optimizer"].step()
    with torch.no_grad():
        after = (
            sum(float(loss.detach() / share) for loss in _forward(replayed, cure))
            / processes
        )
    return Outcome(cure, losses, gradient, clipped, after, processes)


def _norm(module: nn.Module) -> float:
    """Return the norm of the gradient, as it was recorded."""
    return float(
        get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    )


def _forward(replayed: ReplayedStep, cure: Cure) -> Iterator[Tensor]:
    """Yield the loss of each micro-batch."""
    for index, batch in enumerate(replayed.micro_batches):
        without = cure.without if cure.without and cure.without.part == index else None
        if without:
            count, mixed = (
                len(batch.ids_B),
                isinstance(replayed.module, Classify)
                and replayed.module.mixup is not None,
            )
            # mixed with its mirror image
            gone = {without.row, count - 1 - without.row} if mixed else {without.row}
            batch = select_samples(batch, [i for i in range(count) if i not in gone])
            if not len(batch.ids_B):
                continue
        bfloat16 = replayed.record.bfloat16 if cure.bfloat16 is None else cure.bfloat16
        with computed(replayed.module, bfloat16, cure.exact):
            loss = recompute_loss(replayed.module, batch, replayed.record.step - 1)
        yield loss


@contextmanager
def computed(
    module: TrainingTask, bfloat16: bool, exact: tuple[str, ...] = ()
) -> Iterator[None]:
    """Compute as Lightning's bf16-mixed or 32-true does, except for the exact parts."""
    parts: list[nn.Module] = []
    if "decoder" in exact and isinstance(module, Pretrain):
        parts.append(module.model.decoder)
    if "attention" in exact:
        parts += [part.attn for part in module.modules() if isinstance(part, Block)]
    with ExitStack() as stack:
        stack.enter_context(
            torch.autocast(module.device.type, torch.bfloat16, enabled=bfloat16)
        )
        if "attention" in exact:
            stack.enter_context(PlainAttention())
        for part in parts:
            vars(part)["forward"] = partial(_exactly, part.forward)
            stack.callback(vars(part).pop, "forward")
        yield


def _exactly(forward: Any, *given: Any, **named: Any) -> Any:
    """Call the same function with float32 inputs, outside of autocast."""
    floats = [
        (
            value.float()
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
        )
        for value in given
    ]
    device = next(value for value in given if isinstance(value, Tensor)).device.type
    with torch.autocast(device, enabled=False):
        return forward(*floats, **named)


class PlainAttention(TorchFunctionMode):
    """Compute attention by matrix products and softmax in float32, not fused."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with sdpa_kernel(SDPBackend.MATH):
            return _exactly(func, *args, **(kwargs or {})).to(args[2].dtype)
