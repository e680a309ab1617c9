"""src/plan.py prices what src/train.py would do, without the data and without doing it."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import plan
from small_runs import ROOT, TINY, call, run
from unmask.commands.cli import command
from unmask.config.conf_files import CONF

WIDTH = 100
Price = Callable[..., tuple[int, str]]  # arguments -> (exit code, output)


@pytest.fixture
def price(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Price:
    """Run the command in this process, in an empty folder, on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["plan.py", *arguments])
        try:
            command(plan.Plan, plan.run, takes_run=True)
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        output = "".join(capsys.readouterr())
        assert list(tmp_path.iterdir()) == [], "nothing is launched, nothing is written"
        return code, output

    return run


def row(output: str, name: str) -> list[str]:
    """The cells of the first row that begins with that name."""
    line = next(
        line.strip()
        for line in output.splitlines()
        if line.strip().startswith(f"{name} ")
    )
    return re.split(r"\s{2,}", line)


def test_the_papers_pretraining_has_a_price_without_its_data(price: Price) -> None:
    code, output = price(
        "model=mae_vit_l",
        "data=imagenet",
        "mask_ratio=0.75",
        "pretrain=table8",
        "trainer=gpu",
        "stages=[pretrain]",
        "hardware=v100x64",
        "watch.times=1",
    )
    assert code == 0
    assert row(output, "pretrain")[:4] == ["pretrain", "1", "800", "1.02 bn"]
    hours = float(row(output, "pretrain")[5].removesuffix(" h"))
    assert hours == pytest.approx(42, rel=0.02)  # as published for 64 V100
    assert row(output, "parameters, millions")[1] == "330"
    assert row(output, "images a device")[1] == "64"
    assert row(output, "micro_batch on 31.7 GiB")[1] == "64 (all)"
    assert "10.4 % of 125 TFLOP/s in bf16-mixed: published" in output


def test_a_sweep_shares_what_its_cells_have_in_common(price: Price) -> None:
    code, output = price(
        "decoder.depth=1,2,4", "hardware=rtx4090", "stages=[linear_probe]"
    )
    assert code == 0
    assert row(output, "pretrain")[:3] == ["pretrain", "3", "30"]
    assert row(output, "linear probe")[1] == "3"
    assert row(output, "linear probe, controls")[1] == "2"
    assert (
        "3 cells, 3 pretrainings, 8 stages in all; 4 that another cell makes are not"
        " counted again" in " ".join(output.split())
    )
    assert "decoder 4 x 64" in output


def test_every_line_fits_a_hundred_columns_and_no_number_is_cut(price: Price) -> None:
    _, output = price("experiment=demo", "decoder.depth=1,2,3,4,5", "hardware=h100x8")
    assert max(map(len, output.splitlines())) <= WIDTH
    assert "…" not in output
    assert {*re.findall(r"mae\w*", output)} == {"mae_vit_nano"}, "no name is folded"


def test_several_experiments_have_a_row_each_and_a_sum(price: Price) -> None:
    code, output = price(
        "experiment=mask_token,loss_on_all",
        "scale=embedded",
        "seed=0",
        "hardware=h200x8",
    )
    assert code == 0
    assert row(output, "mask_token")[1:3] == ["2", "2"]
    assert row(output, "loss_on_all")[1:3] == ["2", "2"]
    assert row(output, "all, shared ones once")[1:3] == [
        "4",
        "3",
    ], "the default cell's pretraining is common"


@pytest.mark.parametrize("scale", ["embedded", "paper"])
def test_the_cost_in_an_experiments_header_is_its_price(
    scale: str, price: Price
) -> None:
    (cost,) = re.findall(
        "^# Cost .*",
        (CONF / "experiment" / "mask_token.yaml").read_text(),
        re.MULTILINE,
    )
    _, output = price("experiment=mask_token", f"scale={scale}", "hardware=h200x8")
    flops, hours = (
        next(cell for cell in row(output, "all") if "FLOP" in cell),
        row(output, "all")[-2],
    )
    assert f"{scale}: {row(output, 'pretrain')[1]} pretrainings, {flops}" in cost
    assert scale == "embedded" or f"{flops}, {hours} hours of an H200" in cost


