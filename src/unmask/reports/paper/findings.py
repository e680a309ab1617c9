"""Find all finished results of the paper's experiments, and compare them with it."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from unmask.config.checks import ConfigError
from unmask.config.conf_files import config_names, own_files, own_folders
from unmask.config.experiments import (
    expand_experiments,
    experiment_cells,
    experiment_folder,
    kept_files,
    read_paper,
    read_scale,
    scale_caveats,
)
from unmask.config.paper_facts import Paper
from unmask.config.probes import ExactProbe
from unmask.config.recipes import stage_name
from unmask.config.schema import Config, Scale
from unmask.reports.paper.arguments import Report
from unmask.reports.paper.claims import Judging
from unmask.reports.paper.collect import CollectedResults, Compose, collect_results
from unmask.reports.paper.comparison import Finding, compare, judge_claims
from unmask.reports.paper.protocol_differences import describe_differences
from unmask.reports.paper.result_rows import (
    KeptResults,
    read_kept_results,
    read_rows,
)

# the scale's name in a stage's config.yaml
SCALE_NAME = re.compile(r"^ +scale:\n +name: (\S+)$", re.MULTILINE)


def kept_results_path(slug: str, scale: str) -> Path:
    """Return the file that keeps an experiment's results at one scale."""
    return experiment_folder(slug) / "results" / f"{scale}.csv"


def collect_findings(args: Report, compose: Compose) -> list[Finding]:
    """Return the experiments of args.experiment in the paper's order.

    Each is given at the scales of args.scale, or else at those that have results.
    Raise ConfigError for an unknown experiment or scale, and where keep=true would keep
    results of other cells than the table's.
    """
    if args.keep:
        # The path of the images changes no result.
        refused = [o for o in args.overrides if not o.startswith("data.root=")]
        if refused:
            raise ConfigError(
                f"keep=true with overrides={refused}: only results of the tables as"
                " conf/ has them are kept; leave these overrides out (data.root= may"
                " stay), or leave out keep=true"
            )
    return _collect(args.experiment, dict.fromkeys(_scale_names(args), args), compose)


def collect_to_keep(args: Report, compose: Compose) -> list[Finding]:
    """Return the experiments of args.experiment at the scales to keep.

    These are the scales that were asked for, and those that are kept already, since an
    experiment's README shows all of them. The overrides (where the images are) are
    those of the former.
    """
    asked = _scale_names(args)
    others = args.model_copy(update={"scale": None, "overrides": []})
    names = sorted({*_scale_names(others), *asked}, reverse=True)
    by_scale = {name: args if name in asked else others for name in names}
    return [
        finding
        for finding in _collect(args.experiment, by_scale, compose)
        if (scale := finding.comparison.scale) in asked
        or kept_results_path(finding.comparison.slug, scale).exists()
    ]


def _collect(
    experiment: str, by_scale: Mapping[str, Report], compose: Compose
) -> list[Finding]:
    """Return the experiments in the paper's order; by_scale: what is asked at each."""
    scales = [(read_scale(name), args) for name, args in by_scale.items()]
    for scale, args in scales:
        _refuse_other_probe(scale, args, compose)
    kept = read_kept_results()
    findings = []
    for slug in expand_experiments(experiment):
        paper = read_paper(slug)
        for scale, args in scales:
            finding = _find(paper, slug, scale, args, compose, kept)
            comparison = finding.comparison
            if comparison.done or (args.scale and comparison.expected):
                findings.append(finding)
    return findings


def _refuse_other_probe(scale: Scale, args: Report, compose: Compose) -> None:
    """Raise ConfigError where overrides put a solved probe into a trained one's column.

    Its numbers are of another kind, and the scale's file says which kind it has.
    """
    if not args.overrides:
        return
    of_scale = compose([f"scale={scale.name}"]).linear_probe
    asked = compose([f"scale={scale.name}", *args.overrides]).linear_probe
    if isinstance(asked, ExactProbe) and not isinstance(of_scale, ExactProbe):
        raise ConfigError(
            f"overrides={args.overrides}: at scale={scale.name} the probe's column is"
            " of one that is trained in steps; leave linear_probe=exact out, or take a"
            " scale with it, such as scale=embedded_exact"
        )


def _scale_names(args: Report) -> list[str]:
    """Return args.scale, or else the scales with a stage or kept results."""
    if args.scale:
        return args.scale.split(",")
    names = {path.stem for path in kept_files()}
    # Composing every cell of every scale would take minutes; these files tell the
    # scales that were run.
    for path in Path(args.runs_dir).glob("*/*/config.yaml"):
        if match := SCALE_NAME.search(path.read_text()):
            names.add(match.group(1))
    return [name for name in reversed(config_names("scale")) if name in names]


