"""The record of a step that was not finite: what it was made of, so that it can be made again."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from unmask.distributed.collectives import full_tensor
from unmask.storage import checkpoints
from unmask.storage.atomic import sha256, write_json
from unmask.tasks.recompute import loss_again

# JSON knows no NaN and no infinity: they are the texts "nan", "inf" and "-inf"
Plain = float | str


def plain(value: float) -> Plain:
    return value if math.isfinite(value) else str(value)


def of_parameters(module: nn.Module) -> dict[str, Plain]:
    """The largest absolute value of each parameter; where processes hold shares, all of them must ask."""
    return {
        name: plain(float(full_tensor(value.detach()).abs().max()))
        for name, value in module.named_parameters()
    }


@torch.no_grad()
def of_activations(model: nn.Module, forward: Callable[[], object]) -> dict[str, Plain]:
    """The largest absolute value that goes into or comes out of the layers of each block, in order of their turn."""
    found: dict[str, Tensor] = {}

    def note(name: str, tensors: tuple[Any, ...]) -> None:
        for tensor in tensors:
            if (
                isinstance(tensor, Tensor)
                and tensor.is_floating_point()
                and tensor.numel()
            ):
                largest = tensor.detach().abs().max().float()
                # unlike max() it hands NaN on
                found[name] = torch.maximum(found.get(name, largest), largest)

    layers = [
        (_block(name), layer)
        for name, layer in model.named_modules()
        if not list(layer.children())
    ]
    handles = [
        layer.register_forward_hook(
            lambda _, given, made, name=name: note(name, (*given, made))
        )
        for name, layer in layers
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: plain(float(value)) for name, value in found.items()}


def _block(name: str) -> str:
    """encoder.blocks.3.mlp.fc1 belongs to encoder.blocks.3; a layer outside of blocks stands for itself."""
    parts = name.split(".")
    return ".".join(parts[: parts.index("blocks") + 2]) if "blocks" in parts else name


FOLDER, RECORD = "nonfinite", "record.json"


class Step(NamedTuple):
    """What is known of an optimiser step; `seen` can be read when `ready` has come.

    seen: the loss of each micro-batch over their number, the norm of the gradient, the loss over all processes, how
    many of them saw a fault, whether the loss is a spike.
    """

    number: int  # the first is 1
    parts: list[tuple[int, Tensor]]  # epoch and sample ids of each micro-batch
    rates: list[float]  # of each group of parameters
    seen: Tensor
    ready: torch.cuda.Event | None

    @property
    def losses(self) -> Tensor:
        return self.seen[:-4]

    @property
    def gradient_norm(self) -> float:
        return float(self.seen[-4])

    @property
    def loss(self) -> float:
        return float(self.seen[-3])

    @property
    def faults(self) -> int:
        return int(self.seen[-2])

    @property
    def spike(self) -> bool:
        return bool(self.seen[-1])


def write_record(
    folder: Path, trainer: L.Trainer, module: Any, step: Step, about: dict[str, Any]
) -> None:
    """record.json and the weights and moments before the step; of other processes than the first, their samples alone.

    The state comes first and the record last: where a record stands, it is whole. Where each process holds a share of
    the model, all of them take part. Raises OSError, RuntimeError or ValueError where that cannot be done.
    """
    rank = trainer.global_rank

    def forward() -> None:
        data: Any = trainer.datamodule
        for epoch, ids_B in step.parts:
            batch = data.training_batch(epoch, ids_B.tolist(), module.device)
            with trainer.precision_plugin.train_step_context():
                loss_again(module, batch, step.number - 1)

    record, state, largest = (
        _facts(trainer, module, step),
        _state(trainer, step, about),
        of_parameters(module),
    )
    try:
        if rank == 0:
            path = checkpoints.save(state, folder, step.number - 1, keep=1)
            record |= {
                "state": path.name,
                "sha256": sha256(path),
                "parameters": largest,
            }
    # a disk that is full, too: the others are in this pass and may need this one's
    # share
    finally:
        activations = of_activations(module.model, forward)
    record |= {"activations": activations, **about}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / (RECORD if rank == 0 else f"record.rank{rank}.json"), record)


def _facts(trainer: L.Trainer, module: Any, step: Step) -> dict[str, Any]:
    return {
        "step": step.number,
        "epoch": step.parts[0][0],
        "samples": [ids_B.tolist() for _, ids_B in step.parts],
        "loss": plain(float(step.losses.sum())),
        "losses": [plain(float(loss)) for loss in step.losses],
        "gradient_norm": plain(step.gradient_norm),
        "learning_rate": max(step.rates),
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


def _state(trainer: L.Trainer, step: Step, about: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as any other, of the step before, but without Lightning's loops: nobody goes on from it."""
    weights = trainer.strategy.lightning_module_state_dict()
    optimizer = trainer.strategy.optimizer_state(trainer.optimizers[0])
    if trainer.is_global_zero:  # of shares the others get nothing
        for group, rate in zip(optimizer["param_groups"], step.rates, strict=True):
            group["lr"] = rate  # the schedule may have moved on
    return {
        "state_dict": weights,
        "optimizer_states": [optimizer],
        "global_step": step.number - 1,
        "unmask": about,
    }
