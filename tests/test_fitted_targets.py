"""What a target must know of the training images is fitted once, kept in the ledger, and used from there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from small_runs import plan_for, run
from unmask.commands.reconstruct.autoencoder import reconstruct_images
from unmask.config.checks import ConfigError
from unmask.data.loading.in_memory import load_arrays
from unmask.exchange.read_weights import read_weights
from unmask.patches import patchify
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.storage import checkpoints

QUICK = (
    "stages=[pretrain]",
    "pretrain.epochs=1",
    "tokenizer.epochs=2",
    "tokenizer.warmup_epochs=0",
    "tokenizer.codes=16",
    "tokenizer.width=8",
    "tokenizer.batch_size=500",
)


def only_stage(runs: Path, kind: str) -> Path:
    """The folder of the one stage of this kind."""
    (folder,) = (runs / kind).iterdir()
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledgers of a pretraining on PCA coefficients and of one on tokens."""
    root = tmp_path_factory.mktemp("runs")
    for target in ("pca", "dvae"):
        run(*QUICK, f"target={target}", f"runs_dir={root / target}")
    return root


def test_the_basis_is_that_of_all_training_patches(runs: Path) -> None:
    train, _ = load_arrays("mnist5k")
    pixels = (train.images_NCHW.float() / 255 - 0.1307) / 0.3081
    patches = patchify(pixels, 7).flatten(0, 1).double()
    _, values, rows = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    basis = load_file(only_stage(runs / "pca", "patch_pca") / "basis.safetensors")
    torch.testing.assert_close(
        basis["variance_P"], values.square() / len(patches), rtol=1e-6, atol=1e-8
    )
    agree = (basis["components_PP"][:, :6] * rows[:6].T).sum(0).abs()
    torch.testing.assert_close(agree, torch.ones_like(agree), rtol=0, atol=1e-6)


def test_a_checkpoint_holds_its_basis_and_is_drawn_without_the_ledger(
    runs: Path,
) -> None:
    path = checkpoints.newest(only_stage(runs / "pca", "pretrain") / "checkpoints")
    assert path is not None
    state = checkpoints.load(path)["state_dict"]
    basis = load_file(only_stage(runs / "pca", "patch_pca") / "basis.safetensors")
    assert state["target.basis_PK"].equal(basis["components_PP"][:, :6].float()), (
        "an eighth of 49"
    )
    result = reconstruct_images(path, None, 2, None, 0)
    assert result.pasted_BCHW.shape == (2, 1, 28, 28)
    assert not result.pasted_BCHW.equal(result.original_BCHW)


def test_a_second_seed_uses_what_the_first_one_fitted(runs: Path) -> None:
    for target, stage in (("pca", "patch_pca"), ("dvae", "tokenizer")):
        before = only_stage(runs / target, stage).stat().st_mtime_ns
        run(*QUICK, f"target={target}", f"runs_dir={runs / target}", "seed=1")
        assert only_stage(runs / target, stage).stat().st_mtime_ns == before
        assert len(list((runs / target / "pretrain").iterdir())) == 2


def test_tokens_come_from_the_tokenizers_stage_and_are_not_drawn(
    runs: Path,
) -> None:
    folder = StageFolder(runs / "dvae", plan_for(*QUICK, "target=dvae").stages[-1])
    result = folder.result()
    assert result is not None
    assert result["metrics"]["val/loss"] < torch.tensor(16.0).log() + 0.1, (
        "no worse than a guess among 16 codes"
    )
    assert not folder.pictures.exists()
    path = checkpoints.newest(folder.checkpoints)
    assert path is not None
    assert not any(
        name.startswith("target.") for name in checkpoints.load(path)["state_dict"]
    )
    with pytest.raises(ConfigError, match="predicts tokens of a dVAE, not pixels"):
        reconstruct_images(path, None, 2, None, 0)


def test_the_small_dvae_reports_how_many_codes_are_in_use(runs: Path) -> None:
    result = StageFolder(
        runs / "dvae", plan_for(*QUICK, "target=dvae").stages[0]
    ).result()
    assert result is not None
    assert 1 <= result["metrics"]["val/perplexity"] <= 16


@pytest.mark.parametrize("variant", ["pca", "dvae", "mask tokens"])
def test_the_encoder_of_a_variant_is_read_and_its_decoder_named(
    variant: str, runs: Path, tmp_path: Path
) -> None:
    if variant == "mask tokens":
        run(*QUICK, "encoder.mask_tokens=true", f"runs_dir={tmp_path}")
        folder = only_stage(tmp_path, "pretrain")
    else:
        folder = StageFolder(
            runs / variant, plan_for(*QUICK, f"target={variant}").stages[-1]
        ).path
    weights, report = read_weights(folder)
    assert weights.decoder is None
    assert any(
        "a decoder of this project alone" in why for why in report.dropped.values()
    )
    assert set(weights.encoder) >= {"cls_token", "pos_embed", "norm.weight"}


def test_a_missing_basis_is_named(tmp_path: Path) -> None:
    run(*QUICK, "target=pca", f"runs_dir={tmp_path}")
    (only_stage(tmp_path, "patch_pca") / "basis.safetensors").unlink()
    with pytest.raises(
        LedgerError, match=r"is finished but basis\.safetensors cannot be read"
    ):
        run(*QUICK, "target=pca", f"runs_dir={tmp_path}", "seed=3")


def test_gradients_and_jitter_train_too(tmp_path: Path) -> None:
    (result,) = run(
        *QUICK,
        "target=hog",
        "augment=crop_jitter",
        "data.num_workers=0",
        f"runs_dir={tmp_path}",
    )
    plain = run(*QUICK, "target=hog", "augment=crop_random", f"runs_dir={tmp_path}")[0]
    assert result["metrics"]["val/loss"] != plain["metrics"]["val/loss"]
