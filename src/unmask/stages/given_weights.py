"""The weights that init_from names: checked by their header before anything starts."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from unmask.config.checks import ConfigError
from unmask.config.schema import Config
from unmask.exchange.fit import check_fit
from unmask.exchange.geometry import Hints, ModelSizes
from unmask.exchange.outline import read_outline
from unmask.exchange.sizes import Geometry, Stack
from unmask.stages.fingerprint import weights_identity

# targets that an official decoder can go on with
PIXEL_TARGETS = ("Pixel", "NormalisedPixel")


class GivenWeights(NamedTuple):
    """What a result depends on, of the weights that it starts from.

    identity: of their content, and of the choice among several in a file. grid: of
    their positions. is_recorded: whether the file itself names the grid.
    """

    identity: str
    grid: tuple[int, int]
    is_recorded: bool


class Source(NamedTuple):
    """Where init_from's weights lie and how they are read: `read_weights` takes it."""

    location: Path
    hints: Hints
    model: ModelSizes
    choice: str | None


def init_from_source(config: Config) -> Source:
    """Return how init_from is read.

    Numbers of heads and the grid, which tensors do not show, come from the config
    where the file does not name them.
    """
    shapes = [config.stage_image_size(kind) for kind in config.active_stages]
    grids = (config.grid, *map(config.grid_for, shapes))
    return Source(
        Path(str(config.init_from)),
        Hints(grid=config.weights_grid),
        ModelSizes(config.model.heads, config.decoder.heads, grids),
        config.weights,
    )


def check_given_weights(config: Config) -> GivenWeights:
    """Return what is known of init_from's weights, from names and shapes alone.

    Raises ConfigError where the file holds no weights, or they do not fit the model.
    """
    source = init_from_source(config)
    try:
        outline = read_outline(*source)
        check_fit(outline.geometry, _model_geometry(config))
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix(str(source.location)).lstrip(",: ")
        raise ConfigError(f"init_from = {config.init_from}: {reason}") from None
    # a large file takes seconds: of a sweep's cells the first one alone
    stamp = outline.header.path.stat()
    identity = _identity(str(config.init_from), stamp.st_mtime_ns, stamp.st_size)
    if config.weights:
        identity = f"{identity}:{config.weights}"
    is_recorded = outline.recorded_grid is not None
    return GivenWeights(identity, outline.geometry.grid, is_recorded)


@lru_cache
def _identity(path: str, modified: int, size: int) -> str:
    """Return a hash of the content; read again where a file has changed."""
    return weights_identity(path)


def positions_science(
    config: Config, kind: str, grid: tuple[int, int], is_recorded: bool = True
) -> dict[str, Any]:
    """Return what a stage's result depends on where positions change their grid.

    grid: of the weights that the stage starts from. Nothing where the result is what
    it was before there was a choice: timm's resampling, from the grid in the file or a
    square one.
    """
    is_resampled = grid != config.grid_for(config.stage_image_size(kind))
    as_before = is_recorded or grid[0] == grid[1]
    if as_before and (not is_resampled or config.positions == "timm"):
        return {}
    by = {"by": config.positions} if is_resampled else {}
    return {"positions": {**by, "from": list(grid)}}


def _model_geometry(config: Config) -> Geometry:
    """Return the sizes of the model that the weights are loaded into.

    Its decoder is one of them where pretraining goes on with theirs.
    """
    model, data = config.model, config.data
    assert data.patch_size is not None
    encoder = Stack(model.width, model.depth, model.heads, model.mlp_ratio)
    decoder = None
    predicts_pixels = config.target.target_.rpartition(".")[2] in PIXEL_TARGETS
    if "pretrain" in config.stages and predicts_pixels and config.decoder.depth:
        own = config.decoder
        decoder = Stack(own.width, own.depth, own.heads, own.mlp_ratio or 0)
    return Geometry(data.channels, data.patch_size, config.grid, encoder, decoder)