def test_one_value_of_a_known_hardware_can_be_changed(price: Price) -> None:
    one = price(
        "stages=[pretrain]", "model=mae_vit_b", "hardware=a100x8", "hardware.devices=1"
    )[1]
    assert row(one, "images a device")[1] == "64"
    assert "Models narrower" not in one
    assert row(one, "pretrain  mae_vit_b  ")[2:4] == ["8", "8"]
    assert "mae_vit_b       256" not in one, "a batch of 64 is not shared by 256"


def test_the_size_of_unknown_data_can_be_given(price: Price) -> None:
    code, output = price(
        "data=image_folder",
        "stages=[pretrain]",
        "images=640",
        "pretrain.epochs=4",
        "watch.times=1",
    )
    assert code == 0
    assert row(output, "pretrain")[3] == f"{4 * 640 + 2 * 64:,}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mask_raito=0.5"],
            "mask_raito: there is no such key; did you mean mask_ratio?",
        ),
        (["hardwear=h100x8"], "hardwear: there is no such key; did you mean hardware?"),
        (["hardware=h300x8"], "h300x8"),
        (
            ["hardware.devices=0"],
            "hardware.devices = 0: Input should be greater than or equal to 1",
        ),
        (["mask_ratio=0.5,1.5"], "cell mask_ratio=1.5:\n  mask_ratio = 1.5"),
        (
            ["data=image_folder"],
            (
                "data.root=/not/here is not here, and nobody knows how many images it"
                " holds"
            ),
        ),
        (["classes=10"], "images: missing"),
        (["model=mae_vit_x"], "mae_vit_x"),
    ],
)
def test_mistakes_are_named_and_end_with_2(
    price: Price, arguments: list[str], message: str
) -> None:
    code, output = price(*arguments)
    assert code == 2
    assert message in output
    assert "Traceback" not in output


def test_help_names_the_hardware(price: Price) -> None:
    code, output = price("--help")
    assert code == 0
    for path in (ROOT / "conf" / "hardware").glob("*.yaml"):
        assert path.stem in output


@pytest.mark.process
def test_the_command_measures_this_machine(tmp_path: Path) -> None:
    done = call("hardware=here", "stages=[pretrain]", script="plan.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Price on this machine (" in done.stdout
    assert "measured: " in done.stdout
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_what_the_ledger_has_is_not_priced_again(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    overrides = ("stages=[pretrain,knn]", "controls=[]", f"runs_dir={tmp_path}")
    _, second = run(*overrides)
    monkeypatch.setenv("COLUMNS", "300")

    def price_in_ledger(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["plan.py", *arguments])
        command(plan.Plan, plan.run, takes_run=True)
        return capsys.readouterr().out

    typed = [*TINY, *overrides, "hardware=rtx4090"]
    all_there = price_in_ledger(*typed)
    assert "has 2 of 2 stages already" in all_there
    assert "Price on" not in all_there
    # one more stage, and another seed's
    more = price_in_ledger(*typed, "stages=[pretrain,knn,linear_probe]", "seed=0,1")
    assert "has 2 of 6 stages already" in more
    assert [row(more, name)[1] for name in ("pretrain", "kNN", "linear probe")] == [
        "1",
        "1",
        "2",
    ]
    whole = price_in_ledger(*typed, "lacking=false")
    assert [row(whole, name)[1] for name in ("pretrain", "kNN")] == ["1", "1"]
    assert "already" not in whole
    # a result that went is made again
    (tmp_path / "knn" / second["fingerprint"] / "result.json").unlink()
    assert "has 1 of 2 stages already" in price_in_ledger(*typed)
