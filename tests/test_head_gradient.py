"""A probe says whether its head has converged: its gradient over the last epoch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from small_runs import call
from test_exact_probe import result_of
from unmask.callbacks.head_gradient import HeadGradient
from unmask.data.loading.batch import Batch
from unmask.reports.run.tables import unconverged
from unmask.stages.convergence import MAX_HEAD_GRADIENT

STEPS, PER_EPOCH = 12, 4


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(40) % 3
    features_ND = torch.randn(40, 5, generator=generator) + F.one_hot(labels_N, 5)
    return features_ND - features_ND.mean(dim=0), labels_N


def fit(watcher: HeadGradient, head: torch.nn.Linear, steps: range) -> None:
    """Pass these steps of a fit by, ten images each, with a head that stays as it is."""
    features_ND, labels_N = images()
    trainer: Any = SimpleNamespace(global_step=0, max_steps=STEPS)
    watcher.setup(trainer)
    for step in steps:
        ids_B = torch.arange(10) + 10 * (step % PER_EPOCH)
        head(features_ND[ids_B])
        trainer.global_step = step + 1
        batch = Batch(features_ND[ids_B], labels_N[ids_B], ids_B, step // PER_EPOCH)
        module: Any = None
        watcher.on_train_batch_end(trainer, module, None, batch, step)
    watcher.teardown()


def head_of(scale: float) -> torch.nn.Linear:
    head = torch.nn.Linear(5, 3)
    with torch.no_grad():
        head.weight.copy_(scale * torch.eye(3, 5))
        head.bias.zero_()
    return head


def test_the_last_epoch_gives_the_gradient_of_all_images() -> None:
    head = head_of(2.0)
    watcher = HeadGradient(head, PER_EPOCH)
    fit(watcher, head, range(STEPS))
    features_ND, labels_N = images()
    F.cross_entropy(head(features_ND), labels_N).backward()
    zero = head_of(0.0)
    F.cross_entropy(zero(features_ND), labels_N).backward()
    assert head.weight.grad is not None
    assert zero.weight.grad is not None
    expected = head.weight.grad.norm() / zero.weight.grad.norm()
    metrics = watcher.metrics()
    assert metrics["head_gradient"] == pytest.approx(float(expected), rel=1e-5)
    assert metrics["converged"] == 0


def test_a_head_of_zeros_has_all_of_its_gradient_left() -> None:
    head = head_of(0.0)
    watcher = HeadGradient(head, PER_EPOCH)
    fit(watcher, head, range(STEPS))
    assert watcher.metrics()["head_gradient"] == pytest.approx(1.0)


def test_an_interruption_within_the_last_epoch_changes_nothing() -> None:
    head = head_of(1.0)
    whole, first, second = (HeadGradient(head, PER_EPOCH) for _ in range(3))
    fit(whole, head, range(STEPS))
    fit(first, head, range(STEPS - 2))
    second.load_state_dict(first.state_dict())
    fit(second, head, range(STEPS - 2, STEPS))
    assert second.metrics() == whole.metrics()


def test_a_fit_that_was_done_before_has_nothing_to_say() -> None:
    assert HeadGradient(head_of(1.0), PER_EPOCH).metrics() == {}


# on raw pixels, which need no encoder: nothing is worth a wait but the head
PIXELS = ("stages=[linear_probe]", "controls=[pixels]", "pretrain.epochs=1")


@pytest.mark.parametrize(
    ("recipe", "is_converged"),
    [
        (("linear_probe.epochs=2", "linear_probe.base_lr=0.1"), False),
        (
            (
                "linear_probe.epochs=60",
                "linear_probe.base_lr=20",
                "linear_probe.batch_size=250",
            ),
            True,
        ),
    ],
)
def test_a_run_warns_where_its_probe_has_not_converged(
    recipe: tuple[str, ...], is_converged: bool, tmp_path: Path
) -> None:
    """In the terminal, on the page, and again when the result comes from the ledger."""
    typed = (*PIXELS, *recipe, f"runs_dir={tmp_path}")
    done = call(*typed)
    assert done.returncode == 0, done.stderr
    results = [result_of(folder) for folder in (tmp_path / "linear_probe").iterdir()]
    (result,) = [result for result in results if result["start"] == "pixels"]
    share = result["metrics"]["head_gradient"]
    assert (share <= MAX_HEAD_GRADIENT) == is_converged
    warning = unconverged(result)
    assert (warning is None) == is_converged
    (page,) = (tmp_path / "pages").glob("*.html")
    again = call(*typed)
    said = f"warning: {result['title']}: not converged"
    for text in (done.stdout, again.stdout):
        assert (said in text) != is_converged
    assert (f"{result['title']}: not converged" in page.read_text()) != is_converged
