"""Every cell of every table is a different run, and what tables share is run once."""

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir

from hydra_plugins.experiment_sweeper import (
    TableCell,
    cells_by_table,
    cells_without_kept_results,
    check_cells,
)
from planted_ledger import kept_in
from small_runs import call, plan_for, raw_config
from unmask.commands.composition import Composer
from unmask.config import conf_files, experiments
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import (
    ABLATIONS,
    Cell,
    expand_experiments,
    experiment_cells,
    experiment_slugs,
    is_sweep,
    read_paper,
    read_scale,
    read_sweep,
    scale_caveats,
)
from unmask.config.overrides import unknown_experiments
from unmask.config.schema import Config
from unmask.reports.paper import result_rows
from unmask.reports.paper.result_rows import ResultRow, read_rows, write_rows
from unmask.stages.fingerprint import digest, measure_science, pretrain_science

CORE = [
    "decoder_depth",
    "decoder_width",
    "mask_token",
    "reconstruction_target",
    "data_augmentation",
    "mask_sampling",
    "loss_on_all",
    "mask_ratio",
    "schedule",
    "partial_finetuning",
]
SCALES = ["embedded", "embedded_exact", "photos", "photos_jpeg", "cifar", "paper"]
# their images are no download
ROOTS = {"paper": "data.root=/x", "photos_jpeg": "data.root=/x"}
COMPOSER = Composer()


def unique_cells(arguments: list[str]) -> list[list[str]]:
    """Return the overrides of every cell of a sweep, each cell once."""
    return [
        list(cell)
        for cell in dict.fromkeys(
            tuple(cell.overrides) for cell in cells_by_table(arguments)
        )
    ]


def config_of(cell: Cell) -> Config:
    return compose_config(tuple(cell.overrides))


def root_for(scale: str) -> list[str]:
    """Return what a scale needs beside its name, as in `scale=paper`."""
    name = scale.partition("=")[2]
    return [ROOTS[name]] if name in ROOTS else []


@cache
def compose_config(overrides: tuple[str, ...]) -> Config:
    """Compose as sweeps do: each choice of groups once."""
    with initialize_config_dir(str(conf_files.CONF), version_base="1.3"):
        return check(COMPOSER([*overrides, *root_for(overrides[0])]))


def identities(slug: str, scale: str) -> dict[str, tuple[str, ...]]:
    """Return hashes of what each row's pretraining and its measurements depend on."""
    hashes = {}
    for cell in experiment_cells(slug, read_scale(scale), [0]):
        config = config_of(cell)
        stages = [
            kind for kind in config.stages if kind not in ("pretrain", "robustness")
        ]
        recipes = [
            digest(measure_science(kind, "pretrained", config, "same"))
            for kind in stages
        ]
        other = (
            [digest(config.robustness.model_dump())]
            if "robustness" in config.stages
            else []
        )
        hashes[cell.row] = (digest(pretrain_science(config, "same")), *recipes, *other)
    return hashes


@pytest.fixture(scope="module")
def core() -> dict[str, dict[str, tuple[str, ...]]]:
    return {slug: identities(slug, "embedded") for slug in CORE}


def test_the_ablations_are_table_1_footnote_1_and_figures_5_7_and_9_in_that_order() -> (
    None
):
    assert expand_experiments(ABLATIONS) == CORE
    assert expand_experiments("all")[: len(CORE) - 1] == CORE[:-1]
    assert expand_experiments("mask_ratio,mask_ratio,decoder_depth") == [
        "mask_ratio",
        "decoder_depth",
    ]


def test_every_row_of_an_ablation_differs_from_every_other(
    core: dict[str, dict[str, tuple[str, ...]]],
) -> None:
    for slug, rows in core.items():
        assert len(set(rows.values())) == len(rows), slug


