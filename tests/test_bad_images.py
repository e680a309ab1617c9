"""Bad images cost one warning: listed once, replaced exactly, not measured, and limited in number."""

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from small_runs import plan_for, run
from test_resume import Crash, assert_same, crash_at
from test_together import train_ranks
from unmask.callbacks.checkpointing import Checkpointing
from unmask.data.augment.crops import Augmentation
from unmask.data.images.unreadable import BadImage, no_substitute_error
from unmask.data.listing.listing import list_images
from unmask.data.loading.bad_images import (
    LIST_NAME,
    BadImages,
    SplitProgress,
    TooManyBadImagesError,
)
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import splits_from_listing
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.views import Views
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read_rows
from unmask.training.execute import execute

SIZE, KINDS = 32, 5
ON_DISK = (
    "data=image_folder",
    f"data.image_size={SIZE}",
    "data.patch_size=8",
    "data.in_memory=false",
    "data.num_workers=0",
    "stages=[pretrain]",
    "pretrain.batch_size=60",
    "pretrain.epochs=2",
    "checkpoint.every_steps=1",
    "augment=crop_random",
)


def photos(root: Path, per_class: int = 100, classes: str = "ab") -> Path:
    generator = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((SIZE, SIZE)).save(
                root / name / f"{i:03d}.jpg"
            )
    return root


