"""Which mirrors a stage's journal has: W&B (offline unless asked), TensorBoard. metrics.csv is always written."""

from pathlib import Path

from unmask.callbacks.mirrors import Mirror, Mirrors, TensorBoard
from unmask.callbacks.weights_and_biases import GRACE, START, RunCard, WeightsAndBiases
from unmask.runs.fingerprint import StageSpec
from unmask.runs.schema import Config

FLUSH = 30.0  # seconds that a disk may take for TensorBoard's last events


def mirrors(config: Config, spec: StageSpec, folder: Path) -> Mirrors:
    """Those that are chosen. Of several processes the one that writes the journal opens them."""
    chosen: list[tuple[Mirror, float]] = []
    if wandb := config.logger.wandb:
        group = spec.parent.fingerprint if spec.parent else spec.fingerprint
        card = RunCard(spec.kind, spec.fingerprint, group, config.plain())
        run = WeightsAndBiases(card, folder, wandb.project, wandb.entity, wandb.mode == "online", wandb.finish_seconds)
        chosen.append((run, START + wandb.finish_seconds + GRACE))
    if config.logger.tensorboard:
        chosen.append((TensorBoard(folder / config.logger.tensorboard.name), FLUSH))
    return Mirrors(chosen)
