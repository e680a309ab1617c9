"""A training step that is not finite stops the run and is kept, so that src/replay.py can make it again.

The look comes when all gradients of a step are there and its update is not: the recorded weights and moments are
those before the step. On a CPU, and with LARS, the look is direct. On a GPU that would make the host wait in every
step, so the verdict stays on the device: there it tells the fused AdamW to leave weights and moments alone
(`found_inf`, made for gradient scalers), and the host reads it one step later, when it has long arrived.
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from unmask.callbacks.nonfinite_record import FOLDER, Step, write_record
from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.distributed.collectives import full_tensor


class SpikeRule(NamedTuple):
    """A step is a spike if its loss is more than `factor` times the mean of the last `window` steps that were made.

    limit: how many may be skipped in a stage.
    """

    factor: float
    window: int
    limit: int


class SpikeDetector:
    """Knows the losses of the steps before."""

    def __init__(self, rule: SpikeRule) -> None:
        self.rule = rule
        # not a number: no such step yet
        self.recent_W = torch.full((rule.window,), torch.nan)
        # how many on the device; the host may be a step behind
        self.spiked = torch.zeros(())
        self.skipped = 0  # as far as the host has looked

    def judge(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """1 for a spike, else 0, on the loss's device; the loss of a step that is made is remembered."""
        self.recent_W = self.recent_W.to(loss.device)
        # a mean with missing numbers is not a number, and nothing is larger than that:
        # no verdict in the first steps
        spike = loss > self.rule.factor * self.recent_W.mean()
        made = torch.cat([self.recent_W[1:], loss[None]])
        self.recent_W = torch.where(spike, self.recent_W, made)
        self.spiked = self.spiked.to(loss.device) + spike
        return spike.float()

    def count(self, step: int, loss: float) -> str | None:
        """One more was skipped; what to say when these are too many."""
        self.skipped += 1
        if self.skipped <= self.rule.limit:
            return None
        return (
            f"the training loss jumped to {loss:.4g} at step {step}, more than"
            f" {self.rule.factor:g} times the mean of {self.rule.window} steps before,"
            f" and so it did {self.skipped} times: spikes.limit={self.rule.limit} are"
            " allowed"
        )

    def state(self) -> dict[str, Any]:
        return {"recent": self.recent_W.tolist(), "skipped": int(self.spiked)}

    def load(self, state: dict[str, Any]) -> None:
        self.recent_W, self.skipped = (
            torch.tensor(state["recent"]),
            int(state["skipped"]),
        )
        self.spiked = torch.tensor(float(self.skipped))


class NonfiniteGuard(L.Callback):
    """Raises FloatingPointError at the first loss or gradient that is NaN or infinite, after writing nonfinite/.

    about: what checkpoints say of the stage, the plain config included. Each of several processes records its own
    samples (record.rank<k>.json), the first one the weights: all stop at the same step. To stand before all callbacks
    that write. spikes: finite steps that are not made either; one too many of them raises and is recorded, too.
    """

    def __init__(
        self, folder: Path, about: dict[str, Any], spikes: SpikeDetector | None = None
    ) -> None:
        self.folder, self.about, self.spikes = folder / FOLDER, about, spikes
        self.parts: list[tuple[int, Tensor]] = []
        self.losses: list[Tensor] = []
        self.step: Step | None = None  # not yet looked at

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.parts.append((batch.epoch, batch.ids_B))

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        self.look(trainer, pl_module)
        self.losses.append(loss.detach().float())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        # a norm beyond float32 counts as infinite: Adam's squares of such a gradient
        # are
        seen = torch.stack(
            [*self.losses, full_tensor(get_total_norm(gradients)).float()]
        )
        # gradients are shared, losses are not: each process must know of the others'
        # faults
        fault, loss = (~seen.isfinite().all()).float(), torch.stack(self.losses).sum()
        faults, total = collectives.all_reduce_sum(torch.stack([fault, loss]))
        loss = total / collectives.world_size()
        spike = self.spikes.judge(loss) if self.spikes else torch.zeros_like(loss)
        lags = lagging(seen.device) and bool(optimizer.defaults.get("fused"))
        if lags or self.spikes:
            optimizer.found_inf = (faults + spike).clamp(max=1)  # type: ignore[attr-defined]
        seen = torch.cat([seen, torch.stack([loss, faults, spike])]).to(
            "cpu", non_blocking=lags
        )
        ready = torch.cuda.Event() if lags and torch.cuda.is_available() else None
        if ready:
            ready.record()
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.step = step = Step(trainer.global_step + 1, self.parts, rates, seen, ready)
        self.parts, self.losses = [], []
        if not lags:
            self.look(trainer, pl_module)
            if step.spike and not optimizer.defaults.get("fused"):
                # LARS knows no found_inf; what has no gradient stays
                optimizer.zero_grad(set_to_none=True)

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """At the newest step, once."""
        step, self.step = self.step, None
        if step is None:
            return
        if step.ready:
            step.ready.synchronize()
        if step.faults:
            gradient = (
                f" and the gradient's norm {step.gradient_norm}"
                if step.losses.isfinite().all()
                else ""
            )
            raise FloatingPointError(
                f"the training loss is {float(step.losses.sum())}{gradient} (not"
                f" finite) at step {step.number}" + self._kept(trainer, pl_module, step)
            )
        if (
            self.spikes
            and step.spike
            and (too_many := self.spikes.count(step.number, step.loss))
        ):
            raise FloatingPointError(too_many + self._kept(trainer, pl_module, step))

    @property
    def state_key(self) -> str:
        """Name its state in checkpoints as 0.1 did, whose runs go on."""
        return "Recorder"

    def state_dict(self) -> dict[str, Any]:
        return self.spikes.state() if self.spikes else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.spikes and state_dict:
            self.spikes.load(state_dict)

    # a step may not have been looked at there
    on_validation_start = on_save_checkpoint = on_train_end = look

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Where journal or keeper find the step before the look that lags behind, theirs gets this text."""
        if isinstance(exception, FloatingPointError):
            try:
                self.look(trainer, pl_module)
            except FloatingPointError as fuller:
                exception.args = fuller.args

    def _kept(self, trainer: L.Trainer, module: Any, step: Step) -> str:
        """Write the record; where it lies and what to do, in words."""
        if trainer.is_global_zero:
            shutil.rmtree(self.folder, ignore_errors=True)
        trainer.strategy.barrier()
        try:
            write_record(self.folder, trainer, module, step, self.about)
            where = f"it is kept in {self.folder}"
        # the first fault must not be hidden by another
        except (OSError, RuntimeError, ValueError) as error:
            where = f"no record of it could be written ({error})"
        trainer.strategy.barrier()
        return (
            f"; this step was not made, and {where}; lower base_lr, lengthen"
            " warmup_epochs, or see what would have helped: python src/replay.py"
            f" {self.folder.parent}"
        )


def lagging(device: torch.device) -> bool:
    """Whether to ask the device for a number makes the host wait for it."""
    return device.type == "cuda"
