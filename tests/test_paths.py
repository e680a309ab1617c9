"""Paths are read by one rule in all commands: ~, blanks, brackets, = and commas."""

from pathlib import Path

import pytest
import yaml

from small_runs import call, image_folder, raw_config
from unmask.commands.cli import parse, parse_with_run, quote_value
from unmask.commands.convert import Convert
from unmask.commands.measure import Measure
from unmask.commands.prepare.arguments import Prepare
from unmask.config.checks import ConfigError, check
from unmask.config.keys import path_keys

ODD = "/a b/[c]/d=e/{f}/g'h#i (2)"


def test_the_keys_of_paths_are_known() -> None:
    assert path_keys() == {
        "data.root",
        "data.statistics",
        "init_from",
        "robustness.root",
        "runs_dir",
        "tokenizer.file",
    }
    assert path_keys(Convert) == {"from", "to"}


def test_home_is_expanded_in_runs_and_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = check(raw_config("runs_dir='~/runs'", "init_from='~/w.pth'"))
    assert (config.runs_dir, config.init_from) == ("/home/me/runs", "/home/me/w.pth")
    arguments = parse(Convert, ["from=~/w.pth", "to=~", "layout=timm"])
    assert (arguments.source, arguments.to) == ("/home/me/w.pth", "/home/me")
    prepared = parse(Prepare, ["from=s3://a/b", "to=~/c", "format=raw"])
    assert (prepared.input_path, prepared.to) == ("s3://a/b", "/home/me/c")
    with pytest.raises(ConfigError, match="no such user"):
        check(raw_config("runs_dir='~nobody-here/runs'"))


def test_odd_paths_are_read_as_they_are_typed() -> None:
    quoted = quote_value(f"data.root={ODD}")
    assert raw_config(quoted)["data"]["root"] == ODD
    # what a cell or a rank gets is quoted already
    assert quote_value(quoted) == quoted
    assert parse(Convert, [f"from={ODD}", "to=b", "layout=timm"]).source == ODD
    _, overrides = parse_with_run(Measure, [f"data.root={ODD}"])
    assert raw_config(*overrides)["data"]["root"] == ODD


@pytest.mark.parametrize("value", ["null", "/plain/path-1.0", "${data.root}", "'/q'"])
def test_a_value_that_needs_no_quotes_has_none(value: str) -> None:
    assert quote_value(f"init_from={value}") == f"init_from={value}"


def test_a_comma_is_a_sweep_or_is_refused_with_the_quotes_to_type() -> None:
    with pytest.raises(ConfigError, match=r"""'data.root="/a,b"'""") as caught:
        quote_value("data.root=/a,b")
    assert "\n" not in str(caught.value)
    swept = quote_value("data.root=/a b,/c", is_multirun=True)
    assert swept == "data.root='/a b',/c"


@pytest.mark.parametrize("typed", ["model.name=a[b", "model.name=~x", "model.name={"])
def test_what_hydra_cannot_read_is_refused_in_one_line(typed: str) -> None:
    refused = call(typed)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    key, _, value = typed.partition("=")
    assert f"'{key}=\"{value}\"'" in refused.stderr


def test_a_run_on_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "a [1] = b's")
    shown = call("data=image_folder", f"data.root={images}", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert yaml.safe_load(shown.stdout)["data"]["root"] == str(images)
