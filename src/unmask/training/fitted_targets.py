"""What a target must know of the training images first: a PCA or a small dVAE."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.module import ImageData, normalise
from unmask.patch_pca import PatchSums
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.storage.atomic import atomic_write
from unmask.storage.checkpoints import strip_prefix
from unmask.targets import PatchPCA

BASIS_FILE = "basis.safetensors"
# share of the variance for which the stage counts components ("hold_most")
MOST_VARIANCE = 0.9


def fit_patch_pca(
    folder: StageFolder, data: ImageData, patch_size: int, bad_images: BadImages
) -> dict[str, float]:
    """Write the PCA basis of all training images' patches, as evaluation sees them.

    Returns how many images, patches and coefficients there are, and how many components
    hold most of the variance.
    """
    image_format = data.image_format
    sums = PatchSums(patch_size**2 * len(image_format.mean))
    training_loader = data.predict_dataloader()[0]
    for batch in training_loader:
        bad_images.record(batch.bad_images, data.split_progress(0))
        if bad_images.limit_error:
            raise bad_images.limit_error
        # images on the training device are summed on the CPU, too
        batch = batch._replace(images_BCHW=batch.images_BCHW.cpu())
        sums.add(normalise(batch, image_format).images_BCHW, patch_size)
    basis = sums.compute_basis()
    tensors = {name: value.contiguous() for name, value in basis._asdict().items()}
    with atomic_write(folder.path / BASIS_FILE) as file:
        file.write(save(tensors))
    # images of one colour have no variance at all
    smallest = torch.finfo(torch.float64).tiny
    total = basis.variance_P.sum().clamp(min=smallest)
    share_P = basis.variance_P.cumsum(0) / total
    return {
        "images": len(data.ids),
        "patches": sums.count,
        "coefficients": len(share_P),
        "hold_most": int((share_P < MOST_VARIANCE).sum()) + 1,
    }


def load_tokenizer(tokenizer: Any, state: dict[str, torch.Tensor]) -> None:
    """Load the small dVAE from the state of its stage's final checkpoint."""
    tokenizer.load_state_dict(strip_prefix(state, "model."))


def load_basis(target: PatchPCA, folder: Path) -> None:
    """Load the largest components of a stage's basis into the target.

    Raises LedgerError where the basis cannot be read.
    """
    try:
        basis = load((folder / BASIS_FILE).read_bytes())
    except OSError as error:
        raise LedgerError(
            f"{folder} is finished but {BASIS_FILE} cannot be read ({error}); remove it"
            " to redo it"
        ) from None
    target.mean_P.copy_(basis["mean_P"])
    target.basis_PK.copy_(basis["components_PP"][:, : target.components])
