"""Read a file of any known layout, with every name and every shape accounted for."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from unmask.exchange.account import (
    allowed_missing,
    check_names,
    check_shapes,
    shape_text,
)
from unmask.exchange.files import WeightsFile, open_weights
from unmask.exchange.geometry import (
    Hints,
    count_blocks,
    derive_geometry,
    recorded_hints,
)
from unmask.exchange.hf_config import LAYER_NORM_EPS
from unmask.exchange.names import (
    KNOWN_EXTRAS,
    PATCH_KERNEL,
    flatten_kernel,
    fuse_qkv,
    name_table,
    normalise_name,
    translate_name,
)
from unmask.exchange.weights import Layout, Report, Weights
from unmask.heads import Pool

EMA_PREFIX = "ema.module."
NO_HINTS = Hints()
# A file has the first layout of which a name begins with one of these.
LAYOUT_PREFIXES: dict[Layout, tuple[str, ...]] = {
    "checkpoint": ("model.encoder.", "model.features.encoder."),
    "safetensors": ("encoder.patch_embed.", "encoder.blocks."),
    "hf": ("embeddings.patch_embeddings.", "vit.embeddings.patch_embeddings."),
    "official": ("decoder_blocks.", "decoder_embed."),
    "timm": ("patch_embed.proj.", "blocks.0."),
}
KNOWN_LAYOUTS = (
    "the official MAE's, Hugging Face's ViTMAE and ViT, timm's ViT, this project's"
    " checkpoints and safetensors"
)


def read_weights(
    location: Path, hints: Hints = NO_HINTS, defaults: Hints = NO_HINTS
) -> tuple[Weights, Report]:
    """Read the weights in a file or folder, and report what was done to them.

    hints: must not contradict the file. defaults: count where neither the file nor
    `hints` says anything. Raises ValueError, in one sentence, for what is no such file,
    of no known layout, or incomplete.
    """
    file, unused = _select_average(open_weights(location))
    file, dropped = _drop_special_decoder(file)
    unused |= dropped
    layout = _detect_layout(file)
    try:
        known = recorded_hints(file).merged_with(hints).with_defaults(defaults)
        weights, report = _build_weights(file, layout, known)
        return weights, replace(report, dropped={**report.dropped, **unused})
    except ValueError as error:
        raise ValueError(f"{file.path}, read as {layout}: {error}") from error
    # Operations on shapes that no model has.
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"{file.path}, read as {layout}: its shapes make no model: {error}"
        ) from error


def _select_average(file: WeightsFile) -> tuple[WeightsFile, dict[str, str]]:
    """Take the averaged weights alone, if this project's stage kept an average.

    They are what the stage evaluated. Also returns the other tensors with the reason.
    """
    averaged = {
        f"model.{name.removeprefix(EMA_PREFIX)}": value
        for name, value in file.tensors.items()
        if name.startswith(EMA_PREFIX)
    }
    if not averaged:
        return file, {}
    unused = {
        name: "the weights before averaging"
        for name in file.tensors
        if not name.startswith(EMA_PREFIX)
    }
    return replace(file, tensors=averaged), unused


def _drop_special_decoder(file: WeightsFile) -> tuple[WeightsFile, dict[str, str]]:
    """Drop a pretraining's decoder that no other project has.

    It predicts another target than pixels, or goes without mask tokens. Also returns
    the dropped tensors with the reason.
    """
    config = file.record.get("config", {})
    target = str(config.get("target", {}).get("_target_", "")).rsplit(".", 1)[-1]
    if config.get("encoder", {}).get("mask_tokens"):
        reason = "the encoder carried the mask tokens"
    elif target not in ("", "Pixel", "NormalisedPixel"):
        reason = f"predicts {target}"
    else:
        return file, {}
    parts = ("model.decoder.", "model.mask_token", "target.")
    dropped = {
        name: f"a decoder of this project alone: {reason}"
        for name in file.tensors
        if name.startswith(parts)
    }
    tensors = {
        name: value for name, value in file.tensors.items() if name not in dropped
    }
    return replace(file, tensors=tensors), dropped


def _detect_layout(file: WeightsFile) -> Layout:
    """Detect the layout by names: files of other projects carry no label.

    Raises ValueError for an unknown layout.
    """
    names = [normalise_name(name, "timm") for name in file.tensors]
    for layout, prefixes in LAYOUT_PREFIXES.items():
        if not any(name.startswith(prefixes) for name in names):
            continue
        # Without a decoder the official names are timm's, but official files keep them
        # under "model".
        if layout == "timm" and file.state_dict_key == "model":
            return "official"
        return layout
    if "model.head.weight" in names:
        raise ValueError(
            f"{file.path} is a head trained on stored features: it holds no encoder"
        )
    first = ", ".join(list(file.tensors)[:5])
    raise ValueError(
        f"{file.path} is of no known layout: its first names are {first}; known are"
        f" {KNOWN_LAYOUTS}"
    )


def _build_weights(
    file: WeightsFile, layout: Layout, known: Hints
) -> tuple[Weights, Report]:
    renamed, dropped = _translate_names(file.tensors, layout)
    tensors, reshaped, hints = _convert_shapes(renamed, layout, known)
    geometry = derive_geometry(tensors, hints)
    check_shapes(tensors, geometry)
    # The head's names have no prefix.
    parts: dict[str, dict[str, Tensor]] = {"encoder.": {}, "decoder.": {}, "": {}}
    for name, value in tensors.items():
        prefix = next(prefix for prefix in parts if name.startswith(prefix))
        parts[prefix][name.removeprefix(prefix)] = value
    head = parts[""] or None
    weights = Weights(
        encoder=parts["encoder."],
        decoder=parts["decoder."] or None,
        head=head,
        geometry=geometry,
        layout=layout,
        pool=_derive_pool(head, hints),
    )
    matched = tuple(name for name in tensors if name not in reshaped)
    missing = allowed_missing(tensors)
    notes = _make_notes(file, weights, hints)
    return weights, Report(matched, reshaped, missing, dropped, notes)


def _translate_names(
    tensors: dict[str, Tensor], layout: Layout
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors under this project's names, and known extras with the reason.

    Query, key and value are still apart. Raises ValueError for a name that is missing,
    unknown, or there twice.
    """
    normalised = {name: normalise_name(name, layout) for name in tensors}
    counts = Counter(normalised.values())
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"several names mean {', '.join(repeated[:6])}")

    is_probe = "head.0.running_mean" in normalised.values()
    to_ours = {theirs: ours for ours, theirs in name_table(layout, is_probe).items()}
    names: dict[str, str | None] = {}
    for name, spelling in normalised.items():
        # A layout without a table has this project's names.
        names[name] = translate_name(spelling, to_ours) if to_ours else spelling

    blocks = count_blocks(name for name in names.values() if name)
    dropped = {}
    for name, spelling in normalised.items():
        # The mask token is an extra only where the decoder is missing.
        is_extra = names[name] is None or not blocks["decoder"]
        if spelling in KNOWN_EXTRAS and is_extra:
            dropped[name] = KNOWN_EXTRAS[spelling]
    kept = {name: ours for name, ours in names.items() if name not in dropped}
    check_names(kept, layout)
    return {ours: tensors[name] for name, ours in kept.items() if ours}, dropped


