"""This machine's speed, by a few steps of the real training: forward, backward and optimiser on random images."""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from unmask.commands.plan.cost import Step
from unmask.commands.plan.hardware import GIB, PRECISIONS, TERA, Hardware, Precision
from unmask.config.schema import Config
from unmask.data.loading.batch import Batch
from unmask.tasks.pretrain import Pretrain
from unmask.training.build import build_mae, build_masking, build_target

STEPS, WARM_UP = 20, 3
PATIENCE = 60.0  # seconds; then the steps so far must do
WORK = {"cpu": 5e10, "cuda": 2e13}  # FLOPs of a step that is long enough to be measured
FEWEST = 8  # images


@dataclass(frozen=True)
class Probe:
    """What was measured; seconds is the median of `steps` steps."""

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

    def hardware(self, asked: Hardware) -> Hardware:
        """The asked one with the speed that was reached; a precision that was not measured is taken to be as fast."""
        reached = self.flops_per_image * self.images_per_second / TERA
        return Hardware(
            name=f"{asked.name} ({self.device})",
            devices=asked.devices,
            memory_gib=self.memory_gib,
            tflops={"32-true": reached, "bf16-mixed": reached},
            utilisation={"32-true": 1.0, "bf16-mixed": 1.0},
            source=(
                f"measured: {self.images_per_second:.3g} images/s in pretraining, the"
                f" median of {_many(self.steps, 'step')} of"
                f" {_many(self.batch, 'image')} in {PRECISIONS[self.precision]}"
            ),
        )


def probe(wanted: list[tuple[Config, Step]]) -> tuple[list[Probe | None], str]:
    """Measure the pretraining steps of these models in turn, and say in a sentence which of them are too big."""
    gpu = torch.cuda.is_available() and wanted[0][0].trainer.accelerator != "cpu"
    device = torch.device("cuda" if gpu else "cpu")
    free = free_bytes(device)
    steppers, batches, too_big, taken = [], [], [], 0.0
    for config, step in wanted:
        enough = max(FEWEST, int(WORK[device.type] // step.per_image.training))
        batch = min(step.memory.largest(free - taken), enough, step.batch)
        batches.append(batch)
        if batch < 1:
            too_big.append(
                f"{step.model} is too big to be measured here: one image a step takes"
                f" {step.memory.peak(1) / GIB:.1f} GiB, {(free - taken) / GIB:.1f} are"
                " free; name the hardware it would run on, such as hardware=h100x8."
            )
        else:
            taken += step.memory.peak(batch)
            steppers.append(_stepper(config, device, batch))
    seconds = iter(_in_turn(steppers))
    name = (
        torch.cuda.get_device_name()
        if gpu
        else f"CPU, {_many(torch.get_num_threads(), 'thread')}"
    )
    found: list[Probe | None] = []
    for (_, step), batch in zip(wanted, batches, strict=True):
        own = next(seconds) if batch else []
        about = (
            batch,
            len(own),
            statistics.median(own or [0.0]),
            step.per_image.training,
            step.precision,
        )
        found.append(Probe(name, free / GIB, *about) if own else None)
    return found, " ".join(dict.fromkeys(too_big))


def free_bytes(device: torch.device) -> float:
    """Memory that is not in use."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _stepper(
    config: Config, device: torch.device, batch: int
) -> Callable[[int], float]:
    """A training step on random images; it returns its seconds."""
    data = config.data
    module = Pretrain(
        build_mae(config),
        build_masking(config),
        build_target(config),
        config.seed,
        _never,
        config.loss_on == "all",
    )
    module.to(device).train()
    optimizer = torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad], fused=True
    )
    images = torch.randn(batch, data.channels, *data.image_size, device=device)
    ids = torch.arange(batch, device=device)
    half = config.trainer.precision == "bf16-mixed"

    def step(turn: int) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            loss = module.training_step(
                Batch(images, -torch.ones_like(ids), ids, turn, None), 0
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def _in_turn(steppers: list[Callable[[int], float]]) -> list[list[float]]:
    """Seconds of each one's steps after the first few; what the machine does meanwhile falls on all alike."""
    seconds: list[list[float]] = [[] for _ in steppers]
    began = time.perf_counter()
    for turn in range(WARM_UP + STEPS):
        for own, step in zip(seconds, steppers, strict=True):
            own.append(step(turn))
        if (
            time.perf_counter() - began > PATIENCE * max(1, len(steppers) / 2)
            and turn >= 2
        ):
            break
    return [own[min(WARM_UP, len(own) - 1) :] for own in seconds]


def _many(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _never(model: Any) -> Any:
    raise AssertionError("the probe has an optimiser of its own")
