"""Measure what the callbacks and checkpoints of a pretraining cost."""

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
from unmask.callbacks.checkpointing import Cadence, Checkpointing, preemptible
from unmask.callbacks.metrics import MetricsLogger
from unmask.callbacks.nonfinite import NonfiniteGuard
from unmask.callbacks.progress import StageProgress
from unmask.callbacks.watchdog import Watchdog
from unmask.commands.bench.contestants.ours import build_our_mae, set_up_device
from unmask.data.augment.crops import Augmentation
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import ImageData, LoaderSettings
from unmask.masking import RandomMasking
from unmask.optim import OptimizerRecipe
from unmask.tasks.pretrain import Pretrain
from unmask.training.fit import QUIET_TRAINER

WARM_UP_STEPS = 3
# enough that one checkpoint is written before the next one begins
STEPS_PER_CHECKPOINT = 12
STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class Overhead(NamedTuple):
    """Hold seconds: of a step, of each callback in a step, of parts of a checkpoint."""

    step: float
    guards: dict[str, float]
    checkpoint: dict[str, float]


class StepClock(L.Callback):
    """Time each step, apart for those beside which a checkpoint is being written."""

    def __init__(
        self, writer: CheckpointWriter, synchronise: Callable[[], None]
    ) -> None:
        self.writer = writer
        self.synchronise = synchronise
        self.undisturbed: list[float] = []
        self.beside_writer: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        # a GPU still works on the last step: its time must not count here
        self.synchronise()
        self.writer_was_busy = self.writer.is_writing
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.synchronise()
        if trainer.global_step > WARM_UP_STEPS:
            seconds = time.perf_counter() - self.start
            if self.writer_was_busy:
                self.beside_writer.append(seconds)
            else:
                self.undisturbed.append(seconds)


def time_calls(target: Any, name: str, seconds: list[float]) -> None:
    """Append to `seconds` what every call of the method `name` of `target` takes."""
    method = getattr(target, name)

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            # also where the call raises
            seconds.append(time.perf_counter() - start)

    # on the instance: other callbacks of the class stay as they are
    setattr(target, name, call)


def measure_overhead(spec: dict[str, Any]) -> Overhead:
    """Run a pretraining with `rounds` checkpoints and time its callbacks.

    All numbers are medians: a step that other work on the machine disturbs says nothing
    about the callbacks.
    """
    use_gpu = set_up_device(spec).type == "cuda"
    # the half at the end lets the last checkpoint be written beside steps
    steps = (
        WARM_UP_STEPS
        + STEPS_PER_CHECKPOINT * spec["rounds"]
        + STEPS_PER_CHECKPOINT // 2
    )
    with TemporaryDirectory() as folder, preemptible():
        writer = CheckpointWriter(keep=2)
        callbacks = _build_callbacks(spec, Path(folder), writer, steps)
        clock = StepClock(writer, torch.cuda.synchronize if use_gpu else lambda: None)
        save_seconds: list[float] = []
        time_calls(writer, "save_checkpoint", save_seconds)
        hook_seconds = _time_hooks(callbacks)
        trainer = L.Trainer(
            accelerator="gpu" if use_gpu else "cpu",
            devices=1,
            max_steps=steps,
            limit_val_batches=0,
            callbacks=[*callbacks, clock],
            logger=False,
            plugins=[writer, LightningEnvironment()],
            **QUIET_TRAINER,
        )
        trainer.fit(_build_module(spec, steps), datamodule=_build_data(spec, steps))
    return Overhead(
        statistics.median(clock.undisturbed),
        {
            name: sum(statistics.median(seconds) for seconds in hooks)
            for name, hooks in hook_seconds.items()
        },
        _checkpoint_costs(clock, save_seconds),
    )


def _build_callbacks(
    spec: dict[str, Any], folder: Path, writer: CheckpointWriter, steps: int
) -> list[L.Callback]:
    """Return the callbacks of a real training, in its order."""
    cadence = Cadence(None, STEPS_PER_CHECKPOINT, best=False)
    console = Console(file=io.StringIO())
    logger = MetricsLogger(folder, spec["batch"], steps)
    return [
        Watchdog(folder, 30),
        NonfiniteGuard(folder, {}, report_norm=logger.add_gradient_norm),
        logger,
        Checkpointing(folder, writer, cadence, {"accumulate": 1}),
        StageProgress("bench", spec["batch"], steps, console, lambda: logger.step_loss),
    ]


def _time_hooks(callbacks: list[L.Callback]) -> dict[str, list[list[float]]]:
    """Time the hooks that each callback has in a step.

    Returns lists that fill while the training runs: by callback, one list for each
    hook.
    """
    hook_seconds: dict[str, list[list[float]]] = {}
    for callback in callbacks:
        for hook in STEP_HOOKS:
            # hooks that the callback inherits do nothing
            if getattr(type(callback), hook) is not getattr(L.Callback, hook):
                seconds: list[float] = []
                time_calls(callback, hook, seconds)
                name = type(callback).__name__.lower()
                hook_seconds.setdefault(name, []).append(seconds)
    return hook_seconds


def _checkpoint_costs(clock: StepClock, save_seconds: list[float]) -> dict[str, float]:
    """Return the seconds that a checkpoint costs the training, by part."""
    # the last save is that of the end of training; the first one allocates its memory
    num_saves = len(save_seconds) - 1
    copy_seconds = statistics.median(
        save_seconds[1:num_saves] or save_seconds[:num_saves]
    )
    step = statistics.median(clock.undisturbed)
    steps_beside = len(clock.beside_writer) / num_saves
    # none is slower where the writer is done before the next step begins
    slower_step = statistics.median(clock.beside_writer or [step])
    slowdown = max(0.0, slower_step - step) * steps_beside
    return {
        "training waits for the copy": copy_seconds,
        f"{steps_beside:.1f} steps are slower while it is written": slowdown,
        "both, a checkpoint a minute": copy_seconds + slowdown,
    }


def _build_module(spec: dict[str, Any], steps: int) -> Pretrain:
    mae, target = build_our_mae(spec)
    recipe = OptimizerRecipe("adamw", 1e-4, spec["batch"], 0.05, (0.9, 0.95), 1, steps)
    masking = RandomMasking(mae.encoder.grid, spec["mask_ratio"])
    return Pretrain(mae, masking, target, 0, recipe)


def _build_data(spec: dict[str, Any], steps: int) -> ImageData:
    shape = (spec["image_size"], spec["image_size"])
    # one epoch, so that no step contains what happens between two epochs
    count = spec["batch"] * steps
    images_NCHW = torch.randint(
        0, 256, (count, spec["channels"], *shape), dtype=torch.uint8
    )
    split = InMemory(images_NCHW, torch.zeros(count, dtype=torch.long))
    halves = (0.5,) * spec["channels"]
    return ImageData(
        split,
        split,
        ImageFormat(shape, halves, halves),
        Augmentation(),
        list(range(count)),
        spec["batch"],
        0,
        LoaderSettings(),
    )