def _convert_shapes(
    tensors: dict[str, Tensor], layout: Layout, hints: Hints
) -> tuple[dict[str, Tensor], dict[str, str], Hints]:
    """Fuse query, key and value, and flatten the patch embedding.

    Also returns what was reshaped, and the hints with the channels and the patch size
    that the embedding's kernel shows.
    """
    if layout in ("safetensors", "checkpoint"):
        return tensors, {}, hints
    fused = fuse_qkv(tensors)
    reshaped = {}
    for name, value in fused.items():
        if name not in tensors:
            query = tensors[name.replace(".qkv.", ".q.")]
            reshaped[name] = f"3 x {shape_text(query)} -> {shape_text(value)}"
    kernel = tensors[PATCH_KERNEL]
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(
            f"the patch embedding's kernel is {shape_text(kernel)}, not (width,"
            " channels, side, side)"
        )
    matrix = flatten_kernel(kernel)
    fused[PATCH_KERNEL] = matrix
    reshaped[PATCH_KERNEL] = f"{shape_text(kernel)} -> {shape_text(matrix)}"
    _, channels, _, patch_size = kernel.shape
    kernel_hints = Hints(channels=channels, patch_size=patch_size)
    return fused, reshaped, hints.merged_with(kernel_hints)


def _derive_pool(head: dict[str, Tensor] | None, hints: Hints) -> Pool | None:
    if head is None:
        return None
    # fc_norm normalises the mean over patches.
    if "fc_norm.weight" in head:
        return "mean"
    return hints.pool or "cls"


def _make_notes(file: WeightsFile, weights: Weights, hints: Hints) -> tuple[str, ...]:
    notes = []
    eps = file.config.get("layer_norm_eps", LAYER_NORM_EPS)
    # Other layouts do not say which epsilon they were trained with.
    if weights.layout == "hf" and eps != LAYER_NORM_EPS:
        notes.append(
            f"config.json has layer_norm_eps={eps}, here it is {LAYER_NORM_EPS}:"
            " features differ by about that"
        )
    if weights.geometry.decoder and hints.decoder_heads is None:
        heads = weights.geometry.decoder.heads
        notes.append(
            f"the decoder's heads are not visible in tensors; assumed to be {heads}"
            " (another: decoder_heads=N)"
        )
    return tuple(notes)
