"""Metrics cover all validation images; losses, mixing and averages match plain code."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from small_runs import run
from test_resume import Crash, assert_same, crash_at, final_state
from unmask.data.loading.batch import Batch
from unmask.heads import Classifier, FineTuneFeatures, PrecomputedFeatures
from unmask.mae import MAE
from unmask.randomness import make_key, random_words
from unmask.tasks.classify import Classify, Regularisation


@pytest.fixture
def task() -> Classify:
    """Predicts the larger of the two numbers it is given."""

    def no_optimizer(_: torch.nn.Module) -> tuple:
        raise AssertionError("no step is taken")

    model = Classifier(PrecomputedFeatures(2), 2, probe=False, seed=0)
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(2))
    return Classify(model, no_optimizer, Regularisation())


def batch_of(features: Tensor, labels: list[int]) -> Batch:
    return Batch(features, torch.tensor(labels), torch.arange(len(labels)), 0)


def test_a_short_last_batch_counts_by_its_images(
    task: Classify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7 of 8 are correct: the mean of the batches' accuracies would be 50 per cent."""
    logged: dict[str, float] = {}
    monkeypatch.setattr(
        task,
        "log",
        lambda name, value, **_: logged.__setitem__(
            name, float(torch.as_tensor(value).detach())
        ),
    )
    left, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for _ in range(2):  # a second epoch starts from nothing
        task.validation_step(batch_of(left.repeat(7, 1), [0] * 7), 0)
        task.validation_step(batch_of(right, [0]), 1)
        task.on_validation_epoch_end()
        assert logged["val/accuracy"] == pytest.approx(87.5)


def test_the_loss_is_the_negative_log_likelihood_of_the_label(task: Classify) -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = -(features.log_softmax(1)[0, 1] + features.log_softmax(1)[1, 1]) / 2
    torch.testing.assert_close(
        task.training_step(batch_of(features, [1, 1]), 0), expected
    )


CLASSES, SEED = 7, 3
MIXUP, CUTMIX = (
    Regularisation(SEED, 0.1, mixup=0.8),
    Regularisation(SEED, 0.1, cutmix=1.0),
)
TABLE9 = Regularisation(SEED, 0.1, 0.8, 1.0)


def no_optimizer(_: nn.Module) -> tuple:
    raise AssertionError("no step is taken")


@pytest.fixture
def tuned(make_mae: Callable[..., MAE]) -> Classifier:
    """Its head is large, so that every logit differs."""
    model = Classifier(
        FineTuneFeatures(make_mae().encoder, "mean"), CLASSES, probe=False, seed=0
    )
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return model


def batch_at(epoch: int, first: int, count: int = 6) -> Batch:
    images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(
        images,
        torch.arange(count) % CLASSES,
        torch.arange(first, first + count),
        epoch,
    )


def smoothed(labels_B: Tensor) -> Tensor:
    """0.9 on the label and 0.1 on all classes alike (Table 9)."""
    return 0.9 * torch.eye(CLASSES)[labels_B] + 0.1 / CLASSES


