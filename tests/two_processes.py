"""Two ranks on a CPU train a toy model; one sample is not a number.

python tests/two_processes.py FOLDER SAMPLE LAGS
"""

import sys
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.callbacks import nonfinite
from unmask.data.loading.batch import Batch
from unmask.data.loading.module import FeatureData


class Toy(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(4, 2)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch.images_BCHW), batch.labels_B)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01, fused=True)


def main(folder: Path, sample: int, lags: bool) -> None:
    nonfinite.reads_late = lambda device: lags
    features_ND = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    features_ND[sample] = torch.nan
    rows = features_ND, torch.arange(32) % 2
    data = FeatureData((rows, rows, torch.arange(32)), 8, 0)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[nonfinite.NonfiniteGuard(folder, {"stage": "toy"})],
    )
    try:
        trainer.fit(Toy(), datamodule=data)
    except FloatingPointError as error:
        print(f"{trainer.global_rank}: {error}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True")
