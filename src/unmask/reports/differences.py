"""What stands between an experiment of ours and the paper's: the paper's protocol is a config too (scale=paper)."""

from collections.abc import Mapping, Sequence
from typing import Any

from unmask.runs.fingerprint import DATA_KEYS
from unmask.runs.recipes import WARMUP
from unmask.runs.schema import Config

IMAGENET = (1_281_167, 1000)  # training images, classes
NAMES = {"mnist5k": "5,000 MNIST digits", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
SECTIONS = {
    "model": "encoder", "decoder": "decoder", "encoder": "encoder", "masking": "masking", "target": "target",
    "augment": "augmentation", "pretrain": "pretraining", "scratch": "from scratch", "finetune": "fine-tuning",
    "linear_probe": "linear probe", "partial_finetune": "partial fine-tuning",
}  # fmt: skip
ROOT = ("mask_ratio", "loss_on")
SHAPE = ("width", "depth", "heads", "mlp_ratio")
Pair = tuple[Config, Config]


def differences(pairs: Mapping[str, Pair], listed: tuple[int, int] | None = None) -> list[str]:
    """A line for each section that differs; what differs in some rows alone is said of them.

    pairs: of each row (our config, the paper's). listed: training images and classes where the data is a folder that
    takes ImageNet's place. Empty: like for like.
    """
    found = {row: _sections(*pair) for row, pair in pairs.items()}
    texts = [text for sections in found.values() for text in sections]
    lines = list(_data(*next(iter(pairs.values())), listed)) if pairs else []
    for text in dict.fromkeys(texts):
        rows = [row for row, sections in found.items() if text in sections]
        lines.append(text if len(rows) == len(found) else f"{_named(rows)}: {text}")
    return lines


def _named(rows: Sequence[str]) -> str:
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(rows)


def _data(ours: Config, papers: Config, listed: tuple[int, int] | None) -> list[str]:
    data, theirs = ours.data, papers.data
    same = data.source == theirs.source and listed in (None, IMAGENET)
    if same and data.image_size == theirs.image_size and data.patch_size == theirs.patch_size:
        return []
    name = NAMES.get(data.source, data.source.replace("_", " "))
    if listed and data.source == theirs.source:
        name = f"{listed[0]:,} images in {listed[1]:,} classes"
    (height, width), (rows, cols) = data.image_size, ours.grid
    return [
        f"data: {name} at {height} x {width} pixels in {rows} x {cols} patches (the paper: ImageNet-1K at "
        f"{theirs.image_size[0]} x {theirs.image_size[1]} in {papers.grid[0]} x {papers.grid[1]})"
    ]


def _sections(ours: Config, papers: Config) -> list[str]:
    mine, theirs = ours.plain(), papers.plain()
    changed: dict[str, list[str]] = {}
    for key in ROOT:
        if mine[key] != theirs[key]:
            changed.setdefault("masking", []).append(_change(key, mine[key], theirs[key]))
    for section in ["model", "decoder", "encoder", "masking", "target", "augment", "pretrain", *ours.worked_stages]:
        if section in SECTIONS:
            here = changed.setdefault(SECTIONS[section], [])
            here += [text for text in _values(section, mine[section], theirs[section]) if text not in here]
    lines = [f"{name}: {', '.join(texts)}" for name, texts in changed.items() if texts]
    return lines


def _values(section: str, mine: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys that differ; one target or masking in place of another is one change."""
    if mine.get("_target_") != theirs.get("_target_"):
        return [_change("kind", *(str(part.get("_target_")).rsplit(".", 1)[-1] for part in (mine, theirs)))]
    texts = []
    for key in mine:
        if key in DATA_KEYS or key in ("name", "patch_size_at_224", "blocks") or mine[key] == theirs.get(key):
            continue
        if isinstance(mine[key], Mapping):
            texts += _values(section, mine[key], theirs[key], f"{prefix}{key}.")
        elif not _proportional(key, mine, theirs):
            texts.append(_change(f"{prefix}{key}", mine[key], theirs.get(key)))
    return texts


def _proportional(key: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """A warm-up that is the same share of the epochs is no difference of its own."""
    return key == "warmup_epochs" and mine[key] == mine["epochs"] * WARMUP and theirs[key] == theirs["epochs"] * WARMUP


def _change(key: str, mine: Any, theirs: Any) -> str:
    return f"{key} {_text(mine)} (paper {_text(theirs)})"


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
