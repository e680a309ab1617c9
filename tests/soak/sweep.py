"""What the soak runs: small cells of two ranks, with all that a resume must restore."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
TRAIN = HERE.parents[1] / "src" / "train.py"
CELLS = tuple(sorted(path.stem for path in (HERE / "conf" / "soak").glob("*.yaml")))
HANG_MINUTES = 0.2
COMMON = (
    "trainer=cpu",
    "trainer.devices=2",
    f"trainer.timeout_minutes={HANG_MINUTES}",
    "logger=wandb",
    "controls=[]",
    "checkpoint.every_steps=20",
    "watch.times=3",
    "watch.pictures=2",
    "model.width=32",
    "model.depth=2",
    "model.heads=2",
    "decoder.width=16",
    "decoder.heads=2",
    "data.patch_size=7",
    "pretrain.batch_size=100",
    # roles of processes go by who has started them
    "hydra.launcher.warm=false",
)


class Sweep(NamedTuple):
    """One sweep in one ledger.

    folder: of its ledger, requests and logs; its processes work in it.
    """

    folder: Path
    cells: tuple[str, ...]
    seed: int
    extra_overrides: tuple[str, ...] = ()

    @property
    def ledger(self) -> Path:
        return self.folder / "runs"

    @property
    def requests(self) -> Path:
        return self.folder / "requests"

    def command(self) -> list[str]:
        return [
            sys.executable,
            str(TRAIN),
            f"--config-dir={HERE / 'conf'}",
            "-m",
            f"+soak@_global_={','.join(self.cells)}",
            f"seed={self.seed}",
            f"runs_dir={self.ledger}",
            *COMMON,
            *self.extra_overrides,
        ]

    def environment(self) -> dict[str, str]:
        """Return the sweep's environment: one thread a process makes sums equal."""
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
            "WANDB_SILENT": "true",
            "UNMASK_SOAK_REQUESTS": str(self.requests),
            "UNMASK_SOAK_LEDGER": str(self.ledger),
            "PYTHONPATH": str(HERE / "inside"),
        }