def test_the_default_cell_is_one_pretraining_for_all_tables(
    core: dict[str, dict[str, tuple[str, ...]]],
) -> None:
    defaults = {
        core[slug][str(read_paper(slug).default)][0]
        for slug in CORE
        if slug not in ("decoder_depth", "partial_finetuning")
    }
    assert len(defaults) == 1
    assert core["decoder_depth"]["2"][0] in defaults, (
        "this scale's default decoder has two blocks"
    )
    assert {row[0] for row in core["partial_finetuning"].values()} == defaults
    assert len({row[0] for rows in core.values() for row in rows.values()}) == 33


@pytest.mark.parametrize(
    "slug", [slug for slug in experiment_slugs() if slug not in CORE]
)
def test_the_other_tables_cells_differ_too_at_the_papers_scale(slug: str) -> None:
    rows = identities(slug, "paper")
    with_their_stages = {(row, *ids) for row, ids in rows.items()}
    assert len(with_their_stages) == len(rows)
    # of those, stages without a pretraining
    if slug not in ("robustness", "imagenet_finetune", "scratch", "baseline"):
        assert len(set(rows.values())) == len(rows)


@pytest.mark.parametrize("scale", SCALES)
def test_the_cells_of_every_table_pass_the_checks_at_every_scale(scale: str) -> None:
    """Rows to which the paper's values do not fit have others."""
    wanted = unique_cells(
        [
            "experiment=mask_token,mask_sampling,schedule,decoder_width",
            f"scale={scale}",
            "seed=0",
        ]
    )
    assert len({tuple(cell) for cell in wanted}) == len(wanted)
    for overrides in wanted:
        by_hydra = check(
            raw_config(*overrides, *root_for(f"scale={scale}"), tiny=False)
        )
        assert config_of(Cell("", "", 0, tuple(overrides))) == by_hydra


def test_shared_cells_are_run_once_and_the_users_overrides_come_last() -> None:
    alone = unique_cells(["experiment=mask_token", "scale=embedded"])
    assert [cell[-1] for cell in alone] == [f"seed={seed}" for seed in (0, 1, 2)] * 2
    both = unique_cells(
        [
            "experiment=mask_token,loss_on_all",
            "scale=embedded",
            "seed=4",
            "pretrain.epochs=1,2",
        ]
    )
    assert both[:2] == [
        ["scale=embedded", "encoder.mask_tokens=true", "seed=4", f"pretrain.epochs={n}"]
        for n in (1, 2)
    ]
    assert len(both) == 3 * 2


def test_overrides_without_a_table_are_swept_as_hydra_does() -> None:
    assert unique_cells(["experiment=demo", "seed=0,1"]) == [
        ["experiment=demo", "seed=0"],
        ["experiment=demo", "seed=1"],
    ]
    assert unique_cells(["decoder.depth=1,2"]) == [
        ["decoder.depth=1"],
        ["decoder.depth=2"],
    ]
    assert not is_sweep("demo")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["experiment=decoder_dept,mask_ratio"],
            (
                "experiment=decoder_dept: there is no such experiment; did you mean"
                " decoder_depth?"
            ),
        ),
        (
            ["experiment=demo,mask_ratio"],
            "experiment=demo is one run, not a table of the paper; give it alone",
        ),
        (
            ["experiment=robustness", "scale=embedded"],
            "scale=embedded leaves out every row of robustness",
        ),
        (
            ["experiment=mask_ratio", "scale=embeded"],
            "scale=embeded: there is no such scale; did you mean embedded?",
        ),
        (["experiment=mask_ratio", "seed=abc"], "seed=abc: give whole numbers"),
    ],
)
def test_unknown_experiments_scales_and_seeds_are_reported(
    arguments: list[str], text: str
) -> None:
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        unique_cells(arguments)


def test_a_scale_may_not_name_unknown_rows() -> None:
    scale = read_scale("embedded").model_copy(
        update={"cells": {"mask_ratio": {"55": []}}}
    )
    with pytest.raises(
        ConfigError, match="scale=embedded: mask_ratio has no row 55; rows are"
    ):
        list(experiment_cells("mask_ratio", scale))


def test_a_row_or_table_may_be_left_out_at_a_scale() -> None:
    assert not list(experiment_cells("robustness", read_scale("embedded")))
    assert {
        cell.row
        for cell in experiment_cells("partial_finetuning", read_scale("embedded"))
    } == {"0", "0.5", "1", "2", "24"}