def _find(
    paper: Paper,
    slug: str,
    scale: Scale,
    args: Report,
    compose: Compose,
    kept: KeptResults,
) -> Finding:
    """Collect and compare one experiment at one scale."""
    kept_rows = read_rows(kept_results_path(slug, scale.name))
    # keep=true writes the whole file anew: it must hold every seed there is.
    wanted_seeds = [] if args.keep else args.seeds or []
    more_seeds = sorted({*(args.seeds or []), *(row.seed for row in kept_rows)})
    all_seeds = list(dict.fromkeys([*scale.seeds, *more_seeds]))
    collected = collect_results(
        paper,
        slug,
        scale.model_copy(update={"seeds": wanted_seeds or all_seeds}),
        lambda overrides: compose([*overrides, *args.overrides]),
        args.runs_dir,
        kept,
        unverified=[] if args.overrides else kept_rows,
        more_seeds=[
            seed
            for seed in range(scale.looks[-1])
            if seed not in all_seeds and not wanted_seeds
        ],
    )
    omitted = [row.row for row in paper.rows if row.row not in collected.configs]
    comparison = compare(
        paper,
        slug,
        scale.name,
        collected.rows,
        len(wanted_seeds or scale.seeds),
        _protocol_differences(paper, slug, collected, compose),
        omitted,
        {
            name: relative_flops(paper, collected.configs)
            for name, column in paper.columns.items()
            if column.counted
        },
    )
    judging = Judging.at(scale, args.anytime)
    judging = replace(judging, seconds=collected.seconds_per_seed)
    claims = judge_claims(paper, collected.rows, judging, omitted)
    caveats = scale_caveats(paper, slug, scale)
    comparison = replace(comparison, claims=claims, caveats=caveats)
    if collected.num_kept:
        collected.notes.append(
            f"{slug}: {collected.num_kept} of {len(collected.rows)} results are those"
            " kept in experiments/"
        )
    return Finding(
        comparison,
        *_command_and_cost(slug, scale, args, collected),
        rows=collected.rows,
        notes=collected.notes,
    )


def _command_and_cost(
    slug: str, scale: Scale, args: Report, collected: CollectedResults
) -> tuple[str, str]:
    """Return the command that makes the rows, and what it trains."""
    own = own_files("experiment").keys() | own_files("scale").keys()
    folders = own_folders() if {slug, scale.name} & own else []
    overrides = [f"--config-dir={folder}" for folder in folders]
    overrides += [f"experiment={slug}", f"scale={scale.name}"]
    price = f"python src/plan.py {' '.join(overrides)} computes its price"
    # Each stage counts once, however many cells share it; without the images none is
    # known.
    stages = Counter(map(stage_name, collected.stage_kinds.values()))
    counts = ", ".join(f"{count} x {name}" for name, count in stages.items())
    # what is kept is for others, whose images lie elsewhere
    kept_root = ["data.root=/path/to/images"] if args.overrides else []
    overrides += kept_root if args.keep else args.overrides
    if args.seeds:
        overrides.append(f"seed={','.join(map(str, args.seeds))}")
    command = f"python src/train.py -m {shlex.join(overrides)}"
    return command, "; ".join(filter(None, [counts, price]))


def _protocol_differences(
    paper: Paper, slug: str, collected: CollectedResults, compose: Compose
) -> list[str]:
    """Return how our rows differ from the paper's; nothing where there are none."""
    if not collected.rows or paper.is_own:
        return []
    cells = {
        cell.row: cell for cell in experiment_cells(slug, read_scale("paper"), [0])
    }
    pairs = {
        row: (config, compose(cells[row].overrides))
        for row, config in collected.configs.items()
        if row in cells
    }
    return [*describe_differences(pairs, collected.dataset_size), *paper.unlike]


def relative_flops(paper: Paper, configs: dict[str, Config]) -> dict[str, float]:
    """Return each row's FLOPs of a pretraining step, in times the default row's.

    torch counts them on the very modules that would train.
    """
    if paper.default not in configs:
        return {}
    # torch and Lightning take seconds, which other tables need not wait for
    from unmask.training.flops import count_flops
    from unmask.training.outline import pretraining_outline

    flops = {
        row: count_flops(partial(pretraining_outline, config)).training
        for row, config in configs.items()
    }
    return {row: value / flops[paper.default] for row, value in flops.items()}
