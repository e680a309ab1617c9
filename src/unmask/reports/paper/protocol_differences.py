"""What stands between an experiment of ours and the paper's: the paper's protocol is a config too (scale=paper).

What is compared is what fingerprints are made of, so that nothing which changes a result goes unsaid; but for the
precision, which the paper does not tell.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from unmask.config.groups import TokensTarget
from unmask.config.recipes import WARMUP
from unmask.config.schema import UNLABELLED, Config
from unmask.stages.fingerprint import TITLES, measure_science, pretrain_science
from unmask.stages.sizes import KNOWN

IMAGENET = (KNOWN["imagenet"].train, KNOWN["imagenet"].classes)
NAMES = {
    "mnist5k": "5,000 MNIST digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}
SECTIONS = {
    "model": "encoder",
    "encoder": "encoder",
    "decoder": "decoder",
    "masking": "masking",
    "mask_ratio": "masking",
    "loss_on": "masking",
    "target": "target",
    "augment": "augmentation",
    "pretrain": "pretraining",
    "data": "images",
}
# of the images: told in a sentence
OWN_LINE = ("identity", "image_size", "patch_size", "channels")
Pair = tuple[Config, Config]


def differences(
    pairs: Mapping[str, Pair], listed: tuple[int, int] | None = None
) -> list[str]:
    """A line for each section that differs; what differs in some rows alone is said of them.

    pairs: of each row (our config, the paper's). listed: training images and classes where the data is a folder that
    takes ImageNet's place. Empty: like for like.
    """
    found = {row: _sections(*pair) for row, pair in pairs.items()}
    texts = [text for sections in found.values() for text in sections]
    lines = _data(*next(iter(pairs.values())), listed) if pairs else []
    for text in dict.fromkeys(texts):
        rows = [row for row, sections in found.items() if text in sections]
        lines.append(text if len(rows) == len(found) else f"{_named(rows)}: {text}")
    return lines


def _named(rows: Sequence[str]) -> str:
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(rows)


def _data(ours: Config, papers: Config, listed: tuple[int, int] | None) -> list[str]:
    data, theirs = ours.data, papers.data
    same = data.source == theirs.source and listed in (None, IMAGENET)
    if (
        same
        and data.image_size == theirs.image_size
        and data.patch_size == theirs.patch_size
    ):
        return []
    name = NAMES.get(data.source, data.source.replace("_", " "))
    if listed and data.source == theirs.source:
        name = f"{listed[0]:,} images in {listed[1]:,} classes"
    (height, width), (rows, cols) = data.image_size, ours.grid
    return [
        f"data: {name} at {height} x {width} pixels in {rows} x {cols} patches (the"
        f" paper: ImageNet-1K at {theirs.image_size[0]} x {theirs.image_size[1]} in"
        f" {papers.grid[0]} x {papers.grid[1]})"
    ]


def _sections(ours: Config, papers: Config) -> list[str]:
    changed: dict[str, list[str]] = {}
    mine, theirs = pretrain_science(ours, ""), pretrain_science(papers, "")
    for key, name in SECTIONS.items():
        changed.setdefault(name, []).extend(
            _values(_part(mine, key), _part(theirs, key))
        )
    for kind in ours.worked_stages:
        if kind not in UNLABELLED:
            changed[_title(kind)] = _stage(kind, ours, papers)
    if ours.data.source != papers.data.source:
        # other images have a mean and a centre crop of their own
        changed["images"] = []
    if ours.init_from != papers.init_from:
        changed["start"] = [f"weights of {ours.init_from} (paper: random ones)"]
    if isinstance(ours.target, TokensTarget) and ours.tokenizer_file is None:
        changed["target"] = [
            "tokens of a small dVAE trained on this data (paper: DALL-E's, of 250"
            " million images)"
        ]
    return [f"{name}: {', '.join(texts)}" for name, texts in changed.items() if texts]


def _part(science: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = science[key]
    return dict(value) if isinstance(value, Mapping) else {key: value}


def _title(kind: str) -> str:
    return {
        "finetune": "fine-tuning",
        "scratch": "from scratch",
        "partial_finetune": "partial fine-tuning",
    }.get(kind, TITLES.get(kind, kind))


def _stage(kind: str, ours: Config, papers: Config) -> list[str]:
    """Its recipe, and its image size where that is not the data's."""
    if kind == "robustness":
        return _values(
            ours.robustness.model_dump(exclude={"root"}),
            papers.robustness.model_dump(exclude={"root"}),
        )
    start = "random" if kind == "scratch" else "pretrained"
    mine, theirs = (
        measure_science(kind, start, config, "")["recipe"] for config in (ours, papers)
    )
    sizes = [config.stage_image_size(kind) for config in (ours, papers)]
    own = sizes[0] != ours.data.image_size or sizes[1] != papers.data.image_size
    size = [_change("image_size", *sizes)] if own and sizes[0] != sizes[1] else []
    return [*_values(mine, theirs), *size]


def _values(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """The keys that differ; one target or masking in place of another is one change."""
    if mine.get("_target_") != theirs.get("_target_"):
        return [
            _change(
                "kind",
                *(
                    str(part.get("_target_")).rsplit(".", 1)[-1]
                    for part in (mine, theirs)
                ),
            )
        ]
    texts = []
    for key in mine:
        if key in OWN_LINE or mine[key] == theirs.get(key):
            continue
        if isinstance(mine[key], Mapping):
            texts += _values(mine[key], theirs[key], f"{prefix}{key}.")
        elif not _proportional(key, mine, theirs):
            texts.append(_change(f"{prefix}{key}", mine[key], theirs.get(key)))
    return texts


def _proportional(key: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """A warm-up that is the same share of the epochs is no difference of its own."""
    return (
        key == "warmup_epochs"
        and mine[key] == mine["epochs"] * WARMUP
        and theirs[key] == theirs["epochs"] * WARMUP
    )


def _change(key: str, mine: Any, theirs: Any) -> str:
    return f"{key} {_text(mine)} (paper {_text(theirs)})"


def _text(value: Any) -> str:
    return (
        "none"
        if value is None
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
