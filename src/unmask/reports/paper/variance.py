"""Where the variance of each measure comes from: seeds, probe seeds, test images."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from unmask.commands.units import count_noun
from unmask.config.checks import ConfigError
from unmask.config.recipes import stage_noun
from unmask.config.schema import Config
from unmask.reports.paper import components
from unmask.reports.paper.comparison import Finding
from unmask.reports.paper.components import Component
from unmask.reports.paper.result_rows import ResultRow
from unmask.stages.fingerprint import digest, measure_science
from unmask.stages.plan import make_plan
from unmask.stages.records import PREDICTIONS_FILE, Ledger, RunRecord

# of the science of a stage: what runs on one encoder share with the table's default row
ALIKE_KEYS = ("recipe", "data", "model")
# of a row: the fingerprints of its seeds
Key = tuple[str, ...]
# by seed: 100 where it was right about an image, else 0
Hits = dict[int, np.ndarray]


@dataclass(frozen=True)
class Source:
    """One source of variance. seen_in: what its number is made of.

    component: None where nothing that is there tells it; `remedy` then says what would.
    """

    name: str
    component: Component | None
    seen_in: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Variances:
    """The sources of variance of one measure at one scale."""

    scale: str
    measure: str
    sources: list[Source]


@dataclass
class Measured:
    """The results of one stage at one scale: the seeds of each row, each row once."""

    # rows that several tables share are one
    rows: dict[Key, list[ResultRow]] = field(default_factory=dict)
    # pairs of such keys: a row, and the default row of its table
    pairs: list[tuple[Key, Key]] = field(default_factory=list)


def collect_measured(findings: Iterable[Finding]) -> dict[tuple[str, str], Measured]:
    """Return the accuracies of all findings by scale and kind of stage."""
    measured: dict[tuple[str, str], Measured] = {}
    for finding in findings:
        comparison = finding.comparison
        paper = comparison.paper
        by_place: dict[tuple[str, str], list[ResultRow]] = {}
        for result in finding.rows:
            if "accuracy" in paper.columns[result.column].metric:
                by_place.setdefault((result.column, result.row), []).append(result)
        for (column, row), results in by_place.items():
            kind = paper.column_stages(paper.row(row))[column]
            of_kind = measured.setdefault((comparison.scale, kind), Measured())
            key = _key(results)
            of_kind.rows.setdefault(key, results)
            default = by_place.get((column, str(paper.default)))
            if default and row != paper.default:
                of_kind.pairs.append((key, _key(default)))
    return measured


def _key(results: Sequence[ResultRow]) -> Key:
    ordered = sorted(results, key=lambda result: result.seed)
    return tuple(result.fingerprint for result in ordered)


def find_variances(
    findings: Iterable[Finding], ledger: Ledger, configs: Mapping[str, Config]
) -> list[Variances]:
    """Return the sources of variance of each measure at each scale.

    configs: by scale, that of its default row.
    """
    return [
        Variances(
            scale,
            stage_noun(kind),
            [
                *_seed_sources(scale, kind, measured, ledger, configs[scale]),
                *_image_sources(kind, measured, ledger.runs_dir),
            ],
        )
        for (scale, kind), measured in collect_measured(findings).items()
    ]


def _seed_sources(
    scale: str, kind: str, measured: Measured, ledger: Ledger, config: Config
) -> list[Source]:
    values = [[result.value for result in row] for row in measured.rows.values()]
    spread = components.pooled(values)
    several = sum(len(row) > 1 for row in values)
    sources = [
        Source(
            "seeds of a row, all that a seed decides",
            spread,
            f"{count_noun(several, 'row')} with several seeds",
            "two seeds of a row or more",
        )
    ]
    if not any(result.pretrain for row in measured.rows.values() for result in row):
        return sources
    alone = list(_runs_on_one_encoder(kind, ledger, config))
    own = components.pooled(alone)
    remedy = (
        "other seeds on one encoder: python src/train.py -m"
        f" scale={scale} init_from=pretrain/FINGERPRINT stages=[{kind}] seed=0,1,2"
    )
    seen_in = f"{count_noun(len(alone), 'encoder')} with several seeds of this stage"
    sources.append(Source("this stage's own seed, same encoder", own, seen_in, remedy))
    apart = components.excess(spread, own) if spread and own else None
    sources.append(
        Source("the pretraining's seed alone", apart, "the first less the second", "")
    )
    return sources


def _runs_on_one_encoder(
    kind: str, ledger: Ledger, config: Config
) -> Iterable[list[float]]:
    """Yield accuracies of runs that differ in the seed alone, from given weights.

    Recipe, images and the shape of the model are those of the config. There are none
    where its images are not on this machine: nothing tells which runs are of them.
    """
    try:
        plan = make_plan(config)
    except ConfigError:
        return []
    identity = plan.stages[0].science["data"]["identity"]
    wanted = measure_science(kind, "given", plan.config, identity)
    runs: dict[str, list[float]] = {}
    for record in ledger.records:
        if record.kind != kind or record.start != "given" or not record.result:
            continue
        science = _read_science(record)
        is_alike = all(science.get(key) == wanted[key] for key in ALIKE_KEYS)
        if is_alike and "seed" in science:
            rest = {key: value for key, value in science.items() if key != "seed"}
            accuracy = record.result["metrics"]["val/accuracy"]
            runs.setdefault(digest(rest), []).append(accuracy)
    return [values for values in runs.values() if len(values) > 1]


def _read_science(record: RunRecord) -> dict[str, Any]:
    content = yaml.safe_load((record.folder / "config.yaml").read_text())
    return dict(content["science"])


def _image_sources(kind: str, measured: Measured, runs_dir: Path) -> list[Source]:
    results = [result for row in measured.rows.values() for result in row]
    images = results[0].images
    level = components.binomial([result.value for result in results], images)
    hits = {key: _read_hits(kind, row, runs_dir) for key, row in measured.rows.items()}
    hits = _of_one_length(hits)
    levels = _with_several_seeds(hits.values())
    differences = _with_several_seeds(
        _difference(hits[a], hits[b]) for a, b in dict.fromkeys(measured.pairs)
    )
    remedy = (
        f"{PREDICTIONS_FILE} of two seeds or more in the ledger, which kept results do"
        " not have"
    )
    nothing = float("nan")
    return [
        Source(
            "other test images: a level, one seed",
            Component(level, nothing, nothing, nothing),
            f"binomial, {images:,} images",
        ),
        Source(
            "other test images: a row's level, what its seeds share",
            components.of_images(levels),
            f"{count_noun(len(levels), 'row')}, image by image",
            remedy,
        ),
        Source(
            "other test images: a difference to the default row",
            components.of_images(differences),
            f"{count_noun(len(differences), 'difference')} on the same images",
            remedy,
        ),
    ]


def _read_hits(kind: str, row: Sequence[ResultRow], runs_dir: Path) -> Hits:
    """Return the hits of the seeds whose predictions the ledger has."""
    hits = {}
    for result in row:
        path = runs_dir / kind / result.fingerprint / PREDICTIONS_FILE
        if path.exists():
            table = pd.read_csv(path)
            right = table["label"] == table["predicted"]
            hits[result.seed] = 100.0 * right.to_numpy()
    return hits


def _of_one_length(hits: Mapping[Key, Hits]) -> dict[Key, Hits]:
    """Leave out seeds that were measured on another number of images than most."""
    lengths = Counter(len(each) for row in hits.values() for each in row.values())
    ((usual, _),) = lengths.most_common(1) or [(0, 0)]
    return {
        key: {seed: each for seed, each in row.items() if len(each) == usual}
        for key, row in hits.items()
    }


def _difference(a: Hits, b: Hits) -> Hits:
    """Return the differences of the seeds that both have, image by image."""
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def _with_several_seeds(hits: Iterable[Hits]) -> list[np.ndarray]:
    """Return tables of seeds by images, of those that have enough seeds."""
    return [
        np.stack(list(row.values())) for row in hits if len(row) >= components.MIN_SEEDS
    ]
