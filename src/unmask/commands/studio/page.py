"""The page itself: controls and pictures by gradio, which nothing else here imports."""

import os
import signal
import threading
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# before gradio is imported: it reports nothing to its makers
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from unmask.commands.cli import USER_ERRORS, user_message
from unmask.commands.studio.answers import Answer
from unmask.commands.studio.figures import (
    PATCHES,
    PATCHES_SCRIPT,
    STYLE,
    answer_html,
    files_html,
    tile_address,
)
from unmask.commands.studio.masks import BRUSH
from unmask.commands.studio.session import (
    MAX_SEED,
    Choices,
    Session,
    read_ratio,
    read_seed,
)

# pages elsewhere whose address is made to lead here are refused
HOSTS = ["127.0.0.1", "localhost"]
MAX_UPLOAD = "200mb"
# the system's fonts: none are fetched
FONTS = ["system-ui", "sans-serif"]
MONOSPACE = ["ui-monospace", "monospace"]
VISIBLE, OWN = "averages of the visible patches", "their own, which leak the answer"
ALL_HEADS = "mean, then each"
# an invisible part would lose its properties when it is shown
UNUSED = "unused"
CSS = f"""{STYLE}
.{UNUSED} {{ display: none !important; }}
.examples .grid-container {{
  grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }}
button[role="tab"].selected {{ color: var(--primary-700); }}
.dark button[role="tab"].selected {{ color: var(--primary-300); }}
.examples img {{ image-rendering: pixelated; }}
"""


def serve_page(session: Session, host: str, port: int, browser: bool) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    page, address = launch_page(session, host, port)
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(address)
    # what was dropped is removed then, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


def launch_page(session: Session, host: str, port: int) -> tuple[gr.Blocks, str]:
    """Start the server in a thread; return the page and its address."""
    # where gradio keeps what is dropped and shown
    os.environ["GRADIO_TEMP_DIR"] = str(session.folder / "page")
    page = build_page(session)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        theme=_theme(),
        css=CSS,
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, HOSTS)]},
    )
    return page, address


def _theme() -> gr.themes.Default:
    """Return gradio's theme with the system's fonts and grey that can be read."""
    theme = gr.themes.Default(font=FONTS, font_mono=MONOSPACE)
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )


