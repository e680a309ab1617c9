"""Stop at a non-finite training step, and record it for src/replay.py.

The guard looks at a step when its gradients are there and its update is not: the
recorded weights and moments are those before the step. On a CPU, and with LARS, it
reads the verdict directly. On a GPU that would make the host wait in every step, so the
verdict stays on the device: there it tells the fused AdamW to leave weights and moments
alone (`found_inf`, made for gradient scalers), and the host reads it one step later,
when it has long arrived.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from unmask.callbacks.nonfinite_record import (
    RECORD_FOLDER,
    ObservedStep,
    write_record,
)
from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.distributed.collectives import full_tensor


class SpikeRule(NamedTuple):
    """Skip a step whose loss exceeds `factor` times the mean of the last steps' losses.

    window: how many steps that mean is over; skipped ones do not count. limit: how many
    steps a stage may skip.
    """

    factor: float
    window: int
    limit: int


class SpikeDetector:
    """Compare each step's loss with those of the steps before."""

    def __init__(self, rule: SpikeRule) -> None:
        self.rule = rule
        # NaN stands for steps that were not made yet.
        self.recent_W = torch.full((rule.window,), torch.nan)
        # Spikes so far, on the device; the host may be a step behind.
        self.spiked = torch.zeros(())
        # Spikes that the host has read.
        self.skipped = 0

    def judge(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return 1 for a spike, else 0, on the loss's device.

        Any other loss is remembered for the next steps.
        """
        self.recent_W = self.recent_W.to(loss.device)
        # No verdict in the first steps: a mean with a NaN is NaN, and no loss is
        # greater.
        spike = loss > self.rule.factor * self.recent_W.mean()
        updated_W = torch.cat([self.recent_W[1:], loss[None]])
        self.recent_W = torch.where(spike, self.recent_W, updated_W)
        self.spiked = self.spiked.to(loss.device) + spike
        return spike.float()

    def count_skipped(self, step: int, loss: float) -> str | None:
        """Count one more skipped step; return an error message if they are too many."""
        self.skipped += 1
        if self.skipped <= self.rule.limit:
            return None
        return (
            f"the training loss jumped to {loss:.4g} at step {step}, more than"
            f" {self.rule.factor:g} times the mean of {self.rule.window} steps before;"
            f" this is jump number {self.skipped}, and spikes.limit={self.rule.limit}"
            f" allows {self.rule.limit}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"recent": self.recent_W.tolist(), "skipped": int(self.spiked)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent_W = torch.tensor(state["recent"])
        self.skipped = int(state["skipped"])
        self.spiked = torch.tensor(float(self.skipped))


class NonfiniteGuard(L.Callback):
    """Raise FloatingPointError at the first NaN or infinite loss or gradient.

    Before that, write the record into nonfinite/: all ranks stop at the same step, and
    each records its own samples (record.rank<k>.json), rank zero the weights too. With
    `spikes`, finite steps are skipped whose loss is a spike; one too many of them
    raises and is recorded as well. Must come before all callbacks that write.
    """

    def __init__(
        self,
        folder: Path,
        metadata: dict[str, Any],
        spikes: SpikeDetector | None = None,
        report_norm: Callable[[Tensor], object] = lambda norm: None,
    ) -> None:
        """Record below `folder`; `metadata` is what checkpoints say of the stage.

        report_norm: takes the gradient's norm in each step, on its device.
        """
        self.report_norm = report_norm
        self.folder = folder / RECORD_FOLDER
        self.metadata = metadata
        self.spikes = spikes
        # Of the step under way: (epoch, sample ids) and loss of each micro-batch.
        self.micro_batches: list[tuple[int, Tensor]] = []
        self.losses: list[Tensor] = []
        # The newest step, until the host has read its verdict.
        self.unread_step: ObservedStep | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, *_: Any
    ) -> None:
        self.micro_batches.append((batch.epoch, batch.ids_B))

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        self.check(trainer, pl_module)
        self.losses.append(loss.detach().float())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        # A norm beyond float32 counts as infinite: Adam's squares of such a gradient
        # are.
        norm = full_tensor(get_total_norm(_gradients(optimizer))).float()
        self.report_norm(norm)
        observed = torch.stack([*self.losses, norm])
        fault = (~observed.isfinite().all()).float()
        loss = torch.stack(self.losses).sum()
        # Gradients are shared, losses are not: each rank must know of the others'
        # faults.
        faults, total = collectives.all_reduce_sum(torch.stack([fault, loss]))
        loss = total / collectives.world_size()
        spike = self.spikes.judge(loss) if self.spikes else torch.zeros_like(loss)

        is_fused = bool(optimizer.defaults.get("fused"))
        late = reads_late(observed.device) and is_fused
        if late or self.spikes:
            skip = (faults + spike).clamp(max=1)
            optimizer.found_inf = skip  # type: ignore[attr-defined]
        observed = torch.cat([observed, torch.stack([loss, faults, spike])])
        values = observed.to("cpu", non_blocking=late)
        # Right after the copy: when the event has passed, the values have arrived.
        arrived = _record_event() if late else None
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        number = trainer.global_step + 1
        step = ObservedStep(number, self.micro_batches, rates, values, arrived)
        self.unread_step = step
        self.micro_batches = []
        self.losses = []
        if not late:
            self.check(trainer, pl_module)
            if step.is_spike and not is_fused:
                # LARS knows no found_inf, and skips parameters without a gradient.
                optimizer.zero_grad(set_to_none=True)

    def check(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Read the newest step's verdict, once; record the step and raise if need be.

        Raises FloatingPointError.
        """
        step, self.unread_step = self.unread_step, None
        if step is None:
            return
        if step.arrived:
            step.arrived.synchronize()
        if step.num_faults:
            gradient = ""
            if step.losses.isfinite().all():
                gradient = f" and the gradient's norm {step.gradient_norm}"
            loss = float(step.losses.sum())
            raise FloatingPointError(
                f"the training loss is {loss}{gradient} (not finite) at step"
                f" {step.number}{self._record(trainer, pl_module, step)}"
            )
        if self.spikes and step.is_spike:
            too_many = self.spikes.count_skipped(step.number, step.loss)
            if too_many:
                record = self._record(trainer, pl_module, step)
                raise FloatingPointError(f"{too_many}{record}")

    @property
    def state_key(self) -> str:
        """Return the name of this state in checkpoints of 0.1, whose runs go on."""
        return "Recorder"

    def state_dict(self) -> dict[str, Any]:
        return self.spikes.state_dict() if self.spikes else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.spikes and state_dict:
            self.spikes.load_state_dict(state_dict)

    # Where the host reads late, the newest step may still be unread here.
    on_validation_start = check
    on_save_checkpoint = check
    on_train_end = check

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Complete the message where another callback has met the fault first.

        The metrics log or a checkpoint may find a non-finite loss before this guard
        reads its late verdict.
        """
        if isinstance(exception, FloatingPointError):
            try:
                self.check(trainer, pl_module)
            except FloatingPointError as fuller:
                exception.args = fuller.args

    def _record(self, trainer: L.Trainer, module: Any, step: ObservedStep) -> str:
        """Write the record; return the end of a message: where it is, what to do."""
        if trainer.is_global_zero:
            shutil.rmtree(self.folder, ignore_errors=True)
        trainer.strategy.barrier()
        try:
            write_record(self.folder, trainer, module, step, self.metadata)
            record = f"its record is in {self.folder}"
        # The fault must not be hidden by that of its record.
        except (OSError, RuntimeError, ValueError) as error:
            record = f"no record of it could be written ({error})"
        trainer.strategy.barrier()
        return (
            f"; this step was not made; {record}; lower base_lr, lengthen"
            " warmup_epochs, or replay the step: python src/replay.py"
            f" {self.folder.parent}"
        )


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    return [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]


def _record_event() -> torch.cuda.Event | None:
    """Mark this moment of the GPU's work; tests read late without a GPU."""
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def reads_late(device: torch.device) -> bool:
    """Tell whether reading a number off the device makes the host wait for it."""
    return device.type == "cuda"
