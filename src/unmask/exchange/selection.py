"""Find the weights in what a file holds: below which keys, behind which prefix.

People save a state dict alone, below a key (`model`, `state_dict`, `module`), beside
its average (`model_ema`), and with the names of whatever wrapped the model.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from unmask.exchange.header import Header
from unmask.exchange.names import strip_inner_wrappers
from unmask.exchange.sizes import Layout
from unmask.exchange.stand_ins import (
    StandIn,
    collect_state,
    is_array,
    is_tensor,
)

MAX_LEVELS = 4
MAX_LISTED = 8
# names that end so belong to this layout; what precedes is the prefix of all of them
ANCHORS: dict[str, Layout] = {
    "encoder.patch_embed.weight": "safetensors",
    "embeddings.patch_embeddings.projection.weight": "hf",
    "patch_embed.proj.weight": "timm",
}
# where the anchor itself is missing, so that an error can name it
FALLBACK_ANCHOR = "blocks.0.norm1.weight"
OFFICIAL_DECODER = ("decoder_blocks.", "decoder_embed.")
# between a model's own name and its encoder's, within this project and Hugging Face's
INNER_PREFIX = re.compile(r"(?<![^.])(features|vit)\.$")
AVERAGE = re.compile(
    r"(^|[._])(ema|teacher|momentum|averaged?|avg|swa|shadow|target_encoder)([._]|$)"
)
KNOWN_LAYOUTS = (
    "the official MAE's, Hugging Face's ViTMAE and ViT, timm's ViT, this project's"
    " checkpoints and safetensors"
)


class Weighted(NamedTuple):
    """A set of weights in a file.

    keys: lead to its state dict. prefix: all its names begin so. names: as the file
    has them, each with what follows the prefix.
    """

    keys: tuple[str, ...]
    prefix: str
    layout: Layout
    names: dict[str, str]

    @property
    def label(self) -> str:
        """Return what chooses these weights, as weights=<label>."""
        return ".".join([*self.keys, *self.prefix.rstrip(".").split(".")]).strip(".")

    @property
    def is_average(self) -> bool:
        return AVERAGE.search(self.label) is not None

    def is_called(self, choice: str) -> bool:
        """Return whether weights=<choice> means these."""
        parts = (self.label, *self.keys, *self.prefix.split("."))
        return self.is_average if choice == "ema" else choice in parts


class Selection(NamedTuple):
    """The weights that are taken from a file.

    tensors: by their names in the file, as the header holds them. spelling: the names
    without prefix. left: names of other tensors, and why they are not taken. notes:
    which weights were taken, and what else the file holds.
    """

    chosen: Weighted
    tensors: dict[str, Any]
    left: dict[str, str]
    notes: tuple[str, ...]

    @property
    def spelling(self) -> dict[str, str]:
        return {name: self.chosen.names[name] for name in self.tensors}


def select_weights(header: Header, choice: str | None = None) -> Selection:
    """Choose weights: `choice`, else the plain ones.

    choice: "ema" for an average, or a key or prefix by which the file names them. The
    average is what a stage of this project evaluated, and its default. Raises
    ValueError where there are none, or several.
    """
    found = list(_find_weights(header.tree))
    if not found:
        raise ValueError(_explain_nothing(header))
    is_own = "config" in header.record
    chosen = _choose(header, found, choice, prefers_average=is_own)
    if is_own and chosen.layout == "safetensors":
        chosen = chosen._replace(layout="checkpoint")
    state = state_dict_at(header.tree, chosen.keys)
    tensors = {name: state[name] for name in chosen.names if is_tensor(state[name])}
    left = {}
    for name, value in state.items():
        if str(name) in tensors:
            continue
        reason = f"its name does not begin with {chosen.prefix}"
        if not is_tensor(value):
            reason = "no tensor"
        elif any(name in other.names for other in found if other is not chosen):
            reason = "the weights before averaging"
            if not chosen.is_average:
                reason = "other weights of the file"
        left[str(name)] = reason
    return Selection(chosen, tensors, left, tuple(_notes(header, found, chosen)))


def state_dict_at(tree: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the state dict that the keys lead to, also of a pickled module."""
    for key in keys:
        tree = tree[key]
    return collect_state(tree) if isinstance(tree, StandIn) else tree


def _find_weights(tree: Any, keys: tuple[str, ...] = ()) -> Iterator[Weighted]:
    """Yield all sets of weights in a file, however deep."""
    if isinstance(tree, StandIn):
        yield from _read_prefixes(collect_state(tree), keys)
    elif isinstance(tree, Mapping):
        yield from _read_prefixes(tree, keys)
        for key, value in tree.items():
            if isinstance(key, str) and len(keys) < MAX_LEVELS:
                yield from _find_weights(value, (*keys, key))


