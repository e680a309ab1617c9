"""What a reader follows enters few files: the walks through `src/unmask` have budgets."""

import io
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

import train
from small_runs import COARSE, ROOT, TINY, plan_for
from test_module import fake_trainer
from unmask.commands import cli
from unmask.config import architecture, schema
from unmask.data.augment.crops import Augmentation
from unmask.data.listing.listing import list_images
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import splits_from_listing
from unmask.data.loading.module import ImageData, LoaderSettings
from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.mae import MAE
from unmask.masking import RandomMasking
from unmask.reports.run.page import write_page
from unmask.targets import NormalisedPixel
from unmask.tasks.pretrain import Pretrain
from unmask.training.execute import execute

SOURCE = ROOT / "src"
# three of them are the faster way through a block, which may be read as timm's
IMAGE_TO_LOSS = 17
# two of them settle the precision and the kernels, which read sizes of the model, and
# one gives each set of robustness.sets a stage with a config of its own
OVERRIDE_TO_CONSTRUCTOR = 15
METRIC_TO_PAGE = 10


def source_file(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(SOURCE)) if path.is_relative_to(SOURCE) else None


def files_entered(walk: Callable[[], Any]) -> list[str]:
    """Return the files of src/ whose functions run, in their order."""
    entered: dict[str, None] = {}

    def record(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (file := source_file(frame)):
            entered[file] = None

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        walk()
    finally:
        sys.setprofile(before)
    return list(entered)


def test_an_image_enters_few_files_on_its_way_from_a_jpeg_to_the_loss(
    tmp_path: Path,
) -> None:
    for i in range(20):
        path = tmp_path / f"class{i % 2}" / f"{i:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 40), (9, 80, 200)).save(path)
    listing = list_images(tmp_path, holdout=0.5)
    train, val = splits_from_listing(listing, 3, (16, 16), in_memory=False)
    data = ImageData(
        train,
        val,
        ImageFormat((16, 16), (0.5,) * 3, (0.25,) * 3),
        Augmentation("random", flip=True),
        list(range(len(train))),
        4,
        0,
        LoaderSettings(0, threads=1),
    )
    data.trainer = fake_trainer()  # type: ignore[assignment]
    mae = MAE(Encoder((4, 4), 4, 3, 8, 2, 2), Decoder((4, 4), 8, 48, 8, 1, 2))
    task = Pretrain(mae, RandomMasking((4, 4), 0.75), NormalisedPixel(), 0, lambda _: _)
    keys = next(iter(data.train_dataloader().batch_sampler))  # type: ignore[arg-type]
    # what is computed once (a decoder that is tried out) is no part of the walk
    data.train_views.__getitems__(keys)

    def walk() -> None:
        batch = data.train_views.__getitems__(keys)
        task.training_step(data.on_after_batch_transfer(batch, 0), 0)

    entered = files_entered(walk)
    listed = "\n  ".join(entered)
    assert len(entered) <= IMAGE_TO_LOSS, f"{len(entered)} files:\n  {listed}"
    # the walk is followed to its end
    stations = {"unmask/data/images/decoding.py", "unmask/targets.py"}
    assert stations <= set(entered)


class ArrivedError(BaseException):
    """End a walk at its aim; nothing in between catches it."""


def assert_few(entered: dict[str, str], budget: int) -> None:
    lines = [f"{name}: {why}" for name, why in entered.items()]
    assert len(entered) <= budget, f"{len(entered)} files:\n" + "\n".join(lines)


class OverrideWalk:
    """Collect the files that a typed decoder.depth=3 enters, and why."""

    typed = "decoder.depth=3"

    def __init__(self) -> None:
        self.entered: dict[str, str] = {}
        self.config: schema.Config | None = None

    def enter(self, frame: FrameType | None, why: str) -> None:
        name = source_file(frame) if frame else None
        if name:
            assert frame
            self.entered.setdefault(name, f"{frame.f_code.co_name} {why}")

    def record(self, frame: FrameType, event: str, result: Any) -> None:
        """Look at a call or a return of the project's functions."""
        is_ours = frame.f_code.co_filename.startswith(str(SOURCE))
        if not is_ours or event not in ("call", "return"):
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        arguments = [frame.f_locals.get(name) for name in names]
        if self.config is None:
            if any(map(self.holds_value, arguments)):
                self.enter(frame, "is passed the value")
            if isinstance(result, schema.Config):
                self.config = result
        elif self.holds_config(result) and any(map(self.holds_config, arguments)):
            self.enter(frame, "hands the config on")

    def holds_value(self, value: Any) -> bool:
        if isinstance(value, str):
            return self.typed in value
        if isinstance(value, Mapping):
            decoder = value.get("decoder")
            return isinstance(decoder, Mapping) and decoder.get("depth") == 3
        if isinstance(value, list | tuple):
            return any(map(self.holds_value, value))
        return isinstance(value, schema.Config) and value.decoder.depth == 3

    def holds_config(self, value: Any) -> bool:
        return self.config is not None and (
            value is self.config or getattr(value, "config", None) is self.config
        )


def test_an_override_enters_few_files_on_its_way_to_the_constructor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Type decoder.depth=3 and follow it to Decoder(depth=3).

    A file of src/ is on the way where one of its functions

    - is passed the typed text or the composed values, until there is a checked Config,
    - reads decoder.depth of the Config,
    - takes the Config and returns it, or what holds it, such as the plan, or
    - is on the call stack when the constructor is called.

    What is derived from the value for another end, such as the fingerprint, is a walk
    of its own; so are checks that take the Config and do not look at the value.
    """
    walk = OverrideWalk()
    # commands change these for good
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(cli, "command_started", False)
    monkeypatch.setattr(cli, "TELEMETRY_OFF", {})
    monkeypatch.chdir(tmp_path)

    def read(section: architecture.Decoder, name: str) -> Any:
        if name == "depth":
            walk.enter(sys._getframe(1), "reads it")
        return object.__getattribute__(section, name)

    def arrive(*_: Any, **__: Any) -> None:
        sys.setprofile(None)
        frame: FrameType | None = sys._getframe(1)
        while frame:
            walk.enter(frame, "calls what builds it")
            frame = frame.f_back
        raise ArrivedError

    monkeypatch.setattr(architecture.Decoder, "__getattribute__", read)
    monkeypatch.setattr(Decoder, "__init__", arrive)
    tiny = [override for override in TINY if not override.startswith("decoder.depth")]
    typed = ["train.py", *tiny, walk.typed, "stages=[pretrain]"]
    monkeypatch.setattr(sys, "argv", typed)
    sys.setprofile(walk.record)
    try:
        cli.check_typed()
        with pytest.raises(ArrivedError):
            cli.run_hydra(train.run)
    finally:
        sys.setprofile(None)
    walk.entered["unmask/decoder.py"] = "is the constructor's file"
    assert_few(walk.entered, OVERRIDE_TO_CONSTRUCTOR)
    # the walk is followed from its begin to its end
    assert {"unmask/commands/cli.py", "unmask/stages/plan.py"} <= set(walk.entered)
    assert "unmask/training/build.py" in walk.entered


METRIC = "val/loss"
# who takes the metric for another end than the page
OTHER_ENDS = {
    "curve": {
        # the best checkpoint
        "unmask/callbacks/checkpointing.py",
        "unmask/callbacks/checkpoint_writer.py",
        "unmask/storage/checkpoints.py",
    },
    "number": {
        "unmask/callbacks/metrics.py",
        # it says the recipe in words, with another of the stage's metrics
        "unmask/config/recipes.py",
        # the best checkpoint
        "unmask/callbacks/checkpointing.py",
        "unmask/callbacks/checkpoint_writer.py",
        "unmask/storage/checkpoints.py",
    },
}


def form_of_metric(value: Any) -> str | None:
    """Say whether a row or line of the log, or a stage's result, has the metric."""
    if isinstance(value, Mapping):
        if METRIC in value:
            return "curve" if "step" in value else "number"
        return form_of_metric(value.get("metrics"))
    if isinstance(value, list | tuple):
        forms = map(form_of_metric, value)
        return next((form for form in forms if form), None)
    is_line = isinstance(value, str) and METRIC in value and '"step"' in value
    return "curve" if is_line else None


@pytest.fixture(scope="module")
def metric_walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Return the files that the metric enters as a curve, and as a number."""
    entered: dict[str, dict[str, str]] = {"curve": {}, "number": {}}

    def record(frame: FrameType, event: str, result: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(str(SOURCE)):
            return
        for value in [result, *frame.f_locals.values()]:
            if form := form_of_metric(value):
                file = source_file(frame)
                assert file
                entered[form].setdefault(file, f"{code.co_name} holds it")

    runs = tmp_path_factory.mktemp("metric")
    plan = plan_for(
        f"runs_dir={runs}", "stages=[pretrain]", "pretrain.epochs=1", COARSE
    )
    sys.setprofile(record)
    try:
        results = execute(plan, Console(file=io.StringIO()))
        page = write_page(plan, results, "python src/train.py", refresh=True)
    finally:
        sys.setprofile(None)
    assert f"{results[0]['metrics'][METRIC]:.4f}"[:5] in page.read_text()
    return entered


@pytest.mark.parametrize(
    ("form", "stations"),
    [
        ("curve", ["callbacks/metrics", "storage/metrics_log", "reports/run/figures"]),
        ("number", ["training/fit", "training/execute", "reports/run/tables"]),
    ],
)
def test_a_metric_enters_few_files_on_its_way_to_the_page(
    form: str, stations: list[str], metric_walks: dict[str, dict[str, str]]
) -> None:
    """Follow val/loss from self.log in the task to the page of the run.

    The page shows it twice: as a curve, from rows of the metrics log, and as a number,
    from the stage's result. A file of src/ is on the way where one of its functions
    logs it, or has a row, a line or a result that holds it among its variables.
    """
    entered = {"unmask/tasks/pretrain.py": "logs it", **metric_walks[form]}
    assert_few(
        {file: why for file, why in entered.items() if file not in OTHER_ENDS[form]},
        METRIC_TO_PAGE,
    )
    for station in stations:
        assert f"unmask/{station}.py" in entered
