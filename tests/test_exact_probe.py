"""linear_probe=exact: the minimum of a convex loss, whoever looks for it and how often."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from small_runs import TINY, call, raw_config
from unmask.callbacks.checkpointing import Preempted
from unmask.config.checks import ConfigError, check
from unmask.stages.ledger import read_result
from unmask.stages.plan import make_plan
from unmask.storage import checkpoints
from unmask.tasks.features import LabelledFeatures
from unmask.tasks.regression import (
    Objective,
    Search,
    Standardisation,
    Stop,
    choose_penalty,
    hold_out,
)

CPU = torch.device("cpu")
# of ten classes
MORE_LABELS = "linear_probe.labels=30"
STOP = Stop(tolerance=1e-8, max_iterations=5000)
# the tiny run with the exact probe in place of its two epochs of steps
EXACT = (
    *(override for override in TINY if not override.startswith("linear_probe.")),
    "linear_probe=exact",
    "stages=[linear_probe]",
    "pretrain.epochs=1",
    "data.patch_size=14",
)


def bank_of(count: int = 300, noise: float = 1.0, seed: int = 0) -> LabelledFeatures:
    """Return features of three classes around three corners, of unequal scales."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(count) % 3
    corners_N4 = F.one_hot(labels_N, 4).float()
    random_N4 = torch.randn(count, 4, generator=generator)
    scales_4 = torch.tensor([1.0, 10.0, 0.1, 3.0])
    return LabelledFeatures((corners_N4 + noise * random_N4) * scales_4 + 5, labels_N)


def objective_of(bank: LabelledFeatures) -> Objective:
    return Objective(bank, Standardisation.of(bank.features_ND), 3, CPU)


