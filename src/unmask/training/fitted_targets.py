"""What a target must know of the training images first: a PCA or a small dVAE."""

from pathlib import Path

import torch
from safetensors.torch import load, save

from unmask.data.loading.module import normalise
from unmask.patch_pca import PatchSums
from unmask.stages.ledger import LedgerError
from unmask.storage.atomic import atomic_write
from unmask.targets import PatchPCA
from unmask.training.run import Stage

BASIS_FILE = "basis.safetensors"
# share of the variance for which the stage counts components ("hold_most")
MOST_VARIANCE = 0.9


def fit_patch_pca(stage: Stage) -> dict[str, float]:
    """Write the PCA basis of all training images' patches, as evaluation sees them.

    Returns how many images, patches and coefficients there are, and how many components
    hold most of the variance.
    """
    data = stage.image_data()
    patch_size = stage.config.data.patch_size
    assert patch_size is not None
    image_format = data.image_format
    sums = PatchSums(patch_size**2 * len(image_format.mean))
    training_loader = data.predict_dataloader()[0]
    for batch in training_loader:
        stage.bad_images.record(batch.bad_images, data.split_progress(0))
        if stage.bad_images.limit_error:
            raise stage.bad_images.limit_error
        # images on the training device are summed on the CPU, too
        batch = batch._replace(images_BCHW=batch.images_BCHW.cpu())
        sums.add(normalise(batch, image_format).images_BCHW, patch_size)
    basis = sums.compute_basis()
    tensors = {name: value.contiguous() for name, value in basis._asdict().items()}
    with atomic_write(stage.folder.path / BASIS_FILE) as file:
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
