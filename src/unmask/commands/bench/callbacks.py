"""What looking after a run costs: a pretraining with a clock in every callback and around every checkpoint."""

import io
import statistics
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from rich.console import Console

from unmask.callbacks.checkpoint_writer import CheckpointWriter
from unmask.callbacks.checkpointing import Cadence, Checkpointing, leaving_when_asked
from unmask.callbacks.metrics import MetricsLogger
from unmask.callbacks.nonfinite import NonfiniteGuard
from unmask.callbacks.progress import StageProgress
from unmask.callbacks.watchdog import Watchdog
from unmask.commands.bench.step import device_of, our_mae
from unmask.data.augment.crops import Augment
from unmask.data.loading.batch import Format
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import ImageData, Loading
from unmask.masking import RandomMasking
from unmask.optim import Recipe
from unmask.tasks.pretrain import Pretrain
from unmask.training.fit import QUIET

WARM_UP = 3  # steps
BETWEEN = 12  # steps from one checkpoint to the next: the one before is written by then
EACH_STEP = (
    "on_train_batch_start",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class Overhead(NamedTuple):
    """Seconds. guards: of a step, by callback; checkpoint: of one, by part."""

    step: float
    guards: dict[str, float]
    checkpoint: dict[str, float]


class Clock(L.Callback):
    """How long each step took, and whether a checkpoint was being written meanwhile."""

    def __init__(self, io: CheckpointWriter, synchronise: Callable[[], None]) -> None:
        self.io, self.synchronise = io, synchronise
        self.quiet: list[float] = []
        self.disturbed: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.synchronise()
        self.busy, self.began = self.io.busy, time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.synchronise()
        if trainer.global_step > WARM_UP:
            taken = time.perf_counter() - self.began
            (self.disturbed if self.busy else self.quiet).append(taken)


def timed(target: Any, name: str, seconds: list[float]) -> None:
    """Note what every call of that method takes."""
    method = getattr(target, name)

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(target, name, call)


def measured_overhead(spec: dict[str, Any]) -> Overhead:
    """A pretraining with `rounds` checkpoints; medians of its steps, of the callbacks' parts, of the checkpoints'."""
    cuda = device_of(spec).type == "cuda"
    steps = WARM_UP + BETWEEN * spec["rounds"] + BETWEEN // 2
    with TemporaryDirectory() as place, leaving_when_asked():
        folder, saver = Path(place), CheckpointWriter(keep=2)
        guards: list[L.Callback] = [
            Watchdog(folder, 30),
            NonfiniteGuard(folder, {}),
            MetricsLogger(folder, spec["batch"], steps),
            Checkpointing(
                folder, saver, Cadence(None, BETWEEN, best=False), {"accumulate": 1}
            ),
            StageProgress("bench", spec["batch"], steps, Console(file=io.StringIO())),
        ]
        clock = Clock(saver, torch.cuda.synchronize if cuda else lambda: None)
        held, spent = _clocks(saver, guards)
        trainer = L.Trainer(
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            max_steps=steps,
            limit_val_batches=0,
            callbacks=[*guards, clock],
            logger=False,
            plugins=[saver, LightningEnvironment()],
            **QUIET,
        )
        trainer.fit(_module(spec, steps), datamodule=_data(spec, steps))
    step = statistics.median(clock.quiet)
    saved = len(held) - 1  # the last one is of the end
    # the first one has to be given its memory
    copying = statistics.median(held[1:saved] or held[:saved])
    # medians, not sums: a step that other work on the machine disturbs says nothing of
    # the writer
    beside = len(clock.disturbed) / saved
    slowed = max(0.0, statistics.median(clock.disturbed or [step]) - step) * beside
    return Overhead(
        step,
        {name: sum(map(statistics.median, parts)) for name, parts in spent.items()},
        {
            "training waits for the copy": copying,
            f"{beside:.1f} steps are slower while it is written": slowed,
            "both, a checkpoint a minute": copying + slowed,
        },
    )


def _clocks(
    saver: CheckpointWriter, guards: list[L.Callback]
) -> tuple[list[float], dict[str, list[list[float]]]]:
    """Lists that fill: seconds that saving holds training up, and those of each callback's methods in every step."""
    held: list[float] = []
    timed(saver, "save_checkpoint", held)
    spent: dict[str, list[list[float]]] = {}
    for guard in guards:
        for name in EACH_STEP:
            if getattr(type(guard), name) is not getattr(L.Callback, name):
                seconds: list[float] = []
                timed(guard, name, seconds)
                spent.setdefault(type(guard).__name__.lower(), []).append(seconds)
    return held, spent


def _module(spec: dict[str, Any], steps: int) -> Pretrain:
    mae, target = our_mae(spec)
    recipe = Recipe("adamw", 1e-4, spec["batch"], 0.05, (0.9, 0.95), 1, steps)
    return Pretrain(
        mae, RandomMasking(mae.encoder.grid, spec["mask_ratio"]), target, 0, recipe
    )


def _data(spec: dict[str, Any], steps: int) -> ImageData:
    shape = (spec["image_size"], spec["image_size"])
    count = spec["batch"] * steps  # one epoch: its ends are not part of a step
    images = torch.randint(0, 256, (count, spec["channels"], *shape), dtype=torch.uint8)
    split = InMemory(images, torch.zeros(count, dtype=torch.long))
    form = Format(shape, (0.5,) * spec["channels"], (0.5,) * spec["channels"])
    return ImageData(
        split, split, form, Augment(), list(range(count)), spec["batch"], 0, Loading()
    )