def _read_prefixes(
    state: Mapping[str, Any], keys: tuple[str, ...]
) -> Iterator[Weighted]:
    """Yield the sets of weights in one dictionary: one for each prefix."""
    spelled = {
        name: strip_inner_wrappers(name)
        for name in state
        if isinstance(name, str) and is_tensor(state[name])
    }
    starts = dict(_anchored(spelled.values(), ANCHORS))
    if not starts:
        starts = dict([*_anchored(spelled.values(), {FALLBACK_ANCHOR: "timm"})][:1])
    for prefix, layout in starts.items():
        names = {
            name: spelling.removeprefix(prefix)
            for name, spelling in spelled.items()
            if spelling.startswith(prefix)
        }
        # without a decoder the official names are timm's, but official files keep
        # them below "model"
        if layout == "timm":
            has_decoder = any(n.startswith(OFFICIAL_DECODER) for n in names.values())
            if has_decoder or keys[:1] == ("model",):
                layout = "official"
        yield Weighted(keys, prefix, layout, names)


def _anchored(
    names: Any, anchors: Mapping[str, Layout]
) -> Iterator[tuple[str, Layout]]:
    for name in names:
        for anchor, layout in anchors.items():
            if name == anchor or name.endswith(f".{anchor}"):
                prefix = name.removesuffix(anchor)
                yield (
                    prefix if layout == "timm" else INNER_PREFIX.sub("", prefix),
                    layout,
                )


def _choose(
    header: Header, found: list[Weighted], choice: str | None, prefers_average: bool
) -> Weighted:
    names = ", ".join(f"weights={some.label or 'model'}" for some in found)
    if choice:
        pool = [some for some in found if some.is_called(choice)]
        if not pool:
            raise ValueError(f"{header.path} holds no weights={choice}; it has {names}")
    else:
        pool = [some for some in found if some.is_average == prefers_average] or found
    if len(pool) > 1:
        raise ValueError(
            f"{header.path} holds several sets of weights; choose one: {names}"
        )
    return pool[0]


def _notes(header: Header, found: list[Weighted], chosen: Weighted) -> Iterator[str]:
    """Say which weights were taken and what was not, if there was a choice."""
    others = [
        some
        for some in found
        if (some.keys, some.prefix) != (chosen.keys, chosen.prefix)
    ]
    if chosen.layout == "checkpoint" and not others:
        # nobody needs to be told what a stage's own file holds
        return
    if chosen.prefix or len(chosen.keys) > 1 or others:
        yield f"weights taken: {chosen.label or 'those of the file itself'}"
    for other in others:
        average = ", or weights=ema" if other.is_average else ""
        yield f"not taken: {other.label} (weights={other.label}{average})"
    if chosen.keys and isinstance(header.tree, Mapping):
        taken = {some.keys[:1] for some in found}
        rest = [str(k) for k in header.tree if (k,) not in taken and k != "unmask"]
        if rest:
            yield f"not taken: {', '.join(rest[:MAX_LISTED])}"


def _explain_nothing(header: Header) -> str:
    """Say why there are no weights in a file."""
    path, tree = header.path, header.tree
    if not isinstance(tree, Mapping | StandIn):
        return f"{path} holds a {type(tree).__name__}, not named tensors"
    names = list(_tensor_names(tree))
    if "model.head.weight" in names:
        return f"{path} is a head trained on stored features: it holds no encoder"
    if _holds_arrays(tree):
        return (
            f"{path} holds NumPy's arrays, not tensors; save them by"
            " torch.from_numpy and torch.save"
        )
    if not names:
        entries = [] if isinstance(tree, StandIn) else [str(key) for key in tree]
        held = ", ".join(entries[:MAX_LISTED]) or "nothing"
        return f"{path} is not a file of named tensors: it holds {held}"
    return (
        f"{path} is of no known layout: its first names are {', '.join(names[:5])};"
        f" known are {KNOWN_LAYOUTS}"
    )


def _holds_arrays(tree: Any) -> bool:
    """Return whether the weights themselves are arrays of NumPy."""
    if not isinstance(tree, Mapping):
        return False
    is_weight = (str(key).endswith((".weight", ".bias")) for key in tree)
    return any(
        (named and is_array(value)) or _holds_arrays(value)
        for named, value in zip(is_weight, tree.values(), strict=True)
    )


def _tensor_names(tree: Any, level: int = 0) -> Iterator[str]:
    entries = collect_state(tree) if isinstance(tree, StandIn) else tree
    for name, value in entries.items():
        if is_tensor(value):
            yield str(name)
        elif isinstance(value, Mapping | StandIn) and level < MAX_LEVELS:
            yield from _tensor_names(value, level + 1)
