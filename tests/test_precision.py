"""Losses and accuracies are computed in float32 from the logits, whatever made them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.data.loading.batch import Batch
from unmask.heads import BatchNorm, Classifier, RawPixels
from unmask.tasks.classify import Classify, Regularisation
from unmask.tasks.features import FeatureExtractor
from unmask.tasks.logits import best_guesses

CLASSES = 10


def classify(regularisation: Regularisation, weight: float = 1.0) -> Classify:
    model = Classifier(RawPixels(CLASSES), CLASSES, probe=False, seed=0)
    with torch.no_grad():
        model.head.weight.copy_(weight * torch.eye(CLASSES))

    def no_optimizer(_: nn.Module) -> tuple:
        raise AssertionError("no step is taken")

    return Classify(model, no_optimizer, regularisation)


def batch_of(features: Tensor, labels: Tensor) -> Batch:
    """Return images of one pixel, whose channels are the logits."""
    return Batch(features[:, :, None, None], labels, torch.arange(len(labels)), 0)


def random_batch(count: int = 512) -> Batch:
    generator = torch.Generator().manual_seed(0)
    logits = 0.05 * torch.randn(count, CLASSES, generator=generator)
    return batch_of(logits, torch.randint(CLASSES, (count,), generator=generator))


def measure(task: Classify, batch: Batch, bfloat16: bool) -> dict[str, float]:
    logged: dict[str, float] = {}
    task.log = lambda name, value, **_: logged.__setitem__(name, float(value.detach()))
    task.on_validation_epoch_start()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        task.validation_step(batch, 0)
        task.on_validation_epoch_end()
    return logged


def test_metrics_under_bfloat16_are_those_of_its_logits_in_float32() -> None:
    """Such small logits are equal in many classes after a softmax in bfloat16."""
    task, batch = classify(Regularisation()), random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        logits = task.model(batch.images_BCHW)
    assert logits.dtype == torch.float32
    # the head's weight is the identity: the same logits without autocast
    rounded = batch_of(logits.detach(), batch.labels_B)
    assert measure(task, batch, True) == measure(task, rounded, False)
    answers = task.predictions()
    right = 100 * float((answers[:, 1] == answers[:, 2]).double().mean())
    assert measure(task, batch, True)["val/accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    "regularisation", [Regularisation(0, 0.1), Regularisation(0, 0.1, mixup=0.8)]
)
def test_losses_under_bfloat16_are_computed_in_float32(
    regularisation: Regularisation,
) -> None:
    task, batch = classify(regularisation, weight=8.0), random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.training_step(batch, 0)
        targets = F.one_hot(batch.labels_B, CLASSES) * 0.9 + 0.1 / CLASSES
        images = batch.images_BCHW
        if task.mixup:
            images, targets = task.mix(batch)
        logits = task.model(images).double()
    expected = -(targets.double() * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_in_float32_nothing_has_changed() -> None:
    """Bit for bit what torch and torchmetrics make of the same logits."""
    task, batch = classify(Regularisation()), random_batch()
    logits = batch.images_BCHW.flatten(1)
    assert task.model(batch.images_BCHW).equal(task.model.head(logits))
    found = measure(task, batch, False)
    top1 = logits.softmax(dim=1).argmax(dim=1) == batch.labels_B
    top5 = (logits.topk(5, dim=1).indices == batch.labels_B[:, None]).any(dim=1)
    assert found["val/accuracy"] == float(100 * (top1.sum() / len(top1)))
    assert found["val/top5"] == float(100 * (top5.sum() / len(top5)))
    assert found["val/loss"] == float(F.cross_entropy(logits, batch.labels_B))


@pytest.mark.parametrize("classes", [6, 10, 1000])
def test_among_equal_logits_a_first_guess_is_among_the_first_five(classes: int) -> None:
    """A collapsed probe gives every class one logit: its answer is class 0."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat(3)
    ties = torch.randint(3, (len(labels), classes), generator=generator).float()
    for logits in (torch.zeros(len(labels), classes), ties):
        first = best_guesses(logits, labels, 1) == labels
        fifth = best_guesses(logits, labels, 5) == labels
        assert first.equal(logits.argmax(dim=1) == labels)
        assert not (first & ~fifth).any()
        order = logits.sort(dim=1, descending=True, stable=True).indices
        assert fifth.equal((order[:, :5] == labels[:, None]).any(dim=1))
    assert float(fifth.float().mean()) > 4 / classes


def test_the_top_5_of_sure_logits_does_not_depend_on_a_softmax() -> None:
    """The probabilities of all but one class are zero; the logits are not equal."""
    logits = torch.tensor([[900.0, 0, 1, 2, 3, 4, 5, 6, 7, 8]])
    for label, expected in ((9, 100.0), (6, 100.0), (1, 0.0)):
        found = measure(
            classify(Regularisation()), batch_of(logits, torch.tensor([label])), False
        )
        assert found["val/top5"] == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_and_no_accuracy(value: float) -> None:
    batch = random_batch(4)
    batch.images_BCHW[2, 1] = value
    task = classify(Regularisation())
    task.log = lambda *_, **__: None
    for step in (task.validation_step, FeatureExtractor(task.model).predict_step):
        with pytest.raises(FloatingPointError, match="1 of 4 images have "):
            step(batch, 0)


def test_the_batchs_statistics_are_float32_on_several_ranks_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """bfloat16 holds no sum of 512 numbers near 1 to better than two."""
    monkeypatch.setattr("unmask.distributed.collectives.world_size", lambda: 2)
    monkeypatch.setattr(
        "unmask.distributed.collectives.all_reduce_sum", lambda x: 2 * x
    )
    features = (1 + 0.01 * random_batch().images_BCHW.flatten(1)).bfloat16()
    several, torchs = (
        BatchNorm(CLASSES, affine=False),
        nn.BatchNorm1d(CLASSES, affine=False),
    )
    found = several(features)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, torchs(features))
    torch.testing.assert_close(several.running_mean, torchs.running_mean)
