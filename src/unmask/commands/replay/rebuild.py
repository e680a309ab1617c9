"""Rebuild a recorded step: its record, its module and the images it was made of."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from unmask import kernels
from unmask.callbacks.nonfinite_record import RECORD_FILE, RECORD_FOLDER
from unmask.config.checks import ConfigError, check_checkpoint_config
from unmask.data.images.unreadable import printable
from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.batch import Batch
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import FeatureData, ImageData
from unmask.kernels import Kernels
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.stages.plan import make_plan
from unmask.storage import checkpoints
from unmask.storage.atomic import sha256
from unmask.tasks.recompute import TrainingTask
from unmask.training.execute import silence_lightning
from unmask.training.kernel_choice import read_kernels
from unmask.training.prepare import Prepared, prepare
from unmask.training.run import Run, Stage

REQUIRED_KEYS = {
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
# other devices and other numbers of threads sum in another order
RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Record:
    """Hold what the ranks recorded (rank zero first), and the state before the step."""

    folder: Path
    ranks: list[dict[str, Any]]
    state: dict[str, Any]

    @property
    def rank_zero(self) -> dict[str, Any]:
        return self.ranks[0]

    @property
    def step(self) -> int:
        """Return the number of the step; the first one is 1."""
        return int(self.rank_zero["step"])

    @property
    def bfloat16(self) -> bool:
        return self.rank_zero["precision"] == "bf16-mixed"

    @property
    def losses(self) -> list[float]:
        """Return the recorded loss of each micro-batch of all ranks.

        As in training, each is divided by the number of micro-batches of a rank.
        """
        return [float(loss) for rank in self.ranks for loss in rank["losses"]]

    def compare_losses(self, losses: list[float], gradient_norm: float) -> str | None:
        """Say how a recomputed step equals the recorded one; None where it does not."""
        recorded_norm = float(self.rank_zero["gradient_norm"])
        if math.isfinite(gradient_norm) != math.isfinite(recorded_norm):
            return None
        pairs = list(zip(self.losses, losses, strict=True))
        # NaN is not equal to itself
        if all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs):
            return "the same, bit for bit"
        is_close = all(
            math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE)
            or not (math.isfinite(a) or math.isfinite(b))
            for a, b in pairs
        )
        return "the same up to rounding" if is_close else None


def read_record(path: str) -> Record:
    """Read the record in a stage's folder, or in its nonfinite/.

    Raises ConfigError where there is none, or a damaged one.
    """
    folder = Path(path).expanduser()
    if folder.name == RECORD_FILE:
        folder = folder.parent
    if folder.name != RECORD_FOLDER:
        folder = folder / RECORD_FOLDER
    if not (folder / RECORD_FILE).is_file():
        raise ConfigError(
            f"folder={path}: no {RECORD_FOLDER}/{RECORD_FILE} there; give the folder of"
            " a stage that ended with a loss that was not finite, as in"
            " runs/pretrain/<fingerprint>"
        )
    try:
        return _load_record(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"folder={path}: the record is damaged ({error}); run the command of the"
            " training again to make a new one"
        ) from None


def _load_record(folder: Path) -> Record:
    paths = [folder / RECORD_FILE, *sorted(folder.glob("record.rank*.json"))]
    ranks = [json.loads(path.read_text()) for path in paths]
    missing = REQUIRED_KEYS - set.intersection(*(set(rank) for rank in ranks))
    if missing:
        raise ValueError(f"without {', '.join(sorted(missing))}")
    if len(ranks) != ranks[0]["processes"]:
        raise ValueError(f"of {len(ranks)} processes, not of {ranks[0]['processes']}")
    # the weights before the step are only in rank zero's record
    state_path = folder / str(ranks[0]["state"])
    if sha256(state_path) != ranks[0]["sha256"]:
        raise ValueError(f"the sha256 of {state_path.name} differs")
    return Record(folder, ranks, checkpoints.load(state_path))


@dataclass(frozen=True)
class ReplayedStep:
    """Hold everything of the step.

    micro_batches: on the device, as the model got them.
    """

    record: Record
    module: TrainingTask
    data: ImageData | FeatureData
    micro_batches: list[Batch]

    def describe_sample(self, sample: int) -> str:
        """Return a sample's id, and its file where it has one."""
        if not isinstance(self.data, ImageData):
            return f"sample {sample}"
        split = self.data.train_views.split
        if not isinstance(split, StoredImages):
            return f"sample {sample}"
        # with augment.repeats, view k of image i is sample i + k * len(split)
        return f"sample {sample}, {split.store.name(sample % len(split))}"


