"""runs/index.html and the pages of sweeps: what is on them, and what they ask of others."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from planted_ledger import plant, plant_curve, plant_sweep
from unmask.commands.runs import run
from unmask.config.checks import ConfigError
from unmask.reports.ledger import assets, sweep
from unmask.reports.ledger.curves import MAX_POINTS, curve_names, thin_out
from unmask.reports.ledger.pages import write_index, write_pages, write_sweep_page
from unmask.reports.ledger.transfer import transfer_table
from unmask.reports.page_names import pages_of_stages
from unmask.stages.encoders import encoder_name
from unmask.stages.records import Ledger, pictures_by_epoch, read_ledger

RATIOS = (0.5, 0.75)
SEEDS = (0, 1)
STAGES = ("stages=[pretrain,knn]", "controls=[]")
KINDS = ("pretrain", "kNN")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keep the bundled JavaScript out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Plant a sweep of two mask ratios and two seeds, the last kNN still to come."""
    cells = [(f"mask_ratio={r}", f"seed={s}", *STAGES) for r in RATIOS for s in SEEDS]
    sweep_id = plant_sweep(tmp_path, *cells)
    for i, cell in enumerate(cells):
        metrics = {"pretrain": {"val/loss": 0.5 + i}, "knn": {"val/accuracy": 90.0 + i}}
        if i == len(cells) - 1:
            del metrics["knn"]
        pretrain, *_ = plant(tmp_path, *cell, metrics=metrics, sweep=sweep_id)
        plant_curve(pretrain.path, {step: 1 / step for step in range(1, 200)})
        pretrain.pictures.mkdir()
        for epoch in (0, 2, 10):
            shade = Image.new("L", (4, 4), 10 * i + epoch)
            shade.save(pretrain.pictures / f"epoch={epoch}.png")
    return read_ledger(tmp_path)


def test_encoders_stand_side_by_side_once_one_is_measured_on_two_sets(
    ledger: Ledger,
) -> None:
    """A cell is the mean over seeds of one recipe; controls follow, other recipes stand apart."""
    assert transfer_table(ledger.records) is None
    knn = [
        record for record in ledger.records if record.measure and record.kind == "knn"
    ]
    (pretrained, *_) = knn
    assert pretrained.measure
    value = pretrained.measure.value
    other = pretrained.config["data"] | {
        "source": "image_folder",
        "root": "/images/birds/val",
    }
    moved = replace(pretrained, config=pretrained.config | {"data": other})
    result = {**(pretrained.result or {}), "metrics": {"val/accuracy": value + 2}}
    again = replace(moved, result=result, seed=1)
    wide = replace(moved, dials=moved.dials | {"knn.k": 5})
    pixels = replace(moved, start="pixels", encoder="raw pixels")
    table = transfer_table([*ledger.records, moved, again, wide, pixels])
    assert table is not None
    assert [(images, words) for images, _, words in table["heads"]] == [
        ("birds/val", ""),
        ("birds/val", "knn.k=5"),
        ("mnist5k", ""),
    ]
    rows = dict(table["rows"])
    digits = pretrained.parent.partition("/")[2][:6] if pretrained.parent else ""
    assert rows[digits] == [f"{value + 1} ± 1.4 (n=2)", str(value), str(value)]
    assert list(rows)[-1] == "raw pixels"
    assert rows["raw pixels"] == [str(value), "", ""]


@pytest.mark.parametrize(
    ("key", "start", "init_from", "name"),
    [
        ("robustness/r", "pretrained", None, "0123456"[:6]),
        (
            "knn/k",
            "given",
            "runs/pretrain/abcdef012345/checkpoints/step=1.ckpt",
            "abcdef",
        ),
        (
            "knn/k",
            "given",
            "/weights/mae_pretrain_vit_base.pth",
            "mae_pretrain_vit_base.pth",
        ),
        ("scratch/s", "random", None, "random weights"),
        ("pretrain/0123456789ab", "random", None, None),
    ],
)
def test_an_encoder_is_called_by_its_pretraining_or_its_file(
    key: str, start: str, init_from: str | None, name: str | None
) -> None:
    parents = {"robustness/r": "finetune/f", "finetune/f": "pretrain/0123456789ab"}
    assert encoder_name(key, start, {"init_from": init_from}, parents) == name