def test_a_claim_on_an_unknown_column_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load(
        (Path(__file__).parent.parent / "experiments/mask_token/paper.yaml").read_text()
    )
    content["claims"][0]["column"] = "fft"
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="unknown column fft"):
        read_paper(tmp_path)


def test_every_sweep_has_a_paper_and_every_paper_a_sweep() -> None:
    assert {read_sweep(slug).slug for slug in experiment_slugs()} == set(
        experiment_slugs()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "experiment=decoder_dept",
        "experiment=",
        "scale=embeded",
        "scale=all",
        "experiment=demo,mask_rati",
        "scale.seeds=[1]",
        "++scale.cells={}",
    ],
)
def test_names_that_hydra_would_skip_silently_are_errors(arguments: str) -> None:
    """Both groups are optional: Hydra would run the default config in their place."""
    assert len(unknown_experiments([arguments, "seed=0"])) == 1
    assert not unknown_experiments(
        [
            "experiment=demo",
            "experiment=all",
            "experiment=mask_ratio",
            "scale=cifar",
            "seed=0",
        ]
    )


@pytest.mark.process
def test_many_tables_need_a_sweep() -> None:
    """Hydra has no such file, and would run the default config."""
    done = call("experiment=ablations")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "add -m" in done.stderr


def replace_text(path: Path, before: str, after: str) -> None:
    path.write_text(path.read_text().replace(before, after))


