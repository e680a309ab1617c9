"""Parity with Hugging Face's ViTMAEForPreTraining: the same weights, images, noise."""

import pytest
import torch
from torch import Tensor, nn

import unmask.mae
from unmask.data.loading.batch import Batch
from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.mae import MAE
from unmask.masking import RandomMasking
from unmask.patches import gather_tokens, sincos_2d
from unmask.randomness import make_key, uniform
from unmask.targets import NormalisedPixel, Pixel
from unmask.tasks.pretrain import Pretrain

transformers = pytest.importorskip(
    "transformers", reason="the reference implementation is not installed"
)
GRID = (14, 14)


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Build ViT-B/16 at 224 pixels, with random biases and norms."""
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(layer_norm_eps=1e-6)
    ).eval()
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    # positions: without a downloaded checkpoint some releases leave zeros
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights(196)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape)
    return model


def converted(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return their weights under our names, with fused qkv and a flat kernel."""
    kernel = theirs["vit.embeddings.patch_embeddings.projection.weight"]
    ours = {
        "encoder.patch_embed.weight": kernel.permute(0, 2, 3, 1).flatten(1),
        "encoder.patch_embed.bias": theirs[
            "vit.embeddings.patch_embeddings.projection.bias"
        ],
        "encoder.cls_token": theirs["vit.embeddings.cls_token"],
        "decoder.mask_token": theirs["decoder.mask_token"],
        "encoder.pos_embed": sincos_2d(768, GRID)[None],
        "decoder.pos_embed": sincos_2d(512, GRID)[None],
    }
    names = {
        "vit.layernorm": "encoder.norm",
        "decoder.decoder_norm": "decoder.norm",
        "decoder.decoder_embed": "decoder.embed",
        "decoder.decoder_pred": "decoder.head",
    }
    inner = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for layers, blocks, depth in (
        ("vit.layers", "encoder.blocks", 12),
        ("decoder.decoder_layers", "decoder.blocks", 8),
    ):
        for i in range(depth):
            names |= {
                f"{layers}.{i}.{old}": f"{blocks}.{i}.{new}"
                for old, new in inner.items()
            }
            for kind in ("weight", "bias"):
                parts = [
                    theirs[f"{layers}.{i}.attention.{part}_proj.{kind}"]
                    for part in "qkv"
                ]
                ours[f"{blocks}.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    return ours | {
        f"{new}.{kind}": theirs[f"{old}.{kind}"]
        for old, new in names.items()
        for kind in ("weight", "bias")
    }


@pytest.fixture(scope="module")
def model(reference: nn.Module) -> MAE:
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        # every weight comes from the reference
        patch.setattr(unmask.mae, "initialise", lambda model, seed: None)
        ours = MAE(
            Encoder(GRID, 16, 3, 768, 12, 12),
            Decoder(GRID, 768, 768, width=512, depth=8, heads=16),
        )
    ours.load_state_dict(converted(reference.state_dict()), strict=True, assign=True)
    return ours.eval()


def test_positions_are_those_of_the_reference(reference: nn.Module) -> None:
    theirs = (
        reference.vit.embeddings.position_embeddings[0],
        reference.decoder.decoder_pos_embed[0],
    )
    for width, positions in zip((768, 512), theirs, strict=True):
        torch.testing.assert_close(
            sincos_2d(width, GRID), positions.detach(), rtol=0, atol=1e-6
        )


@torch.no_grad()
@pytest.mark.parametrize(
    "target", [Pixel(), NormalisedPixel()], ids=["pixel", "pixel_norm"]
)
def test_loss_and_predictions_are_those_of_the_reference(
    target: Pixel | NormalisedPixel, reference: nn.Module, model: MAE
) -> None:
    images, ids, key = torch.randn(2, 3, 224, 224), torch.arange(2), make_key(0, "mask")
    random = RandomMasking(GRID, 0.75)
    reference.config.norm_pix_loss = isinstance(target, NormalisedPixel)
    theirs = reference(images, noise=uniform(key, 0, ids, 196))
    masking = random(key, ids, 0)
    assert masking.hidden_BL.equal(theirs.mask.bool())

    task = Pretrain(
        model, random, target, 0, lambda model: pytest.fail("no step is taken")
    )
    loss = task.reconstruction_loss(Batch(images, -torch.ones(2), ids, 0), key, 0)
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-5, atol=0)
    expected = gather_tokens(theirs.logits, masking.hidden_BM)
    torch.testing.assert_close(model(images, masking), expected, rtol=1e-4, atol=1e-4)
