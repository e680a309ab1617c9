"""decide=true spends seeds where they decide, within its limits, and goes on after any kill as if there had been none."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from planted_ledger import begin
from small_runs import TINY, call, plan_for
from unmask.config.checks import ConfigError
from unmask.config.deciding import sweeper_options
from unmask.config.experiments import Cell, read_scale
from unmask.reports.paper.campaign import Campaign, Limits
from unmask.stages.origin import Origin
from unmask.stages.plan import Plan

SECONDS = 600.0
# by row, in points: one pair of rows far apart, one alike
TRUTHS = {
    "without mask tokens": {"finetune": 90.0, "linear_probe": 85.0},
    "with mask tokens": {"finetune": 90.0, "linear_probe": 80.0},
}
Planned = dict[tuple[str, ...], Plan]


class Machine:
    """Stand in for training: write the result that a cell would have, after so many die."""

    def __init__(
        self, runs: Path, spread: float = 0.5, dies_after: int = 10**6
    ) -> None:
        self.runs = runs
        self.spread = spread
        self.dies_after = dies_after
        self.made: list[Cell] = []

    def plan(self, cells: Sequence[Cell]) -> Planned:
        runs = f"runs_dir={self.runs}"
        return {c.overrides: plan_for(runs, *c.overrides, tiny=False) for c in cells}

    def launch(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            if len(self.made) >= self.dies_after:
                raise KeyboardInterrupt
            self.finish(cell, self.plan([cell])[cell.overrides])
            self.made.append(cell)

    def finish(self, cell: Cell, plan: Plan) -> None:
        for spec in plan.stages:
            mean = TRUTHS[cell.row].get(spec.kind, 0.0)
            rng = np.random.default_rng([cell.seed, len(spec.kind), len(cell.row)])
            value = round(mean + self.spread * rng.normal(), 1)
            folder = begin(plan, spec, Origin(cell.overrides, None))
            metrics = {"val/accuracy": value} if mean else {"val/loss": 0.5}
            folder.finish(metrics, {"seconds": SECONDS, "images": 1000})


def campaign(
    machine: Machine,
    seeds: int = 24,
    hours: float | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Campaign:
    return Campaign(
        ["mask_token"],
        read_scale("embedded"),
        (),
        Limits(seeds, hours),
        machine.plan,
        machine.launch,
        say=say,
    )


def verdicts(machine: Machine, **limits: float) -> dict[str, str]:
    (judged,) = campaign(machine, **limits).run().values()  # type: ignore[arg-type]
    return {claim.claim.column: claim.title for claim in judged}


def files(runs: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(runs)): path.read_bytes().split(b'"finished"')[0]
        for path in sorted(runs.rglob("result.json"))
    }


def test_decided_questions_stop_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Five points of the probe take one look of six; equal fine-tuning takes more to be called alike."""
    machine = Machine(tmp_path)
    said: list[str] = []
    (judged,) = campaign(machine, say=said.append).run().values()
    by_column = {claim.claim.column: claim for claim in judged}
    assert by_column["lin"].verdict == "holds"
    assert by_column["lin"].seeds in (3, 6)
    assert by_column["ft"].verdict == "no difference"
    assert len(machine.made) in (2 * 6, 2 * 12, 2 * 24)
    seeds = sorted(cell.seed for cell in machine.made)
    assert seeds == sorted([*range(len(machine.made) // 2)] * 2)
    assert said[-1].startswith(f"finished with {len(machine.made)} cells; 48 are 24")


def test_nothing_is_made_twice(tmp_path: Path) -> None:
    first, again = Machine(tmp_path), Machine(tmp_path)
    assert verdicts(first) == verdicts(again)
    assert again.made == []


def test_killed_ten_times_it_ends_with_the_same_verdicts_and_results(
    tmp_path: Path,
) -> None:
    undisturbed = Machine(tmp_path / "undisturbed", spread=1.5)
    expected = verdicts(undisturbed, hours=40.0)
    generator = random.Random(0)
    made = 0
    for _ in range(10):
        killed = Machine(tmp_path / "killed", 1.5, generator.randint(0, 3))
        with suppress(KeyboardInterrupt):
            verdicts(killed, hours=40.0)
        made += len(killed.made)
    last = Machine(tmp_path / "killed", spread=1.5)
    assert verdicts(last, hours=40.0) == expected
    assert made + len(last.made) == len(undisturbed.made) > 6
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


def test_seeds_and_hours_are_limits(tmp_path: Path) -> None:
    """A cell is three stages of ten minutes: six cells are three hours, twelve are six."""
    few = Machine(tmp_path / "few", spread=3.0)
    verdicts(few, seeds=6)
    assert len(few.made) == 12
    short = Machine(tmp_path / "short", spread=3.0)
    said: list[str] = []
    campaign(short, hours=5.9, say=said.append).run()
    assert len(short.made) == 6
    assert any("left open: hours=5.9 do not suffice" in line for line in said)
    longer = Machine(tmp_path / "longer", spread=3.0)
    verdicts(longer, hours=6.1)
    assert len(longer.made) == 12


def test_hours_that_do_not_suffice_for_the_first_look_are_refused_after_one_seed(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    with pytest.raises(
        ConfigError, match=r"hours = 2: 3 seeds of each of 2 rows.* 3 h"
    ):
        verdicts(machine, hours=2.0)
    assert [cell.seed for cell in machine.made] == [0, 0]


def test_seeds_between_the_looks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seeds_max = 20: .*3, 6, 12, 24"):
        campaign(Machine(tmp_path), seeds=20)


@pytest.mark.parametrize(
    ("arguments", "is_multirun", "message"),
    [
        (["decide=maybe"], True, "decide = 'maybe': give true or false"),
        (["decide=true"], False, "type python src/train.py -m experiment="),
        (["seeds_max=6"], True, "seeds_max=6: .*add it, or leave"),
        (["decide=true", "hours=-1"], True, "hours = -1"),
        (["decide=true", "seeds_max=x"], True, "seeds_max = 'x'"),
    ],
)
def test_wrong_limits_are_refused(
    arguments: list[str], is_multirun: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sweeper_options(arguments, is_multirun)


def test_limits_are_options_of_the_sweeper() -> None:
    assert sweeper_options(["decide=true", "hours=6"], True) == [
        "hydra.sweeper.decide=True",
        "hydra.sweeper.hours=6.0",
    ]


@pytest.mark.process
@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("decide=true", "type experiment="),
        ("experiment=loss_on_all decide=true seed=0,1", "leave seed= out"),
        ("experiment=loss_on_all decide=true mask_ratio=0.5,0.6", "type one"),
        ("experiment=loss_on_all decide=true seeds_max=20", "give one of these"),
        ("experiment=robustness decide=true", "choose another"),
    ],
)
def test_what_cannot_be_decided_is_refused_in_one_line(
    typed: str, remedy: str, tmp_path: Path
) -> None:
    done = call(
        "-m",
        *typed.split(),
        f"runs_dir={tmp_path / 'runs'}",
        tiny=False,
        process="forked",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert remedy in done.stderr
    assert done.stderr.count("\n") <= 2, "and that scale=embedded is the default"
    assert not (tmp_path / "runs").exists()


@pytest.mark.process
def test_the_command_makes_the_first_look_in_two_launches_and_is_done_when_repeated(
    tmp_path: Path,
) -> None:
    """With hours= seed 0 of each row tells what the others will take."""
    small = [*TINY, "data.image_size=28", "labels=100", "finetune.labels=100"]
    typed = [
        *("-m", "experiment=mask_token", "scale=embedded", *small, "pretrain.epochs=1"),
        *(f"runs_dir={tmp_path}", "decide=true", "seeds_max=3", "hours=1"),
    ]
    done = call(*typed, tiny=False, process="forked")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("pretrain/*/result.json"))) == 6
    assert "after 6 cells, of 2 claims:" in done.stdout
    assert "[4/4]" in done.stdout, "the second launch has the other two seeds"
    again = call(*typed, tiny=False, process="forked")
    assert again.returncode == 0, again.stderr
    assert "finished with 6 cells; 6 are 3 of each row" in again.stdout
    assert "[1/" not in again.stdout
    assert "12 of 12 results" in again.stdout, "it ends with the report"