def build_page(session: Session) -> gr.Blocks:
    """Return the page, which asks the session."""
    with gr.Blocks(title="unmask studio", analytics_enabled=False) as page:
        gr.Markdown("# " + " beside ".join(model.name for model in session.models))
        # the file that all answers are about
        path = gr.State(str(session.examples[0]) if session.examples else None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                _picture_controls(session, path)
                controls = _mask_controls(session)
            with gr.Column(scale=3, min_width=340), gr.Tabs():
                with gr.Tab("Reconstruction"):
                    _reconstruction_tab(session, page, path, controls)
                with gr.Tab("Attention"):
                    _attention_tab(session, page, path)
                with gr.Tab("Features"):
                    _features_tab(session, page, path)
    return page


def _on(
    triggers: list[Any],
    ask: Callable[..., Any],
    inputs: Any,
    outputs: Any,
    preprocess: bool = True,
) -> None:
    """Ask whenever one of the events happens; of many in a row the last one counts."""
    gr.on(
        triggers,
        ask,
        inputs,
        outputs,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        preprocess=preprocess,
    )


def _picture_controls(session: Session, path: gr.State) -> None:
    dropped = gr.Image(
        label="Picture", sources=["upload", "clipboard"], type="filepath", height=200
    )

    def take(upload: dict[str, Any]) -> list[Any]:
        file = upload["path"]
        try:
            session.picture(0, _path(file))
        except USER_ERRORS as error:
            # the page keeps what it shows
            gr.Warning(user_message(error))
            return [gr.skip(), None]
        return [file, gr.skip()]

    # the file as it was dropped, which gradio would first decode
    _on([dropped.upload], take, dropped, [path, dropped], preprocess=False)
    if not session.examples:
        return
    gr.Markdown("or choose one:")
    chosen = gr.Gallery(
        [session.canvas(each) for each in session.examples],
        label="Pictures to choose from",
        show_label=False,
        format="png",
        height=200,
        allow_preview=False,
        object_fit="contain",
        elem_classes="examples",
        buttons=[],
    )

    def choose(event: gr.SelectData) -> list[Any]:
        return [str(session.examples[event.index]), None]

    _on([chosen.select], choose, None, [path, dropped])


def _mask_controls(session: Session) -> list[Any]:
    """Return sampler, ratio, seed and statistics, whose values make Choices."""
    samplers = [*session.samplers, BRUSH]
    sampler = gr.Radio(samplers, value=samplers[0], label="Patches are hidden by")
    least, most = session.ratio_bounds
    ratio = gr.Slider(
        least,
        most,
        min(max(session.mask_ratio, least), most),
        step=0.01,
        label="Mask ratio (not of grid and brush)",
    )
    seed = gr.Number(0, minimum=0, label="Seed")
    for typed in (ratio, seed):
        # what is wrong is said in the place of the answer, and not by gradio
        typed.preprocess = _unchanged
    another = gr.Button("Another seed", size="sm")
    # in the browser: of quick clicks none is lost
    another.click(
        None, seed, seed, js=f"(seed) => (Math.trunc(seed || 0) + 1) % {MAX_SEED}"
    )
    statistics = gr.Radio(
        [VISIBLE, OWN],
        value=VISIBLE,
        label="Brightness and contrast of hidden patches (not predicted)",
        visible=session.normalises_patches,
    )
    return [sampler, ratio, seed, statistics]


def _reconstruction_tab(
    session: Session, page: gr.Blocks, path: gr.State, controls: list[Any]
) -> None:
    painted = _brush(session, path, controls)
    inputs = [path, *controls, painted]
    outputs = _answer_places(session)

    def answer(*values: Any) -> Any:
        return _shown(session, lambda: session.reconstructions(_choices(*values)))

    changes = [each.change for each in (path, painted, *controls)]
    _on([page.load, *changes], answer, inputs, outputs)
    files = {
        "Make a PNG of these": session.sheet,
        "Make a GIF: rising mask ratio": session.sweep,
        "Make a GIF: filled in one by one": session.reveal,
    }
    with gr.Row():
        buttons = [gr.Button(name, size="sm") for name in files]
    made = gr.HTML()
    _on(changes, lambda: "", None, made)
    for button, make in zip(buttons, files.values(), strict=True):
        button.click(partial(_made, make), inputs, made, api_visibility="private")


def _made(make: Callable[[Choices], list[Path]], *values: Any) -> str:
    """Return what shows the files that were made, and saves them."""
    return files_html(_answered(lambda: make(_choices(*values))))


def _patches(session: Session, path: gr.State, kind: str, label: str) -> gr.HTML:
    """Return a picture whose patches are marked: `one` at most, or `many`."""
    fixed = {"columns": session.grid[1], "kind": kind, "label": label}
    marked = gr.HTML(
        session.no_marks,
        html_template=PATCHES,
        js_on_load=PATCHES_SCRIPT,
        picture=_address(session, path.value),
        **fixed,
    )

    def show_below(file: str | None) -> Any:
        # an update of one property would take the others away
        return gr.update(picture=_address(session, file), **fixed)

    _on([path.change], show_below, path, marked)
    return marked


def _address(session: Session, file: str | None) -> str:
    return tile_address(session.canvas(Path(file))) if file else ""


def _brush(session: Session, path: gr.State, controls: list[Any]) -> gr.HTML:
    """Return the picture to paint on, which shows while the sampler is the brush."""
    sampler = controls[0]
    # the sampler that the brush begins with
    before = gr.State(sampler.value)
    with gr.Column(elem_classes=UNUSED) as place:
        gr.Markdown("Paint over what to hide, and over what is hidden to show it.")
        painted = _patches(session, path, "many", "Patches: pressed ones are hidden")
        with gr.Row():
            sampled = gr.Button("Begin with the sampler's mask", size="sm")
            cleared = gr.Button("Begin with nothing hidden", size="sm")

    def begin(file: str | None, previous: str, _: str, *values: Any) -> str:
        return _answered(lambda: session.marks(_choices(file, previous, *values)))

    def switch(file: str | None, previous: str, chosen: str, *values: Any) -> Any:
        if chosen != BRUSH:
            return [gr.update(elem_classes=[UNUSED]), chosen, gr.skip()]
        marks = begin(file, previous, chosen, *values)
        return [gr.update(elem_classes=[]), previous, marks]

    inputs = [path, before, *controls]
    _on([sampler.change], switch, inputs, [place, before, painted])
    _on([sampled.click], begin, inputs, painted)
    _on([cleared.click], lambda: session.no_marks, None, painted)
    return painted


def _attention_tab(session: Session, page: gr.Blocks, path: gr.State) -> None:
    heads = [ALL_HEADS, *map(str, range(1, session.heads + 1))]
    with gr.Row():
        layer = _layer(session)
        head = gr.Dropdown(heads, value=ALL_HEADS, label="Head")
    gr.Markdown("Choose the patch that attends; without one it is the class token.")
    marked = _patches(session, path, "one", "Patches: the pressed one attends")
    outputs = _answer_places(session)

    def answer(file: str | None, layer: float, head: str, marks: str) -> Any:
        chosen = None if head == ALL_HEADS else int(head)
        ask = partial(session.attention, _path(file), int(layer), chosen, marks)
        return _shown(session, ask)

    inputs = [path, layer, head, marked]
    _on([page.load, *(each.change for each in inputs)], answer, inputs, outputs)


def _features_tab(session: Session, page: gr.Blocks, path: gr.State) -> None:
    layer = _layer(session)
    outputs = _answer_places(session)

    def answer(file: str | None, layer: float) -> Any:
        return _shown(session, lambda: session.features(_path(file), int(layer)))

    _on([page.load, path.change, layer.change], answer, [path, layer], outputs)


def _layer(session: Session) -> gr.Slider:
    """Return the choice of a layer; a slider has at least two values."""
    depth = session.depth
    return gr.Slider(1, max(2, depth), depth, step=1, label="Layer", visible=depth > 1)


def _unchanged(value: Any) -> Any:
    return value


def _answer_places(session: Session) -> list[Any]:
    """Return a place for the answer of each model."""
    return [gr.HTML() for _ in session.models]


def _shown(session: Session, ask: Callable[[], list[Answer]]) -> Any:
    """Return the answers of all models, or what is wrong with the question."""
    try:
        answers = ask()
    except USER_ERRORS as error:
        answers = [Answer(user_message(error))] * len(session.models)
    shown = [
        answer_html(model.name, answer)
        for model, answer in zip(session.models, answers, strict=True)
    ]
    return shown if len(shown) > 1 else shown[0]


def _answered(ask: Callable[[], Any]) -> Any:
    """Return the answer; what the user should read becomes a message on the page."""
    try:
        return ask()
    except USER_ERRORS as error:
        raise gr.Error(user_message(error), print_exception=False) from None


def _choices(
    file: str | None,
    sampler: str,
    ratio: Any,
    seed: Any,
    statistics: str,
    marks: str = "",
) -> Choices:
    """Return what is chosen; ValueError for a ratio or a seed that is none."""
    by_answer = statistics == OWN
    return Choices(
        _path(file), sampler, read_ratio(ratio), read_seed(seed), marks, by_answer
    )


def _path(file: str | None) -> Path | None:
    return Path(file) if file else None
