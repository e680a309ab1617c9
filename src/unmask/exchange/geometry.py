"""Derive a model's sizes from its tensors, and from hints where tensors cannot tell.

Tensors do not show the number of heads, nor the sides of a grid that is not square.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from unmask.config.recipe_parts import FrozenPooling
from unmask.exchange.facts import training_arguments
from unmask.exchange.header import Header
from unmask.exchange.sizes import Geometry, Shape, Stack

# ViT-Ti, S, B, L, H.
HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
# Channels of a head in most ViTs.
HEAD_WIDTH = 64
# Of every decoder in the paper.
DECODER_HEADS = 16
BLOCK_NAME = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.")


class Hints(NamedTuple):
    """Sizes that names and shapes may leave open; None: not known."""

    heads: int | None = None
    decoder_heads: int | None = None
    grid: tuple[int, int] | None = None
    channels: int | None = None
    patch_size: int | None = None
    pool: FrozenPooling | None = None

    def merged_with(self, other: "Hints") -> "Hints":
        """Join what a file says of itself with what is known otherwise.

        Raises ValueError if the two contradict.
        """
        for name, ours, theirs in zip(self._fields, self, other, strict=True):
            if None not in (ours, theirs) and ours != theirs:
                raise ValueError(
                    f"the file's metadata says {name}={ours}, but its tensors or your"
                    f" arguments say {name}={theirs}"
                )
        pairs = zip(self, other, strict=True)
        return Hints._make(theirs if ours is None else ours for ours, theirs in pairs)


class ModelSizes(NamedTuple):
    """Sizes of the model that weights are for: they count where the file has none.

    grids: of the images that its stages see.
    """

    heads: int
    decoder_heads: int
    grids: tuple[tuple[int, int], ...]


def recorded_hints(header: Header, patch_size: int | None, patches: int) -> Hints:
    """Return the sizes that the file itself records.

    They are in a checkpoint's config, in this project's record, in Hugging Face's or
    timm's config.json, or in the arguments of the training, which count where they
    fit so many patches. patch_size: where tensors show it. Raises ValueError if they
    are unusable.
    """
    hints = Hints()
    try:
        if "config" in header.record:
            hints = _checkpoint_hints(header.record)
        elif "geometry" in header.record:
            hints = _record_hints(header.record)
        elif "pretrained_cfg" in header.config:
            hints = Hints(grid=_timm_grid(header.config, patch_size))
        elif header.config:
            hints = _hub_hints(header.config)
        else:
            grid = _trained_grid(header, patch_size)
            hints = Hints(grid=grid if grid and math.prod(grid) == patches else None)
    # Whatever a record of another form leads to.
    except (LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(
            f"what the file says of its sizes is unusable: {error!r}"
        ) from error
    for size in (*hints[:2], *(hints.grid or ()), *hints[3:5]):
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(f"what the file says of its sizes is unusable: {hints}")
    return hints


def _checkpoint_hints(record: dict[str, Any]) -> Hints:
    config = record["config"]
    data = config["data"]
    # A stage may have an image size and a pooling of its own.
    recipe = config.get(record["stage"], {})
    height, width = recipe.get("image_size") or data["image_size"]
    patch_size = data["patch_size"]
    is_pretraining = record["stage"] == "pretrain"
    return Hints(
        heads=config["model"]["heads"],
        decoder_heads=config["decoder"]["heads"] if is_pretraining else None,
        grid=(height // patch_size, width // patch_size),
        channels=data["channels"],
        patch_size=patch_size,
        pool=recipe.get("pool"),
    )


def _record_hints(record: dict[str, Any]) -> Hints:
    geometry = record["geometry"]
    decoder = geometry["decoder"]
    rows, columns = geometry["grid"]
    return Hints(
        heads=geometry["encoder"]["heads"],
        decoder_heads=decoder and decoder["heads"],
        grid=(rows, columns),
        channels=geometry["channels"],
        patch_size=geometry["patch_size"],
        pool=record.get("pool"),
    )


def _timm_grid(
    config: dict[str, Any], patch_size: int | None
) -> tuple[int, int] | None:
    """Read the config.json of timm's models on the Hub."""
    size = config["pretrained_cfg"].get("input_size", (None, None, None))[1:]
    size = _height_and_width(config.get("model_args", {}).get("img_size")) or size
    if not patch_size or None in size:
        return None
    return size[0] // patch_size, size[1] // patch_size


def _trained_grid(header: Header, patch_size: int | None) -> tuple[int, int] | None:
    """Read the image size of the official code's arguments, or timm's."""
    arguments = training_arguments(header)
    size = arguments.get("input_size") or arguments.get("img_size")
    # timm's input_size is (channels, height, width)
    if isinstance(size, list | tuple):
        size = size[-2:] if len(size) > 1 else (*size, *size)
    else:
        size = (size, size)
    if not patch_size or not all(isinstance(side, int) for side in size):
        return None
    return size[0] // patch_size, size[1] // patch_size