def damage(path: Path, kind: int) -> None:
    content = path.read_bytes()
    flipped = (
        content[:300] + bytes(byte ^ 0x55 for byte in content[300:400]) + content[400:]
    )
    path.write_bytes(
        [content[: len(content) * 2 // 3], b"", b"<html>", flipped[:350], b"\0" * 500][
            kind % KINDS
        ]
    )


def damaged(root: Path, whole: Path, share: float) -> tuple[Path, set[str]]:
    """Copy a folder and damage that share of its files, each in one of five ways."""
    shutil.copytree(whole, root)
    files = sorted(root.rglob("*.jpg"))
    chosen = np.random.default_rng(1).permutation(len(files))[
        : round(share * len(files))
    ]
    for kind, k in enumerate(chosen):
        damage(files[k], kind)
    return root, {str(files[k]) for k in chosen}


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[float, tuple[Path, set[str]]]:
    root = tmp_path_factory.mktemp("photos")
    whole = photos(root / "whole")
    return {share: damaged(root / str(share), whole, share) for share in (0.01, 0.1)}


def read_list(runs: Path, stage: str = "pretrain") -> list[dict[str, Any]]:
    (path,) = runs.glob(f"{stage}/*/{LIST_NAME}")
    return read_rows(path)


def run_and_capture(*overrides: str) -> tuple[list[dict[str, Any]], list[str]]:
    console = Console(file=io.StringIO(), width=300)
    results = execute(plan_for(*overrides), console)
    return results, [
        line for line in console.file.getvalue().splitlines() if "read" in line
    ]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def one_percent(
    folders: dict[float, tuple[Path, set[str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, set[str]]:
    """Return the ledger of a finished run, and the names of the bad files."""
    root, names = folders[0.01]
    runs = tmp_path_factory.mktemp("undisturbed")
    results, lines = run_and_capture(f"data.root={root}", f"runs_dir={runs}", *ON_DISK)
    assert results[-1]["bad_images"] == len(names) == 2
    assert len(lines) == 2, "a warning and a summary"
    assert (
        f"another image stands in for it, and all such files are listed in {runs}"
        in lines[0]
    )
    assert lines[1].startswith("  2 images could not be read: ")
    return runs, names


def test_one_percent_of_bad_files_is_trained_past_and_each_is_named_once(
    one_percent: tuple[Path, set[str]],
) -> None:
    runs, names = one_percent
    rows = read_list(runs)
    assert sorted(row["name"] for row in rows) == sorted(names)
    assert all(
        row["reason"] and 1 <= row["step"] <= 3 and row["epoch"] == 0
        for row in rows
        if row["split"] == "training"
    )
    (path,) = runs.glob("pretrain/*/metrics.jsonl")
    counts = [row["bad_images"] for row in read_rows(path) if "bad_images" in row]
    assert counts[-1] == sum(row["split"] == "training" for row in rows)


def test_workers_change_neither_the_weights_nor_the_list(
    one_percent: tuple[Path, set[str]],
    folders: dict[float, tuple[Path, set[str]]],
    tmp_path: Path,
) -> None:
    run(
        f"data.root={folders[0.01][0]}",
        f"runs_dir={tmp_path}",
        *ON_DISK,
        "data.num_workers=2",
    )
    assert_same(tmp_path, one_percent[0])
    assert read_list(tmp_path) == read_list(one_percent[0])


def test_a_killed_run_goes_on_with_the_same_weights_and_lists_no_file_twice(
    one_percent: tuple[Path, set[str]],
    folders: dict[float, tuple[Path, set[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last step is computed again: the images it met are on the list already."""
    overrides = (
        f"data.root={folders[0.01][0]}",
        f"runs_dir={tmp_path}",
        *ON_DISK,
        "checkpoint.every_steps=2",
    )
    with monkeypatch.context() as patch:
        crash_at(patch, 3)
        with pytest.raises(Crash):
            run(*overrides)
    run(*overrides)
    assert_same(tmp_path, one_percent[0])
    assert read_list(tmp_path) == read_list(one_percent[0])


def test_ten_percent_of_bad_files_stop_the_run_saved_and_it_goes_on_when_allowed(
    folders: dict[float, tuple[Path, set[str]]], tmp_path: Path
) -> None:
    root, names = folders[0.1]
    overrides = (f"data.root={root}", f"runs_dir={tmp_path}", *ON_DISK)
    with pytest.raises(TooManyBadImagesError) as error:
        run(*overrides)
    (line,) = str(error.value).splitlines()
    assert "of 180 training images" in line
    assert "data.bad_limit=0.05 allows 9" in line
    assert str(next(tmp_path.glob(f"pretrain/*/{LIST_NAME}"))) in line
    assert "raise data.bad_limit and the same command goes on" in line
    met = read_list(tmp_path)
    assert len(met) > 9
    assert {row["name"] for row in met} <= names
    saved = checkpoints.newest(next(tmp_path.glob("pretrain/*/checkpoints")))
    assert saved is not None
    assert saved.name == f"step={met[-1]['step']:08d}.ckpt", (
        "the step that met the last one is not lost"
    )
    result = run(*overrides, "data.bad_limit=0.2")[-1]
    rows = read_list(tmp_path)
    assert {row["name"] for row in rows} == names
    assert len(rows) == len(names) == result["bad_images"]
    assert rows[: len(met)] == sorted(met, key=lambda row: (row["step"], row["name"]))


def test_a_file_that_vanishes_in_mid_epoch_is_replaced(
    folders: dict[float, tuple[Path, set[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, names = (
        shutil.copytree(folders[0.01][0], tmp_path / "images"),
        folders[0.01][1],
    )
    original, gone = Checkpointing.on_train_batch_end, set[str]()

    def vanishing(self: Checkpointing, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == 4:
            for path in [*sorted(root.glob("a/*.jpg"))[3:5], root / "b" / "050.jpg"]:
                path.unlink()
                gone.add(str(path))

    monkeypatch.setattr(Checkpointing, "on_train_batch_end", vanishing)
    run(f"data.root={root}", f"runs_dir={tmp_path / 'runs'}", *ON_DISK)
    rows = {row["name"]: row for row in read_list(tmp_path / "runs")}
    assert {Path(name).relative_to(root) for name in rows.keys() - gone} <= {
        Path(name).relative_to(folders[0.01][0]) for name in names
    }
    late = [row for name, row in rows.items() if name in gone]
    assert late
    assert {row["reason"] for row in late} == {"No such file or directory"}
    assert all(row["step"] in (5, 6) for row in late)


@pytest.fixture(scope="module")
def split_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """train/ and val/ with a bad last validation image, and the same without that file."""
    root = tmp_path_factory.mktemp("split")
    photos(root / "bad" / "train", 10)
    photos(root / "bad" / "val", 4)
    (root / "bad" / "val" / "b" / "003.jpg").write_bytes(b"")
    shutil.copytree(root / "bad", root / "without")
    (root / "without" / "val" / "b" / "003.jpg").unlink()
    return root / "bad", root / "without"


@pytest.mark.parametrize(("in_memory", "at_once"), [(True, 4), (False, 1)])
def test_a_bad_validation_image_is_left_out_of_every_measure(
    at_once: int, in_memory: bool, split_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Metrics are as if it were not there, also if it is alone in a batch."""
    found = []
    for root in split_folders:
        runs = tmp_path / root.name
        found.append(
            run(
                f"data.root={root}",
                f"runs_dir={runs}",
                *ON_DISK,
                f"data.in_memory={in_memory}",
                "stages=[pretrain,knn,linear_probe,scratch]",
                "augment=none",
                "pretrain.epochs=1",
                "pretrain.batch_size=20",
                "finetune.epochs=1",
                "finetune.batch_size=20",
                f"trainer.micro_batch={at_once}",
                "linear_probe.batch_size=20",
                "linear_probe.epochs=1",
            )
        )
        counted = pd.concat(
            [pd.read_csv(path) for path in runs.glob("*/*/classes.csv")]
        )
        assert counted["images"].sum() == 3 * 7
    bad, without = found
    for ours, theirs in zip(bad, without, strict=True):
        assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-6)
        assert ours["images"] == theirs["images"] == 7
        assert (ours["bad_images"], theirs.get("bad_images")) == (1, None)


@pytest.mark.parametrize(
    "augment", [Augmentation(), None], ids=["training", "evaluation"]
)
def test_substitutes_are_the_same_from_memory_and_from_disk(
    augment: Augmentation | None, folders: dict[float, tuple[Path, set[str]]]
) -> None:
    listing = list_images(folders[0.1][0], holdout=0.1)
    image_format = ImageFormat((SIZE, SIZE), (0.5,) * 3, (0.25,) * 3)
    batches = []
    for in_memory in (True, False):
        train, _ = splits_from_listing(listing, 3, (SIZE, SIZE), in_memory)
        assert isinstance(train, InMemory) == in_memory
        batches.append(
            Views(train, image_format, augment, 0).__getitems__(
                [(0, i) for i in range(len(train))]
            )
        )
    loaded, stored = batches
    assert loaded.images_BCHW.equal(stored.images_BCHW)
    assert loaded.labels_B.equal(stored.labels_B)
    assert loaded.bad_images == stored.bad_images
    assert len(loaded.bad_images) > 10


def test_the_disk_is_only_suspected_if_the_errors_are_those_of_a_disk() -> None:
    gone, odd = (
        no_substitute_error([BadImage(0, "a.npy", why), BadImage(1, "b.npy", why)])
        for why in (os.strerror(errno.ENOENT), "5 channels")
    )
    assert str(gone).endswith(
        "the first is a.npy (No such file or directory); is the disk there?"
    )
    assert (
        str(odd)
        == "none of 2 images in a row can be read, the first is a.npy (5 channels)"
    )


def test_a_substitute_changes_no_other_image_and_is_cropped_by_the_draws_of_the_lost_one(
    tmp_path: Path,
) -> None:
    """Draws belong to the sample that was asked for, not to the image that is used."""
    listing = list_images(photos(tmp_path, 10), holdout=0.1)
    train, _ = splits_from_listing(listing, 3, (SIZE, SIZE), in_memory=False)
    views = Views(
        train,
        ImageFormat((8, 8), (0.5,) * 3, (0.25,) * 3),
        Augmentation("random", flip=True),
        0,
    )
    keys = [(3, i) for i in (5, 2, 11, 4)]
    whole, again = views.__getitems__(keys), views.__getitems__([(3, 2), (3, 3)])
    damage(tmp_path / list(listing.train)[2][0], 0)
    batch = views.__getitems__(keys)
    others = torch.tensor([0, 2, 3])
    assert batch.images_BCHW[others].equal(whole.images_BCHW[others])
    assert batch.ids_B.equal(whole.ids_B)
    assert batch.labels_B.equal(whole.labels_B)
    assert not batch.images_BCHW[1].equal(whole.images_BCHW[1])
    assert not batch.images_BCHW[1].equal(again.images_BCHW[1]), (
        "the neighbour's image, but not its crop"
    )


def test_stages_that_share_features_both_list_their_bad_images(
    folders: dict[float, tuple[Path, set[str]]], tmp_path: Path
) -> None:
    run(
        f"data.root={folders[0.01][0]}",
        f"runs_dir={tmp_path}",
        *ON_DISK,
        "stages=[knn,linear_probe]",
        "pretrain.epochs=1",
        "linear_probe.batch_size=60",
    )
    assert read_list(tmp_path, "knn") == read_list(tmp_path, "linear_probe")
    assert {row["name"] for row in read_list(tmp_path, "knn")} == folders[0.01][1]


@pytest.mark.parametrize("stage", ["patch_pca", "tokenizer"])
def test_stages_before_pretraining_list_their_bad_images_too(
    stage: str, folders: dict[float, tuple[Path, set[str]]], tmp_path: Path
) -> None:
    small = (
        "tokenizer.epochs=1",
        "tokenizer.batch_size=60",
        "tokenizer.width=8",
        "tokenizer.codes=16",
        "tokenizer.warmup_epochs=0",
    )
    (result,) = run(
        f"data.root={folders[0.01][0]}",
        f"runs_dir={tmp_path}",
        *ON_DISK,
        *small,
        f"stages=[{stage}]",
    )
    met = {row["name"] for row in read_list(tmp_path, stage)}
    assert met <= folders[0.01][1]
    assert len(met) == result["bad_images"] > 0


def bad_images(
    folder: Path, limit: float = 0.05, notify: Callable[[str], None] = print
) -> BadImages:
    return BadImages(folder, limit, notify)


def test_lists_of_several_ranks_count_together_and_are_merged(
    tmp_path: Path,
) -> None:
    ours, warned = bad_images(tmp_path), []
    theirs = {
        "name": "y.jpg",
        "reason": "it is empty",
        "split": "training",
        "epoch": 0,
        "step": 2,
    }
    (tmp_path / "bad_images.rank1.jsonl").write_text(
        json.dumps(theirs) + "\n" + json.dumps(theirs)[:20]
    )
    ours.notify = warned.append
    ours.record(
        [BadImage(3, "x.jpg", "it is empty")], SplitProgress("training", 20, 0, 3)
    )
    ours.record(
        [BadImage(3, "x.jpg", "it is empty"), BadImage(4, "y.jpg", "it is empty")],
        SplitProgress("training", 20, 1, 9),
    )
    assert isinstance(ours.limit_error, TooManyBadImagesError), (
        "one of 20 is allowed, and two ranks met one each"
    )
    assert [ours.count("training", step) for step in (1, 2, 3, 9)] == [0, 1, 2, 2]
    assert [(row["name"], row["step"]) for row in ours.merge()] == [
        ("y.jpg", 2),
        ("x.jpg", 3),
    ]
    assert ours.list_paths() == [tmp_path / LIST_NAME]
    assert len(warned) == 2


def test_the_limit_is_a_share_of_each_split_rounded_up(tmp_path: Path) -> None:
    ours = bad_images(tmp_path, limit=0.01)
    ours.record([BadImage(0, "a", "r")], SplitProgress("validation", 10))
    ours.record(
        [BadImage(0, "b", "r"), BadImage(1, "c", "r")], SplitProgress("training", 101)
    )
    assert ours.limit_error is None
    ours.record([BadImage(5, "d", "r")], SplitProgress("validation", 10))
    assert str(ours.limit_error).startswith(
        "2 of 10 validation images (20.00%) cannot be read so far; data.bad_limit=0.01"
        " allows 1; d cannot"
    )


def test_the_limit_is_the_decimal_share_that_was_typed(tmp_path: Path) -> None:
    # in binary, 0.07 times 100 is more than 7
    bad = bad_images(tmp_path, limit=0.07)
    bad.record(
        [BadImage(i, str(i), "it is empty") for i in range(7)],
        SplitProgress("training", 100),
    )
    assert bad.limit_error is None
    bad.record([BadImage(7, "7", "it is empty")], SplitProgress("training", 100))
    assert "data.bad_limit=0.07 allows 7" in str(bad.limit_error)


def test_two_processes_end_together_saved_and_go_on_with_one_list(
    folders: dict[float, tuple[Path, set[str]]], tmp_path: Path
) -> None:
    root, names = folders[0.1]
    overrides = (f"data.root={root}", f"runs_dir={tmp_path / 'runs'}", *ON_DISK)
    train_ranks(tmp_path / "record", 2, *overrides, code=1)
    words = [
        (tmp_path / "record" / f"output{rank}" / "stderr").read_text()
        for rank in (0, 1)
    ]
    (line,) = {
        line
        for text in words
        for line in text.splitlines()
        if "TooManyBadImagesError: " in line
    }
    assert "of 180 training images" in line
    assert all(line in text for text in words), (
        "the rank that did not meet the last one reports it too"
    )
    (folder,) = (tmp_path / "runs" / "pretrain").iterdir()
    assert checkpoints.newest(folder / "checkpoints") is not None
    assert (folder / "bad_images.rank1.jsonl").exists()
    train_ranks(tmp_path / "record", 2, *overrides, "data.bad_limit=0.5")
    assert [path.name for path in folder.glob("bad_images*")] == [LIST_NAME]
    assert {row["name"] for row in read_list(tmp_path / "runs")} == names


@pytest.mark.parametrize("bad", [[0], [7, 12]])
def test_predictions_name_images_by_their_place_in_the_split(
    tmp_path: Path, bad: list[int]
) -> None:
    """Whatever computes features beforehand leaves out the same images as fine-tuning."""
    photos(tmp_path / "train", per_class=20)
    files = sorted(photos(tmp_path / "val", per_class=10).rglob("*.jpg"))
    for i in bad:
        damage(files[i], 2)
    run(
        *ON_DISK,
        f"data.root={tmp_path}",
        f"runs_dir={tmp_path / 'runs'}",
        "stages=[pretrain,knn,linear_probe,finetune]",
        "pretrain.batch_size=40",
        "linear_probe.batch_size=40",
        "data.bad_limit=0.5",
    )
    expected = [i for i in range(20) if i not in bad]
    for kind in ("knn", "linear_probe", "finetune"):
        (path,) = tmp_path.glob(f"runs/{kind}/*/predictions.csv")
        rows = pd.read_csv(path)
        assert rows["image"].tolist() == expected, kind
        assert rows["label"].tolist() == [i // 10 for i in expected], kind
