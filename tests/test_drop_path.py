"""Stochastic depth is timm's, with draws that only (seed, epoch, sample) decide."""

from collections.abc import Callable
from copy import deepcopy
from itertools import combinations

import pytest
import timm.layers
import torch
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from unmask.data.loading.batch import Batch
from unmask.drop_path import DropPath, install_drop_path, linear_rates, sample_drop_path
from unmask.encoder import transformer_blocks
from unmask.heads import Classifier, FineTuneFeatures
from unmask.mae import MAE
from unmask.randomness import Key
from unmask.tasks.classify import Classify, Regularisation

COUNT = 20_000
SIGMAS = 4.5  # one of 65 comparisons is further off by chance in one of 2,000 seeds


@pytest.fixture
def branches() -> nn.ModuleList:
    """Build six blocks: the first never drops, ten branches do."""
    blocks = transformer_blocks(8, 6, 2, 1.0)
    install_drop_path(blocks, linear_rates(6, 0.5))
    return blocks


def draws(model: nn.Module) -> Tensor:
    """Return the number of each image (row) for each branch (column)."""
    return torch.stack(
        [m.uniform_B for m in model.modules() if isinstance(m, DropPath)], dim=1
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.9])
def test_with_the_same_draws_a_branch_is_timms(
    rate: float, monkeypatch: pytest.MonkeyPatch, key: Key
) -> None:
    ours, theirs = DropPath(rate), timm.layers.DropPath(rate, scale_by_keep=True)
    sample_drop_path(ours, key, 0, torch.arange(50))
    uniform_B = ours.uniform_B
    assert uniform_B is not None

    def keep_as_ours(self: Tensor, probability: float) -> Tensor:
        assert probability == 1 - rate
        return self.copy_((uniform_B >= rate).view(self.shape))

    monkeypatch.setattr(Tensor, "bernoulli_", keep_as_ours)
    branch = torch.randn(50, 3, 4)
    output = ours(branch)
    torch.testing.assert_close(output, theirs(branch), rtol=1e-6, atol=0)
    assert 0 < (output == 0).all(dim=(1, 2)).sum() < 50


def test_draws_do_not_depend_on_the_batch_or_its_order(
    branches: nn.ModuleList, key: Key
) -> None:
    ids = torch.arange(40)
    sample_drop_path(branches, key, 3, ids)
    of_all = draws(branches)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    parts = []
    for part in order.split(7):
        sample_drop_path(branches, key, 3, part)
        parts.append(draws(branches))
    assert torch.cat(parts).equal(of_all[order])
    sample_drop_path(branches, key, 4, ids)
    assert (draws(branches) == of_all).float().mean() < 0.01


def test_each_branch_drops_its_share_independently_of_all_others(
    branches: nn.ModuleList, key: Key
) -> None:
    sample_drop_path(branches, key, 0, torch.arange(COUNT))
    droppers = [module for module in branches.modules() if isinstance(module, DropPath)]
    assert [dropper.rate for dropper in droppers] == pytest.approx(
        [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
    )
    ones = torch.ones(COUNT, 1, 1)
    dropped = torch.stack(
        [(dropper(ones) == 0).flatten().double() for dropper in droppers], dim=1
    )
    share = torch.tensor([dropper.rate for dropper in droppers], dtype=torch.float64)
    assert (
        (dropped.mean(0) - share).abs() < SIGMAS * (share * (1 - share) / COUNT).sqrt()
    ).all()
    correlation = torch.corrcoef(dropped.T)
    assert (
        max(abs(float(correlation[i, j])) for i, j in combinations(range(10), 2))
        < SIGMAS / COUNT**0.5
    )
    centred = (dropped - share) / (share * (1 - share)).sqrt()
    next_sample = (centred[:-1] * centred[1:]).mean(0)
    assert next_sample.abs().max() < SIGMAS / COUNT**0.5


def test_the_expected_branch_is_the_branch(key: Key) -> None:
    dropper = DropPath(0.3)
    sample_drop_path(dropper, key, 0, torch.arange(COUNT))
    assert float(dropper(torch.ones(COUNT, 1, 1)).mean()) == pytest.approx(
        1, abs=SIGMAS * (0.3 / 0.7 / COUNT) ** 0.5
    )


def test_evaluation_drops_nothing_and_needs_no_draws(branches: nn.ModuleList) -> None:
    tokens = torch.randn(3, 5, 8)
    branch = DropPath(0.5).eval()
    assert branch(tokens) is tokens
    plain = transformer_blocks(8, 6, 2, 1.0)
    plain.load_state_dict(branches.state_dict())
    dropping, without = nn.Sequential(*branches).eval(), nn.Sequential(*plain).eval()
    assert dropping(tokens).equal(without(tokens))


@pytest.mark.parametrize(
    ("depth", "last"), [(12, 0.1), (24, 0.2), (32, 0.3), (1, 0.5), (2, 0.5)]
)
def test_rates_are_timms(depth: int, last: float) -> None:
    assert linear_rates(depth, last) == pytest.approx(
        calculate_drop_path_rates(last, depth), rel=1e-6
    )


def test_both_branches_of_a_block_have_its_rate_and_the_first_block_none(
    branches: nn.ModuleList,
) -> None:
    rates = [
        [getattr(getattr(block, name), "rate", None) for block in branches]
        for name in ("drop_path1", "drop_path2")
    ]
    assert rates[0] == rates[1] == [None, *linear_rates(6, 0.5)[1:]]


@pytest.fixture
def task(make_mae: Callable[..., MAE]) -> Classify:
    features = FineTuneFeatures(make_mae().encoder, "mean")
    install_drop_path(features.encoder.blocks, [0.3, 0.5])
    model = Classifier(features, 3, probe=False, seed=0)
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return Classify(
        model, lambda _: pytest.fail("no step is taken"), Regularisation(smoothing=0.1)
    )


def gradient(task: Classify, images: Tensor, ids: Tensor, parts: int) -> Tensor:
    task = deepcopy(task)
    for some_images, some_ids in zip(
        images.chunk(parts), ids.chunk(parts), strict=True
    ):
        loss = task.training_step(Batch(some_images, some_ids % 3, some_ids, 2), 0)
        (loss / parts).backward()
    return torch.cat(
        [p.grad.flatten() for p in task.parameters() if p.grad is not None]
    )


def test_micro_batches_give_the_gradient_of_the_whole_batch(task: Classify) -> None:
    images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26])
    of_all = gradient(task, images, ids, 1)
    assert of_all.norm() > 0.1
    for parts in (2, 3, 6):
        torch.testing.assert_close(
            gradient(task, images, ids, parts), of_all, rtol=1e-4, atol=1e-6
        )
    other = gradient(task, images, ids + 99, 1)  # same labels, other draws
    assert (other - of_all).norm() > 0.1 * of_all.norm()


def test_the_seed_decides_which_branches_are_dropped(task: Classify) -> None:
    images, ids = torch.randn(12, 3, 8, 8), torch.arange(12)
    other = Classify(
        task.model, task.make_optimizer, Regularisation(seed=1, smoothing=0.1)
    )
    batch = Batch(images, ids % 3, ids, 0)
    assert task.training_step(batch, 0).equal(task.training_step(batch, 0))
    assert not task.training_step(batch, 0).equal(other.training_step(batch, 0))