def test_the_gradient_is_that_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of 64 images, the last of which is shorter."""
    monkeypatch.setattr("unmask.tasks.regression.CHUNK", 64)
    bank = bank_of()
    generator = torch.Generator().manual_seed(1)
    head_KE = torch.randn(3, 5, generator=generator, dtype=torch.double)
    value, gradient_KE = objective_of(bank)(head_KE, 0.3)
    free_KE = head_KE.clone().requires_grad_()
    standard_ND = Standardisation.of(bank.features_ND)(bank.features_ND)
    logits_NK = standard_ND @ free_KE[:, :-1].T + free_KE[:, -1]
    loss = F.cross_entropy(logits_NK, bank.labels_N)
    loss = loss + 0.15 * free_KE[:, :-1].square().sum()
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-12)
    assert torch.allclose(gradient_KE, free_KE.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("penalty", [1.0, 1e-3])
def test_the_minimum_is_that_of_scikit_learn(penalty: float) -> None:
    bank = bank_of()
    head = objective_of(bank).minimise(penalty, STOP)
    assert head.gradient <= STOP.tolerance
    standard_ND = Standardisation.of(bank.features_ND)(bank.features_ND)
    # its penalty is on the sum over images, the inverse of C
    peer = LogisticRegression(C=1 / (penalty * 300), tol=1e-10, max_iter=10_000)
    peer.fit(standard_ND.numpy(), bank.labels_N.numpy())
    expected = peer.predict_log_proba(standard_ND.numpy())
    ours = head.logits(standard_ND).log_softmax(dim=1).numpy()
    assert np.abs(ours - expected).max() < 1e-5


def test_a_start_and_the_order_of_images_do_not_move_the_minimum() -> None:
    bank = bank_of()
    head = objective_of(bank).minimise(1e-2, STOP)
    shuffled_N = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    other = LabelledFeatures(*(tensor[shuffled_N] for tensor in bank))
    strong = objective_of(other).minimise(1.0, STOP)
    moved = objective_of(other).minimise(1e-2, STOP, start=strong)
    assert torch.allclose(head.weights_KD, moved.weights_KD, atol=1e-5)
    assert torch.allclose(head.bias_K, moved.bias_K, atol=1e-5)


def test_iterations_that_end_early_leave_a_larger_gradient_than_is_tolerated() -> None:
    head = objective_of(bank_of()).minimise(1e-4, Stop(1e-8, max_iterations=3))
    assert head.iterations == 3
    assert head.gradient > 1e-8


@pytest.mark.parametrize(("noise", "expected"), [(30.0, 1.0), (0.05, 1e-4)])
def test_the_penalty_is_large_where_features_say_little(
    noise: float, expected: float
) -> None:
    """Where they tell the classes apart, the smallest is best on held-out images."""
    search = Search((1e-4, 1e-2, 1.0), 0.2)
    chosen = choose_penalty(bank_of(120, noise), search, 3, STOP, CPU)
    assert chosen == expected


def test_all_solutions_keep_the_other_ranks_waiting() -> None:
    calls: list[None] = []
    search = Search((1e-2, 1.0), 0.2)
    choose_penalty(bank_of(), search, 3, STOP, CPU, lambda: calls.append(None))
    assert len(calls) > 2


def test_a_stopped_solution_says_that_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*args: object) -> None:
        raise Preempted

    monkeypatch.setattr("unmask.training.exact_probe.choose_penalty", leave)
    done = call(*EXACT, f"runs_dir={tmp_path}", tiny=False)
    assert done.returncode == 75
    assert "linear probe, exact: stopped" in done.stdout
    assert "the same command begins this stage anew" in " ".join(done.stdout.split())


def test_held_out_images_are_a_fifth_of_each_class_evenly_spread() -> None:
    labels_N = torch.tensor([0, 1] * 50 + [2] * 10)
    is_held_N = hold_out(labels_N, 0.2)
    assert [int(is_held_N[labels_N == k].sum()) for k in range(3)] == [10, 10, 2]
    places = is_held_N[labels_N == 0].nonzero()[:, 0].diff()
    assert set(places.tolist()) == {5}
    assert torch.equal(is_held_N, hold_out(labels_N, 0.2))


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_no_penalty_is_chosen_where_nothing_is_held_out_or_nothing_left(
    share: float,
) -> None:
    with pytest.raises(ValueError, match=r"(0|3) of 3 images are held out"):
        choose_penalty(bank_of(3), Search((1e-4, 1.0), share), 3, STOP, CPU)


@pytest.mark.parametrize("typed", [10, 20])
def test_too_few_labels_to_choose_a_penalty_are_refused_before_training(
    typed: int, tmp_path: Path
) -> None:
    few = (*EXACT, f"linear_probe.labels={typed}", f"runs_dir={tmp_path}")
    done = call(*few, tiny=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"of {typed} labelled images of 10 classes none is held out" in line
    assert f"{MORE_LABELS} or more" in line
    assert not list(tmp_path.iterdir())
    # what the line says to type is taken
    for allowed in (*few, "linear_probe.penalties=[0.1]"), (*few[:-2], MORE_LABELS):
        make_plan(check(raw_config(*allowed, tiny=False)))


@pytest.mark.parametrize("count", [3, 7, 14, 30])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5, 0.9])
def test_images_are_counted_as_they_are_held_out(count: int, share: float) -> None:
    typed = f"linear_probe.holdout={share}"
    probe = check(raw_config(*EXACT, typed, tiny=False)).linear_probe
    is_held_N = hold_out(torch.zeros(count, dtype=torch.long), share)
    assert probe.count_held(count) == int(is_held_N.sum())


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the probe's folder of the same command in two ledgers."""
    folders = []
    for name in ("one", "two"):
        runs = tmp_path_factory.mktemp(name)
        done = call(*EXACT, f"runs_dir={runs}", tiny=False)
        assert done.returncode == 0, done.stderr
        (folder,) = (runs / "linear_probe").iterdir()
        folders.append(folder)
    return folders


def weights(folder: Path) -> dict[str, Tensor]:
    newest = checkpoints.newest(folder / "checkpoints")
    assert newest is not None
    return checkpoints.load(newest)["state_dict"]


