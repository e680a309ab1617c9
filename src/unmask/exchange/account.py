"""Every name and every shape of a file accounted for: nothing is missing, left over or of another size unseen."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from unmask.exchange.geometry import depths
from unmask.exchange.names import apart, renamed, table
from unmask.exchange.weights import Geometry, Layout, Stack, shapes

SHOWN = 8
STACK = Stack(width=4, depth=1, heads=1, mlp_ratio=1)  # names depend on the depth alone


def check_names(ours: Mapping[str, str | None], layout: Layout) -> None:
    """Given the file's names with ours, raise ValueError unless they are a model's names, all and no other."""
    found = {name for name in ours.values() if name}
    wanted = _wanted(found)
    if layout == "hf":
        wanted = {piece for name in wanted for piece in apart(name)}
    names = table(layout, probe="norm.running_mean" in found)
    missing = [renamed(name, names) or name for name in wanted - found]
    unexpected = [old for old, new in ours.items() if new not in wanted]
    faults = [
        f"{kind} {listed(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if faults:
        raise ValueError("; ".join(faults))
    if (
        layout not in ("checkpoint", "safetensors")
        and {"fc_norm.weight", "encoder.norm.weight"} <= found
    ):
        raise ValueError(
            "it has norm and fc_norm, before and after pooling; known classifiers have"
            " one of them"
        )


def _wanted(found: set[str]) -> set[str]:
    """The names of a model with the parts and the depth of this one."""
    depth, decoder = depths(found), any(name.startswith("decoder.") for name in found)
    sized = Geometry(
        1,
        1,
        (1, 1),
        replace(STACK, depth=max(1, depth["encoder"])),
        replace(STACK, depth=max(1, depth["decoder"])) if decoder else None,
    )
    head = set(_both("head")) if found & {*_both("head")} else set()
    after_pooling = set(_both("fc_norm")) if found & {*_both("fc_norm")} else set()
    batch_norm = {name for name in found if name.startswith("norm.")}
    statistics = (
        {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
        if batch_norm
        else set()
    )
    return {*shapes(sized), *head, *after_pooling, *statistics} - may_lack(found).keys()


def _both(stem: str) -> tuple[str, str]:
    return f"{stem}.weight", f"{stem}.bias"


def may_lack(found: Iterable[str]) -> dict[str, str]:
    """Names that may be missing, and why."""
    names = set(found)
    if "fc_norm.weight" not in names or "encoder.norm.weight" in names:
        return {}
    return dict.fromkeys(
        _both("encoder.norm"), "the classifier normalises after pooling instead"
    )


def check_shapes(tensors: Mapping[str, Tensor], geometry: Geometry) -> None:
    """Raise ValueError where a tensor is not of the size that the others imply."""
    width = geometry.encoder.width
    wanted = {name: tuple(shape) for name, shape in shapes(geometry).items()}
    wanted |= dict.fromkeys(
        (*_both("fc_norm"), "norm.running_mean", "norm.running_var"), (width,)
    )
    if "head.weight" in tensors:
        classes = len(tensors["head.weight"])
        wanted |= {
            "head.weight": (classes, width),
            "head.bias": (classes,),
            "norm.num_batches_tracked": (),
        }
    wrong = [
        f"{name} is {shape(value)}, not {wanted[name]}"
        for name, value in tensors.items()
        if tuple(value.shape) != wanted[name]
    ]
    if wrong:
        raise ValueError(listed(wrong))


def listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
