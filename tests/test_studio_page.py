"""The studio's page: its patches in a browser, and the whole of it where gradio is."""

import contextlib
import importlib
import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import CHROMIUM, dump_dom
from small_runs import run
from unmask.commands.reconstruct.foreign import NO_READING
from unmask.commands.studio import HOST
from unmask.commands.studio.figures import PATCHES, PATCHES_SCRIPT, STYLE
from unmask.commands.studio.session import Session, open_session

# what gradio hands to the script, and pointer and keys as a person uses them
STROKES = """<!doctype html><style>%s</style><main style="width: 300px"></main>
<script>
const element = document.querySelector("main");
const props = {value: "0".repeat(12), columns: 4, kind: "KIND", picture: "", label: ""};
const said = [];
function draw() {
  const {value, columns, kind, picture, label} = props;
  element.innerHTML = `%s`;
  element.querySelector(".patches").style.height = "300px";
}
function trigger(name) { said.push(props.value); draw(); }
draw();
(() => {%s})();
const press = (type, target, x, y) => target.dispatchEvent(new PointerEvent(
  type, {clientX: x, clientY: y, button: 0, bubbles: true}));
function stroke(fromX, fromY, toX, toY) {
  const {left, top} = element.getBoundingClientRect();
  const at = document.elementFromPoint(left + fromX, top + fromY);
  press("pointerdown", at, left + fromX, top + fromY);
  press("pointermove", window, left + toX, top + toY);
  press("pointerup", window, left + toX, top + toY);
}
const key = (name) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", {key: name, bubbles: true, cancelable: true}));
stroke(20, 20, 280, 20);
stroke(100, 20, 100, 280);
element.querySelector("button").focus();
key("ArrowDown"); key("ArrowRight"); key(" ");
document.title = JSON.stringify(said);
</script>"""


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # a row is hidden by one fast stroke; a stroke from a hidden patch shows a
        # column again; then one patch by keyboard
        ("many", ["111100000000", "101100000000", "101101000000"]),
        # at most one; pressed again, it is none
        ("one", ["100000000000", "010000000000", "000001000000"]),
    ],
)
def test_patches_are_marked_by_strokes_and_keys(
    kind: str, expected: list[str], tmp_path: Path
) -> None:
    page = tmp_path / "patches.html"
    page.write_text((STROKES % (STYLE, PATCHES, PATCHES_SCRIPT)).replace("KIND", kind))
    dom, _ = dump_dom(page, 2000)
    title = re.search("<title>(.*)</title>", dom)
    assert title, dom
    assert json.loads(title[1]) == expected


@pytest.fixture
def session(tmp_path: Path) -> Session:
    runs = tmp_path / "runs"
    run(
        f"runs_dir={runs}",
        "stages=[pretrain]",
        "target=pixel_norm",
        "pretrain.epochs=1",
    )
    (folder,) = runs.glob("pretrain/*")
    return open_session([folder, folder], NO_READING, None, 3, tmp_path)[0]


@pytest.mark.process
def test_the_page_answers_on_this_machine_alone(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own functions are called; nothing beyond the machine is."""
    reason = "gradio is not installed; to run this: make studio"
    gradio = pytest.importorskip("gradio", reason=reason)
    studio_page = importlib.import_module("unmask.commands.studio.page")

    refused = []
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: tuple[str, int]) -> None:
        if self.family != socket.AF_UNIX and address[0] not in (HOST, "localhost"):
            refused.append(address)
            raise OSError(f"{address} is not this machine")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    page, address = studio_page.launch_page(session, HOST, port)
    with contextlib.closing(page):
        text = urllib.request.urlopen(address, timeout=30).read().decode()
        assert re.findall(r'(?:src|href)="(?:https?:)?//(?!127)[^"]*"', text) == []
        assert "fonts.googleapis" not in text
        elsewhere = urllib.request.Request(
            address, headers={"Host": "elsewhere.example"}
        )
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(elsewhere, timeout=30)
        functions = [block.fn for block in page.fns.values()]
        answers = {getattr(each, "__name__", ""): each for each in functions}
        assert not page.analytics_enabled
        upload = session.folder / "dropped.png"
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(upload)
        assert answers["take"]({"path": str(upload)})[0] == str(upload)
        upload.write_text("no picture")
        with pytest.warns(UserWarning, match="dropped.png cannot be read"):
            answers["take"]({"path": str(upload)})
        chosen = [str(session.examples[0]), "random", 0.75, 0, "their own"]
        marks = answers["begin"](chosen[0], "random", "brush", *chosen[2:])
        assert (len(marks), marks.count("1")) == (16, 12)
        with pytest.raises(gradio.Error, match="drop a picture first"):
            studio_page._made(session.sheet, None, *chosen[1:], marks)
    assert refused == []
