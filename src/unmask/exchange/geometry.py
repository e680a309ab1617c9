"""A model's sizes from its tensors, and from hints where tensors cannot tell: heads, and grids that are not square."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from unmask.exchange.files import Opened
from unmask.exchange.weights import Geometry, Stack
from unmask.heads import Pool

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # ViT-Ti, S, B, L, H
DECODER_HEADS = 16  # of every decoder in the paper
BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.")


@dataclass(frozen=True)
class Hints:
    """What names and shapes do not tell."""

    heads: int | None = None
    decoder_heads: int | None = None
    grid: tuple[int, int] | None = None
    channels: int | None = None
    patch_size: int | None = None
    pool: Pool | None = None

    def filled(self, otherwise: "Hints") -> "Hints":
        """What is not known here is taken from there."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            otherwise,
            **{name: value for name, value in own.items() if value is not None},
        )

    def joined(self, told: "Hints") -> "Hints":
        """Both; what is told fills in what the file does not say. Raises ValueError where they contradict."""
        both = {}
        for name in (field.name for field in fields(self)):
            own, other = getattr(self, name), getattr(told, name)
            if own is not None and other is not None and own != other:
                raise ValueError(
                    f"{name} is {own} by what the file says of itself, not {other}"
                )
            both[name] = own if own is not None else other
        return Hints(**both)


def recorded(opened: Opened) -> Hints:
    """What config.json, this project's record or a checkpoint's config say. Raises ValueError where it is unusable."""
    try:
        if "config" in opened.record:
            hints = _of_checkpoint(opened.record)
        elif "geometry" in opened.record:
            hints = _of_record(opened.record)
        else:
            hints = _of_config(opened.config) if opened.config else Hints()
    except (
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ZeroDivisionError,
    ) as error:
        raise ValueError(
            f"what the file says of its sizes is unusable: {error!r}"
        ) from error
    sizes = (
        hints.heads,
        hints.decoder_heads,
        hints.channels,
        hints.patch_size,
        *(hints.grid or ()),
    )
    if any(
        size is not None and (not isinstance(size, int) or size < 1) for size in sizes
    ):
        raise ValueError(f"what the file says of its sizes is unusable: {hints}")
    return hints


def _of_checkpoint(record: dict[str, Any]) -> Hints:
    config, data = record["config"], record["config"]["data"]
    # a stage may have its own
    size = config.get(record["stage"], {}).get("image_size") or data["image_size"]
    rows, columns = (side // data["patch_size"] for side in size)
    pool = config.get(record["stage"], {}).get("pool")
    heads = config["decoder"]["heads"] if record["stage"] == "pretrain" else None
    return Hints(
        config["model"]["heads"],
        heads,
        (rows, columns),
        data["channels"],
        data["patch_size"],
        pool,
    )


def _of_record(record: dict[str, Any]) -> Hints:
    given, decoder = record["geometry"], record["geometry"]["decoder"]
    rows, columns = given["grid"]
    heads = decoder["heads"] if decoder else None
    return Hints(
        given["encoder"]["heads"],
        heads,
        (rows, columns),
        given["channels"],
        given["patch_size"],
        record.get("pool"),
    )


def _of_config(config: dict[str, Any]) -> Hints:
    """Hugging Face's config.json."""
    kind, activation = config.get("model_type", "vit"), config.get("hidden_act", "gelu")
    if kind not in ("vit", "vit_mae"):
        raise ValueError(f"config.json is of model_type {kind}; known: vit, vit_mae")
    if activation != "gelu":
        raise ValueError(
            f"config.json has hidden_act={activation}; only gelu gives the same"
            " features here"
        )
    image, patch = (_pair(config.get(key)) for key in ("image_size", "patch_size"))
    grid = (image[0] // patch[0], image[1] // patch[1]) if image and patch else None
    decoder_heads = config.get("decoder_num_attention_heads")
    return Hints(
        config.get("num_attention_heads"),
        decoder_heads,
        grid,
        config.get("num_channels"),
        None,
        None,
    )


def _pair(value: Any) -> tuple[int, int] | None:
    return (
        None
        if value is None
        else (value, value)
        if isinstance(value, int)
        else (value[0], value[1])
    )


def depths(names: Iterable[str]) -> dict[str, int]:
    """Blocks of the encoder and of the decoder, by the highest number in the names."""
    found: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for match in filter(None, map(BLOCK.match, names)):
        found[match.group(1)].add(int(match.group(2)))
    gaps = [
        f"{part}'s block {max(own)}, but only {len(own)} of them"
        for part, own in found.items()
        if own
    ]
    # checked before a model of so many blocks is laid out: the number is anybody's
    if any(max(own, default=0) > 10 * len(own) + 10 for own in found.values()):
        raise ValueError(f"there is the {' and the '.join(gaps)}")
    return {part: max(own, default=-1) + 1 for part, own in found.items()}


def derive(tensors: dict[str, Tensor], hints: Hints) -> Geometry:
    """The sizes that our tensors imply. Raises ValueError where they and the hints leave something open."""
    if not hints.channels or not hints.patch_size:
        raise ValueError(
            "the file does not say how many channels its patches have; it lacks its"
            " record of sizes"
        )
    depth, width = depths(tensors), tensors["encoder.cls_token"].shape[-1]
    heads = hints.heads or HEADS.get(width)
    if heads is None:
        sizes = ", ".join(f"{known}: {count}" for known, count in HEADS.items())
        raise ValueError(
            f"heads are not visible in tensors, and width {width} is not a known ViT's"
            f" ({sizes}); add heads=N"
        )
    grid = hints.grid or _square(tensors["encoder.pos_embed"].shape[1] - 1)
    encoder = _stack(tensors, "encoder", width, depth["encoder"], heads)
    decoder = None
    if depth["decoder"]:
        width = tensors["decoder.mask_token"].shape[-1]
        decoder = _stack(
            tensors,
            "decoder",
            width,
            depth["decoder"],
            hints.decoder_heads or DECODER_HEADS,
        )
    return Geometry(hints.channels, hints.patch_size, grid, encoder, decoder)


def _stack(
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
    if int(width * ratio) < hidden:  # timm truncates width * ratio
        ratio = math.nextafter(ratio, math.inf)
    return Stack(width, depth, heads, ratio)


def _square(patches: int) -> tuple[int, int]:
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
