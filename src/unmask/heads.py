"""Classifiers on an encoder: pooling, probe and fine-tuning heads (MAE A.1)."""

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.config.features import FeaturePooling
from unmask.distributed import collectives
from unmask.encoder import AnyEncoder, LayerNorm
from unmask.initialisation import initialise, initialise_normal

Pool = Literal["cls", "mean"]
# of frozen features
FrozenPool = Literal["cls", "mean", "mean_norm"]
# of the encoder's LayerNorms
NORM_EPS = 1e-6
# standard deviations of the heads' initial weights
PROBE_STD = 0.01
FINETUNE_STD = 2e-5


class Features(nn.Module):
    """Pool the encoder's tokens to one vector an image.

    The vector is the class token, the mean of several, or the mean of the patch tokens,
    normalised by the encoder's norm; or with `mean_norm`, as in the official code's
    --global_pool, the mean of unnormalised patch tokens behind a norm that is never
    trained.
    """

    def __init__(self, encoder: AnyEncoder, pool: FrozenPool) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = pool
        self.width = encoder.width
        # Images that pass through the encoder at once; None: the whole batch. The
        # probe's BatchNorm must see the whole batch, its encoder need not.
        self.micro_batch_size: int | None = None

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        parts = images_BCHW.split(self.micro_batch_size or len(images_BCHW))
        return torch.cat([self._pool(part) for part in parts])

    def _pool(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        if self.pool == "mean_norm":
            tokens_BTD = self.encoder.unnormalised_tokens(images_BCHW)
            mean_BD = mean_of_patches(tokens_BTD, self.encoder)
            return F.layer_norm(mean_BD, mean_BD.shape[1:], eps=NORM_EPS)
        tokens_BTD = self.encoder(images_BCHW)
        pool = mean_of_classes if self.pool == "cls" else mean_of_patches
        return pool(tokens_BTD, self.encoder)


def mean_of_classes(
    tokens_BTD: Float[Tensor, "B T D"], encoder: AnyEncoder
) -> Float[Tensor, "B D"]:
    """Return the class token, or the mean of several, as in Pixio's evaluation."""
    classes = encoder.class_tokens
    return tokens_BTD[:, 0] if classes == 1 else tokens_BTD[:, :classes].mean(dim=1)


def mean_of_patches(
    tokens_BTD: Float[Tensor, "B T D"], encoder: AnyEncoder
) -> Float[Tensor, "B D"]:
    """Return the mean of the patches' tokens."""
    return tokens_BTD[:, encoder.class_tokens :].mean(dim=1)


class BlockFeatures(nn.Module):
    """Take features from any block of an encoder: one vector an image, or its patches.

    depth: the number of blocks that the tokens have passed, 0 for the embedded patches;
    their tokens are as the next block receives them, unnormalised. None: all blocks and
    the encoder's norm, where `cls`, `mean` and `mean_norm` are those of Features.
    """

    def __init__(
        self, encoder: AnyEncoder, depth: int | None, pool: FeaturePooling
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.depth = depth
        self.pool = pool

    def forward(
        self, images_BCHW: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B D"] | Float[Tensor, "B L D"]:
        if self.depth is None and self.pool == "mean_norm":
            return Features(self.encoder, self.pool)(images_BCHW)
        if self.depth is None:
            tokens_BTD = self.encoder(images_BCHW)
        else:
            tokens_BTD = self.encoder.unnormalised_tokens(images_BCHW, depth=self.depth)
        if self.pool == "cls":
            return mean_of_classes(tokens_BTD, self.encoder)
        if self.pool == "patches":
            return tokens_BTD[:, self.encoder.class_tokens :]
        mean_BD = mean_of_patches(tokens_BTD, self.encoder)
        if self.pool == "mean":
            return mean_BD
        return F.layer_norm(mean_BD, mean_BD.shape[1:], eps=NORM_EPS)


class FineTuneFeatures(nn.Module):
    """Pool as Features does, but normalise a mean after pooling.

    The norm is a new one, the official port's `fc_norm`. The encoder's positions are
    learned from here on.
    """

    def __init__(self, encoder: AnyEncoder, pool: Pool) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = pool
        self.width = encoder.width
        encoder.pos_embed.requires_grad = True
        if pool == "mean":
            # not used: the mean has a norm of its own
            encoder.norm.requires_grad_(False)
            self.fc_norm = LayerNorm(encoder.width)

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        if self.pool == "cls":
            return mean_of_classes(self.encoder(images_BCHW), self.encoder)
        tokens_BTD = self.encoder.unnormalised_tokens(images_BCHW)
        return self.fc_norm(mean_of_patches(tokens_BTD, self.encoder))


class AttentiveFeatures(nn.Module):
    """Let a learned query attend to all patch tokens of a frozen encoder.

    timm's attention pooling, trained with the probe's head.
    """

    def __init__(self, encoder: AnyEncoder, heads: int, seed: int) -> None:
        super().__init__()
        cast(nn.Module, encoder).requires_grad_(False)
        self.encoder = encoder
        self.width = encoder.width
        # images, as in Features
        self.micro_batch_size: int | None = None
        self.attention = AttentionPoolLatent(
            encoder.width, num_heads=heads, norm_layer=LayerNorm
        )
        # timm initialises from the global generator; replace that by our keyed draws
        initialise(nn.ModuleDict({"attention": self.attention}), seed)
        initialise_normal(self.attention.latent, 0.02, seed, "attention.latent")

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        parts = images_BCHW.split(self.micro_batch_size or len(images_BCHW))
        with torch.no_grad():
            first = self.encoder.class_tokens
            tokens = [self.encoder(part)[:, first:] for part in parts]
        return self.attention(torch.cat(tokens))


def train_last_blocks(features: FineTuneFeatures, num_blocks: float) -> None:
    """Freeze everything before the last `num_blocks` blocks (MAE Fig. 9).

    0.5 is the MLP half of the last block; the encoder's depth trains everything. What
    follows the blocks (a norm, the head) is trained in any case.
    """
    encoder = features.encoder
    depth = len(encoder.blocks)
    if num_blocks >= depth:
        return
    cast(nn.Module, encoder).requires_grad_(False)
    encoder.norm.requires_grad_(features.pool == "cls")
    last = cast(Block, encoder.blocks[-1])
    mlp_half = [last.norm2, last.mlp] if num_blocks == 0.5 else []
    for part in [*encoder.blocks[depth - int(num_blocks) :], *mlp_half]:
        part.requires_grad_(True)


class RawPixels(nn.Module):
    """Use the image itself as a vector: the control without any encoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        return images_BCHW.flatten(1)


class PrecomputedFeatures(nn.Module):
    """Pass on features that were computed once, before the training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return features_BD


AnyFeatures = (
    Features | FineTuneFeatures | AttentiveFeatures | RawPixels | PrecomputedFeatures
)


class BatchNorm(nn.BatchNorm1d):
    """Normalise by the statistics of the whole batch, over all ranks.

    torch's SyncBatchNorm needs GPUs. Without affine parameters; each rank must hold
    equally many images.
    """

    def forward(self, input: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        if not self.training or collectives.world_size() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        size = len(input) * collectives.world_size()
        momentum = self.momentum or 0.1
        # as torch's own: bfloat16 would round the sums
        dtype, input = input.dtype, input.float()
        mean_D = collectives.all_reduce_sum(input.sum(dim=0)) / size
        squares_D = (input - mean_D).square().sum(dim=0)
        variance_D = collectives.all_reduce_sum(squares_D) / size
        with torch.no_grad():
            self.running_mean.lerp_(mean_D, momentum)
            # torch keeps the unbiased variance, but normalises by the biased one
            self.running_var.lerp_(variance_D * size / (size - 1), momentum)
        return ((input - mean_D) * (variance_D + self.eps).rsqrt()).to(dtype)


class Classifier(nn.Module):
    """Features and a linear head.

    The probe's head normalises first: BatchNorm without affine parameters, eps 1e-6
    (MAE A.1, "Linear probing").
    """

    def __init__(
        self, features: AnyFeatures, num_classes: int, probe: bool, seed: int
    ) -> None:
        super().__init__()
        self.features = features
        width = features.width
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
        """Return logits, in float32 also under autocast.

        Of a GPU's logits autocast computes softmax and losses in float32, but of a
        CPU's in bfloat16, in which many of them are equal.
        """
        return self.head(self.norm(self.features(images))).float()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell timm's layer decay which parameters are the stem and which are blocks.

        Everything else counts as the head, with the full learning rate.
        """
        encoder = r"^features\.encoder\."
        # (?:...): timm would read the match of a capturing group as a layer's number
        stem = rf"{encoder}(?:cls_token|pos_embed|patch_embed)"
        return {"stem": stem, "blocks": [(rf"{encoder}blocks\.(\d+)", None)]}