def rebuild_step(record: Record) -> ReplayedStep:
    """Build the stage's module with the recorded weights, and the recorded batches.

    Raises ConfigError where the images, or the weights that the stage started from,
    are gone or changed.
    """
    silence_lightning()
    rank_zero = record.rank_zero
    (module, data), bad_images = _rebuild_stage(record)
    module.load_state_dict(record.state["state_dict"])
    use_gpu = rank_zero["device"] == "cuda" and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    # other kernels, or another number of threads, would sum in another order
    kernels.use(read_kernels(record.folder.resolve().parent) or Kernels())
    torch.set_num_threads(int(rank_zero["threads"]))
    module.to(device)
    epoch = int(rank_zero["epoch"])
    try:
        micro_batches = [
            data.training_batch(epoch, ids, device)
            for rank in record.ranks
            for ids in rank["samples"]
        ]
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(
            f"images of the recorded step cannot be read: {error}"
        ) from None
    _check_bad_images(record, micro_batches, bad_images)
    return ReplayedStep(record, module, data, micro_batches)


def _check_bad_images(
    record: Record, micro_batches: list[Batch], bad_images: BadImages
) -> None:
    """Raise ConfigError for images that have become bad since the step.

    Those that were bad then are listed in the stage's folder; they have the same
    substitutes now as then.
    """
    stage_folder = record.folder.resolve().parent
    listed = BadImages(stage_folder, 1.0, print).reasons_by_name()
    reasons = {
        bad.name: bad.reason for batch in micro_batches for bad in batch.bad_images
    }
    reasons |= bad_images.reasons_by_name()
    for name, reason in reasons.items():
        if name not in listed:
            raise ConfigError(
                f"images of the recorded step cannot be read: {printable(name)}"
                f" ({reason})"
            )


def _rebuild_stage(record: Record) -> tuple[Prepared, BadImages]:
    """Return what the stage would train, on what data, and which images are bad.

    Everything is written to a temporary folder.
    """
    rank_zero = record.rank_zero
    stage_folder = record.folder.resolve().parent
    raw_config = dict(rank_zero["config"])
    # the ledger may have moved; the record may also have been copied out of it
    if stage_folder.name == rank_zero["fingerprint"]:
        raw_config["runs_dir"] = str(stage_folder.parents[1])
    config = check_checkpoint_config(raw_config)
    plan = make_plan(config)
    specs = {spec.fingerprint: spec for spec in plan.stages}
    if rank_zero["fingerprint"] not in specs:
        raise ConfigError(
            f"the recorded stage {rank_zero['stage']} {rank_zero['fingerprint']} cannot"
            f" be rebuilt: the images in data.root={config.data.root} or the version"
            " of the results changed since"
        )
    spec = specs[rank_zero["fingerprint"]]
    with TemporaryDirectory() as temporary:
        folder = StageFolder(temporary, spec)
        folder.create()
        stage = Stage(Run(plan, Console(quiet=True)), spec, folder)
        try:
            return prepare(stage), stage.bad_images
        except (LedgerError, OSError, ValueError) as error:
            raise ConfigError(
                f"what the step was made of cannot be read: {error}"
            ) from None
