"""Measure this machine's speed with a few steps of the real training."""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from unmask.commands.plan.price_types import TrainingStep
from unmask.commands.units import count_noun
from unmask.config.hardware import (
    GIB,
    PRECISION_NAMES,
    TERA,
    Hardware,
    Precision,
)
from unmask.config.schema import Config
from unmask.data.loading.batch import Batch
from unmask.training.build import build_pretraining

NUM_STEPS = 20
WARM_UP_STEPS = 3
# seconds for one or two models; then the steps made so far must do
TIME_LIMIT = 60.0
# FLOPs of a step that is long enough to be timed
MIN_STEP_FLOPS = {"cpu": 5e10, "cuda": 2e13}
MIN_BATCH = 8
# makes one training step and returns its seconds; its argument stands for the epoch
TimedStep = Callable[[int], float]


@dataclass(frozen=True)
class MeasuredSpeed:
    """Hold the speed of one model's pretraining; seconds: the median of `steps`."""

    device: str
    memory_gib: float
    batch: int
    steps: int
    seconds: float
    flops_per_image: float
    precision: Precision

    @property
    def images_per_second(self) -> float:
        return self.batch / self.seconds

    def as_hardware(self, requested: Hardware) -> Hardware:
        """Return the requested hardware with the measured speed.

        A precision that was not measured is assumed to be as fast.
        """
        tflops = self.flops_per_image * self.images_per_second / TERA
        return Hardware(
            name=f"{requested.name} ({self.device})",
            devices=requested.devices,
            memory_gib=self.memory_gib,
            tflops={"32-true": tflops, "bf16-mixed": tflops},
            utilisation={"32-true": 1.0, "bf16-mixed": 1.0},
            source=(
                f"measured: {self.images_per_second:.3g} images/s in pretraining, the"
                f" median of {count_noun(self.steps, 'step')} of"
                f" {count_noun(self.batch, 'image')} in"
                f" {PRECISION_NAMES[self.precision]}"
            ),
            link=requested.link,
        )


def measure_speeds(
    models: list[tuple[Config, TrainingStep]],
) -> tuple[list[MeasuredSpeed | None], str]:
    """Measure pretraining steps of these models in turn.

    Returns None for a model that is too big, and a sentence about all such models.
    """
    use_gpu = torch.cuda.is_available() and models[0][0].trainer.accelerator != "cpu"
    device = torch.device("cuda" if use_gpu else "cpu")
    total_bytes = free_bytes(device)
    batches = []
    timed_steps = []
    too_big = []
    used_bytes = 0.0
    for config, step in models:
        free = total_bytes - used_bytes
        long_enough = MIN_STEP_FLOPS[device.type] // step.per_image.training
        batch = min(
            step.memory.largest_batch(free),
            max(MIN_BATCH, int(long_enough)),
            step.device_batch,
        )
        batches.append(batch)
        if batch < 1:
            too_big.append(_too_big(step, free))
            continue
        # all models stay on the device, since they take turns
        used_bytes += step.memory.peak(batch)
        timed_steps.append(_build_step(config, device, batch))
    all_seconds = iter(_time_in_turn(timed_steps))
    speeds: list[MeasuredSpeed | None] = []
    for (_, step), batch in zip(models, batches, strict=True):
        seconds = next(all_seconds) if batch else []
        if not seconds:
            speeds.append(None)
            continue
        speeds.append(
            MeasuredSpeed(
                _device_name(device),
                total_bytes / GIB,
                batch,
                len(seconds),
                statistics.median(seconds),
                step.per_image.training,
                step.precision,
            )
        )
    return speeds, " ".join(dict.fromkeys(too_big))


def _too_big(step: TrainingStep, free: float) -> str:
    return (
        f"{step.model} is too big to be measured here: one image a step takes"
        f" {step.memory.peak(1) / GIB:.1f} GiB, {free / GIB:.1f} are free; name the"
        " hardware it would run on, such as hardware=h100x8."
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {count_noun(torch.get_num_threads(), 'thread')}"


def free_bytes(device: torch.device) -> float:
    """Return the memory of a device that is not in use."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _build_step(config: Config, device: torch.device, batch: int) -> TimedStep:
    """Return a pretraining step on random images."""
    data = config.data
    module = build_pretraining(config, _no_optimizer)
    module.to(device).train()
    # fused, as in training: the loops of the plain one would take longer
    optimizer = torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad], fused=True
    )
    images = torch.randn(batch, data.channels, *data.image_size, device=device)
    ids = torch.arange(batch, device=device)
    # -1 stands for no label, as in the loaders
    no_labels = torch.full_like(ids, -1)
    is_mixed = config.precision == "bf16-mixed"

    def step(turn: int) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if is_mixed else nullcontext():
            loss = module.training_step(Batch(images, no_labels, ids, turn), 0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def _time_in_turn(timed_steps: list[TimedStep]) -> list[list[float]]:
    """Return the seconds of each model's steps after a warm-up.

    The models take turns: whatever else the machine does slows all of them alike.
    """
    seconds: list[list[float]] = [[] for _ in timed_steps]
    time_limit = TIME_LIMIT * max(1, len(timed_steps) / 2)
    began = time.perf_counter()
    for turn in range(WARM_UP_STEPS + NUM_STEPS):
        for model_seconds, step in zip(seconds, timed_steps, strict=True):
            model_seconds.append(step(turn))
        # two turns at least: the first one is always slow
        if turn >= 2 and time.perf_counter() - began > time_limit:
            break
    return [
        model_seconds[min(WARM_UP_STEPS, len(model_seconds) - 1) :]
        for model_seconds in seconds
    ]


def _no_optimizer(model: Any) -> Any:
    raise AssertionError(f"{type(model).__name__} is stepped by the benchmark itself")