def result_of(folder: Path) -> dict[str, Any]:
    result = read_result(folder)
    assert result is not None
    return result


def test_a_repeat_ends_with_the_same_bits(twice: list[Path]) -> None:
    first, second = (result_of(folder)["metrics"] for folder in twice)
    assert first == second
    one, two = map(weights, twice)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_result_says_how_it_was_solved(twice: list[Path]) -> None:
    result = result_of(twice[0])
    metrics = result["metrics"]
    assert result["title"] == "linear probe, exact"
    assert metrics["converged"] == 1
    assert metrics["gradient"] <= 1e-6
    assert metrics["iterations"] > 0
    assert metrics["penalty"] in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    # 16 features and a bias for each of ten digits
    assert metrics["parameters"] == 170


def test_each_image_is_kept_with_what_was_said_of_it(twice: list[Path]) -> None:
    rows = pd.read_csv(twice[0] / "predictions.csv")
    assert rows["image"].tolist() == list(range(1000))
    accuracy = 100 * (rows["label"] == rows["predicted"]).mean()
    assert accuracy == pytest.approx(result_of(twice[0])["metrics"]["val/accuracy"])


def fingerprint(*overrides: str) -> str:
    plan = make_plan(check(raw_config(*EXACT, *overrides, tiny=False)))
    return next(s.fingerprint for s in plan.stages if s.kind == "linear_probe")


@pytest.mark.parametrize("changed", ["spikes.factor=3", "trainer.micro_batch=50"])
def test_what_only_steps_depend_on_changes_no_exact_probe(changed: str) -> None:
    raw = raw_config(*EXACT, changed, tiny=False)
    specs = {s.kind: s for s in make_plan(check(raw)).stages}
    plain = {s.kind: s for s in make_plan(check(raw_config(*EXACT, tiny=False))).stages}
    assert specs["linear_probe"].science == plain["linear_probe"].science


def test_no_seed_matters_but_that_of_weights_and_of_few_labels() -> None:
    def pixels(*overrides: str) -> str:
        typed = (*EXACT, "controls=[pixels]", *overrides)
        plan = make_plan(check(raw_config(*typed, tiny=False)))
        return next(s.fingerprint for s in plan.stages if s.start == "pixels")

    assert pixels("seed=0") == pixels("seed=1")
    few = "linear_probe.labels=100"
    assert pixels("seed=0", few) != pixels("seed=1", few)
    assert fingerprint("seed=0") != fingerprint("seed=1")


@pytest.mark.parametrize(
    "changed",
    [
        "linear_probe.penalties=[1e-3]",
        "linear_probe.holdout=0.1",
        "linear_probe.tolerance=1e-5",
        "linear_probe.max_iterations=9",
        "linear_probe.labels=100",
        "linear_probe.pool=mean",
        "linear_probe.image_size=42",
    ],
)
def test_every_key_of_the_recipe_counts(changed: str) -> None:
    assert fingerprint(changed) != fingerprint()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("linear_probe.penalties=[0]", "linear_probe.penalties.0 = 0"),
        ("linear_probe.penalties=[]", "linear_probe.penalties"),
        ("linear_probe.holdout=1", "linear_probe.holdout = 1"),
        ("linear_probe.optimizer=lars", "linear_probe=small"),
    ],
)
def test_wrong_values_are_refused_in_one_line(typed: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(raw_config(*EXACT, typed, tiny=False))
    lines = str(error.value).splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_steps_have_no_lbfgs() -> None:
    with pytest.raises(ConfigError, match="type linear_probe=exact") as error:
        check(raw_config("linear_probe.optimizer=lbfgs"))
    assert "\n" not in str(error.value)


def test_epochs_are_refused_where_nothing_has_any() -> None:
    done = call(*EXACT, "linear_probe.epochs=3", tiny=False)
    assert done.returncode == 2
    assert "linear_probe.epochs" in done.stderr
