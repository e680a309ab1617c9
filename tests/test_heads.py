"""Classifiers pool, normalise and start as MAE A.1 says."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unmask.encoder import Encoder
from unmask.heads import (
    Classifier,
    Features,
    FineTuneFeatures,
    PrecomputedFeatures,
    RawPixels,
)
from unmask.mae import MAE


@pytest.fixture
def encoder(make_mae: Callable[..., MAE]) -> Encoder:
    return make_mae().encoder


def test_features_are_the_class_token_or_the_mean_of_the_patches(
    encoder: Encoder, images: Tensor
) -> None:
    tokens = encoder(images)
    assert Features(encoder, "cls")(images).equal(tokens[:, 0])
    torch.testing.assert_close(
        Features(encoder, "mean")(images), tokens[:, 1:].sum(1) / 16
    )


def test_the_ports_global_pool_normalises_the_mean_of_unnormalised_tokens(
    encoder: Encoder, images: Tensor
) -> None:
    """Its probe has an fc_norm of its own, which nothing trains: 1 and 0."""
    tokens = encoder.unnormalised_tokens(images)
    features = Features(encoder, "mean_norm")(images)
    expected = nn.LayerNorm(encoder.width, eps=1e-6)(tokens[:, 1:].mean(dim=1))
    assert features.equal(expected)
    assert not features.allclose(Features(encoder, "mean")(images), atol=1e-3)


def test_fine_tuning_normalises_after_pooling_not_before(
    encoder: Encoder, images: Tensor
) -> None:
    pooled = encoder.unnormalised_tokens(images)[:, 1:].mean(1)
    features = FineTuneFeatures(encoder, "mean")
    with torch.no_grad():
        features.fc_norm.weight.fill_(2)
    expected = 2 * nn.functional.layer_norm(pooled, (32,), eps=1e-6)
    torch.testing.assert_close(features(images), expected, rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.norm.parameters())


def test_fine_tuning_from_the_class_token_keeps_the_encoders_norm(
    encoder: Encoder, images: Tensor
) -> None:
    expected = encoder(images)[:, 0]
    assert FineTuneFeatures(encoder, "cls")(images).equal(expected)


def test_positions_learn_in_fine_tuning_only(make_mae: Callable[..., MAE]) -> None:
    assert not Features(make_mae().encoder, "cls").encoder.pos_embed.requires_grad
    assert FineTuneFeatures(make_mae().encoder, "mean").encoder.pos_embed.requires_grad


def test_the_probe_normalises_without_affine_and_with_eps_1e_6() -> None:
    """Variance 1e-6 gives 1/sqrt(2) of unit scale; torch's default eps gives 0.3."""
    classifier = Classifier(PrecomputedFeatures(3), 2, probe=True, seed=0)
    assert not list(classifier.norm.parameters())
    column = torch.tensor([-1.0, 1.0]).repeat(8)
    normalised = classifier.norm(
        torch.stack([column * 1e-3, column * 5 + 7, column], dim=1)
    )
    torch.testing.assert_close(
        normalised.var(0, correction=0),
        torch.tensor([0.5, 1.0, 1.0]),
        rtol=1e-3,
        atol=0,
    )


def test_only_the_probe_has_a_batch_norm() -> None:
    features = torch.randn(5, 3) * 9 + 4
    classifier = Classifier(PrecomputedFeatures(3), 2, probe=False, seed=0)
    torch.testing.assert_close(
        classifier(features), features @ classifier.head.weight.T
    )


@pytest.mark.parametrize(("probe", "std"), [(True, 0.01), (False, 2e-5)])
def test_heads_start_as_small_normals_that_the_seed_decides(
    probe: bool, std: float
) -> None:
    heads = [
        Classifier(PrecomputedFeatures(500), 100, probe, seed).head
        for seed in (0, 0, 1)
    ]
    assert heads[0].weight.std().item() == pytest.approx(std, rel=0.02)
    assert (heads[0].bias == 0).all()
    assert heads[0].weight.equal(heads[1].weight)
    assert not heads[0].weight.equal(heads[2].weight)


def test_raw_pixels_are_the_image(images: Tensor) -> None:
    assert RawPixels(192)(images).equal(images.view(4, 192))
