"""What differs from kind to kind of stage stands in one table, and all else asks it."""

import ast
from collections.abc import Iterator
from typing import Any

import pytest

from small_runs import ROOT, plan_for, raw_config
from unmask.commands.plan.price_stages import Estimator
from unmask.commands.plan.price_types import Cell
from unmask.config.checks import ConfigError, check
from unmask.config.recipes import (
    LABELLED_STAGES,
    MEASURING_STAGES,
    PRICED_STAGES,
    STAGES,
    STEPPED_STAGES,
    StageRecipes,
    stage_name,
    stage_noun,
)
from unmask.stages.plan import stages_without_data
from unmask.stages.sizes import DatasetSize
from unmask.stages.stage_order import list_stages
from unmask.training.stages import WITHOUT_FIT

# the table itself, and what each kind does
OF_KINDS = {
    ROOT / "src/unmask/config/recipes.py",
    ROOT / "src/unmask/config/robustness.py",
    ROOT / "src/unmask/training/stages.py",
}
# the stage `task` takes a class of the user's; here it is only named
OWN_TASK = "task._target_=small_runs.run"
TARGETS = {"patch_pca": "pca", "tokenizer": "dvae"}


def collections_of_names(tree: ast.AST) -> Iterator[tuple[int, set[Any]]]:
    """The constants that stand together in one tuple, list, set or dict."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            members = node.elts
        elif isinstance(node, ast.Dict):
            members = [key for key in node.keys if key is not None]
        else:
            continue
        constants = {part.value for part in members if isinstance(part, ast.Constant)}
        yield node.lineno, constants


def test_no_other_file_lists_kinds_of_stages() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {sorted(names & STAGES.keys())}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        if path not in OF_KINDS
        for line, names in collections_of_names(ast.parse(path.read_text()))
        if len(names & STAGES.keys()) > 1
    ]
    assert not offenders, "\n".join(offenders)


def test_every_recipe_has_a_row_and_every_row_is_run() -> None:
    assert StageRecipes.model_fields.keys() == STAGES.keys() - {"patch_pca"}
    assert WITHOUT_FIT.keys() == STAGES.keys() - set(STEPPED_STAGES)


def test_a_config_takes_the_kinds_of_the_table_and_names_them() -> None:
    for kind in STAGES:
        raw = raw_config(OWN_TASK) | {"stages": [kind]}
        assert check(raw).stages == [kind]
    with pytest.raises(ConfigError) as refused:
        check(raw_config("stages=[frobnicate]"))
    assert all(f"'{kind}'" in str(refused.value) for kind in STAGES)


@pytest.mark.parametrize("kind", STAGES)
def test_order_parents_controls_and_titles_follow_from_the_row(kind: str) -> None:
    row = STAGES[kind]
    target = TARGETS.get(kind, "pixel")
    config = check(
        raw_config(
            f"stages=[{kind}]",
            "controls=[random,pixels]",
            f"target={target}",
            OWN_TASK,
        )
    )
    stages = list_stages(config, "images", None)
    of_kind = [spec for spec in stages if spec.kind == kind]
    starts = [spec.start for spec in of_kind]
    main, *controls = of_kind
    if row.role == "measurement" and row.parent == "pretraining":
        assert [main.parent and main.parent.kind, main.start] == [
            "pretrain",
            "pretrained",
        ]
        assert stages.index(main.parent) < stages.index(main)
    if row.parent == "classifier":
        assert main.parent is not None
        assert main.parent.kind == getattr(config, kind).of
    if row.parent is None:
        assert main.parent is None
        assert stages == [main]
    assert starts[1:] == list(row.controls if row.role == "measurement" else ())
    assert all(spec.parent is None for spec in controls)
    assert main.title.startswith(stage_name(kind))
    assert stage_noun(kind)


def test_stages_are_priced_and_left_out_of_verification_by_their_rows() -> None:
    kinds = f"stages=[{','.join(STAGES)}]"
    config = check(raw_config("target=dvae", kinds, OWN_TASK))
    prices = Estimator().price_cell(
        Cell("", config, DatasetSize(1000, 100, 10)),
        stages_without_data(config, "mnist5k"),
    )
    assert {price.spec.kind for price in prices} == STAGES.keys()
    for price in prices:
        kind = price.spec.kind
        assert (price.per_image is not None) == (kind in PRICED_STAGES)
        assert bool(price.images.trained) == (
            kind in PRICED_STAGES and kind in STEPPED_STAGES
        )
        is_measured = kind in LABELLED_STAGES and STAGES[kind].trains is None
        assert (kind in MEASURING_STAGES) == is_measured


@pytest.mark.parametrize("kind", STAGES)
def test_the_page_describes_every_kind(kind: str) -> None:
    config = plan_for(f"stages=[{kind}]", OWN_TASK).config
    metrics = {"patches": 16, "batch_size": 32}
    text = STAGES[kind].describe(
        getattr(config, kind, None), {"metrics": metrics, "images": 10}
    )
    assert text
