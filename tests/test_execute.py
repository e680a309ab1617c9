"""Small runs of all stages on real digits: what they measure, share, write and refuse."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from small_runs import image_folder, load_weights, run
from unmask.callbacks.metrics import MetricsLogger
from unmask.commands.cli import user_message
from unmask.data.loading.batch import Batch
from unmask.stages.ledger import LedgerError
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read_rows
from unmask.tasks.classify import Classify
from unmask.tasks.pretrain import Pretrain

EVERYTHING = "stages=[pretrain,knn,linear_probe,finetune,scratch]"


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[tuple[str, str], dict]]:
    runs = tmp_path_factory.mktemp("runs")
    results = run(
        f"runs_dir={runs}",
        EVERYTHING,
        "controls=[random,pixels]",
        "labels=100",
        "checkpoint.every_steps=1",
    )
    return runs, {(result["stage"], result["start"]): result for result in results}


def test_every_stage_and_control_is_measured_on_all_validation_images(finished) -> None:
    _, results = finished
    measured = {key for key in results if key[0] != "pretrain"}
    starts = {"knn": 3, "linear_probe": 3, "finetune": 2, "scratch": 1}
    assert {kind: sum(k == kind for k, _ in measured) for kind in starts} == starts
    assert all(0 < results[key]["metrics"]["val/accuracy"] <= 100 for key in measured)
    assert {result["images"] for result in results.values()} == {1000}


def test_knn_on_raw_pixels_is_as_accurate_as_published(finished) -> None:
    """kNN on pixels of 4,000 MNIST digits is about 95 %: if ours is not, the protocol is wrong."""
    assert 94 < finished[1]["knn", "pixels"]["metrics"]["val/accuracy"] < 97


def test_the_result_names_its_parent_steps_and_versions(finished) -> None:
    _, results = finished
    assert (
        results["knn", "pretrained"]["parent"]
        == results["pretrain", "random"]["fingerprint"]
    )
    assert results["knn", "pixels"]["parent"] is None
    assert results["pretrain", "random"]["metrics"]["steps"] == 12
    assert set(results["pretrain", "random"]["versions"]) == {
        "torch",
        "lightning",
        "timm",
    }


def test_the_metrics_log_is_copied_to_csv(finished) -> None:
    runs, _ = finished
    (log,) = runs.glob("pretrain/*/metrics.jsonl")
    table = pd.read_csv(log.with_suffix(".csv"))
    assert list(table["step"]) == [row["step"] for row in read_rows(log)]
    assert table["val/loss"].notna().sum() == 3


def test_a_finished_stage_keeps_one_checkpoint_that_opens_with_weights_only(
    finished,
) -> None:
    runs, _ = finished
    (folder,) = runs.glob("pretrain/*/checkpoints")
    kept = ["best.json", "best=00000012.ckpt", "last.json", "step=00000012.ckpt"]
    assert sorted(path.name for path in folder.iterdir()) == kept, "saved at every step"
    path = checkpoints.newest(folder)
    assert path is not None
    content = torch.load(path, weights_only=True)
    assert content["global_step"] == 12
    assert content["unmask"]["config"]["mask_ratio"] == 0.75


def test_pictures_are_drawn_at_the_start_and_at_every_validation(finished) -> None:
    names = sorted(path.name for path in finished[0].glob("pretrain/*/pictures/*.png"))
    assert names == [f"epoch={epoch:04d}.png" for epoch in (0, 1, 2, 3)]


def test_the_fine_tuned_encoder_is_the_pretrained_one_and_moves(finished) -> None:
    def encoder(stage: str) -> dict[str, torch.Tensor]:
        (path,) = finished[0].glob(f"{stage}/*/checkpoints/step=*.ckpt")
        prefix = "model.encoder." if stage == "pretrain" else "model.features.encoder."
        return load_weights(path, prefix)

    pretrained, random = encoder("pretrain"), encoder("scratch")
    tuned = [
        load_weights(p, "model.features.encoder.")
        for p in finished[0].glob("finetune/*/checkpoints/step=*.ckpt")
    ]
    (tuned_encoder,) = [state for state in tuned if state]
    name = "blocks.0.attn.qkv.weight"
    distance = (tuned_encoder[name] - pretrained[name]).norm()
    assert 0 < distance < 0.5 * (tuned_encoder[name] - random[name]).norm()
    assert not torch.equal(tuned_encoder["pos_embed"], pretrained["pos_embed"]), (
        "positions are trainable"
    )


def test_the_random_control_is_the_encoder_that_pretraining_started_from(
    tmp_path: Path,
) -> None:
    from small_runs import plan_for
    from unmask.training import build

    config = plan_for("seed=3").config
    started, control = (
        build.build_mae(config).encoder,
        build.build_encoder(config, seed=3),
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            started.state_dict().values(), control.state_dict().values(), strict=True
        )
    )


def test_accumulated_micro_batches_train_as_the_whole_batch(tmp_path: Path) -> None:
    """Same samples and masks; losses differ by the order of sums alone."""
    losses = []
    for micro in ("null", "250"):
        runs = tmp_path / micro
        run(f"runs_dir={runs}", "stages=[pretrain]", f"trainer.micro_batch={micro}")
        (log,) = runs.glob("pretrain/*/metrics.jsonl")
        losses.append(
            [row["train/loss"] for row in read_rows(log) if "train/loss" in row]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_stage_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Pretrain.training_step
    monkeypatch.setattr(
        Pretrain,
        "training_step",
        lambda self, batch, i: original(self, batch, i) * float("nan"),
    )
    with pytest.raises(FloatingPointError, match=r"loss is nan .* lower base_lr"):
        run(f"runs_dir={tmp_path}", "stages=[pretrain]")
    (traceback,) = tmp_path.glob("pretrain/*/error.txt")
    assert "FloatingPointError" in traceback.read_text()
    assert not list(tmp_path.glob("pretrain/*/result.json"))
    assert not list(tmp_path.glob("pretrain/*/checkpoints/step=*.ckpt"))


def test_unlabelled_images_in_one_folder_pretrain(tmp_path: Path) -> None:
    image_folder(tmp_path, classes=("heap",), per_class=12, size=20)
    results = run(
        f"runs_dir={tmp_path / 'runs'}",
        "data=image_folder",
        f"data.root={tmp_path / 'heap'}",
        "data.image_size=[16,24]",
        "data.patch_size=4",
        "stages=[pretrain]",
        "data.num_workers=0",
        "augment=crop_random",
    )
    assert results[0]["metrics"]["steps"] == 3, (
        "the batch is cut to the 11 images there are"
    )


def test_a_probe_with_crops_trains_on_new_crops_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen encoder is run anew on each batch: keeping its first features would be wrong here."""
    seen: dict[int, dict[int, torch.Tensor]] = {}
    original = Classify.training_step

    def recording(self: Classify, batch: Batch, index: int) -> torch.Tensor:
        images = {
            int(i): image
            for i, image in zip(batch.ids_B, batch.images_BCHW, strict=True)
        }
        seen.setdefault(batch.epoch, {}).update(images)
        return original(self, batch, index)

    monkeypatch.setattr(Classify, "training_step", recording)
    run(
        f"runs_dir={tmp_path}",
        "stages=[linear_probe]",
        "linear_probe.augment.crop=random",
        "pretrain.epochs=1",
    )
    first, second = seen[0], seen[1]
    assert first.keys() == second.keys() == set(range(4000))
    assert sum(torch.equal(first[i], second[i]) for i in range(100)) < 5


