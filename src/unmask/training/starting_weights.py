"""The weights a stage starts from: pretraining's, init_from's or random ones."""

from pathlib import Path
from typing import Any

from rich.console import Console

from unmask.config.schema import Config
from unmask.distributed import collectives
from unmask.encoder import Encoder
from unmask.exchange.geometry import Hints
from unmask.exchange.load_into_model import load_encoder, load_mae, load_pretrained
from unmask.exchange.read_weights import read_weights
from unmask.exchange.summary import report_table
from unmask.exchange.weights import Weights
from unmask.mae import MAE
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.storage import checkpoints
from unmask.targets import AnyTarget, NormalisedPixel, Pixel
from unmask.training import build


def starting_encoder(config: Config, spec: StageSpec, console: Console) -> Encoder:
    """Return the stage's encoder, on the grid of its images.

    Its weights are those of init_from, of the stage it starts from, or random ones
    that depend on the seed alone.
    """
    grid = config.grid_for(config.stage_image_size(spec.kind))
    if spec.start == "given":
        encoder = build.build_encoder(config, grid)
        weights = read_init_from(config)
        report = load_encoder(encoder, weights)
        console.print(report_table(weights, {"load": report}))
        return encoder
    if spec.parent is None:
        # the control: as pretraining of this seed started
        return build.build_encoder(config, grid, config.seed)
    encoder = build.build_encoder(config, grid)
    _, content = read_parent_checkpoint(config, spec)
    # positions are interpolated where the stage's images have another size
    load_pretrained(encoder, content["state_dict"], config.grid)
    return encoder


def load_init_from(
    model: MAE, target: AnyTarget, config: Config, console: Console
) -> None:
    """Load init_from into the autoencoder that a pretraining goes on with.

    Its decoder is loaded too where it predicts pixels, as the target asks; else the
    decoder starts from random weights.
    """
    weights = read_init_from(config)
    with_decoder = (
        weights.decoder is not None
        and isinstance(target, Pixel | NormalisedPixel)
        and config.decoder.depth
    )
    report = (
        load_mae(model, weights)
        if with_decoder
        else load_encoder(model.encoder, weights)
    )
    console.print(report_table(weights, {"load": report}))
    if not with_decoder:
        console.print(
            "  these weights have no decoder for this target: it starts from random"
            " weights"
        )


def read_init_from(config: Config) -> Weights:
    """Read the file or folder that init_from names, in any known layout.

    Numbers of heads, which tensors do not show, come from the config where the file
    does not name them.
    """
    weights, _ = read_weights(
        Path(str(config.init_from)).expanduser(),
        defaults=Hints(config.model.heads, config.decoder.heads),
    )
    return weights


def read_parent_checkpoint(
    config: Config, spec: StageSpec
) -> tuple[Path, dict[str, Any]]:
    """Return path and content of the final checkpoint of the stage's parent.

    Raises LedgerError where it is missing or damaged.
    """
    assert spec.parent is not None
    folder = StageFolder(config.runs_dir, spec.parent)
    # setting damaged files aside, as newest() does, is for one rank alone
    path = collectives.on_rank_zero(lambda: checkpoints.newest(folder.checkpoints))
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
