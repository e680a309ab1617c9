"""Derive a model's sizes from its tensors, and from hints where tensors cannot tell.

Tensors do not show the number of heads, nor the sides of a grid that is not square.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from unmask.exchange.files import WeightsFile
from unmask.exchange.weights import Geometry, Stack
from unmask.heads import Pool

# ViT-Ti, S, B, L, H.
HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
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
    pool: Pool | None = None

    def with_defaults(self, defaults: "Hints") -> "Hints":
        """Fill in what is not known here."""
        pairs = zip(self, defaults, strict=True)
        return Hints._make(theirs if ours is None else ours for ours, theirs in pairs)

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
        return self.with_defaults(other)


def recorded_hints(file: WeightsFile) -> Hints:
    """Return the sizes that the file itself records.

    They are in a checkpoint's config, in this project's record, or in Hugging Face's
    config.json. Raises ValueError if they are unusable.
    """
    hints = Hints()
    try:
        if "config" in file.record:
            hints = _checkpoint_hints(file.record)
        elif "geometry" in file.record:
            hints = _record_hints(file.record)
        elif file.config:
            hints = _hub_hints(file.config)
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


def derive_geometry(tensors: dict[str, Tensor], hints: Hints) -> Geometry:
    """Return the sizes that tensors under this project's names imply.

    Raises ValueError if the tensors and the hints leave something open.
    """
    if not hints.channels or not hints.patch_size:
        values = tensors["encoder.patch_embed.weight"].shape[-1]
        raise ValueError(
            f"the file does not say how many channels its patches of {values} values"
            " have; it lacks its record of sizes"
        )
    depth = count_blocks(tensors)
    width = tensors["encoder.cls_token"].shape[-1]
    heads = hints.heads or HEADS_BY_WIDTH.get(width)
    if heads is None:
        known = ", ".join(f"{size}: {count}" for size, count in HEADS_BY_WIDTH.items())
        raise ValueError(
            f"heads are not visible in tensors, and width {width} is not a known ViT's"
            f" ({known}); add heads=N"
        )
    # The class token has a position too.
    patches = tensors["encoder.pos_embed"].shape[1] - 1
    grid = hints.grid or _square_grid(patches)
    encoder = _derive_stack(tensors, "encoder", width, depth["encoder"], heads)
    decoder = None
    if depth["decoder"]:
        width = tensors["decoder.mask_token"].shape[-1]
        heads = hints.decoder_heads or DECODER_HEADS
        decoder = _derive_stack(tensors, "decoder", width, depth["decoder"], heads)
    return Geometry(hints.channels, hints.patch_size, grid, encoder, decoder)


def _derive_stack(
    tensors: dict[str, Tensor], part: str, width: int, depth: int, heads: int
) -> Stack:
    if width % heads:
        name = "heads" if part == "encoder" else "decoder_heads"
        fitting = ", ".join(str(count) for count in range(1, 33) if width % count == 0)
        raise ValueError(
            f"{name}={heads} does not divide the {part}'s width {width}; give {name}=N,"
            f" one of {fitting}"
        )
    hidden = tensors[f"{part}.blocks.0.mlp.fc1.weight"].shape[0]
    ratio = hidden / width
    # timm truncates width * ratio: a ratio rounded down would lose a unit.
    if int(width * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return Stack(width, depth, heads, ratio)


def _square_grid(patches: int) -> tuple[int, int]:
    side = math.isqrt(patches)
    if side * side != patches:
        fitting = [
            f"[{rows},{patches // rows}]"
            for rows in range(1, patches + 1)
            if patches % rows == 0
        ]
        raise ValueError(
            f"{patches} positions are no square; give grid=[rows,columns], one of"
            f" {' '.join(fitting)}"
        )
    return side, side
