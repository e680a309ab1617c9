"""Classifiers on an encoder: pooling, the linear probe's head and the fine-tuning head (MAE A.1)."""

from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.distributed import collectives
from unmask.encoder import Encoder, LayerNorm
from unmask.initialisation import initialise, initialise_normal

Pool = Literal["cls", "mean"]
PROBE_STD, FINETUNE_STD = 0.01, 2e-5


class Features(nn.Module):
    """One vector an image: the class token or the mean of the patch tokens, after the encoder's last norm."""

    def __init__(self, encoder: Encoder, pool: Pool) -> None:
        super().__init__()
        self.encoder, self.pool, self.width = encoder, pool, encoder.width
        # images; the probe's BatchNorm must see the whole batch, its encoder need not
        self.at_once: int | None = None

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        return torch.cat(
            [
                self._pooled(part)
                for part in images_BCHW.split(self.at_once or len(images_BCHW))
            ]
        )

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
            # not used: the mean has a norm of its own
            encoder.norm.requires_grad_(False)
            self.fc_norm = LayerNorm(encoder.width)

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        if self.pool == "cls":
            return self.encoder(images_BCHW)[:, 0]
        return self.fc_norm(self.encoder.unnormalised(images_BCHW)[:, 1:].mean(dim=1))


class AttentiveFeatures(nn.Module):
    """A learned query attends to all patch tokens of a frozen encoder: timm's attention pooling, made to be trained."""

    def __init__(self, encoder: Encoder, heads: int, seed: int) -> None:
        super().__init__()
        self.encoder, self.width = encoder.requires_grad_(False), encoder.width
        self.at_once: int | None = None  # images, as in Features
        self.attention = AttentionPoolLatent(
            encoder.width, num_heads=heads, norm_layer=LayerNorm
        )
        # timm's draws from the global generator
        initialise(nn.ModuleDict({"attention": self.attention}), seed)
        initialise_normal(self.attention.latent, 0.02, seed, "attention.latent")

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        with torch.no_grad():
            parts = [
                self.encoder(part)[:, 1:]
                for part in images_BCHW.split(self.at_once or len(images_BCHW))
            ]
        return self.attention(torch.cat(parts))


def train_last_blocks(features: FineTuneFeatures, blocks: float) -> None:
    """Freeze all before the last blocks (MAE Fig. 9); 0.5 is the MLP half of the last one, all of them is everything.

    What follows the blocks (a norm, the head) is trained in any case.
    """
    encoder, depth = features.encoder, len(features.encoder.blocks)
    if blocks >= depth:
        return
    encoder.requires_grad_(False)
    encoder.norm.requires_grad_(features.pool == "cls")
    last = cast(Block, encoder.blocks[-1])
    halves = [last.norm2, last.mlp] if blocks == 0.5 else []
    for part in [*encoder.blocks[depth - int(blocks) :], *halves]:
        part.requires_grad_(True)


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


AnyFeatures = Features | FineTuneFeatures | AttentiveFeatures | RawPixels | Given


class BatchNorm(nn.BatchNorm1d):
    """Statistics of the whole batch, whichever process holds which part of it (torch's SyncBatchNorm asks for GPUs).

    Without affine; each process must hold as many images.
    """

    def forward(self, input: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        if not self.training or collectives.world_size() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        size = len(input) * collectives.world_size()
        mean_D = collectives.all_reduce_sum(input.sum(dim=0)) / size
        variance_D = (
            collectives.all_reduce_sum((input - mean_D).square().sum(dim=0)) / size
        )
        with torch.no_grad():
            self.running_mean.lerp_(mean_D, self.momentum or 0.1)
            self.running_var.lerp_(variance_D * size / (size - 1), self.momentum or 0.1)
        return (input - mean_D) * (variance_D + self.eps).rsqrt()


class Classifier(nn.Module):
    """Features and a linear head; the probe's head normalises first (BatchNorm without affine, eps 1e-6: MAE A.1)."""

    def __init__(
        self, features: AnyFeatures, num_classes: int, probe: bool, seed: int
    ) -> None:
        super().__init__()
        self.features, width = features, features.width
        self.norm = BatchNorm(width, affine=False, eps=1e-6) if probe else nn.Identity()
        self.head = nn.Linear(width, num_classes)
        initialise_normal(
            cast(nn.Parameter, self.head.weight),
            PROBE_STD if probe else FINETUNE_STD,
            seed,
            "head.weight",
        )
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, images: Float[Tensor, "B *shape"]) -> Float[Tensor, "B K"]:
        return self.head(self.norm(self.features(images)))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """What timm's layer decay asks for: embedding and positions first, then the blocks; the rest comes last."""
        encoder = r"^features\.encoder\."
        # a group that captures would be read as a number
        stem = rf"{encoder}(?:cls_token|pos_embed|patch_embed)"
        return {"stem": stem, "blocks": [(rf"{encoder}blocks\.(\d+)", None)]}
