"""lightly's MAE in the step benchmark, put together as its documentation does."""

import re
from functools import partial
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from lightly.models import utils
from lightly.models.modules import (
    MaskedVisionTransformerDecoderTIMM,
    MaskedVisionTransformerTIMM,
)
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from unmask.commands.bench.contestants.built import (
    BETAS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Built,
    decoder_mlp_ratio,
    visible_patches,
)
from unmask.encoder import LayerNorm

# from lightly's names to the official ones
SPELLINGS = (
    (r"^backbone\.vit\.", ""),
    (r"^decoder\.mask_token", "mask_token"),
    (r"^decoder\.", "decoder_"),
    (r"^embed\.", "decoder_embed."),
    (r"^predict\.", "decoder_pred."),
)


class LightlyMAE(nn.Module):
    """Join lightly's encoder and decoder by the layers that it leaves to its users."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        model, decoder = spec["model"], spec["decoder"]
        vit = VisionTransformer(
            img_size=spec["image_size"],
            patch_size=spec["patch_size"],
            in_chans=spec["channels"],
            num_classes=0,
            embed_dim=model["width"],
            depth=model["depth"],
            num_heads=model["heads"],
            mlp_ratio=model["mlp_ratio"],
            norm_layer=LayerNorm,
        )
        self.backbone = MaskedVisionTransformerTIMM(vit)
        # its encoder sees no mask tokens
        self.backbone.mask_token = None
        self.embed = nn.Linear(model["width"], decoder["width"])
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=vit.patch_embed.num_patches,
            embed_dim=decoder["width"],
            depth=decoder["depth"],
            num_heads=decoder["heads"],
            mlp_ratio=decoder_mlp_ratio(spec),
        )
        values = spec["patch_size"] ** 2 * spec["channels"]
        self.predict = nn.Linear(decoder["width"], values)

    def forward(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        keep_BT: Tensor,
        hidden_BM: Tensor,
    ) -> Float[Tensor, "B M P"]:
        """Predict the hidden patches; both indices count the class token."""
        encoded_BTD = self.backbone.encode(images_BCHW, idx_keep=keep_BT)
        embedded_BTD = self.embed(encoded_BTD)
        size = (len(images_BCHW), self.backbone.sequence_length)
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, keep_BT, embedded_BTD.type_as(tokens))
        decoded = self.decoder(tokens)
        return self.predict(utils.get_at_index(decoded, hidden_BM))


def build_lightly(spec: dict[str, Any], attention: str) -> Built:
    """Build lightly's MAE, with the optimiser of its documentation."""
    set_fused_attn(attention == "sdpa")
    mae = LightlyMAE(spec)
    num_keep = 1 + visible_patches(spec)

    def loss(
        images_BCHW: Float[Tensor, "B C H W"], noise_BL: Float[Tensor, "B L"]
    ) -> Float[Tensor, ""]:
        # the class token is kept, as lightly's random_token_mask keeps it
        order_BT = F.pad(noise_BL, (1, 0), value=-1.0).argsort(dim=1)
        keep_BT, hidden_BM = order_BT[:, :num_keep], order_BT[:, num_keep:]
        predicted_BMP = mae(images_BCHW, keep_BT, hidden_BM)
        patches_BLP = utils.patchify(images_BCHW, spec["patch_size"])
        # patches are counted without the class token
        target_BMP = utils.get_at_index(patches_BLP, hidden_BM - 1)
        if spec["norm_pix"]:
            target_BMP = utils.normalize_mean_var(target_BMP)
        return F.mse_loss(predicted_BMP, target_BMP)

    return Built(mae, loss, _make_optimizer, "AdamW", "official", official_name)


def official_name(name: str) -> str:
    """Return the official code's name of a parameter."""
    for pattern, replacement in SPELLINGS:
        name = re.sub(pattern, replacement, name)
    return name


def _make_optimizer(model: nn.Module) -> Optimizer:
    assert isinstance(model, LightlyMAE)
    decayed, others = utils.get_weight_decay_parameters([model])
    groups = [
        {"params": decayed},
        {"params": others, "weight_decay": 0.0},
    ]
    make = partial(AdamW, lr=LEARNING_RATE, betas=BETAS)
    return make(groups, weight_decay=WEIGHT_DECAY)