@pytest.mark.parametrize("masking", ["random", "block", "grid"])
@pytest.mark.parametrize("target", ["pixel", "pixel_norm"])
def test_every_masking_and_target_learns(
    masking: str, target: str, tmp_path: Path
) -> None:
    run(
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        f"masking={masking}",
        f"target={target}",
        "pretrain.epochs=4",
    )
    (log,) = tmp_path.glob("pretrain/*/metrics.jsonl")
    losses = [row["train/loss"] for row in read_rows(log) if "train/loss" in row]
    assert losses[-1] < losses[0]


def test_a_missing_final_checkpoint_is_not_replaced_by_an_earlier_one(
    tmp_path: Path,
) -> None:
    run(f"runs_dir={tmp_path}", "stages=[pretrain]")
    (index,) = tmp_path.glob("pretrain/*/checkpoints/last.json")
    (entry,) = json.loads(index.read_text())
    final = index.parent / entry["file"]
    content = torch.load(final, weights_only=True) | {"global_step": 11}
    final.unlink()
    checkpoints.save(content, index.parent, 11)
    with pytest.raises(
        LedgerError, match=r"step=00000011.ckpt is an earlier one; remove .*result.json"
    ):
        run(f"runs_dir={tmp_path}", "stages=[knn]")


def test_a_probe_does_not_depend_on_the_micro_batch(tmp_path: Path) -> None:
    """BatchNorm sees the whole batch; the frozen encoder's part alone is cut."""
    accuracies = []
    for micro in ("null", "100"):
        crops = ("linear_probe.augment.crop=random", f"trainer.micro_batch={micro}")
        accuracies.append(
            run(f"runs_dir={tmp_path / micro}", "stages=[linear_probe]", *crops)[-1][
                "metrics"
            ]["val/loss"]
        )
    assert accuracies[0] == pytest.approx(accuracies[1], rel=1e-3)


def test_weights_that_are_not_finite_at_the_end_are_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two lines of the metrics log, too; no result is written."""
    original = Pretrain.training_step

    def spoilt(self: Pretrain, batch: Batch, index: int) -> torch.Tensor:
        return original(self, batch, index) * (
            float("nan") if self.trainer.global_step == 11 else 1.0
        )

    monkeypatch.setattr(Pretrain, "training_step", spoilt)
    monkeypatch.setattr(MetricsLogger, "_log_window", lambda *_: None)
    with pytest.raises(FloatingPointError, match="not finite"):
        run(f"runs_dir={tmp_path}", "stages=[pretrain]")
    assert not list(tmp_path.glob("pretrain/*/result.json"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            (
                r"OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB;"
                r" .*smaller trainer.micro_batch \(now the whole"
            ),
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "set a smaller trainer.micro_batch",
        ),
        (
            TypeError("a bug"),
            r"TypeError: a bug; traceback: .*/error.txt",
        ),
    ],
    ids=["gpu", "cpu", "bug"],
)
def test_an_unexpected_error_is_one_line_that_names_its_traceback(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(Pretrain, "training_step", failing)
    with pytest.raises(type(error)) as raised:
        run(f"runs_dir={tmp_path}", "stages=[pretrain]")
    (line,) = user_message(raised.value).splitlines()
    assert re.search(message, line)
    (traceback,) = tmp_path.glob("pretrain/*/error.txt")
    assert "Traceback" in traceback.read_text()


def test_owner_and_config_are_written_beside_the_result(finished) -> None:
    (folder,) = finished[0].glob("pretrain/*")
    assert json.loads((folder / "owner.json").read_text())["pid"] > 0
    assert "mask_ratio: 0.75" in (folder / "config.yaml").read_text()
