"""Classifiers on an encoder: pooling, the linear probe's head and the fine-tuning head (MAE A.1)."""

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.encoder import Encoder, LayerNorm
from unmask.initialisation import initialise_normal

Pool = Literal["cls", "mean"]
PROBE_STD, FINETUNE_STD = 0.01, 2e-5


class Features(nn.Module):
    """One vector an image: the class token or the mean of the patch tokens, after the encoder's last norm."""

    def __init__(self, encoder: Encoder, pool: Pool) -> None:
        super().__init__()
        self.encoder, self.pool, self.width = encoder, pool, encoder.width
        self.at_once: int | None = None  # images; the probe's BatchNorm must see the whole batch, its encoder need not

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        return torch.cat([self._pooled(part) for part in images_BCHW.split(self.at_once or len(images_BCHW))])

    def _pooled(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        tokens_BTD = self.encoder(images_BCHW)
        return tokens_BTD[:, 0] if self.pool == "cls" else tokens_BTD[:, 1:].mean(dim=1)


class FineTuneFeatures(nn.Module):
    """As Features, but a mean is normalised after pooling, by a new norm: the port's `fc_norm`."""

    def __init__(self, encoder: Encoder, pool: Pool) -> None:
        super().__init__()
        self.encoder, self.pool, self.width = encoder, pool, encoder.width
        encoder.pos_embed.requires_grad = True  # positions are learned from here on
        if pool == "mean":
            encoder.norm.requires_grad_(False)  # not used: the mean has a norm of its own
            self.fc_norm = LayerNorm(encoder.width)

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        if self.pool == "cls":
            return self.encoder(images_BCHW)[:, 0]
        return self.fc_norm(self.encoder.unnormalised(images_BCHW)[:, 1:].mean(dim=1))


class RawPixels(nn.Module):
    """The control without any encoder: the image as a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        return images_BCHW.flatten(1)


class Given(nn.Module):
    """Features that were computed beforehand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return features_BD


AnyFeatures = Features | FineTuneFeatures | RawPixels | Given


class Classifier(nn.Module):
    """Features and a linear head; the probe's head normalises first (BatchNorm without affine, eps 1e-6: MAE A.1)."""

    def __init__(self, features: AnyFeatures, num_classes: int, probe: bool, seed: int) -> None:
        super().__init__()
        self.features, width = features, features.width
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6) if probe else nn.Identity()
        self.head = nn.Linear(width, num_classes)
        initialise_normal(
            cast(nn.Parameter, self.head.weight), PROBE_STD if probe else FINETUNE_STD, seed, "head.weight"
        )
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, images: Float[Tensor, "B *shape"]) -> Float[Tensor, "B K"]:
        return self.head(self.norm(self.features(images)))
