"""The record of a non-finite step: all that is needed to make the step again."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from unmask import kernels
from unmask.distributed.collectives import full_tensor
from unmask.storage import checkpoints
from unmask.storage.atomic import sha256, write_json
from unmask.tasks.recompute import recompute_loss

RECORD_FOLDER = "nonfinite"
RECORD_FILE = "record.json"
# JSON knows neither NaN nor infinity: they become "nan", "inf" and "-inf".
JsonNumber = float | str


def json_number(value: float) -> JsonNumber:
    return value if math.isfinite(value) else str(value)


def parameter_maxima(module: nn.Module) -> dict[str, JsonNumber]:
    """Return the largest absolute value of each parameter.

    Where parameters are sharded, all ranks must call this.
    """
    return {
        name: json_number(float(full_tensor(value.detach()).abs().max()))
        for name, value in module.named_parameters()
    }


@torch.no_grad()
def activation_maxima(
    model: nn.Module, forward: Callable[[], object]
) -> dict[str, JsonNumber]:
    """Return the largest absolute value that enters or leaves the layers of each block.

    `forward` runs the model. Blocks come in the order in which they run.
    """
    maxima: dict[str, Tensor] = {}

    def note(name: str, tensors: tuple[Any, ...]) -> None:
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                continue
            if tensor.numel():
                largest = tensor.detach().abs().max().float()
                # torch.maximum keeps a NaN, Python's max() may drop it.
                maxima[name] = torch.maximum(maxima.get(name, largest), largest)

    def make_hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: note(name, (*inputs, output))

    handles = []
    for name, layer in model.named_modules():
        is_leaf = not list(layer.children())
        if is_leaf:
            handles.append(layer.register_forward_hook(make_hook(_block_of(name))))
    try:
        # merged blocks do not call their layers one by one
        with kernels.using(replace(kernels.in_use, blocks="timm")):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: json_number(float(value)) for name, value in maxima.items()}


def _block_of(layer: str) -> str:
    """Return encoder.blocks.3 for encoder.blocks.3.mlp.fc1.

    A layer outside of blocks stands for itself.
    """
    parts = layer.split(".")
    if "blocks" not in parts:
        return layer
    return ".".join(parts[: parts.index("blocks") + 2])


class ObservedStep(NamedTuple):
    """What is known of an optimiser step.

    number: 1 for the first. micro_batches: epoch and sample ids of each.
    learning_rates: of each group of parameters. values: a vector that can be read when
    `arrived` has passed; the properties name its parts.
    """

    number: int
    micro_batches: list[tuple[int, Tensor]]
    learning_rates: list[float]
    values: Tensor
    arrived: torch.cuda.Event | None

    @property
    def losses(self) -> Tensor:
        """This rank's loss of each micro-batch, over their number."""
        return self.values[:-4]

    @property
    def gradient_norm(self) -> float:
        return float(self.values[-4])

    @property
    def loss(self) -> float:
        """The loss of the step, the mean over all ranks."""
        return float(self.values[-3])

    @property
    def num_faults(self) -> int:
        """How many ranks saw a loss or gradient that is not finite."""
        return int(self.values[-2])

    @property
    def is_spike(self) -> bool:
        return bool(self.values[-1])


def write_record(
    folder: Path,
    trainer: L.Trainer,
    module: Any,
    step: ObservedStep,
    metadata: dict[str, Any],
) -> None:
    """Write record.json, and the weights and moments before the step.

    Ranks other than zero write their samples alone. The record comes last: where it
    exists, it is complete. All ranks must call this, since each may hold a share of the
    model. Raises OSError, RuntimeError or ValueError if writing fails.
    """

    def forward() -> None:
        data: Any = trainer.datamodule
        for epoch, ids_B in step.micro_batches:
            batch = data.training_batch(epoch, ids_B.tolist(), module.device)
            with trainer.precision_plugin.train_step_context():
                recompute_loss(module, batch, step.number - 1)

    rank = trainer.global_rank
    # Ranks give their shares of weights and moments here, before any can fail.
    record = _describe_step(trainer, module, step)
    state = _state_before(trainer, step, metadata)
    largest = parameter_maxima(module)
    try:
        if rank == 0:
            path = checkpoints.save(state, folder, step.number - 1, keep=1)
            record["state"] = path.name
            record["sha256"] = sha256(path)
            record["parameters"] = largest
    finally:
        # Even if the disk is full: the other ranks run this forward pass too, and may
        # need this rank's share.
        activations = activation_maxima(module.model, forward)
    record |= {"activations": activations, **metadata}
    folder.mkdir(parents=True, exist_ok=True)
    name = RECORD_FILE if rank == 0 else f"record.rank{rank}.json"
    write_json(folder / name, record)


def _describe_step(
    trainer: L.Trainer, module: Any, step: ObservedStep
) -> dict[str, Any]:
    return {
        "step": step.number,
        "epoch": step.micro_batches[0][0],
        "samples": [ids_B.tolist() for _, ids_B in step.micro_batches],
        "loss": json_number(float(step.losses.sum())),
        "losses": [json_number(float(loss)) for loss in step.losses],
        "gradient_norm": json_number(step.gradient_norm),
        "learning_rate": max(step.learning_rates),
        "precision": trainer.precision,
        "device": module.device.type,
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
        "finite": {
            "loss": bool(step.losses.isfinite().all()),
            "gradients": math.isfinite(step.gradient_norm),
            "weights": all(
                bool(parameter.isfinite().all()) for parameter in module.parameters()
            ),
        },
    }


def _state_before(
    trainer: L.Trainer, step: ObservedStep, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Return a checkpoint of the step before, for replay alone.

    It lacks Lightning's loops, since no training resumes from it.
    """
    weights = trainer.strategy.lightning_module_state_dict()
    optimizer = trainer.strategy.optimizer_state(trainer.optimizers[0])
    # Where the model is sharded, the other ranks get nothing.
    if trainer.is_global_zero:
        # The schedule may have moved on since the step.
        groups = optimizer["param_groups"]
        for group, rate in zip(groups, step.learning_rates, strict=True):
            group["lr"] = rate
    return {
        "state_dict": weights,
        "optimizer_states": [optimizer],
        "global_step": step.number - 1,
        "unmask": metadata,
    }
