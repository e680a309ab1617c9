"""Accuracy is of all validation images together, and the loss is cross-entropy."""

import pytest
import torch
from torch import Tensor

from unmask.data.module import Batch
from unmask.heads import Classifier, Given
from unmask.tasks.classify import Classify, Regularisation


@pytest.fixture
def task() -> Classify:
    """Predicts the larger of the two numbers it is given."""

    def no_optimizer(_: torch.nn.Module) -> tuple:
        raise AssertionError("no step is taken")

    model = Classifier(Given(2), 2, probe=False, seed=0)
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(2))
    return Classify(model, no_optimizer, Regularisation())


def batch_of(features: Tensor, labels: list[int]) -> Batch:
    return Batch(features, torch.tensor(labels), torch.arange(len(labels)), 0, None)


def test_a_short_last_batch_counts_by_its_images(task: Classify, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 of 8 right: the mean of the batches' accuracies would be 50 per cent."""
    logged: dict[str, float] = {}
    monkeypatch.setattr(
        task, "log", lambda name, value, **_: logged.__setitem__(name, float(torch.as_tensor(value).detach()))
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
    torch.testing.assert_close(task.training_step(batch_of(features, [1, 1]), 0), expected)
