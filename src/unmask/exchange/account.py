"""Account for every name and shape of a file: nothing missing, left over or resized."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from unmask.exchange.geometry import count_blocks
from unmask.exchange.names import name_table, split_name, translate_name
from unmask.exchange.sizes import Geometry, Layout, Shape, Stack, expected_shapes

# An error lists so many names or shapes.
MAX_LISTED = 8
# Parameter names depend on the depth alone, so the other sizes may be the smallest.
MINIMAL_STACK = Stack(width=4, depth=1, heads=1, mlp_ratio=1)


def check_names(names: Mapping[str, str | None], layout: Layout) -> None:
    """Check that the names are those of a model, all of them and no other.

    names: each name in the file, with this project's name for it (None: unknown).
    Raises ValueError, with names as the file spells them.
    """
    present = {name for name in names.values() if name}
    expected = _expected_names(present)
    # Hugging Face keeps query, key and value apart.
    if layout == "hf":
        expected = {piece for name in expected for piece in split_name(name)}
    table = name_table(layout, probe="norm.running_mean" in present)
    missing = [translate_name(name, table) or name for name in expected - present]
    unexpected = [old for old, new in names.items() if new not in expected]
    faults = []
    if missing:
        faults.append(f"missing {_abbreviate(missing)}")
    if unexpected:
        faults.append(f"unexpected {_abbreviate(unexpected)}")
    if faults:
        raise ValueError("; ".join(faults))
    # A fine-tuned classifier of this project keeps the encoder's unused norm.
    is_foreign = layout not in ("checkpoint", "safetensors")
    if is_foreign and {"fc_norm.weight", "encoder.norm.weight"} <= present:
        raise ValueError(
            "it has norm and fc_norm, before and after pooling; known classifiers of"
            f" layout {layout} have one of the two"
        )


def _expected_names(present: set[str]) -> set[str]:
    """Return the names of a model with the same parts and depth as this one."""
    depth = count_blocks(present)
    encoder = replace(MINIMAL_STACK, depth=max(1, depth["encoder"]))
    decoder = None
    if any(name.startswith("decoder.") for name in present):
        decoder = replace(MINIMAL_STACK, depth=max(1, depth["decoder"]))
    expected = set(expected_shapes(Geometry(1, 1, (1, 1), encoder, decoder)))
    # A head has both its weight and its bias, even if one of them is missing.
    for stem in ("head", "fc_norm"):
        pair = set(_weight_and_bias(stem))
        if present & pair:
            expected |= pair
    if any(name.startswith("norm.") for name in present):
        # The BatchNorm of a linear probe has statistics alone (MAE A.1).
        expected |= {
            "norm.running_mean",
            "norm.running_var",
            "norm.num_batches_tracked",
        }
    return expected - allowed_missing(present).keys()


def _weight_and_bias(stem: str) -> tuple[str, str]:
    return f"{stem}.weight", f"{stem}.bias"


def allowed_missing(present: Iterable[str]) -> dict[str, str]:
    """Return the names that may be missing, each with the reason."""
    names = set(present)
    if "fc_norm.weight" not in names or "encoder.norm.weight" in names:
        return {}
    reason = "the classifier normalises after pooling instead"
    return dict.fromkeys(_weight_and_bias("encoder.norm"), reason)


def check_shapes(shapes: Mapping[str, Shape], geometry: Geometry) -> None:
    """Raise ValueError if a tensor's shape contradicts those of the others."""
    width = geometry.encoder.width
    expected = expected_shapes(geometry)
    per_channel = ("norm.running_mean", "norm.running_var")
    for name in (*_weight_and_bias("fc_norm"), *per_channel):
        expected[name] = (width,)
    if "head.weight" in shapes:
        classes = shapes["head.weight"][0]
        expected["head.weight"] = (classes, width)
        expected["head.bias"] = (classes,)
        expected["norm.num_batches_tracked"] = ()
    wrong = [
        f"{name} is {shape}, not {expected[name]}"
        for name, shape in shapes.items()
        if shape != expected[name]
    ]
    if wrong:
        raise ValueError(f"shapes that do not fit: {_abbreviate(wrong)}")


def _abbreviate(items: list[str]) -> str:
    rest = len(items) - MAX_LISTED
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(sorted(items)[:MAX_LISTED]) + more
