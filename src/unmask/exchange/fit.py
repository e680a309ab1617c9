"""Compare the sizes of weights with a model's; only the grid may differ.

Without torch: a run's config is checked before anything starts.
"""

from collections.abc import Iterator

from unmask.exchange.geometry import HEADS_BY_WIDTH
from unmask.exchange.sizes import Geometry, Stack

# The config group `model` by width and depth.
MODEL_NAMES = {
    (192, 12): "mae_vit_ti",
    (384, 12): "mae_vit_s",
    (768, 12): "mae_vit_b",
    (1024, 24): "mae_vit_l",
    (1280, 32): "mae_vit_h",
}
# Of every model of the paper.
MLP_RATIO = 4


def check_fit(theirs: Geometry, ours: Geometry) -> None:
    """Raise ValueError, with the overrides that fit, where more than grids differs.

    Decoders are compared where both have one.
    """
    faults = [*_compare(theirs, ours)]
    if faults:
        misfits, remedies = zip(*faults, strict=True)
        raise ValueError(f"{'; '.join(misfits)}; set {' '.join(remedies)}")


def overrides_for(geometry: Geometry) -> str:
    """Return the overrides of a run whose model has these sizes."""
    stacks = [_group_of(geometry.encoder) or _overrides("model", geometry.encoder)]
    if geometry.decoder:
        stacks.append(_overrides("decoder", geometry.decoder))
    data = f"data.channels={geometry.channels} data.patch_size={geometry.patch_size}"
    if geometry.class_tokens != 1:
        stacks.append(f"model.class_tokens={geometry.class_tokens}")
    return " ".join([*stacks, data])


def _compare(theirs: Geometry, ours: Geometry) -> Iterator[tuple[str, str]]:
    """Yield what differs, and the overrides that would mend it."""
    if theirs.channels != ours.channels:
        yield (
            f"the weights have {theirs.channels} channels, the model {ours.channels}",
            f"data.channels={theirs.channels}",
        )
    if theirs.patch_size != ours.patch_size:
        yield (
            f"the weights have {theirs.patch_size} pixels a patch's side, the model"
            f" {ours.patch_size}",
            f"data.patch_size={theirs.patch_size}",
        )
    if theirs.class_tokens != ours.class_tokens:
        yield (
            f"the weights have {theirs.class_tokens} class tokens, the model"
            f" {ours.class_tokens}",
            f"model.class_tokens={theirs.class_tokens}",
        )
    if _describe(theirs.encoder) != _describe(ours.encoder):
        yield (
            f"the weights' encoder is {_describe(theirs.encoder)}, the model's"
            f" {_describe(ours.encoder)}",
            _group_of(theirs.encoder) or _overrides("model", theirs.encoder),
        )
    if theirs.decoder is None or ours.decoder is None:
        return
    if _describe(theirs.decoder) != _describe(ours.decoder):
        yield (
            f"the weights' decoder is {_describe(theirs.decoder)}, the model's"
            f" {_describe(ours.decoder)}",
            _overrides("decoder", theirs.decoder),
        )


def _group_of(stack: Stack) -> str | None:
    """Return the one override that is enough where the config knows these sizes."""
    name = MODEL_NAMES.get((stack.width, stack.depth))
    is_usual = stack.heads == HEADS_BY_WIDTH.get(stack.width)
    return f"model={name}" if name and is_usual and _has_usual_mlps(stack) else None


def _overrides(section: str, stack: Stack) -> str:
    text = (
        f"{section}.width={stack.width} {section}.depth={stack.depth}"
        f" {section}.heads={stack.heads}"
    )
    # a decoder's ratio follows the encoder's, which may differ
    if section == "decoder" or not _has_usual_mlps(stack):
        text += f" {section}.mlp_ratio={stack.mlp_ratio:g}"
    return text


def _has_usual_mlps(stack: Stack) -> bool:
    return _hidden(stack) == MLP_RATIO * stack.width


def _describe(stack: Stack) -> str:
    # ratios may differ by rounding where the widths are the same
    return (
        f"{stack.width} wide, {stack.depth} deep, of {stack.heads} heads, with MLPs of"
        f" {_hidden(stack)}"
    )


def _hidden(stack: Stack) -> int:
    return int(stack.width * stack.mlp_ratio)
