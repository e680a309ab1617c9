"""What the default model of an experiment fills in when 75, 85 and 95 % of the patches are hidden (MAE Fig. 4)."""

import io
from pathlib import Path

from unmask import checkpoints
from unmask.ratio_sheet import ratio_sheet
from unmask.reports.findings import Finding
from unmask.runs import build
from unmask.runs.checks import ConfigError
from unmask.runs.gallery import load_autoencoder

IMAGES = 6


def ratio_pictures(runs_dir: str, found: list[Finding]) -> bytes | None:
    """A PNG of the last listed scale's default pretraining that the ledger has; None where it has none."""
    for finding in reversed(found):
        default = finding.section.content.paper.default
        made = [row.pretrain for row in finding.rows if row.row == default and row.pretrain]
        for fingerprint in made:
            checkpoint = checkpoints.newest(Path(runs_dir) / "pretrain" / fingerprint / "checkpoints")
            if checkpoint:
                try:
                    return _sheet(checkpoint)
                except (ConfigError, ValueError, OSError):  # another version's, damaged, or its images are gone
                    continue
    return None


def _sheet(checkpoint: Path) -> bytes:
    loaded = load_autoencoder(checkpoint)
    form = build.build_format(loaded.config)
    sheet = ratio_sheet(loaded.model, loaded.target, loaded.normalised(None, IMAGES), form.mean, form.std)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
