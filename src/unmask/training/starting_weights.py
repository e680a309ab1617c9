"""The weights a stage starts from: pretraining's, init_from's or random ones."""

from pathlib import Path
from typing import Any

from rich.console import Console

from unmask.config.schema import Config
from unmask.decoder import Decoder
from unmask.distributed import collectives
from unmask.encoder import AnyEncoder
from unmask.exchange.load_into_model import load_encoder, load_mae, load_pretrained
from unmask.exchange.read_weights import read_weights
from unmask.exchange.summary import report_table
from unmask.mae import MAE
from unmask.stages.given_weights import init_from_source
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.storage import checkpoints
from unmask.storage.removed_weights import removed_weights
from unmask.targets import AnyTarget, NormalisedPixel, PatchPCA, Pixel, Tokens
from unmask.tokenizers import SmallTokenizer
from unmask.training.fitted_targets import load_basis
from unmask.training.run import Stage


def load_starting_weights(encoder: AnyEncoder, stage: Stage) -> None:
    """Load the weights that a stage starts from: init_from, or those of its parent.

    Others are the random ones of the seed, which the encoder has already.
    """
    if stage.spec.start == "given":
        weights, read = read_weights(*init_from_source(stage.config))
        report = load_encoder(encoder, weights, stage.config.positions)
        stage.console.print(report_table(weights, {"read": read, "load": report}))
    elif stage.spec.parent is not None:
        _, content = read_parent_checkpoint(stage)
        # positions are interpolated where the stage's images have another size
        config = stage.config
        load_pretrained(encoder, content["state_dict"], config.grid, config.positions)


def load_init_from(
    model: MAE, target: AnyTarget, config: Config, console: Console
) -> None:
    """Load init_from into the autoencoder that a pretraining goes on with.

    Its decoder is loaded too where it predicts pixels, as the target asks; else the
    decoder starts from random weights.
    """
    weights, read = read_weights(*init_from_source(config))
    with_decoder = (
        weights.decoder is not None
        and isinstance(target, Pixel | NormalisedPixel)
        and isinstance(model.decoder, Decoder)
    )
    report = (
        load_mae(model, weights, config.positions)
        if with_decoder
        else load_encoder(model.encoder, weights, config.positions)
    )
    console.print(report_table(weights, {"read": read, "load": report}))
    if not with_decoder:
        console.print(
            "  these weights have no decoder for this target: it starts from random"
            " weights"
        )


def load_fitted(target: AnyTarget, stage: Stage) -> None:
    """Load what an earlier stage has fitted for the target: a basis or a small dVAE."""
    if stage.spec.parent is None:
        return
    if isinstance(target, PatchPCA):
        load_basis(target, StageFolder(stage.config.runs_dir, stage.spec.parent).path)
    elif isinstance(target, Tokens):
        assert isinstance(target.tokenizer, SmallTokenizer)
        _, content = read_parent_checkpoint(stage)
        state = checkpoints.strip_prefix(content["state_dict"], "model.")
        target.tokenizer.load_state_dict(state)


def read_parent_checkpoint(stage: Stage) -> tuple[Path, dict[str, Any]]:
    """Return path and content of the final checkpoint of the stage's parent.

    Raises LedgerError where it is missing or damaged.
    """
    parent = stage.spec.parent
    assert parent is not None
    folder = StageFolder(stage.config.runs_dir, parent)
    # setting damaged files aside, as newest() does, is for one rank alone
    path = collectives.on_rank_zero(lambda: checkpoints.newest(folder.checkpoints))
    if path is None and (removed := removed_weights(folder.path)):
        raise LedgerError(f"{folder.path}: {removed}")
    if path is None:
        raise LedgerError(
            f"{folder.path} is finished but has no undamaged checkpoint; remove that"
            " folder to redo it"
        )
    result = folder.result()
    content = checkpoints.load(path)
    # an earlier checkpoint would give other results under the same fingerprint
    if result is None or content["global_step"] != result["metrics"]["steps"]:
        raise LedgerError(
            f"the final checkpoint of {folder.path} is missing or damaged,"
            f" {path.name} is an earlier one; remove {folder.path}/result.json and"
            " the same command makes the last steps again"
        )
    return path, content
