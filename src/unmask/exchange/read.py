"""From a file of any known layout to Weights, with every name and every shape accounted for."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from unmask.exchange.account import check_names, check_shapes, may_lack, shape
from unmask.exchange.files import Opened, open_weights
from unmask.exchange.geometry import Hints, depths, derive, recorded
from unmask.exchange.names import (
    KERNEL,
    LEFT_OVER,
    flat_kernel,
    fuse,
    plain,
    renamed,
    table,
)
from unmask.exchange.weights import Layout, Report, Weights
from unmask.heads import Pool

AVERAGED = "ema.module."
EPS = 1e-6  # of our LayerNorms
NOTHING_TOLD = Hints()
MARKS: dict[Layout, tuple[str, ...]] = {
    "checkpoint": ("model.encoder.", "model.features.encoder."),
    "safetensors": ("encoder.patch_embed.", "encoder.blocks."),
    "hf": ("embeddings.patch_embeddings.", "vit.embeddings.patch_embeddings."),
    "official": ("decoder_blocks.", "decoder_embed."),
    "timm": ("patch_embed.proj.", "blocks.0."),
}
KNOWN = (
    "the official MAE's, Hugging Face's ViTMAE and ViT, timm's ViT, this project's"
    " checkpoints and safetensors"
)


def read(
    place: Path, told: Hints = NOTHING_TOLD, otherwise: Hints = NOTHING_TOLD
) -> tuple[Weights, Report]:
    """The weights in a file or folder, and what was done to them.

    told: must not contradict the file; otherwise: counts where neither the file nor `told` says anything.

    Raises ValueError, in one sentence, for what is no such file, of no known layout, or not whole.
    """
    opened, unused = averaged(open_weights(place))
    opened, own = without_own_decoder(opened)
    unused |= own
    layout = detect(opened)
    try:
        weights, report = _read(
            opened, layout, recorded(opened).joined(told).filled(otherwise)
        )
        return weights, replace(report, dropped={**report.dropped, **unused})
    except ValueError as error:
        raise ValueError(f"{opened.path}, read as {layout}: {error}") from error
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"{opened.path}, read as {layout}: its shapes make no model: {error}"
        ) from error


def averaged(opened: Opened) -> tuple[Opened, dict[str, str]]:
    """The averaged weights alone, where a stage of ours kept an average: they are what it measured."""
    own = {
        name: value
        for name, value in opened.tensors.items()
        if name.startswith(AVERAGED)
    }
    if not own:
        return opened, {}
    unused = dict.fromkeys(
        opened.tensors.keys() - own.keys(), "the weights before averaging"
    )
    return (
        replace(
            opened,
            tensors={
                f"model.{name.removeprefix(AVERAGED)}": v for name, v in own.items()
            },
        ),
        unused,
    )


def without_own_decoder(opened: Opened) -> tuple[Opened, dict[str, str]]:
    """The encoder of a pretraining of ours whose decoder no other project has: another target, or no mask tokens."""
    config = opened.record.get("config", {})
    target = str(config.get("target", {}).get("_target_", "")).rsplit(".", 1)[-1]
    if config.get("encoder", {}).get("mask_tokens"):
        reason = "the encoder carried the mask tokens"
    elif target not in ("", "Pixel", "NormalisedPixel"):
        reason = f"predicts {target}"
    else:
        return opened, {}
    parts = ("model.decoder.", "model.mask_token", "target.")
    dropped = {
        name: f"a decoder of this project alone: {reason}"
        for name in opened.tensors
        if name.startswith(parts)
    }
    return (
        replace(
            opened,
            tensors={k: v for k, v in opened.tensors.items() if k not in dropped},
        ),
        dropped,
    )


def detect(opened: Opened) -> Layout:
    """The layout by names: other projects' files carry no label. Raises ValueError for an unknown one."""
    names = [plain(name, "timm") for name in opened.tensors]
    for layout, marks in MARKS.items():
        if any(name.startswith(marks) for name in names):
            # without a decoder the official names are timm's; its files keep them under
            # "model"
            return (
                "official"
                if layout == "timm" and opened.container == "model"
                else layout
            )
    if "model.head.weight" in names:
        raise ValueError(
            f"{opened.path} is a head trained on stored features: it holds no encoder"
        )
    first = ", ".join(list(opened.tensors)[:5])
    raise ValueError(
        f"{opened.path} is of no known layout: its first names are {first}; known are"
        f" {KNOWN}"
    )