@pytest.mark.parametrize(
    ("file", "before", "after", "text"),
    [
        (
            "scale/embedded.yaml",
            "decoder_width:",
            "decoder_widht:",
            "no such experiment; did you mean decoder_width?",
        ),
        (
            "scale/embedded.yaml",
            "name: embedded",
            "name: other",
            "scale.name is other; it must be the file's name, embedded",
        ),
        (
            "scale/embedded.yaml",
            "seeds: [0, 1, 2]",
            "seeds: [0, 1",
            "embedded.yaml cannot be read",
        ),
        (
            "scale/embedded.yaml",
            "scale:\n",
            "scales:\n",
            "embedded.yaml: there is no `scale:` in it",
        ),
        (
            "experiment/mask_ratio.yaml",
            '"50":',
            '"55":',
            "row 55 is not in experiments/mask_ratio/paper.yaml",
        ),
        (
            "experiment/mask_ratio.yaml",
            "slug: mask_ratio",
            "slug: ratio",
            "it must be the file's name, mask_ratio",
        ),
    ],
)
def test_files_that_contradict_each_other_are_refused_by_name(
    file: str,
    before: str,
    after: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(conf_files.CONF, tmp_path / "conf")
    monkeypatch.setattr(conf_files, "CONF", tmp_path / "conf")
    replace_text(tmp_path / "conf" / file, before, after)
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        unique_cells(["experiment=mask_ratio", "scale=embedded"])


@pytest.mark.process
def test_a_table_needs_a_sweep() -> None:
    done = call("experiment=mask_token", tiny=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "experiment=mask_token is a table of 2 cells, each a run of its own: add -m"
    )
    assert done.stderr.count("\n") == 1


def test_a_cell_is_skipped_if_all_its_results_are_kept_in_any_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_in(tmp_path, monkeypatch)
    listed = cells_by_table(
        ["experiment=mask_token,loss_on_all", "scale=embedded", "seed=0"]
    )
    plans = {
        tuple(cell.overrides): plan_for(*cell.overrides, tiny=False) for cell in listed
    }
    default = ("scale=embedded", "seed=0")
    assert [cell.row for cell in listed if cell.overrides == default] == [
        "without mask tokens",
        "hidden patches",
    ]
    assert len(cells_without_kept_results(listed, plans)) == 3, "nothing is kept yet"
    path = tmp_path / "mask_token" / "results" / "embedded.csv"
    tuned, probed = (
        result_rows.measured_stage(plans[tuple(default)], kind).fingerprint
        for kind in ("finetune", "linear_probe")
    )  # type: ignore[union-attr]
    rows = [ResultRow("without mask tokens", "ft", 0, 95.0, 1000, tuned, "")]
    write_rows(path, rows, read_paper("mask_token"))
    assert default in cells_without_kept_results(listed, plans), "half of its results"
    rows.append(ResultRow("without mask tokens", "lin", 0, 88.8, 1000, probed, ""))
    write_rows(path, rows, read_paper("mask_token"))
    assert default not in cells_without_kept_results(listed, plans)
    assert len(cells_without_kept_results(listed, plans)) == 2
    with pytest.raises(
        ConfigError, match=r"skip_kept=true: .*experiment=decoder_depth"
    ):
        cells_without_kept_results([TableCell("", "", default)], plans)


def test_an_override_of_the_key_that_a_table_varies_is_refused() -> None:
    """One model would fill every row, and be compared with itself."""
    with initialize_config_dir(str(conf_files.CONF), version_base="1.3"):
        listed = cells_by_table(
            ["experiment=decoder_depth", "scale=embedded", "seed=0", "decoder.depth=1"]
        )
        with pytest.raises(ConfigError, match="rows 1 and 2 are one run; leave out"):
            check_cells(listed)
        check_cells(
            cells_by_table(
                [
                    "experiment=decoder_depth",
                    "scale=embedded",
                    "seed=0,1",
                    "mask_ratio=0.5,0.6",
                ]
            )
        )


def test_measurements_that_fill_no_column_are_refused() -> None:
    """They would train for hours and fill nothing; pretraining alone may be measured later."""
    with initialize_config_dir(str(conf_files.CONF), version_base="1.3"):
        table = ["experiment=decoder_depth", "scale=embedded", "seed=0"]
        with pytest.raises(
            ConfigError,
            match=(
                r"\['knn'\] fill no column of row 1, which takes finetune,"
                r" linear_probe;"
            ),
        ):
            check_cells(cells_by_table([*table, "stages=[knn]"]))
        check_cells(cells_by_table([*table, "stages=[pretrain]"]))
        check_cells(cells_by_table([*table, "stages=[linear_probe,knn]"]))


def test_a_plus_before_an_existing_key_is_refused() -> None:
    with initialize_config_dir(str(conf_files.CONF), version_base="1.3"):
        with pytest.raises(
            ConfigError,
            match=r"\+mask_ratio: there is such a key already; leave out the \+",
        ):
            Composer()(["+mask_ratio=0.5"])
        assert Composer()(["++mask_ratio=0.5"])["mask_ratio"] == 0.5


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (
            '{says: "Both."',
            '{says: "Both.", by: 1',
            "by = 1 is a margin of higher alone",
        ),
        (
            "stage: finetune",
            "stage: fine_tune",
            "columns.ft.stage = 'fine_tune': Input should be",
        ),
    ],
)
def test_facts_without_effect_are_refused(
    before: str, after: str, text: str, tmp_path: Path
) -> None:
    written = (experiments.EXPERIMENTS / "decoder_depth" / "paper.yaml").read_text()
    written += '  - {says: "Both.", column: ft, within: 0.2, rows: ["1", "8"]}\n'
    assert before in written
    (tmp_path / "paper.yaml").write_text(written.replace(before, after))
    with pytest.raises(ConfigError, match=text):
        read_paper(tmp_path)


@pytest.mark.parametrize("slug", experiment_slugs())
def test_the_cost_comment_states_the_number_of_pretrainings(slug: str) -> None:
    (cost,) = re.findall(
        "^# Cost .*",
        (conf_files.CONF / "experiment" / f"{slug}.yaml").read_text(),
        re.MULTILINE,
    )
    for scale in ("embedded", "paper"):
        listed = list(experiment_cells(slug, read_scale(scale), [0]))
        configs = [config_of(cell) for cell in listed]
        trained = [
            config
            for config in configs
            if {*config.active_stages} - {"scratch", "robustness"}
        ]
        pretrainings = {digest(pretrain_science(config, "same")) for config in trained}
        seeds = len(read_scale(scale).seeds)
        stated = re.search(rf"{scale}: (\d+) (pretraining|runs from scratch)", cost)
        if not listed:
            assert stated is None
            continue
        assert stated, cost
        expected = (
            len(listed) if stated[2] == "runs from scratch" else len(pretrainings)
        )
        assert int(stated[1]) == expected * seeds


