"""The PCA of patches is a plain SVD's, for any batches (Table 1d)."""

import pytest
import torch

from unmask.patch_pca import PatchSums
from unmask.patches import patchify
from unmask.targets import PatchPCA

PATCH, PIXELS = 4, 48


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth random images: their patches have a spectrum that falls off."""
    noise = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=16, mode="bicubic") + 0.3


def summed(images: torch.Tensor, parts: int) -> PatchSums:
    sums = PatchSums(PIXELS)
    for part in images.chunk(parts):
        sums.add(part, PATCH)
    return sums


def test_the_basis_is_the_svd_of_the_centred_patches(images: torch.Tensor) -> None:
    patches = patchify(images, PATCH).flatten(0, 1).double()
    basis = summed(images, 3).compute_basis()
    _, values, rows = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    torch.testing.assert_close(
        basis.variance_P, values.square() / len(patches), rtol=1e-8, atol=1e-10
    )
    # directions agree up to their sign
    leading = (basis.components_PP[:, :20] * rows[:20].T).sum(0).abs()
    torch.testing.assert_close(
        leading, torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-7
    )


def test_the_target_is_what_the_svd_projects_patches_to(images: torch.Tensor) -> None:
    target, basis = PatchPCA(5, PATCH, 3), summed(images, 1).compute_basis()
    target.mean_P.copy_(basis.mean_P)
    target.basis_PK.copy_(basis.components_PP[:, :5])
    patches = patchify(images, PATCH)
    flat = patches.flatten(0, 1).double()
    left, values, _ = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    expected = (left * values)[:, :5].view(len(images), -1, 5)
    torch.testing.assert_close(
        target(patches).double().abs(), expected.abs(), rtol=1e-4, atol=1e-4
    )


def test_batches_do_not_matter(images: torch.Tensor) -> None:
    torch.testing.assert_close(
        summed(images, 1).compute_basis(),
        summed(images, 7).compute_basis(),
        rtol=1e-7,
        atol=1e-9,
    )


def test_all_coefficients_restore_the_pixels_and_few_the_nearest_ones(
    images: torch.Tensor,
) -> None:
    patches, basis = patchify(images, PATCH), summed(images, 1).compute_basis()
    errors = []
    for count in (4, 16, PIXELS):
        target = PatchPCA(count, PATCH, 3)
        target.mean_P.copy_(basis.mean_P)
        target.basis_PK.copy_(basis.components_PP[:, :count])
        errors.append(
            (target.to_pixels(target(patches), patches) - patches)
            .square()
            .sum(-1)
            .mean()
            .item()
        )
    lost = [basis.variance_P[count:].sum().item() for count in (4, 16)]
    assert errors[:2] == pytest.approx(lost, rel=1e-3), (
        "the error is the variance of the components that are left out"
    )
    assert errors[2] < 1e-8


def test_a_basis_of_no_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="0 patches were added"):
        PatchSums(4).compute_basis()
