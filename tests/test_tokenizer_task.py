"""Training a tokenizer is a function of seed, sample and step alone."""

import math
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unmask.data.loading.batch import Batch
from unmask.data.loading.in_memory import load_arrays
from unmask.optim import OptimizerRecipe
from unmask.tasks.tokenizer import Annealing, CodeUsage, TrainTokenizer
from unmask.tokenizers import SmallTokenizer

STEPS = 8
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def batches(count: int = STEPS, size: int = 16) -> list[Batch]:
    digits = (
        load_arrays("mnist5k")[0].images_NCHW[:: 4000 // (count * size)].float() / 255
    )
    labels = torch.full((size,), -1)
    return [
        Batch(
            digits[i * size : (i + 1) * size],
            labels,
            torch.arange(i * size, (i + 1) * size),
            0,
        )
        for i in range(count)
    ]


def make_task(seed: int = 0, usage_weight: float = 0.1) -> TrainTokenizer:
    model = SmallTokenizer(4, 1, codes=16, width=16, seed=seed)
    recipe = OptimizerRecipe("adamw", 0.048, 16, 0.0, (0.9, 0.95), 1, STEPS)
    return TrainTokenizer(model, seed, recipe, Annealing(STEPS), usage_weight)


def loader(items: list[Batch]) -> DataLoader:
    return DataLoader(items, batch_size=None)  # type: ignore[arg-type]


def validate(task: TrainTokenizer, items: list[Batch]) -> dict[str, float]:
    trainer = L.Trainer(**QUIET)
    trainer.validate(task, loader(items), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def collect_noise(task: TrainTokenizer, items: list[Batch]) -> Tensor:
    seen: list[Tensor] = []
    task.model.loss = lambda images, noise, *_: seen.append(noise) or images.sum()  # type: ignore
    for batch in items:
        task.relaxed_loss(batch, 1.0)
    return torch.cat(seen)


def test_noise_is_the_same_in_any_batch_and_changes_with_epoch_and_seed() -> None:
    whole = collect_noise(make_task(), batches(1, 32))
    assert whole.shape == (32, 49, 16)
    assert whole.equal(collect_noise(make_task(), batches(4, 8)))
    later = [batch._replace(epoch=1) for batch in batches(1, 32)]
    assert not (whole == collect_noise(make_task(), later)).all(dim=(1, 2)).any()
    assert (
        not (whole == collect_noise(make_task(seed=1), batches(1, 32)))
        .all(dim=(1, 2))
        .any()
    )


def test_temperature_falls_by_equal_factors_to_its_end() -> None:
    annealing = Annealing(100, start=1.0, end=1 / 16)
    assert [annealing(step) for step in (0, 50, 100, 150)] == pytest.approx(
        [1, 1 / 4, 1 / 16, 1 / 16]
    )


def test_training_lowers_the_tokens_error_with_the_temperature_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, seen = make_task(), []
    relaxed = task.relaxed_loss
    monkeypatch.setattr(
        task, "relaxed_loss", lambda batch, t: seen.append(t) or relaxed(batch, t)
    )  # type: ignore
    before = validate(task, batches())
    L.Trainer(max_steps=STEPS, **QUIET).fit(task, loader(batches()))
    after = validate(task, batches())
    assert after["val/loss"] < 0.9 * before["val/loss"]
    assert seen == [Annealing(STEPS)(step) for step in range(STEPS)]


def test_training_is_repeatable_whatever_the_global_generators() -> None:
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        task = make_task()
        L.Trainer(max_steps=3, **QUIET).fit(task, loader(batches()))
        states.append(task.model.state_dict())
    assert all(value.equal(states[1][name]) for name, value in states[0].items())


def test_validation_is_the_error_and_perplexity_of_all_images_tokens() -> None:
    task, items = make_task(), batches(3, 16)
    images = torch.cat([batch.images_BCHW for batch in items])
    tokens = task.model.tokens(images)
    share = torch.bincount(tokens.flatten(), minlength=16) / tokens.numel()
    logged = validate(task, items)
    assert logged["val/loss"] == pytest.approx(
        (task.model.reconstruct(tokens, (7, 7)) - images).square().mean().item()
    )
    assert logged["val/perplexity"] == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in share.tolist() if p))
    )


def test_perplexity_is_one_for_a_lone_code_and_all_for_even_ones() -> None:
    usage = CodeUsage(8)
    usage.update(torch.full((4, 6), 3))
    assert usage.compute() == pytest.approx(1)
    usage.reset()
    usage.update(torch.arange(8).repeat(2, 1))
    assert usage.compute() == pytest.approx(8)
    assert usage.counts_K.tolist() == [2] * 8  # processes add these up
