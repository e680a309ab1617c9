"""Repeat a recorded step: is it the same again, and which image is the worst?"""

import math
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch.nn.utils import get_total_norm

from unmask.commands.replay.rebuild import (
    Record,
    ReplayedStep,
    read_record,
    rebuild_step,
)
from unmask.tasks.recompute import recompute_loss, recompute_sample_losses

NOT_THE_SAME = (
    "The same weights and samples give another loss: images that changed, another"
    " version of the code or of torch, or a fault of the device may be the cause."
)


def replay(path: str, console: Console) -> bool:
    """Repeat a recorded step, print the worst image, and return whether it is the same.

    Raises ConfigError where there is no record, a damaged one, or where its images are
    gone.
    """
    record = read_record(path)
    console.print(describe_record(record), soft_wrap=True)
    step = rebuild_step(record)
    losses, gradient_norm = recompute(step)
    agreement = record.compare_losses(losses, gradient_norm)
    device = step.micro_batches[0].ids_B.device.type
    loss = sum(losses) / len(record.ranks)
    console.print(
        f"made again on {device}: loss {loss:.6g}, gradient norm {gradient_norm:.4g}:"
        f" {agreement or 'not the same'}",
        soft_wrap=True,
    )
    console.print(describe_worst_image(step, worst_image(step)), soft_wrap=True)
    if agreement is None:
        console.print(NOT_THE_SAME, soft_wrap=True)
    return agreement is not None


def describe_record(record: Record) -> str:
    """Return what was recorded, and where the first value was not finite."""
    rank_zero = record.rank_zero
    count = sum(len(ids) for rank in record.ranks for ids in rank["samples"])
    text = (
        f"{rank_zero['stage']} {rank_zero['fingerprint']}, step {record.step}, epoch"
        f" {rank_zero['epoch']}: {count} samples, loss {rank_zero['loss']}, gradient"
        f" norm {rank_zero['gradient_norm']}, learning rate"
        f" {rank_zero['learning_rate']:.3g}, {rank_zero['precision']} on"
        f" {rank_zero['device']}\n{_describe_weights(rank_zero)}"
    )
    # the largest activation of each layer in order; JSON has "nan" and "inf" as text
    for layer, largest in rank_zero["activations"].items():
        if isinstance(largest, str):
            return f"{text}\nfirst not finite in {layer}"
    return text


def _describe_weights(rank_zero: dict[str, Any]) -> str:
    """Say how large the weights were before the step: earlier steps may be at fault."""
    if not rank_zero["finite"]["weights"]:
        return "the weights were not finite when the step began"
    name, largest = max(
        rank_zero["parameters"].items(), key=lambda item: float(item[1])
    )
    return f"the largest weight was {largest:.3g} ({name}) when the step began"


def recompute(step: ReplayedStep) -> tuple[list[float], float]:
    """Return the loss of each micro-batch, and the norm of the gradient of them all.

    As in training, each is divided by the number of micro-batches of a rank.
    """
    module, record = step.module, step.record
    module.zero_grad()
    num_ranks = len(record.ranks)
    share = len(step.micro_batches) // num_ranks
    losses = []
    for batch in step.micro_batches:
        with _autocast(step):
            loss = recompute_loss(module, batch, record.step - 1)
        (loss / share / num_ranks).backward()
        losses.append(float(loss.detach() / share))
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return losses, float(get_total_norm(gradients))


def _autocast(step: ReplayedStep) -> torch.autocast:
    """Compute as Lightning's bf16-mixed or 32-true does."""
    return torch.autocast(
        step.module.device.type, torch.bfloat16, enabled=step.record.bfloat16
    )


class Worst(NamedTuple):
    """Name an image; bad: how many of all images have a loss that is not finite."""

    sample: int
    loss: float
    bad: int
    images: int


def worst_image(step: ReplayedStep) -> Worst:
    """Return the first image with pixels that are not finite.

    If there is none, the first whose loss is not finite; else that of the largest loss.
    """
    ranked = []
    for batch in step.micro_batches:
        with _autocast(step):
            losses_B = recompute_sample_losses(step.module, batch, step.record.step - 1)
        is_sound_B = batch.images_BCHW.flatten(1).isfinite().all(dim=1)
        columns = (batch.ids_B, losses_B, is_sound_B)
        for sample, loss, is_sound in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            is_finite = math.isfinite(loss)
            badness = (not is_sound, not is_finite, loss if is_finite else 0.0)
            ranked.append((badness, sample, loss))
    # max() keeps the first of equals
    _, sample, loss = max(ranked, key=lambda item: item[0])
    bad = sum(not math.isfinite(loss) for _, _, loss in ranked)
    return Worst(sample, loss, bad, len(ranked))


def describe_worst_image(step: ReplayedStep, worst: Worst) -> str:
    """Name the worst image, or say that it is not one image's fault."""
    if worst.bad == worst.images:
        return (
            f"Each of the {worst.images} images has a loss that is not finite: it is"
            " not one image's fault. Lower base_lr or lengthen warmup_epochs, or look"
            " at the images."
        )
    others = f"; {worst.bad} of {worst.images} are not finite" if worst.bad else ""
    sample = step.describe_sample(worst.sample)
    return f"Worst image: {sample} (loss {worst.loss:.6g}{others})"
