"""Pages of the ledger in a browser: what is drawn, and what outlives a reload."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from browser import CHROMIUM, dump_dom
from planted_ledger import plant, plant_curve, plant_sweep
from unmask.reports.ledger.pages import write_index, write_sweep_page
from unmask.stages.records import read_ledger

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
STAGES = ("stages=[pretrain,knn]", "controls=[]")
# Runs `actions` on the page in a frame once it is drawn, and then `answer`.
FRAME = """<iframe id="frame" src="{page}" width="1000" height="800"></iframe>
<script type="module">
const frame = document.getElementById("frame");
const page = () => frame.contentDocument;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const ready = async () => {{
  while (page()?.documentElement?.dataset.ready !== "true") await wait(50);
}};
const find = (what) => page().querySelector(what);
const set = (what, value) => {{
  find(what).value = value;
  find(what).dispatchEvent(new Event("change", {{ bubbles: true }}));
}};
const reload = async () => {{
  delete page().documentElement.dataset.ready;
  frame.contentWindow.location.reload();
  await wait(500);
  await ready();
}};
await ready();
{actions}
const answer = {answer};
document.body.dataset.answer = encodeURIComponent(JSON.stringify(answer));
</script>"""


def drive(page: Path, folder: Path, answer: str, actions: str = "") -> Any:
    """Do something with a page, and return the value of `answer`: both JavaScript."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), answer=answer, actions=actions))
    shown, complaints = dump_dom(frame, 60_000)
    found = re.search(r'data-answer="([^"]*)"', shown)
    assert found, complaints[-500:]
    return json.loads(unquote(found[1]))


def plant_cells(runs: Path, seeds: tuple[int, ...]) -> Path:
    """Plant a sweep of two mask ratios, and return its page."""
    cells = [
        (f"mask_ratio={r}", f"seed={s}", *STAGES) for r in (0.5, 0.75) for s in seeds
    ]
    plant_sweep(runs, *cells)
    for cell in cells:
        plant_curve(
            plant(runs, *cell)[0].path, {step: 1 / step for step in range(1, 50)}
        )
    ledger = read_ledger(runs)
    return write_sweep_page(ledger, ledger.sweeps[0])


@pytest.mark.parametrize(("seeds", "bars"), [((0,), 0), ((0, 1), 2)])
def test_spread_is_drawn_where_there_are_seeds(
    tmp_path: Path, seeds: tuple[int, ...], bars: int
) -> None:
    page = plant_cells(tmp_path / "runs", seeds)
    answer = """[
      page().querySelectorAll("#dials [aria-roledescription=errorbar]").length,
      page().querySelectorAll("#dials [aria-roledescription=point]").length,
      // without a name, readers of screens find a picture of nothing
      page().querySelectorAll("#dials [role=graphics-symbol]:not([aria-label])").length,
    ]"""
    assert drive(page, tmp_path, answer) == [bars, 2 * len(seeds), 0]


def test_what_is_chosen_outlives_a_reload(tmp_path: Path) -> None:
    plant_cells(tmp_path / "runs", (0, 1))
    page = write_index(read_ledger(tmp_path / "runs"))
    actions = """
      set("select[data-column]", "pretrain");
      set("select[name=measure]", "pretrain/val/loss");
      find(".dt-search input").value = "mask_ratio=0.5 s1";
      find(".dt-search input").dispatchEvent(new Event("input", { bubbles: true }));
      await wait(1000);
      find("#runs tbody input").click();
      await reload();
    """
    answer = """{
      stage: find("select[data-column]").value,
      search: find(".dt-search input").value,
      rows: [...page().querySelectorAll("#runs tbody .title")].map((e) => e.textContent),
      chosen: page().querySelectorAll("#runs input:checked").length,
      shown: find("#shown").textContent,
    }"""
    assert drive(page, tmp_path, answer, actions) == {
        "stage": "pretrain",
        "search": "mask_ratio=0.5 s1",
        "rows": ["pretrain mask_ratio=0.5 s1"],
        "chosen": 1,
        "shown": "1 of 1 chosen runs have this curve",
    }