def _hub_hints(config: dict[str, Any]) -> Hints:
    """Read Hugging Face's config.json."""
    kind = config.get("model_type", "vit")
    if kind not in ("vit", "vit_mae"):
        raise ValueError(f"config.json is of model_type {kind}; known: vit, vit_mae")
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise ValueError(
            f"config.json has hidden_act={activation}; only gelu gives the same"
            " features here"
        )
    grid = None
    image = _height_and_width(config.get("image_size"))
    patch = _height_and_width(config.get("patch_size"))
    if image and patch:
        grid = (image[0] // patch[0], image[1] // patch[1])
    return Hints(
        heads=config.get("num_attention_heads"),
        decoder_heads=config.get("decoder_num_attention_heads"),
        grid=grid,
        channels=config.get("num_channels"),
    )


def _height_and_width(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, int):
        return value, value
    return value[0], value[1]


def count_blocks(names: Iterable[str]) -> dict[str, int]:
    """Count the blocks of the encoder and the decoder by the highest number in names.

    Raises ValueError if the numbers have too large gaps.
    """
    indices: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for match in filter(None, map(BLOCK_NAME.match, names)):
        indices[match.group(1)].add(int(match.group(2)))
    # The file may hold any number: it is checked before a model of so many blocks is
    # laid out.
    if any(max(some, default=0) > 10 * len(some) + 10 for some in indices.values()):
        gaps = [
            f"{part}'s block {max(some)}, but only {len(some)} of them"
            for part, some in indices.items()
            if some
        ]
        raise ValueError(f"there is the {' and the '.join(gaps)}")
    return {part: max(some, default=-1) + 1 for part, some in indices.items()}


class Derived(NamedTuple):
    """The sizes that tensors imply, and which of them are a guess, in sentences."""

    geometry: Geometry
    guesses: tuple[str, ...]


def derive_geometry(
    shapes: Mapping[str, Shape], hints: Hints, model: ModelSizes | None = None
) -> Derived:
    """Return the sizes that tensors under this project's names imply.

    Raises ValueError if shapes, hints and the model leave something open.
    """
    if not hints.channels or not hints.patch_size:
        values = shapes["encoder.patch_embed.weight"][-1]
        raise ValueError(
            f"the file does not say how many channels its patches of {values} values"
            " have; it lacks its record of sizes"
        )
    depth = count_blocks(shapes)
    width = shapes["encoder.cls_token"][-1]
    heads = hints.heads or _model_heads(width, model and model.heads)
    heads = heads or HEADS_BY_WIDTH.get(width)
    if heads is None:
        widths = ", ".join(f"{size}: {count}" for size, count in HEADS_BY_WIDTH.items())
        raise ValueError(
            f"heads are not visible in tensors, and width {width} is not a known ViT's"
            f" ({widths}); add heads=N"
        )
    encoder = _derive_stack(shapes, "encoder", width, depth["encoder"], heads)
    guesses = []
    decoder = None
    if depth["decoder"]:
        width = shapes["decoder.mask_token"][-1]
        known = hints.decoder_heads or _model_heads(
            width, model and model.decoder_heads
        )
        heads = known or DECODER_HEADS
        decoder = _derive_stack(shapes, "decoder", width, depth["decoder"], heads)
        if known is None:
            guesses.append(
                "the decoder's heads are not visible in tensors; assumed to be"
                f" {heads} (another: decoder_heads=N)"
            )
    # class tokens have positions too
    class_tokens = shapes["encoder.cls_token"][1]
    patches = shapes["encoder.pos_embed"][1] - class_tokens
    grid = _known_grid(patches, hints, model.grids if model else ())
    if grid is None:
        grid = _square_grid(patches)
        guesses.append(
            f"the grid is not in the file: its {patches} positions are taken for"
            f" {grid[0]} x {grid[1]} (another: grid=[rows,columns])"
        )
    geometry = Geometry(
        hints.channels, hints.patch_size, grid, encoder, decoder, class_tokens
    )
    return Derived(geometry, tuple(guesses))


def _model_heads(width: int, heads: int | None) -> int | None:
    """Return the model's heads; weights of a width they do not divide have others."""
    if heads is None or width % heads == 0:
        return heads
    return HEADS_BY_WIDTH.get(width) or max(1, math.gcd(width, width // HEAD_WIDTH))


def _known_grid(
    patches: int, hints: Hints, model_grids: Iterable[tuple[int, int]]
) -> tuple[int, int] | None:
    """Return the grid that is recorded or typed, else the model's where it fits."""
    if hints.grid is not None:
        rows, columns = hints.grid
        if rows * columns != patches:
            raise ValueError(
                f"grid=[{rows},{columns}] has {rows * columns} patches, and the"
                f" file {patches} positions; give grid=[rows,columns], one of"
                f" {_grids_of(patches)}"
            )
        return hints.grid
    return next((grid for grid in model_grids if math.prod(grid) == patches), None)


def _derive_stack(
    shapes: Mapping[str, Shape], part: str, width: int, depth: int, heads: int
) -> Stack:
    if width % heads:
        name = "heads" if part == "encoder" else "decoder_heads"
        fitting = ", ".join(str(count) for count in range(1, 33) if width % count == 0)
        raise ValueError(
            f"{name}={heads} does not divide the {part}'s width {width}; give {name}=N,"
            f" one of {fitting}"
        )
    hidden = shapes[f"{part}.blocks.0.mlp.fc1.weight"][0]
    ratio = hidden / width
    # timm truncates width * ratio: a ratio rounded down would lose a unit.
    if int(width * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return Stack(width, depth, heads, ratio)


def _square_grid(patches: int) -> tuple[int, int]:
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(
            f"{patches} positions are no square; give grid=[rows,columns], one of"
            f" {_grids_of(patches)}"
        )
    return side, side


def _grids_of(patches: int) -> str:
    """List all grids of so many patches, as they are typed."""
    return " ".join(
        f"[{rows},{patches // rows}]"
        for rows in range(1, patches + 1)
        if patches % rows == 0
    )
