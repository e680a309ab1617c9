"""A recorded step made again: its record, the module and the images it was made of, the losses it had."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from unmask.callbacks.nonfinite_record import FOLDER, RECORD
from unmask.config.checks import ConfigError, check_stored
from unmask.data.images.unreadable import shown
from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.batch import Batch
from unmask.data.loading.folders import Files
from unmask.data.loading.module import FeatureData, ImageData
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.stages.plan import make_plan
from unmask.storage import checkpoints
from unmask.storage.atomic import sha256
from unmask.tasks.recompute import Trained
from unmask.training.execute import hush
from unmask.training.stages import Run, StageWork

NEEDED = {
    "step",
    "epoch",
    "samples",
    "losses",
    "gradient_norm",
    "precision",
    "device",
    "threads",
    "processes",
    "stage",
    "fingerprint",
    "config",
    "activations",
}
# relative: other devices and other numbers of threads sum in another order
CLOSE = 1e-3


@dataclass(frozen=True)
class Record:
    """What the processes wrote (the first one first), and the state before the step."""

    folder: Path
    ranks: list[dict[str, Any]]
    state: dict[str, Any]

    @property
    def first(self) -> dict[str, Any]:
        return self.ranks[0]

    @property
    def step(self) -> int:
        """Its number; the first is 1."""
        return int(self.first["step"])

    @property
    def bfloat16(self) -> bool:
        return self.first["precision"] == "bf16-mixed"

    @property
    def losses(self) -> list[float]:
        """Of each process's micro-batches, over their number in a step of one process."""
        return [float(loss) for rank in self.ranks for loss in rank["losses"]]

    def agrees(self, losses: list[float], gradient: float) -> str | None:
        """How a step with these losses and this norm of the gradient is the recorded one; None: it is not."""
        pairs = list(zip(self.losses, losses, strict=True))
        if math.isfinite(gradient) != math.isfinite(float(self.first["gradient_norm"])):
            return None
        if all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs):
            return "the same, bit for bit"
        both = all(
            math.isclose(a, b, rel_tol=CLOSE)
            or not (math.isfinite(a) or math.isfinite(b))
            for a, b in pairs
        )
        return "the same up to rounding" if both else None


def read_record(place: str) -> Record:
    """Of a stage's folder, or its nonfinite/. Raises ConfigError where there is none, or a damaged one."""
    given = Path(place).expanduser()
    given = given.parent if given.name == RECORD else given
    folder = given if given.name == FOLDER else given / FOLDER
    if not (folder / RECORD).is_file():
        raise ConfigError(
            f"folder={place}: no {FOLDER}/{RECORD} there; give the folder of a stage"
            " that ended with a loss that was not finite, as in"
            " runs/pretrain/<fingerprint>"
        )
    try:
        ranks = [
            json.loads(path.read_text())
            for path in [folder / RECORD, *sorted(folder.glob("record.rank*.json"))]
        ]
        if lacking := NEEDED - set.intersection(*(set(rank) for rank in ranks)):
            raise ValueError(f"without {', '.join(sorted(lacking))}")
        if len(ranks) != ranks[0]["processes"]:
            raise ValueError(
                f"of {len(ranks)} processes, not of {ranks[0]['processes']}"
            )
        path = folder / str(ranks[0]["state"])
        if sha256(path) != ranks[0]["sha256"]:
            raise ValueError(f"the sha256 of {path.name} differs")
        return Record(folder, ranks, checkpoints.load(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"folder={place}: the record is damaged ({error}); the command of the run"
            " makes it again"
        ) from None


class BuiltError(Exception):
    """No fault: a stage's work has come to where it would train."""

    def __init__(self, module: Trained, data: ImageData | FeatureData) -> None:
        self.module, self.data = module, data


@dataclass(frozen=True)
class Halting:
    """Stands in a stage's work where its fit stands."""

    quiet_trainer: Callable[[], Any]
    bad: BadImages

    def __call__(
        self, module: Trained, data: ImageData | FeatureData, callbacks: list[Any]
    ) -> Any:
        raise BuiltError(module, data)


@dataclass(frozen=True)
class ReplayedStep:
    """Everything of the step: parts are its micro-batches, on the device, as the model was given them."""

    record: Record
    module: Trained
    data: ImageData | FeatureData
    parts: list[Batch]

    def image(self, sample: int) -> str:
        """A sample's id, and its file where it has one."""
        split = (
            self.data.train_views.split if isinstance(self.data, ImageData) else None
        )
        if not isinstance(split, Files):
            return f"sample {sample}"
        image = sample % len(split)  # of repeated views each is a sample
        return f"sample {sample}, {split.store.name(image)}"


def rebuild(record: Record) -> ReplayedStep:
    """The stage's module with the recorded weights and the recorded samples.

    Raises ConfigError where the images or what the stage started from are gone or changed.
    """
    hush()
    first = record.first
    module, data, met = _stage(record)
    module.load_state_dict(record.state["state_dict"])
    device = torch.device(
        "cuda" if first["device"] == "cuda" and torch.cuda.is_available() else "cpu"
    )
    # with another number sums come in another order
    torch.set_num_threads(int(first["threads"]))
    module.to(device)
    samples = [ids for rank in record.ranks for ids in rank["samples"]]
    try:
        parts = [
            data.training_batch(int(first["epoch"]), ids, device) for ids in samples
        ]
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(
            f"images of the recorded step cannot be read: {error}"
        ) from None
    # those that are listed could not be read then either, and the same ones stood in
    # for them
    lost = {bad.name: bad.reason for part in parts for bad in part.bad} | met.reasons()
    known = BadImages(record.folder.resolve().parent, 1.0, print).reasons()
    if gone := [name for name in lost if name not in known]:
        raise ConfigError(
            f"images of the recorded step cannot be read: {shown(gone[0])}"
            f" ({lost[gone[0]]})"
        )
    return ReplayedStep(record, module, data, parts)


def _stage(record: Record) -> tuple[Trained, ImageData | FeatureData, BadImages]:
    """What the stage's work would train, on what, and which images it could not read before.

    Nothing is written but to a folder that goes away.
    """
    first, place = record.first, record.folder.resolve().parent
    raw = dict(first["config"])
    # else somebody took the record out of its ledger
    if place.name == first["fingerprint"]:
        raw["runs_dir"] = str(place.parents[1])
    config = check_stored(raw)
    plan = make_plan(config)
    spec = next(
        (spec for spec in plan.stages if spec.fingerprint == first["fingerprint"]), None
    )
    if spec is None:
        raise ConfigError(
            f"the images in data.root={config.data.root}, or this version's results,"
            f" are not those of the record: {first['stage']} {first['fingerprint']} is"
            " none of the stages that its config now has"
        )
    with TemporaryDirectory() as aside:
        folder = StageFolder(aside, spec)
        folder.open()
        work = StageWork(Run(plan, Console(quiet=True)), spec, folder)
        met = work.fit.bad
        work.fit = Halting(work.fit.quiet_trainer, met)  # type: ignore[assignment]
        try:
            getattr(work, spec.kind)()
        except BuiltError as built:
            return built.module, built.data, met
        except (LedgerError, OSError, ValueError) as error:
            raise ConfigError(
                f"what the step was made of cannot be read: {error}"
            ) from None
    raise AssertionError(f"{spec.kind} trains nothing")
