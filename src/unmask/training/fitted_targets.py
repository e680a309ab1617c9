"""What a target must know of the training images before pretraining starts: the PCA of patches, the own dVAE."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.batch import normalised
from unmask.data.loading.module import ImageData
from unmask.patch_pca import PatchSums
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.storage.atomic import replacing
from unmask.storage.checkpoints import below
from unmask.targets import PatchPCA

BASIS = "basis.safetensors"
MOST = 0.9  # of the variance


def fit_patch_pca(
    folder: StageFolder, data: ImageData, patch_size: int, bad: BadImages
) -> dict[str, float]:
    """The basis of all training images' patches, as evaluation sees them, into the folder; how few hold most."""
    sums = PatchSums(patch_size**2 * len(data.form.mean))
    for batch in data.predict_dataloader()[0]:
        bad.met(batch.bad, data.seen(0))
        if bad.fault:
            raise bad.fault
        sums.add(normalised(batch, data.form).images_BCHW, patch_size)
    basis = sums.basis()
    with replacing(folder.path / BASIS) as file:
        file.write(
            save({name: value.contiguous() for name, value in basis._asdict().items()})
        )
    share_P = basis.variance_P.cumsum(0) / basis.variance_P.sum().clamp(
        min=torch.finfo(torch.float64).tiny
    )
    return {
        "images": len(data.ids),
        "patches": sums.count,
        "coefficients": len(share_P),
        "hold_most": int((share_P < MOST).sum()) + 1,
    }


def give_weights(tokenizer: Any, state: dict[str, torch.Tensor]) -> None:
    """Those of the stage's final checkpoint into the tokenizer."""
    tokenizer.load_state_dict(below(state, "model."))


def give_basis(target: PatchPCA, folder: Path) -> None:
    """The largest components into the target. Raises LedgerError where the stage's file is gone."""
    try:
        basis = load((folder / BASIS).read_bytes())
    except OSError as error:
        raise LedgerError(
            f"{folder} is finished but {BASIS} cannot be read ({error}); remove it to"
            " redo it"
        ) from None
    target.mean_P.copy_(basis["mean_P"])
    target.basis_PK.copy_(basis["components_PP"][:, : target.components])
