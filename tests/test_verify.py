"""src/verify.py: kills a config's real commands, continues them and says whether anything came out another way."""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from rich.console import Console

from small_runs import ROOT, TINY, environment, image_folder
from unmask.runs.verification import Verification
from warm_commands import Started

sys.path.insert(0, str(ROOT / "src"))
from verify import asked, prepared

Starts = Callable[[list[str], dict[str, str], Path], Started]


def warm(typed: list[str], told: dict[str, str], place: Path) -> Started:
    return Started(typed, place, environment(**told))


def with_defect(name: str) -> Starts:
    def start(typed: list[str], told: dict[str, str], place: Path) -> Started:
        return warm([typed[0], str(ROOT / "tests" / "defective.py"), name, *typed[2:]], told, place)

    return start


def verdict(scratch: Path, *overrides: str, start: Starts = warm) -> tuple[bool, str]:
    """Whether it is exact, and what was printed."""
    scratch.mkdir(exist_ok=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = asked([override for override in overrides if override.startswith("verify.")])
        typed, plan = prepared(given, [*TINY, *(o for o in overrides if not o.startswith("verify."))])
    said = io.StringIO()
    exact = Verification(given, plan, typed, scratch, Console(file=said, width=100), start)()
    return exact, said.getvalue()


@pytest.mark.process
def test_stages_that_are_killed_everywhere_are_exact(tmp_path: Path) -> None:
    """With loader workers, accumulation, crops and a stage that starts from another."""
    images = image_folder(tmp_path / "images")
    exact, said = verdict(
        tmp_path / "scratch", "data=image_folder", f"data.root={images}", "data.image_size=16", "data.patch_size=4",
        "data.in_memory=false", "data.num_workers=1", "augment=crop_random", "pretrain.batch_size=4",
        "finetune.batch_size=4", "trainer.micro_batch=2", "stages=[pretrain,finetune]", "verify.steps=7", "verify.kills=4",
    )  # fmt: skip
    assert exact, said
    made = [line for line in said.splitlines() if " after step " in line]
    assert [re.sub(r"after step (\d+).*", r"\1", line) for line in made if line.startswith("pretrain")][:3] == [
        "pretrain: kill -9 of the command 2", "pretrain: kill -9 of the command 4", "pretrain: SIGTERM 5",
    ]  # fmt: skip
    assert "SIGTERM after step 5, an epoch's first, goes on at 5" in said
    assert sum(line.startswith("fine-tune: ") for line in made) >= 3
    assert said.count("same") == 11, "samples, pixels, masks, loss, weights and journal; no masks in fine-tuning"


@pytest.mark.process
@pytest.mark.parametrize(
    ("defect", "first"),
    [
        ("noise", "pretrain, killed: the first step that differs is 3, in its pixels and loss"),
        ("order", "pretrain, killed: the first step that differs is 3, in its samples and pixels and masks and loss"),
        ("moments", "pretrain, killed: the first step that differs is 4, in its loss"),
    ],
)
def test_a_planted_defect_is_found_and_named(defect: str, first: str, tmp_path: Path) -> None:
    small = (
        "stages=[pretrain]",
        "verify.steps=5",
        "verify.kills=1",
        "checkpoint.every_steps=2",
        "pretrain.batch_size=500",
    )
    exact, said = verdict(tmp_path / "scratch", *small, start=with_defect(defect))
    assert not exact
    assert first in said
    assert "final weights differ: model." in said
    assert "no continuation lies before" not in said
    assert f"are kept in {tmp_path / 'scratch'}" in said
