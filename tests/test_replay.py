"""A recorded step is repeated to the bit, and the worst image in it is named."""

import io
import json
import math
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from planting import broken_image, infinite_gradient, infinite_weight, run_until_stopped
from small_runs import call, image_folder, run
from unmask.commands.replay.rebuild import read_record, rebuild_step
from unmask.commands.replay.replay import recompute, replay, worst_image
from unmask.config.checks import ConfigError
from unmask.data.listing.names import FolderStore
from unmask.tasks.recompute import recompute_sample_losses

ABSURD = ("stages=[pretrain]", "pretrain.base_lr=1e30", "pretrain.warmup_epochs=0")
PRETRAIN = ("stages=[pretrain]",)
MIXED = (
    "stages=[scratch]",
    "labels=100",
    "finetune.mixup=0.8",
    "finetune.cutmix=1.0",
    "finetune.drop_path=0.3",
)
TOKENIZER = (
    "stages=[tokenizer]",
    "tokenizer.epochs=2",
    "tokenizer.warmup_epochs=0",
    "tokenizer.codes=16",
    "tokenizer.width=8",
    "tokenizer.batch_size=1000",
)


def replayed(folder: Path) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=160)
    same = replay(str(folder), console)
    return same, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "overrides",
    [
        PRETRAIN,
        (
            *PRETRAIN,
            "augment=crop_random",
            "trainer.micro_batch=250",
            "masking=block",
            "loss_on=all",
        ),
        (*PRETRAIN, "trainer.precision=bf16-mixed"),
        (*PRETRAIN, "target=hog"),
        (*PRETRAIN, "target=pca"),
        MIXED,
        (*MIXED, "finetune.augment.erasing=0.5", "finetune.ema=0.99"),
        TOKENIZER,
    ],
    ids=[
        "pretrain",
        "crops, micro-batches",
        "bf16",
        "hog",
        "pca",
        "mixed",
        "erased, averaged",
        "tokenizer",
    ],
)
def test_a_finite_loss_is_repeated_to_the_bit(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops, masks, mixtures and noise are the same. Only the gradient was spoilt, so the loss is a number."""
    with monkeypatch.context() as patch:
        infinite_gradient(patch, step=2)
        folder, _ = run_until_stopped(tmp_path, *overrides)
    record = read_record(str(folder))
    losses, gradient_norm = recompute(rebuild_step(record))
    assert all(math.isfinite(loss) for loss in record.losses)
    assert losses == record.losses
    assert record.compare_losses(losses, math.inf) == "the same, bit for bit"
    assert record.compare_losses(losses, gradient_norm) is None, (
        "the gradient was not finite, and now it is"
    )


def test_probes_are_repeated_from_the_features_they_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = "pretrain.epochs=1"
    run(f"runs_dir={tmp_path}", *PRETRAIN, short)
    for number, overrides in enumerate(([], ["linear_probe.augment.crop=random"])):
        runs = shutil.copytree(
            tmp_path / "pretrain", tmp_path / str(number) / "pretrain"
        ).parent
        with monkeypatch.context() as patch:
            infinite_gradient(patch, step=3)
            folder, _ = run_until_stopped(
                runs, "stages=[linear_probe]", short, *overrides
            )
        record = read_record(str(folder))
        losses, _ = recompute(rebuild_step(record))
        assert losses == record.losses


def test_a_run_that_blew_up_is_repeated_and_names_the_largest_weight(
    tmp_path: Path,
) -> None:
    folder, _ = run_until_stopped(tmp_path, *ABSURD)
    same, printed = replayed(folder.parent)
    assert same
    assert "loss nan, gradient norm nan: the same, bit for bit" in printed
    assert "Each of the 1000 images has a loss that is not finite" in printed
    assert "not one image's fault. Lower base_lr" in printed
    assert "the largest weight was" in printed
    done = call(str(folder), script="replay.py", tiny=False)
    assert done.returncode == 0, done.stderr
    assert "the same, bit for bit" in done.stdout


def test_an_infinite_weight_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        infinite_weight(patch, step=3)
        folder, _ = run_until_stopped(tmp_path, *PRETRAIN)
    same, printed = replayed(folder)
    assert same
    assert "first not finite in decoder.head" in printed
    assert "the weights were not finite when the step began" in printed


def test_the_worst_image_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = image_folder(tmp_path / "images")
    broken_image(monkeypatch, sample=5)
    folder, _ = run_until_stopped(
        tmp_path / "runs",
        "data=image_folder",
        f"data.root={images}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.num_workers=0",
        "data.in_memory=false",
        "pretrain.batch_size=9",
        "augment=crop_random",
        *PRETRAIN,
        "trainer.micro_batch=3",
    )
    record = read_record(str(folder))
    assert 5 in [sample for ids in record.rank_zero["samples"] for sample in ids]
    step = rebuild_step(record)
    worst = worst_image(step)
    assert (worst.sample, worst.bad, worst.images) == (5, 1, 9)
    same, printed = replayed(folder)
    assert same
    assert (
        f"Worst image: {step.describe_sample(5)} (loss nan; 1 of 9 are not finite)"
        in printed
    )
    assert step.describe_sample(5).endswith(".png")


def test_of_finite_losses_the_largest_is_the_worst_and_they_make_up_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, overrides in enumerate((PRETRAIN, MIXED)):
        with monkeypatch.context() as patch:
            infinite_gradient(patch, step=2)
            folder, _ = run_until_stopped(tmp_path / str(number), *overrides)
        step = rebuild_step(read_record(str(folder)))
        (batch,) = step.micro_batches
        losses = recompute_sample_losses(step.module, batch, 1)
        worst = worst_image(step)
        assert worst.loss == losses.max().item()
        assert worst.sample == batch.ids_B[losses.argmax()]
        assert (worst.bad, worst.images) == (0, len(losses))
        (whole,), _ = recompute(step)
        assert losses.mean().item() == pytest.approx(whole, rel=1e-5)


def test_the_records_of_two_processes_make_up_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two with two micro-batches each are one with four: loss and gradient."""
    with monkeypatch.context() as patch:
        infinite_gradient(patch, step=2)
        folder, _ = run_until_stopped(tmp_path, *PRETRAIN, "trainer.micro_batch=250")
    whole_losses, whole_norm = recompute(rebuild_step(read_record(str(folder))))
    record = json.loads((folder / "record.json").read_text())
    for name, part in (
        ("record.json", slice(0, 2)),
        ("record.rank1.json", slice(2, 4)),
    ):
        losses = [2 * loss for loss in record["losses"][part]]
        mine = {
            **record,
            "processes": 2,
            "samples": record["samples"][part],
            "losses": losses,
        }
        (folder / name).write_text(json.dumps(mine))
    shared = read_record(str(folder))
    losses, gradient_norm = recompute(rebuild_step(shared))
    assert losses == shared.losses
    assert (sum(losses) / 2, gradient_norm) == pytest.approx(
        (sum(whole_losses), whole_norm), rel=1e-6
    )
    (folder / "record.rank1.json").unlink()
    with pytest.raises(ConfigError, match="of 1 processes, not of 2"):
        read_record(str(folder))


def test_a_fault_that_does_not_come_again_is_not_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        broken_image(patch, sample=7)
        folder, _ = run_until_stopped(tmp_path, *PRETRAIN)
    same, printed = replayed(folder)
    assert not same
    assert "not the same" in printed
    assert "a fault of the device may be the cause" in printed
    assert call(f"folder={folder}", script="replay.py", tiny=False).returncode == 1


def test_images_that_went_bad_since_are_refused_and_those_that_were_bad_then_are_replaced_as_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = image_folder(tmp_path / "images")
    (images / "cat" / "003.png").write_bytes(b"")
    folder, _ = run_until_stopped(
        tmp_path / "runs",
        "data=image_folder",
        f"data.root={images}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.in_memory=false",
        "data.num_workers=0",
        "pretrain.batch_size=18",
        *ABSURD,
    )
    assert replayed(folder)[0], "the same image stands in"
    original = FolderStore.read

    def failing(self: FolderStore, i: int) -> bytes:
        if self.name(i).endswith("dog/005.png"):
            raise OSError(5, "Input/output error")
        return original(self, i)

    monkeypatch.setattr(FolderStore, "read", failing)
    with pytest.raises(
        ConfigError,
        match=(
            r"images of the recorded step cannot be read: .*dog/005.png \(Input/output"
        ),
    ):
        replay(str(folder), Console(quiet=True))


def test_missing_and_damaged_records_are_refused_in_one_line(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images")
    folder, _ = run_until_stopped(
        tmp_path / "runs",
        "data=image_folder",
        f"data.root={images}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.num_workers=0",
        "pretrain.batch_size=9",
        *ABSURD,
    )
    with pytest.raises(
        ConfigError, match=r"no nonfinite/record.json there; give the folder of a stage"
    ):
        replay(str(tmp_path), Console())
    damaged = shutil.copytree(folder, tmp_path / "cut" / "nonfinite")
    (damaged / "record.json").write_text((damaged / "record.json").read_text()[:200])
    with pytest.raises(
        ConfigError,
        match=r"the record is damaged \(.*\); run the command",
    ):
        replay(str(damaged), Console())
    flipped = shutil.copytree(folder, tmp_path / "flipped" / "nonfinite")
    (weights,) = flipped.glob("*.ckpt")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigError, match=r"the sha256 of step=00000001.ckpt differs"):
        replay(str(flipped), Console())
    next(images.glob("*/000.png")).unlink()
    with pytest.raises(ConfigError, match=r"cannot be rebuilt.*data\.root="):
        replay(str(folder), Console(quiet=True))
    shutil.rmtree(images)
    done = call(str(folder), script="replay.py", tiny=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "data.root" in line