def plain_loss(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    log_probabilities = logits_BK - logits_BK.exp().sum(1, keepdim=True).log()
    return -(targets_BK * log_probabilities).sum() / len(logits_BK)


def mixing_stream(batch: Batch) -> np.random.RandomState:
    """Return the generator of (seed, "mixup", epoch, first id)."""
    key = make_key(SEED, "mixup")
    (state,) = random_words(key, batch.epoch, batch.ids_B[:1], 2).tolist()
    return np.random.RandomState(np.array(state, dtype=np.uint32))


def reference_mixup(batch: Batch) -> tuple[Tensor, Tensor]:
    """Mix with the reversed batch (mixup, arXiv 1710.09412): one Beta(0.8, 0.8) share."""
    stream = mixing_stream(batch)
    stream.rand()  # whether to mix at all: always
    share = stream.beta(0.8, 0.8)
    targets = smoothed(batch.labels_B)
    return (
        share * batch.images_BCHW + (1 - share) * batch.images_BCHW.flip(0),
        share * targets + (1 - share) * targets.flip(0),
    )


def reference_cutmix(batch: Batch) -> tuple[Tensor, Tensor]:
    """Cut boxes from the reversed batch (cutmix, arXiv 1905.04899); labels by area inside the image."""
    stream = mixing_stream(batch)
    stream.rand()
    side = int(8 * np.sqrt(1 - stream.beta(1.0, 1.0)))
    y, x = stream.randint(0, 8), stream.randint(0, 8)
    top, bottom = max(0, y - side // 2), min(8, y + (side + 1) // 2)
    left, right = max(0, x - side // 2), min(8, x + (side + 1) // 2)
    images, targets = batch.images_BCHW.clone(), smoothed(batch.labels_B)
    images[:, :, top:bottom, left:right] = batch.images_BCHW.flip(0)[
        :, :, top:bottom, left:right
    ]
    share = 1 - (bottom - top) * (right - left) / 64
    return images, share * targets + (1 - share) * targets.flip(0)


@pytest.mark.parametrize("epoch", range(4))
@pytest.mark.parametrize(
    ("regular", "reference"), [(MIXUP, reference_mixup), (CUTMIX, reference_cutmix)]
)
def test_the_loss_of_a_mixed_batch_matches_plain_code(
    regular: Regularisation, reference: Callable, epoch: int, tuned: Classifier
) -> None:
    batch = batch_at(epoch, first=40)
    before = batch.images_BCHW.clone()
    images, targets = reference(batch)
    loss = Classify(tuned, no_optimizer, regular).training_step(batch, 0)
    torch.testing.assert_close(
        loss, plain_loss(tuned(images), targets), rtol=1e-5, atol=0
    )
    assert not torch.isclose(
        loss, plain_loss(tuned(before), smoothed(batch.labels_B)), rtol=1e-4
    )
    assert batch.images_BCHW.equal(before)  # timm mixes in place


def test_the_loss_of_a_smoothed_batch_matches_plain_code(tuned: Classifier) -> None:
    batch = batch_at(0, 40)
    loss = Classify(tuned, no_optimizer, Regularisation(SEED, 0.1)).training_step(
        batch, 0
    )
    torch.testing.assert_close(
        loss,
        plain_loss(tuned(batch.images_BCHW), smoothed(batch.labels_B)),
        rtol=1e-5,
        atol=0,
    )


def test_mixing_depends_on_seed_epoch_and_first_sample_alone(
    tuned: Classifier,
) -> None:
    task = Classify(tuned, no_optimizer, TABLE9)
    batch = batch_at(5, 40)
    np.random.seed(0)
    images, targets = task.mix(batch)
    np.random.seed(1)
    others = batch._replace(ids_B=torch.tensor([40, 7, 3, 900, 1, 2]))
    again = task.mix(others)
    assert images.equal(again[0])
    assert targets.equal(again[1])
    reseeded = Classify(tuned, no_optimizer, replace(TABLE9, seed=4))
    for other in (
        task.mix(batch_at(6, 40)),
        task.mix(batch_at(5, 41)),
        reseeded.mix(batch),
    ):
        assert not images.equal(other[0])


def test_mixup_and_cutmix_each_get_half_of_the_batches(tuned: Classifier) -> None:
    """A cut box leaves pixels as they were; a mixture changes all. The shares of the images cover (0, 1)."""
    task = Classify(tuned, no_optimizer, replace(TABLE9, smoothing=0.0))
    cut, shares = [], []
    for epoch in range(400):
        batch = batch_at(epoch, 0)
        images, targets = task.mix(batch)
        same = (images == batch.images_BCHW) | (images == batch.images_BCHW.flip(0))
        cut.append(bool(same.all()))
        shares.append(float(targets[0, 0]))
        assert targets.sum(1).allclose(torch.ones(6))
    assert np.mean(cut) == pytest.approx(0.5, abs=4.5 * 0.5 / 20)
    assert np.quantile(shares, 0.1) < 0.3
    assert np.quantile(shares, 0.9) > 0.7


def test_validation_is_neither_mixed_nor_smoothed(
    tuned: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, float] = {}
    for regular in (TABLE9, Regularisation()):
        task = Classify(tuned, no_optimizer, regular)
        monkeypatch.setattr(
            task,
            "log",
            lambda name, value, **_: logged.__setitem__(name, float(value.detach())),
        )
        batch = batch_at(0, 0)
        task.validation_step(batch, 0)
        expected = plain_loss(
            tuned(batch.images_BCHW), torch.eye(CLASSES)[batch.labels_B]
        )
        assert logged["val/loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_average_is_the_recursion_over_steps(make_mae: Callable[..., MAE]) -> None:
    """average = 0.9 average + 0.1 weights after each optimiser step, from the first weights on."""
    model = Classifier(
        FineTuneFeatures(make_mae().encoder, "mean"), CLASSES, probe=False, seed=0
    )
    task = Classify(model, no_optimizer, Regularisation(ema=0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    expected = {
        name: value.double().clone() for name, value in model.state_dict().items()
    }
    for step in range(3):
        optimizer.zero_grad()
        task.training_step(batch_at(step, 0), 0).backward()
        task.optimizer_step(0, step, optimizer, lambda: None)
        for name, value in model.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value.double()
    assert task.ema is not None
    for name, value in task.ema.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7)
    moved = task.ema.module.head.weight - model.head.weight
    assert moved.abs().max() > 1e-4
    assert task.evaluated_model() is task.ema.module
    assert not any(p.requires_grad for p in task.ema.parameters())


EVERYTHING = (
    "stages=[scratch]",
    "model.depth=2",
    "labels=80",
    "scratch.batch_size=20",
    "finetune.epochs=3",
    "scratch.augment.crop=random",
    "scratch.augment.policy=rand-m9-mstd0.5-inc1",
    "scratch.augment.erasing=0.5",
    "scratch.augment.scale=[0.2,1]",
    "scratch.augment.flip=true",
    "scratch.drop_path=0.5",
    "scratch.mixup=0.8",
    "scratch.cutmix=1.0",
    "scratch.smoothing=0.1",
    "scratch.ema=0.9",
    "scratch.layer_decay=0.75",
    "data.num_workers=0",
    "checkpoint.every_steps=1",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of four steps with everything random there is."""
    runs = tmp_path_factory.mktemp("undisturbed")
    run(f"runs_dir={runs}", *EVERYTHING)
    return runs


@pytest.mark.parametrize("step", [3, 6])
def test_a_crash_changes_neither_weights_nor_their_average(
    step: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crop, mirror, RandAugment, erasing, drop path, mixing and average resume exactly."""
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            run(f"runs_dir={tmp_path}", *EVERYTHING)
    half = final_state(tmp_path, "scratch")["state_dict"]
    run(f"runs_dir={tmp_path}", *EVERYTHING)
    assert_same(tmp_path, undisturbed, "scratch")
    whole = final_state(undisturbed, "scratch")["state_dict"]
    averages = [name for name in whole if name.startswith("ema.module.")]
    assert {name.replace("ema.module.", "model.") for name in averages} == {
        n for n in whole if n.startswith("model.")
    }
    assert not whole["ema.module.head.weight"].equal(whole["model.head.weight"])
    assert not whole["ema.module.head.weight"].equal(half["ema.module.head.weight"])


def test_every_metric_matches_its_plain_definition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Top-1, top-5, calibration error in 15 bins (Guo et al. 2017) and confusions, over batches of any size."""
    model = Classifier(PrecomputedFeatures(CLASSES), CLASSES, probe=False, seed=0)
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(CLASSES))
    task = Classify(model, no_optimizer, Regularisation())
    logged: dict[str, float] = {}
    monkeypatch.setattr(
        task,
        "log",
        lambda name, value, **_: logged.__setitem__(name, float(value.detach())),
    )
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (500,), generator=generator)
    logits = (
        2 * torch.randn(500, CLASSES, generator=generator)
        + 1.5 * torch.eye(CLASSES)[labels]
    )
    task.on_validation_epoch_start()
    for ids in torch.arange(500).split(64):
        task.validation_step(Batch(logits[ids], labels[ids], ids, 0), 0)
    task.on_validation_epoch_end()

    confidence, predicted = logits.softmax(1).max(1)
    correct = predicted == labels
    rank = (logits > logits.gather(1, labels[:, None])).sum(1)
    bins = (confidence * 15).long().clamp(max=14)
    gaps = [
        (bins == b).float().mean()
        * (correct[bins == b].float().mean() - confidence[bins == b].mean()).abs()
        for b in bins.unique()
    ]
    assert logged["val/accuracy"] == pytest.approx(
        100 * correct.float().mean().item(), abs=1e-3
    )
    assert logged["val/top5"] == pytest.approx(
        100 * (rank < 5).float().mean().item(), abs=1e-3
    )
    assert logged["val/calibration_error"] == pytest.approx(
        100 * float(sum(gaps)), abs=1e-3
    )
    assert logged["val/accuracy"] < logged["val/top5"] < 100

    answers = task.predictions()
    assert answers.equal(torch.stack([torch.arange(500), labels, predicted], dim=1))
    task.on_validation_epoch_start()  # the next validation counts anew
    task.validation_step(Batch(logits[:10], labels[:10], torch.arange(10), 0), 0)
    assert len(task.predictions()) == 10


def test_five_classes_or_fewer_have_no_top_5() -> None:
    counts = {}
    for classes in (5, 6):
        model = Classifier(PrecomputedFeatures(3), classes, probe=False, seed=0)
        counts[classes] = (
            "top5" in Classify(model, no_optimizer, Regularisation()).metrics
        )
    assert counts == {5: False, 6: True}
