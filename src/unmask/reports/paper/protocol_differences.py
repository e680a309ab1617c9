"""Describe how our experiment differs from the paper's protocol, in words.

The paper's protocol is a config too (scale=paper). Both are compared by what their
fingerprints are made of, so that nothing which changes a result goes unsaid; only the
precision is left out, as the paper does not state it.
"""

from collections.abc import Mapping
from typing import Any

from unmask.config.architecture import DECODER
from unmask.config.datasets import IMAGENET_SIZE, find_dataset
from unmask.config.probes import ExactProbe
from unmask.config.recipe_parts import WARMUP_SHARE
from unmask.config.recipes import LABELLED_STAGES, STAGES, stage_noun
from unmask.config.schema import Config
from unmask.stages.fingerprint import SET_KEYS, measure_science, pretrain_science

# the section of each key of the pretraining's fingerprint
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
# keys that the line about the data describes
DATA_KEYS = ("identity", "image_size", "patch_size", "channels")
# our config and the paper's
ConfigPair = tuple[Config, Config]


def describe_differences(
    pairs: Mapping[str, ConfigPair], dataset_size: tuple[int, int] | None = None
) -> list[str]:
    """Return a line for each section that differs; none where the protocols are alike.

    pairs: by the table's row. A difference of some rows alone names these rows.
    dataset_size: training images and classes of a folder that replaces ImageNet.
    """
    sections_of = {row: _changed_sections(*pair) for row, pair in pairs.items()}
    lines = []
    if pairs:
        lines += _describe_data(*next(iter(pairs.values())), dataset_size)
    texts = [text for sections in sections_of.values() for text in sections]
    for text in dict.fromkeys(texts):
        rows = [row for row, sections in sections_of.items() if text in sections]
        if len(rows) == len(sections_of):
            lines.append(text)
        else:
            noun = "row" if len(rows) == 1 else "rows"
            lines.append(f"{noun} {', '.join(rows)}: {text}")
    return lines


def _describe_data(
    ours: Config, papers: Config, dataset_size: tuple[int, int] | None
) -> list[str]:
    data = ours.data
    paper_data = papers.data
    is_same = (
        data.source == paper_data.source
        and dataset_size in (None, (IMAGENET_SIZE.train, IMAGENET_SIZE.classes))
        and data.image_size == paper_data.image_size
        and data.patch_size == paper_data.patch_size
    )
    if is_same:
        return []
    name = find_dataset(data.source).title
    if dataset_size and data.source == paper_data.source:
        images, classes = dataset_size
        name = f"{images:,} images in {classes:,} classes"
    height, width = data.image_size
    rows, columns = ours.grid
    return [
        f"data: {name} at {height} x {width} pixels in {rows} x {columns} patches (the"
        f" paper: ImageNet-1K at {paper_data.image_size[0]} x"
        f" {paper_data.image_size[1]} in {papers.grid[0]} x {papers.grid[1]})"
    ]


def _changed_sections(ours: Config, paper_config: Config) -> list[str]:
    changes: dict[str, list[str]] = {}
    our_science = pretrain_science(ours, "")
    paper_science = pretrain_science(paper_config, "")
    for key, section in SECTIONS.items():
        values = _as_mapping(key, our_science[key])
        paper_values = _as_mapping(key, paper_science[key])
        changes.setdefault(section, []).extend(_changed_values(values, paper_values))
    for kind in ours.active_stages:
        if kind in LABELLED_STAGES:
            section = stage_noun(kind)
            changes[section] = _changed_recipe(kind, ours, paper_config)
    if ours.data.source != paper_config.data.source:
        # mean and evaluation crop belong to the data set: they are no differences
        changes["images"] = []
    if ours.init_from != paper_config.init_from:
        changes["start"] = [f"weights of {ours.init_from} (paper: random ones)"]
    if ours.target.takes_tokenizer and ours.tokenizer_file is None:
        changes["target"] = [
            "tokens of a small dVAE trained on this data (paper: DALL-E's, of 250"
            " million images)"
        ]
    return [f"{name}: {', '.join(texts)}" for name, texts in changes.items() if texts]


def _as_mapping(key: str, value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {key: value}


def _changed_recipe(kind: str, ours: Config, papers: Config) -> list[str]:
    if STAGES[kind].parent == "classifier":
        return _changed_values(
            ours.robustness.model_dump(exclude={*SET_KEYS}),
            papers.robustness.model_dump(exclude={*SET_KEYS}),
        )
    start = "pretrained" if STAGES[kind].parent else "random"
    if isinstance(getattr(ours, kind), ExactProbe):
        changes = _solved_exactly(ours.linear_probe, papers.linear_probe)
    else:
        recipe = measure_science(kind, start, ours, "")["recipe"]
        paper_recipe = measure_science(kind, start, papers, "")["recipe"]
        changes = _changed_values(recipe, paper_recipe)

    size = ours.stage_image_size(kind)
    paper_size = papers.stage_image_size(kind)
    # Where both stages use the data's own size, the line about the data says it.
    is_own_size = size != ours.data.image_size or paper_size != papers.data.image_size
    if is_own_size and size != paper_size:
        changes.append(_describe_change("image_size", size, paper_size))
    return changes


def _solved_exactly(ours: Any, papers: Any) -> list[str]:
    """Describe a probe that is solved, where the paper's is trained in steps."""
    if isinstance(papers, ExactProbe):
        return _changed_values(ours.model_dump(), papers.model_dump())
    penalty = f"penalty {ours.penalties[0]:g}"
    if len(ours.penalties) > 1:
        tried = ", ".join(f"{penalty:g}" for penalty in ours.penalties)
        penalty = f"of the penalties {tried} the best on held-out training images"
    return [
        f"logistic regression solved to convergence, {penalty} (paper"
        f" {papers.optimizer}, {papers.epochs} epochs, augment.crop"
        f" {papers.augment.crop})"
    ]


def _changed_values(
    ours: Mapping[str, Any], papers: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    # One target or masking in place of another is one change, whatever its keys.
    if ours.get("_target_") != papers.get("_target_"):
        return [_describe_change("kind", _class_name(ours), _class_name(papers))]
    changes = []
    for key, value in ours.items():
        if key in DATA_KEYS or value == papers.get(key):
            continue
        if isinstance(value, Mapping):
            changes += _changed_values(value, papers[key], f"{prefix}{key}.")
        elif not (key == "warmup_epochs" and _is_default_warmup(ours, papers)):
            changes.append(_describe_change(f"{prefix}{key}", value, papers.get(key)))
    return changes


def _class_name(part: Mapping[str, Any]) -> str:
    # the paper's decoder is the one part whose fingerprint does not name it
    return str(part.get("_target_", DECODER)).rsplit(".", 1)[-1]


def _is_default_warmup(ours: Mapping[str, Any], papers: Mapping[str, Any]) -> bool:
    """Return whether both warm up over the same share of their epochs."""
    return (
        ours["warmup_epochs"] == ours["epochs"] * WARMUP_SHARE
        and papers["warmup_epochs"] == papers["epochs"] * WARMUP_SHARE
    )


def _describe_change(key: str, value: Any, paper_value: Any) -> str:
    return f"{key} {_format(value)} (paper {_format(paper_value)})"


def _format(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
