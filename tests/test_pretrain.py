"""The loss counts hidden patches alone; masks depend on the sample, not the batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.data.loading.batch import Batch
from unmask.mae import MAE
from unmask.masking import BlockMasking, Masking, RandomMasking
from unmask.patches import patchify, unpatchify
from unmask.randomness import Key
from unmask.targets import NormalisedPixel, Pixel
from unmask.tasks.pretrain import Pretrain

MakeTask = Callable[..., Pretrain]


@pytest.fixture
def make_task(make_mae: Callable[..., MAE]) -> MakeTask:
    def make(
        seed: int = 0,
        kind: type = RandomMasking,
        target: Pixel | NormalisedPixel | None = None,
    ) -> Pretrain:
        def no_optimizer(_: torch.nn.Module) -> tuple:
            raise AssertionError("no step is taken")

        return Pretrain(
            make_mae(), kind((4, 4), 0.75), target or Pixel(), seed, no_optimizer
        )

    return make


def batch_of(images: Tensor, first: int = 0, epoch: int = 0) -> Batch:
    count = len(images)
    return Batch(
        images,
        torch.full((count,), -1),
        torch.arange(first, first + count),
        epoch,
    )


def validation_loss(
    task: Pretrain, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> float:
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(
        task, "log", lambda name, value, **_: logged.__setitem__(name, value)
    )
    task.validation_step(batch, 0)
    return logged["val/loss"].item()


class Spy(torch.nn.Module):
    """Replace the model, record the masks that it gets, and predict zeros."""

    def __init__(self, model: MAE) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.masks: list[Tensor] = []

    def forward(
        self, images: Tensor, masking: Masking, predict_visible: bool = False
    ) -> Tensor:
        self.masks.append(masking.hidden_BL)
        return torch.zeros(*masking.hidden_BM.shape, 12)


def collect_masks(task: Pretrain, batches: list[Batch]) -> Tensor:
    spy = Spy(task.model)
    task.model = spy  # type: ignore[assignment]
    for batch in batches:
        task.training_step(batch, 0)
    return torch.cat(spy.masks)


def test_the_loss_is_the_error_of_hidden_patches(
    make_task: MakeTask, images: Tensor, key: Key
) -> None:
    """Visible patches count for nothing, however wrong they are predicted."""
    task = make_task()
    masking = task.masking(key, torch.arange(4), 0)
    full = patchify(images, 2)
    pred = full.clone().scatter(
        1, masking.hidden_BM[:, :, None].expand(-1, -1, 12), task.model(images, masking)
    )
    expected = (pred - full).square().mean(2)[masking.hidden_BL].mean()
    torch.testing.assert_close(
        task.reconstruction_loss(batch_of(images), key, 0), expected
    )


def test_a_perfect_prediction_of_hidden_patches_costs_nothing(
    make_task: MakeTask, images: Tensor, key: Key
) -> None:
    task = make_task()
    masking = task.masking(key, torch.arange(4), 0)
    flat = unpatchify(
        torch.where(masking.hidden_BL[:, :, None], 0.0, patchify(images, 2)), (4, 4), 3
    )
    task.model = Spy(task.model)  # type: ignore[assignment]  # predicts zeros
    assert task.reconstruction_loss(batch_of(flat), key, 0) == 0
    assert task.reconstruction_loss(batch_of(images), key, 0) > 0


@pytest.mark.parametrize("kind", [RandomMasking, BlockMasking])
def test_a_training_mask_is_the_same_in_any_batch(
    make_task: MakeTask, kind: type, images: Tensor
) -> None:
    many = images.repeat(8, 1, 1, 1)
    whole = collect_masks(make_task(kind=kind), [batch_of(many)])
    parts = collect_masks(
        make_task(kind=kind), [batch_of(images, first) for first in range(0, 32, 4)]
    )
    assert whole.equal(parts)
    assert len(whole.unique(dim=0)) > 16


def test_training_masks_change_with_the_epoch_and_the_seed(
    make_task: MakeTask, images: Tensor
) -> None:
    first = collect_masks(make_task(), [batch_of(images)])
    assert not first.equal(collect_masks(make_task(), [batch_of(images, epoch=1)]))
    assert not first.equal(collect_masks(make_task(seed=1), [batch_of(images)]))
    assert first.equal(collect_masks(make_task(), [batch_of(images)]))


def test_validation_hides_the_same_patches_in_every_epoch_and_for_every_seed(
    make_task: MakeTask, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {
        validation_loss(make_task(seed), batch_of(images, epoch=epoch), monkeypatch)
        for seed in (0, 1)
        for epoch in (0, 7)
    }
    assert len(losses) == 1
    assert losses != {make_task().training_step(batch_of(images), 0).item()}


@pytest.mark.parametrize("target", [Pixel(), NormalisedPixel()])
def test_loss_is_float32_under_autocast(
    make_task: MakeTask, target: Pixel | NormalisedPixel, images: Tensor, key: Key
) -> None:
    task = make_task(target=target)
    exact = task.reconstruction_loss(batch_of(images), key, 0)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = task.reconstruction_loss(batch_of(images), key, 0)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


def test_every_trainable_weight_learns_from_the_loss(
    make_task: MakeTask, images: Tensor
) -> None:
    task = make_task()
    task.training_step(batch_of(images), 0).backward()
    for name, parameter in task.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