def _read(opened: Opened, layout: Layout, known: Hints) -> tuple[Weights, Report]:
    found, dropped = _ours(opened.tensors, layout)
    tensors, reshaped, hints = _ours_in_shape(found, layout, known)
    geometry = derive(tensors, hints)
    check_shapes(tensors, geometry)
    parts: dict[str, dict[str, Tensor]] = {"encoder.": {}, "decoder.": {}, "": {}}
    for name, value in tensors.items():
        part = next(prefix for prefix in parts if name.startswith(prefix))
        parts[part][name.removeprefix(part)] = value
    encoder, decoder, head = (
        parts["encoder."],
        parts["decoder."] or None,
        parts[""] or None,
    )
    weights = Weights(encoder, decoder, head, geometry, layout, _pool(head, hints))
    matched = tuple(name for name in tensors if name not in reshaped)
    return weights, Report(
        matched, reshaped, may_lack(tensors), dropped, _notes(opened, weights, hints)
    )


def _ours(
    theirs: dict[str, Tensor], layout: Layout
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under our names (query, key and value still apart), and known left-overs with the reason."""
    spelled = {name: plain(name, layout) for name in theirs}
    twice = [
        spelling for spelling, count in Counter(spelled.values()).items() if count > 1
    ]
    if twice:
        raise ValueError(f"several names mean {', '.join(twice[:6])}")
    names = {
        new: old
        for old, new in table(layout, "head.0.running_mean" in spelled.values()).items()
    }
    ours = {
        name: renamed(spelling, names) if names else spelling
        for name, spelling in spelled.items()
    }
    decoderless = not depths(name for name in ours.values() if name)["decoder"]
    left_over = {name for name, spelling in spelled.items() if spelling in LEFT_OVER}
    dropped = {
        name: LEFT_OVER[spelled[name]]
        for name in left_over
        if ours[name] is None or decoderless
    }
    kept = {name: new for name, new in ours.items() if name not in dropped}
    check_names(kept, layout)
    return {new: theirs[old] for old, new in kept.items() if new}, dropped


def _ours_in_shape(
    found: dict[str, Tensor], layout: Layout, hints: Hints
) -> tuple[dict[str, Tensor], dict[str, str], Hints]:
    """Fused and flattened tensors, what changed, and the channels and patch size that the kernel tells."""
    if layout in ("safetensors", "checkpoint"):
        return found, {}, hints
    tensors, kernel = fuse(found), found[KERNEL]
    reshaped = {
        name: f"3 x {shape(found[name.replace('.qkv.', '.q.')])} -> {shape(value)}"
        for name, value in tensors.items()
        if name not in found
    }
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(
            f"the patch embedding's kernel is {shape(kernel)}, not (width, channels,"
            " side, side)"
        )
    tensors[KERNEL] = flat_kernel(kernel)
    reshaped[KERNEL] = f"{shape(kernel)} -> {shape(tensors[KERNEL])}"
    return (
        tensors,
        reshaped,
        hints.joined(Hints(channels=kernel.shape[1], patch_size=kernel.shape[2])),
    )


def _pool(head: dict[str, Tensor] | None, hints: Hints) -> Pool | None:
    if head is None:
        return None
    return "mean" if "fc_norm.weight" in head else hints.pool or "cls"


def _notes(opened: Opened, weights: Weights, hints: Hints) -> tuple[str, ...]:
    notes, eps = [], opened.config.get("layer_norm_eps", EPS)
    if weights.layout == "hf" and eps != EPS:
        notes.append(
            f"config.json has layer_norm_eps={eps}, here it is {EPS}: features differ"
            " by about that"
        )
    if weights.geometry.decoder and hints.decoder_heads is None:
        heads = weights.geometry.decoder.heads
        notes.append(
            f"the decoder's heads are not visible in tensors; taken to be {heads}"
            " (another: decoder_heads=N)"
        )
    return tuple(notes)