@pytest.mark.process
@pytest.mark.parametrize("flag", ["--cfg=job", "--info"])
def test_one_config_is_shown_at_a_time(flag: str) -> None:
    done = call("-m", flag, "decoder.depth=1,2")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"{flag} shows the config of one run and -m starts many; leave out one of"
        " them\n"
    )


def test_every_kept_result_still_belongs_to_its_row() -> None:
    """Kept results took hours: who changes fingerprints raises RESULT_VERSION and runs again."""
    rows = {
        path.parents[1].name: read_rows(path)
        for path in experiments.EXPERIMENTS.glob("*/results/embedded.csv")
    }
    seeds = {row.seed for of_table in rows.values() for row in of_table}
    with initialize_config_dir(str(conf_files.CONF), version_base="1.3"):
        listed = cells_by_table(
            [
                f"experiment={','.join(rows)}",
                "scale=embedded",
                f"seed={','.join(map(str, seeds))}",
            ]
        )
        plans = check_cells(listed)
    fingerprints = {}
    for table, row, overrides in listed:
        paper, plan = read_paper(table), plans[tuple(overrides)]
        for column, spec in result_rows.planned_column_stages(plan, paper, row):
            fingerprints[table, row, column, plan.config.seed] = spec.fingerprint
    kept_results = {
        (table, r.row, r.column, r.seed): r.fingerprint
        for table, of_table in rows.items()
        for r in of_table
    }
    assert len(kept_results) > 50
    assert kept_results == {key: fingerprints.get(key) for key in kept_results}


def test_scales_say_why_a_row_is_left_out() -> None:
    for name in SCALES:
        scale = read_scale(name)
        assert None not in scale.cells.values()
        rows = [row for row in scale.cells.values() if isinstance(row, dict)]
        reasons = [cell for row in rows for cell in row.values()]
        assert None not in reasons
    scale = read_scale("embedded")
    (sentence,) = scale_caveats(
        read_paper("partial_finetuning"),
        "partial_finetuning",
        scale.model_copy(update={"caveats": {}}),
    )
    assert sentence.startswith(
        "rows 4, 6, 12, 18 are left out: the encoder has 4 blocks"
    )
    (sentence,) = scale_caveats(read_paper("robustness"), "robustness", scale)
    assert sentence.startswith("left out: the paper's sets are ImageNet's")


def test_a_caveat_stands_at_the_tables_with_a_column_of_its_stage() -> None:
    scale = read_scale("embedded").model_copy(
        update={"caveats": {"linear_probe": "soft", "data_augmentation": "no need"}}
    )

    def caveats(slug: str) -> list[str]:
        return scale_caveats(read_paper(slug), slug, scale)

    assert caveats("mask_ratio") == ["soft"]
    assert caveats("data_augmentation") == ["no need", "soft"]
    assert caveats("pixels_vs_tokens") == []


def test_a_scale_may_build_on_another_one() -> None:
    """It is what Hydra composes of the two files."""
    exact, embedded = read_scale("embedded_exact"), read_scale("embedded")
    assert exact.cells == embedded.cells
    assert exact.caveats.keys() == embedded.caveats.keys()
    assert exact.caveats["linear_probe"] != embedded.caveats["linear_probe"]
    assert config_of(Cell("", "", 0, ("scale=embedded_exact",))).scale == exact


def test_the_exact_probe_is_measured_on_the_encoders_of_the_embedded_scale() -> None:
    one, other = (
        {
            (spec.kind, spec.start): spec.fingerprint
            for spec in plan_for(f"scale={scale}", tiny=False).stages
        }
        for scale in ("embedded", "embedded_exact")
    )
    assert one.keys() == other.keys()
    changed = {key for key in one if one[key] != other[key]}
    assert changed == {("linear_probe", "pretrained")}