class Page(HTMLParser):
    """Collect a page's embedded data, its table's rows, its pictures and its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.data: dict[str, Any] = {}
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.options: list[str] = []
        self._script: str | None = None
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "script" and values.get("type") == "application/json":
            self._script = values["id"]
        if tag == "tr" and "data-run" in values:
            self.rows.append([])
        if tag == "td" and self.rows:
            self._cell = True
            self.rows[-1].append("")
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag == "img":
            self.images.append(values["alt"] or "")
        if tag == "option":
            self.options.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None
        if tag in ("td", "table"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.data[self._script] = json.loads(data)
        elif self._cell:
            self.rows[-1][-1] += data
        elif self.get_starttag_text() in ("<option>", '<option value="">'):
            self.options[-1] += data


def test_the_index_has_a_row_a_stage_and_a_curve_a_log(ledger: Ledger) -> None:
    text = write_index(ledger).read_text()
    page = Page(text)
    assert len(page.rows) == len(ledger.records) == 8
    by_name = {row[1]: row for row in page.rows}
    knn = by_name["kNN mask_ratio=0.5 s1"]
    assert knn[2:6] == ["kNN", "done", "91.0", "% top-1"]
    assert by_name["kNN s1"][3] == "interrupted"
    curves = {run["title"]: run["curves"] for run in page.data["curves-data"]}
    assert len(curves) == 4
    points = curves["pretrain mask_ratio=0.5 s0"]["pretrain/val/loss"]
    assert points[-1] == [19.9, 1 / 199]
    assert len(points) <= MAX_POINTS
    (link,) = [link for link in page.links if "sweep" in link]
    # links of pages are percent-encoded
    assert link.startswith("pages/sweep_mask_ratio%3D0.5%2C0.75")


def test_a_page_asks_for_no_other_file_and_no_host(ledger: Ledger) -> None:
    for path in (write_index(ledger), write_sweep_page(ledger, ledger.sweeps[0])):
        text = path.read_text()
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", _markup(text))
        sources = re.findall(r"(?:src|href)=\"([^\"]*)\"", " ".join(tags))
        assert all(source.startswith("data:") for source in sources)


def _markup(text: str) -> str:
    """Return the page without what is inside its scripts and styles."""
    return re.sub(r"(<(script|style)\b[^>]*>).*?</\2>", r"\1", text, flags=re.S)


def test_the_page_of_a_sweep_shows_each_result_over_what_was_swept(
    ledger: Ledger,
) -> None:
    page = Page(write_sweep_page(ledger, ledger.sweeps[0]).read_text())
    points = page.data["dials-data"]
    knn = {
        (point["x"], point["value"]): point["rank"]
        for point in points
        if point["measure"] == "kNN, % top-1"
    }
    assert knn == {("0.5", 90.0): 0, ("0.5", 91.0): 0, ("0.75", 92.0): 1}
    assert {point["dial"] for point in points} == {"mask_ratio"}
    assert {point["others"] for point in points} == {"all seeds"}
    assert "kNN, % top-1" in map(str.strip, page.options)
    # the last picture of each pretraining, once
    assert len(page.images) == len(RATIOS) * len(SEEDS)
    assert "mask_ratio=0.5 seed=1" in page.images[1]
    assert len(page.rows) == 8


def test_stages_of_a_sweep_are_called_by_what_is_swept(tmp_path: Path) -> None:
    tail = ("decoder.width=64", "stages=[pretrain,knn]", "controls=[random]")
    cells = [(f"mask_ratio={r}", f"seed={s}", *tail) for r in RATIOS for s in SEEDS]
    plant_sweep(tmp_path, *cells)
    for cell in cells:
        plant(tmp_path, *cell)
    ledger = read_ledger(tmp_path)
    swept = sweep.swept_cells(ledger.sweeps[0], ledger)
    names = sweep.stage_names(swept)
    # also the default's value is said, and what is the same in all cells is not;
    # a control that cells share has what they share
    assert sorted(names.values()) == sorted(
        [
            f"{kind} mask_ratio={r} seed={s}"
            for kind in KINDS
            for r in RATIOS
            for s in SEEDS
        ]
        + [f"kNN, random encoder seed={s}" for s in SEEDS]
    )
    page = Page(write_sweep_page(ledger, ledger.sweeps[0]).read_text())
    assert {row[1] for row in page.rows} == set(names.values())


def test_what_shares_no_swept_value_keeps_its_name(tmp_path: Path) -> None:
    tail = ("stages=[knn]", "controls=[pixels]")
    cells = [(f"mask_ratio={ratio}", *tail) for ratio in RATIOS]
    plant_sweep(tmp_path, *cells)
    for cell in cells:
        plant(tmp_path, *cell)
    ledger = read_ledger(tmp_path)
    names = sweep.stage_names(sweep.swept_cells(ledger.sweeps[0], ledger))
    (pixels,) = [r for r in ledger.records if r.start == "pixels"]
    assert names[pixels.key] == pixels.name


def test_curves_of_stages_stand_in_the_order_of_a_run() -> None:
    curves = dict.fromkeys(
        [
            "linear_probe/val/loss",
            "pretrain/lr",
            "pretrain/val/loss",
            "pretrain/train/loss",
        ]
    )
    assert curve_names([{"curves": curves}]) == [
        "pretrain/train/loss",
        "pretrain/val/loss",
        "pretrain/lr",
        "linear_probe/val/loss",
    ]


@pytest.mark.parametrize(
    "note", ["[1]", "3", "null", '{"stages": 3}', '{"stages": [[1]]}']
)
def test_a_damaged_note_beside_a_page_is_left_out(ledger: Ledger, note: str) -> None:
    folder = ledger.runs_dir / "pages"
    folder.mkdir()
    (folder / "damaged.json").write_text(note)
    (folder / "whole.json").write_text('{"stages": ["knn/1"]}')
    assert pages_of_stages(ledger.runs_dir) == {"knn/1": "whole.html"}


@pytest.mark.parametrize(
    "damage",
    [
        {"started": None},
        {"started": "yesterday"},
        {"arguments": [3]},
        {"cells": [{"overrides": [3]}]},
        {"cells": [{"stages": [3]}]},
        {"cells": [{"tables": [["mask_ratio", 3]]}]},
    ],
)
def test_a_damaged_file_of_a_sweep_is_no_sweep(
    ledger: Ledger, damage: dict[str, Any]
) -> None:
    (each,) = ledger.sweeps
    content = json.loads(each.path.read_text())
    if "cells" in damage:
        damage = {"cells": [content["cells"][0] | damage["cells"][0]]}
    each.path.write_text(json.dumps(content | damage))
    damaged = read_ledger(ledger.runs_dir)
    assert damaged.sweeps == ()
    assert len(Page(write_index(damaged).read_text()).rows) == 8


def test_an_override_without_a_value_sweeps_nothing(ledger: Ledger) -> None:
    (each,) = ledger.sweeps
    content = json.loads(each.path.read_text())
    for cell in content["cells"]:
        cell["overrides"].append("~watch.probe")
    each.path.write_text(json.dumps(content))
    (each,) = read_ledger(ledger.runs_dir).sweeps
    assert sweep.dials(sweep.swept_cells(each, ledger)) == ["mask_ratio"]


@pytest.mark.parametrize(
    ("argument", "title"),
    [
        (f"seed={','.join(map(str, range(8)))}", "seed=0,1,2,3,4,5,6,7"),
        (
            f"seed={','.join(map(str, range(4000)))}",
            "seed=0,1,2,3,...,3999 (4000 values)",
        ),
        (
            "stages=" + ",".join(["[pretrain,knn]"] * 9),
            "stages=" + ",".join(["[pretrain,knn]"] * 9),
        ),
    ],
)
def test_the_title_of_a_sweep_has_some_of_many_values(
    ledger: Ledger, argument: str, title: str
) -> None:
    each = replace(ledger.sweeps[0], arguments=(argument, "labels=100"))
    assert each.title == title
    assert argument in each.command


def test_pictures_of_others_are_not_shown(ledger: Ledger) -> None:
    pictures = next((ledger.runs_dir / "pretrain").iterdir()) / "pictures"
    (pictures / "epoch=best.png").write_bytes(b"no picture")
    swept = sweep.swept_cells(ledger.sweeps[0], ledger)
    shown = {path.name for _, path in sweep.sheets(swept)}
    assert shown == {"epoch=10.png"}


def test_the_csv_of_a_sweep_has_all_its_numbers(ledger: Ledger) -> None:
    path = write_sweep_page(ledger, ledger.sweeps[0]).with_suffix(".csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    (first,) = [
        row
        for row in rows
        if (row["mask_ratio"], row["seed"], row["stage"]) == ("0.5", "1", "kNN")
    ]
    assert float(first["val/accuracy"]) == 91.0
    assert first["val/loss"] == ""
    assert first["state"] == "done"


def test_numbers_stand_in_their_order_and_words_as_they_came() -> None:
    assert sweep.axis_order(["8", "0.5", "2", "8"]) == ["0.5", "2", "8"]
    assert sweep.axis_order(["random", "block", "random"]) == ["random", "block"]


def test_cells_of_a_papers_table_stand_by_its_rows(tmp_path: Path) -> None:
    cells = [
        (f"decoder.depth={depth}", "decoder.width=64", f"seed={seed}", *STAGES)
        for depth in (2, 4)
        for seed in SEEDS
    ]
    tables = {cell: [("decoder_depth", cell[0][-1])] for cell in cells}
    plant_sweep(tmp_path, *cells, tables=tables)
    for cell in cells:
        plant(tmp_path, *cell)
    ledger = read_ledger(tmp_path)
    swept = sweep.swept_cells(ledger.sweeps[0], ledger)
    assert sweep.dials(swept) == ["row"]
    assert {(point["x"], point["rank"]) for point in sweep.points(swept)} == {
        ("2", 0),
        ("4", 1),
    }


def test_a_sweep_over_seeds_alone_has_them_on_its_axis(tmp_path: Path) -> None:
    cells = [(f"seed={seed}", *STAGES) for seed in SEEDS]
    plant_sweep(tmp_path, *cells)
    for cell in cells:
        plant(tmp_path, *cell)
    ledger = read_ledger(tmp_path)
    swept = sweep.swept_cells(ledger.sweeps[0], ledger)
    assert sweep.dials(swept) == ["seed"]
    assert {point["x"] for point in sweep.points(swept)} == {"0", "1"}


def test_thinned_curves_keep_their_end() -> None:
    points = [(float(i), i * i) for i in range(1000)]
    thinned = thin_out(points)
    assert len(thinned) <= MAX_POINTS
    assert thinned[-1] == points[-1]
    gaps = {b[0] - a[0] for a, b in pairwise(thinned)}
    assert len(gaps) == 1
    assert thin_out(points[:MAX_POINTS]) == points[:MAX_POINTS]


def test_a_name_cannot_end_a_script(tmp_path: Path) -> None:
    (folder, *_) = plant(tmp_path, "stages=[pretrain]")
    plant_curve(folder.path, {1: 1.0, 2: float("nan")}, name="</script><b>")
    text = write_index(read_ledger(tmp_path)).read_text()
    page = Page(text)
    assert page.data["curves-data"][0]["curves"] == {
        "pretrain/</script><b>": [[0.1, 1.0]]
    }
    assert "&lt;/script&gt;&lt;b&gt;" in _markup(text)
    assert "<b></option>" not in _markup(text)


def test_the_command_writes_all_pages_or_those_of_one_sweep(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = ledger.sweeps
    other = plant_sweep(ledger.runs_dir, ("mask_ratio=0.9",))
    where = f"runs_dir={ledger.runs_dir}"
    run(["page", first.id[:5], where], page=write_pages)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in printed] == [
        "The sweep's page",
        "All runs",
    ]
    assert all(Path(line.partition(": ")[2]).exists() for line in printed)
    assert not list(ledger.runs_dir.glob(f"pages/*{other[:8]}.html"))
    run(["page", where], page=write_pages)
    assert len(capsys.readouterr().out.splitlines()) == 3
    with pytest.raises(ConfigError, match=f"nothing: there is no .*{other}"):
        run(["page", "nothing", where], page=write_pages)


def test_an_empty_ledger_has_no_pages(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there are no stages.*runs_dir=/path"):
        run(["page", f"runs_dir={tmp_path}"], page=write_pages)
    assert list(tmp_path.iterdir()) == []


def test_the_javascript_is_bundled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = assets.vega()
    assert "vegaEmbed" in first
    assert "</script" not in first.lower()
    import vl_convert

    def fail(*_: object) -> str:
        raise AssertionError("bundled again")

    monkeypatch.setattr(vl_convert, "javascript_bundle", fail)
    assert assets.vega() == first
    # a cache that cannot be written is no reason to fail
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert assets.vega() == first
    # a part of a copy is not taken for all of it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for damaged in (first[: len(first) // 2].encode(), b"", b"\xff"):
        (path,) = [*(tmp_path / "unmask").glob("*")] or [_written(tmp_path)]
        path.write_bytes(damaged)
        assert assets.vega() == first
        assert path.read_text() == first


def _written(cache: Path) -> Path:
    assets.vega()
    (path,) = (cache / "unmask").glob("vega-*.js")
    return path


def test_a_user_without_home_has_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda _: "the script")
    assert assets.vega().startswith("the script")


def test_pictures_come_by_their_epochs_and_other_files_not_at_all(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("epoch=9999", "epoch=10000", "epoch=0002", "epoch=x"):
        (folder / f"{name}.png").touch()
    assert list(pictures_by_epoch(tmp_path)) == [2, 9999, 10000]
    assert pictures_by_epoch(tmp_path / "nowhere") == {}
