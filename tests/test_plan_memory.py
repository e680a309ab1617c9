"""The memory that is counted without values is what a real step takes."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Literal

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from small_runs import raw_config
from unmask import kernels
from unmask.commands.plan.memory import Memory, count_memory
from unmask.config.checks import check
from unmask.config.schema import Config
from unmask.initialisation import skip_initialisation
from unmask.kernels import Kernels
from unmask.training.outline import build_outline

GIB, MIB = 2**30, 2**20
BATCH = 48
TI = ("model=mae_vit_ti", "data=cifar10", "model.depth=4", "decoder.depth=2")
CLASSES = 10


def config_of(*overrides: str) -> Config:
    return check(raw_config(*overrides, tiny=False))


def live_bytes(prof: profile) -> Iterator[int]:
    """Bytes that the CPU allocator has given out, after each allocation and release."""
    events = [
        e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"
    ]  # type: ignore[union-attr]
    now = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        yield now


def measured_peak(config: Config, kind: str, batch: int) -> int:
    """The peak of two real steps on the CPU.

    As in Lightning, the last gradients are freed when the forward pass is done.
    """
    half = config.trainer.precision == "bf16-mixed"
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as prof:
        with skip_initialisation():  # torch's own will do
            made = build_outline(config, kind, "pretrained", CLASSES)
        optimizer = torch.optim.AdamW(
            [p for p in made.model.parameters() if p.requires_grad], fused=True
        )
        images, *others = made.inputs(batch)
        images.normal_()
        if kind == "pretrain":  # order of patches: any permutation will do
            order = torch.arange(math.prod(config.grid)).expand(batch, -1)
            others[0].copy_(order[:, : config.num_visible])
            others[1].copy_(order[:, config.num_visible :])
        else:
            others[0].fill_(1 / CLASSES)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                loss = made.loss((images, *others))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            del loss
    return max(live_bytes(prof))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_real_step_on_the_cpu_takes_what_was_counted(
    kind: str, precision: str
) -> None:
    """Within 5 %, at some 150 MB."""
    config = config_of(*TI, f"trainer.precision={precision}")
    counted = count_memory(
        lambda: build_outline(config, kind, "pretrained", CLASSES),
        precision,
        device="cpu",
    ).peak(BATCH)
    measured = measured_peak(config, kind, BATCH)
    assert 80 * MIB < measured < 600 * MIB
    assert counted == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_weights_gradients_and_moments_are_four_four_and_eight_bytes_a_parameter(
    precision: str,
) -> None:
    """Mixed precision keeps the weights in float32, and a bfloat16 copy of every matrix for the backward pass."""
    config = config_of("model=mae_vit_b", "data=imagenet", "data.root=/path")
    memory = count_memory(
        lambda: build_outline(config, "pretrain", "random", 0), precision
    )
    # the published size of the ViT-B autoencoder, fixed positions included
    assert memory.weights == 4 * 111_907_840
    trained = 111_907_840 - 197 * (768 + 512)
    assert (memory.gradients, memory.optimizer) == (4 * trained, 8 * trained)
    assert memory.bf16_copies == pytest.approx(
        2 * trained if precision == "bf16-mixed" else 0, rel=0.02
    )


def test_a_mask_of_three_quarters_saves_three_quarters_of_the_encoders_activations() -> (
    None
):
    """MAE Sec. 3: the encoder sees a quarter of the patches; 50 of 197 tokens with the class token."""
    common = (
        "model=mae_vit_l",
        "data=imagenet",
        "data.root=/path",
        "finetune=table9_l",
    )
    config = config_of(*common)
    pretraining, finetuning = (
        count_memory(lambda k=kind: build_outline(config, k, "random", 1000), "32-true")
        for kind in ("pretrain", "finetune")
    )
    assert pretraining.encoder / finetuning.encoder == pytest.approx(50 / 197, rel=0.02)


def test_a_frozen_encoder_keeps_no_activations_and_no_gradients() -> None:
    config = config_of(
        "model=mae_vit_b", "data=imagenet", "data.root=/path", "linear_probe=table10"
    )
    memory = count_memory(
        lambda: build_outline(config, "linear_probe", "pretrained", 1000),
        "32-true",
        "lars",
    )
    head = 768 * 1000 + 1000
    # LARS keeps one moment
    assert (memory.gradients, memory.optimizer) == (4 * head, 4 * head)
    assert memory.encoder == 0
    assert (
        memory.working > memory.after_encoder
    )  # what passes through a layer is all there is


def test_on_a_cpu_short_sequences_keep_their_attention_scores() -> None:
    """There plain products are faster; the fused kernel keeps a sum a row instead."""
    here, there = (encoder_bytes(device, "timm") for device in ("cpu", "cuda"))
    rows = 4 * 3 * 17  # blocks, heads, tokens
    assert here - there == 4 * (17 * rows - rows)


def test_merged_blocks_keep_less_than_timms() -> None:
    # the output of each LayerNorm, and the scaled queries
    assert encoder_bytes("cpu", "merged") <= 0.9 * encoder_bytes("cpu", "timm")


def encoder_bytes(device: str, blocks: Literal["merged", "timm"]) -> float:
    """Return what the backward pass keeps of an image's encoder."""
    config = config_of(*TI)
    with kernels.using(Kernels(blocks=blocks)):
        return count_memory(
            lambda: build_outline(config, "pretrain", "random", 0),
            "32-true",
            device=device,
        ).encoder


MEMORY = Memory(
    4 * MIB,
    4 * MIB,
    8 * MIB,
    0,
    encoder=2 * MIB,
    after_encoder=1 * MIB,
    working=0.5 * MIB,
    inputs=0.5 * MIB,
)


def test_the_peak_is_the_sum_of_its_parts_and_linear_in_the_batch() -> None:
    assert MEMORY.peak(10) == sum(MEMORY.parts(10).values()) == 56 * MIB
    assert MEMORY.peak(30) - MEMORY.peak(20) == 40 * MIB


def test_the_largest_micro_batch_divides_the_batch_and_leaves_a_tenth_free() -> None:
    capacity = 160 * MIB  # 144 to use, 16 of them fixed, 4 an image
    assert MEMORY.largest_batch(capacity) == 32
    assert MEMORY.largest_divisor(capacity, batch=24) == 24
    assert MEMORY.largest_divisor(capacity, batch=90) == 30
    assert MEMORY.largest_divisor(17 * MIB, batch=8) == 0
