"""Account for a file of weights by names and shapes alone, without torch.

What is found here decides how `read_weights` reads the values.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from unmask.config.architecture import DECODER, ENCODER
from unmask.config.recipe_parts import Pooling
from unmask.exchange.account import allowed_missing, check_names, check_shapes
from unmask.exchange.facts import Facts, recorded_facts
from unmask.exchange.geometry import (
    Hints,
    ModelSizes,
    count_blocks,
    derive_geometry,
    recorded_hints,
)
from unmask.exchange.header import Header, read_header
from unmask.exchange.names import (
    KNOWN_EXTRAS,
    LAYER_NORM_EPS,
    PATCH_KERNEL,
    converted_shapes,
    name_table,
    normalise_name,
    translate_name,
)
from unmask.exchange.selection import Selection, select_weights
from unmask.exchange.sizes import Geometry, Layout, Shape

NO_HINTS = Hints()


@dataclass(frozen=True)
class Outline:
    """What a file of weights holds, under which names and of which sizes.

    names: each taken name in the file, with this project's. dropped: names that are
    not taken, and why. missing: names that the file may lack, and why. recorded_grid:
    the grid that the file itself names.
    """

    header: Header
    selection: Selection
    layout: Layout
    geometry: Geometry
    names: dict[str, str]
    dropped: dict[str, str]
    missing: dict[str, str]
    pool: Pooling | None
    facts: Facts
    recorded_grid: tuple[int, int] | None
    notes: tuple[str, ...]


def read_outline(
    location: Path,
    hints: Hints = NO_HINTS,
    model: ModelSizes | None = None,
    choice: str | None = None,
) -> Outline:
    """Read which weights a file or folder holds, but not their values.

    hints: must not contradict the file. model: counts where neither the file nor
    `hints` says anything. choice: as in `select_weights`. Raises ValueError, in one
    sentence, for what is no such file, of no known layout, or incomplete.
    """
    header = read_header(location)
    selection = select_weights(header, choice)
    layout = selection.chosen.layout
    try:
        return _outline(header, selection, hints, model)
    except ValueError as error:
        raise ValueError(f"{header.path}, read as {layout}: {error}") from error
    # shapes that no model has
    except LookupError as error:
        raise ValueError(
            f"{header.path}, read as {layout}: its shapes make no model: {error!r}"
        ) from error


def _outline(
    header: Header, selection: Selection, hints: Hints, model: ModelSizes | None
) -> Outline:
    layout = selection.chosen.layout
    _refuse_foreign_encoder(header)
    spelling, special = _drop_special_decoder(header, selection.spelling)
    names, extras = _translate_names(spelling, layout)
    shapes = {ours: tuple(selection.tensors[n].shape) for n, ours in names.items()}
    sides: Hints = NO_HINTS
    if layout not in ("safetensors", "checkpoint"):
        # the kernel's shape is checked before its sides are read
        converted = converted_shapes(shapes, layout)
        _, channels, _, patch_size = shapes[PATCH_KERNEL]
        sides = Hints(channels=channels, patch_size=patch_size)
        shapes = converted
    patches = shapes["encoder.pos_embed"][1] - shapes["encoder.cls_token"][1]
    recorded = recorded_hints(header, sides.patch_size, patches)
    known = recorded.merged_with(hints).merged_with(sides)
    geometry, guesses = derive_geometry(shapes, known, model)
    check_shapes(shapes, geometry)
    return Outline(
        header,
        selection,
        layout,
        geometry,
        names,
        {**extras, **special, **selection.left},
        allowed_missing(shapes) | _plain_norm(shapes, known),
        _derive_pool(shapes, known),
        recorded_facts(header),
        recorded.grid,
        (*_epsilon_notes(header, layout), *guesses, *selection.notes),
    )


def _refuse_foreign_encoder(header: Header) -> None:
    """Raise ValueError for the stage of an encoder of the user's: no layout has it."""
    model = header.record.get("config", {}).get("model", {})
    target = str(model.get("_target_", ENCODER))
    if target != ENCODER:
        raise ValueError(
            f"its encoder is {target}, whose weights have names of their own;"
            " unmask.load takes the stage as it is (docs/library.md)"
        )


def _drop_special_decoder(
    header: Header, spelling: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Drop a pretraining's decoder that no other project has.

    It predicts another target than pixels, goes without mask tokens, or is not MAE's.
    Also returns the dropped names with the reason.
    """
    config = header.record.get("config", {})
    target = str(config.get("target", {}).get("_target_", "")).rpartition(".")[2]
    decoder = str(config.get("decoder", {}).get("_target_", DECODER))
    if config.get("encoder", {}).get("mask_tokens"):
        reason = "the encoder carried the mask tokens"
    elif decoder != DECODER:
        reason = decoder.rpartition(".")[2]
    elif target not in ("", "Pixel", "NormalisedPixel"):
        reason = f"predicts {target}"
    else:
        return spelling, {}
    kept, dropped = {}, {}
    for name, spelled in spelling.items():
        if spelled.startswith(("decoder.", "mask_token")):
            dropped[name] = f"a decoder of this project alone: {reason}"
        else:
            kept[name] = spelled
    return kept, dropped


def _translate_names(
    spelling: dict[str, str], layout: Layout
) -> tuple[dict[str, str], dict[str, str]]:
    """Return this project's name for each in the file, and known extras with reasons.

    Query, key and value are still apart. Raises ValueError for a name that is missing,
    unknown, or there twice.
    """
    normalised = {name: normalise_name(s, layout) for name, s in spelling.items()}
    counts = Counter(normalised.values())
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"several names mean {', '.join(repeated[:6])}")

    is_probe = "head.0.running_mean" in normalised.values()
    to_ours = {theirs: ours for ours, theirs in name_table(layout, is_probe).items()}
    names: dict[str, str | None] = {}
    for name, spelled in normalised.items():
        # a layout without a table has this project's names
        names[name] = translate_name(spelled, to_ours) if to_ours else spelled

    blocks = count_blocks(name for name in names.values() if name)
    dropped = {}
    for name, spelled in normalised.items():
        # the mask token is an extra only where the decoder is missing
        is_extra = names[name] is None or not blocks["decoder"]
        if spelled in KNOWN_EXTRAS and is_extra:
            dropped[name] = KNOWN_EXTRAS[spelled]
    kept = {name: ours for name, ours in names.items() if name not in dropped}
    check_names(kept, layout)
    return {name: ours for name, ours in kept.items() if ours}, dropped


def _derive_pool(shapes: dict[str, Shape], hints: Hints) -> Pooling | None:
    if "head.weight" not in shapes:
        return None
    # fc_norm normalises the mean over patches
    if "fc_norm.weight" in shapes or hints.pool == "mean_norm":
        return "mean"
    return hints.pool or "cls"


def _plain_norm(shapes: dict[str, Shape], hints: Hints) -> dict[str, str]:
    """Return the norm behind the mean that a probe of this project goes without.

    It is never trained there; the official code's probe has it.
    """
    if hints.pool != "mean_norm" or "fc_norm.weight" in shapes:
        return {}
    return {"fc_norm.weight": "set to 1", "fc_norm.bias": "set to 0"}


def _epsilon_notes(header: Header, layout: Layout) -> tuple[str, ...]:
    eps = header.config.get("layer_norm_eps", LAYER_NORM_EPS)
    # other layouts do not say which epsilon they were trained with
    if layout != "hf" or eps == LAYER_NORM_EPS:
        return ()
    return (
        f"config.json has layer_norm_eps={eps}, here it is {LAYER_NORM_EPS}: features"
        " differ by about that",
    )
