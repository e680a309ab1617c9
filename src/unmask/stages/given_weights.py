"""The weights that init_from names: checked by their header before anything starts."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from unmask.config.architecture import Decoder
from unmask.config.checks import ConfigError
from unmask.config.schema import Config
from unmask.exchange.fit import check_fit
from unmask.exchange.geometry import Hints, ModelSizes
from unmask.exchange.outline import read_outline
from unmask.exchange.sizes import Geometry, Stack
from unmask.stages.fingerprint import GivenWeights, weights_identity

# targets that an official decoder can go on with
PIXEL_TARGETS = ("Pixel", "NormalisedPixel")


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
    stamps = [part.stat() for part in outline.header.parts]
    modified = max(stamp.st_mtime_ns for stamp in stamps)
    size = sum(stamp.st_size for stamp in stamps)
    identity = _identity(str(config.init_from), modified, size)
    if config.weights:
        identity = f"{identity}:{config.weights}"
    is_recorded = outline.recorded_grid is not None
    return GivenWeights(identity, outline.geometry.grid, is_recorded)


@lru_cache
def _identity(path: str, modified: int, size: int) -> str:
    """Return a hash of the content; read again where a file has changed."""
    return weights_identity(path)


def _model_geometry(config: Config) -> Geometry:
    """Return the sizes of the model that the weights are loaded into.

    Its decoder is one of them where pretraining goes on with theirs.
    """
    model, data = config.model, config.data
    assert data.patch_size is not None
    encoder = Stack(model.width, model.depth, model.heads, model.mlp_ratio)
    decoder = None
    predicts_pixels = config.target.target_.rpartition(".")[2] in PIXEL_TARGETS
    own = config.decoder
    has_decoder = isinstance(own, Decoder) and own.depth > 0
    if "pretrain" in config.stages and predicts_pixels and has_decoder:
        decoder = Stack(own.width, own.depth, own.heads, own.mlp_ratio or 0)
    image = data.channels, data.patch_size, config.grid
    return Geometry(*image, encoder, decoder, model.class_tokens)
