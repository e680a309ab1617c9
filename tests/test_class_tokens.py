"""Several class tokens: Pixio's encoder, with MAE's as the case of one."""

from pathlib import Path

import pytest
import torch

from small_runs import plan_for
from unmask.decoder import Decoder, LinearHead
from unmask.encoder import Encoder
from unmask.exchange.load_into_model import load_encoder, resample_positions
from unmask.exchange.read_weights import read_weights
from unmask.exchange.sizes import Geometry, Stack
from unmask.exchange.weights import Weights, build_encoder
from unmask.exchange.write import write_weights
from unmask.heads import AttentiveFeatures, Features, FineTuneFeatures
from unmask.mae import MAE
from unmask.masking import RandomMasking
from unmask.patches import patchify
from unmask.randomness import make_key

GRID, PATCH, WIDTH, TOKENS = (4, 4), 2, 16, 5
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MASKING = RandomMasking(GRID, 0.75)(make_key(0, "mask"), torch.arange(3), 0)


def make_encoder(grid: tuple[int, int] = GRID) -> Encoder:
    encoder = Encoder(grid, PATCH, 3, WIDTH, 2, 4, class_tokens=TOKENS)
    MAE(encoder, Decoder(grid, WIDTH, 12, 8, 1, 2))
    return encoder


def test_tokens_are_those_of_the_definition() -> None:
    encoder = make_encoder()
    patches = encoder.patch_embed(patchify(IMAGES, PATCH)) + encoder.pos_embed[0, 5:]
    sequences = []
    for b in range(3):
        visible = [patches[b, i] for i in MASKING.visible_BV[b].tolist()]
        classes = [encoder.cls_token[0, k] for k in range(TOKENS)]
        sequences.append(torch.stack(classes + visible))
    tokens = torch.stack(sequences)
    for block in encoder.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(
        encoder(IMAGES, MASKING.visible_BV), encoder.norm(tokens)
    )
    # they start apart, without a position: else all of them would stay equal
    assert encoder.pos_embed[0, :TOKENS].count_nonzero() == 0
    assert torch.pdist(encoder.cls_token[0]).min() > 0.01


def test_pooling_takes_their_mean_and_leaves_them_out_of_the_patches() -> None:
    encoder = make_encoder()
    tokens, plain = encoder(IMAGES), encoder.unnormalised_tokens(IMAGES)
    classes = sum(tokens[:, k] for k in range(TOKENS)) / TOKENS
    mean = sum(tokens[:, TOKENS + i] for i in range(16)) / 16
    plain_mean = sum(plain[:, TOKENS + i] for i in range(16)) / 16
    close = torch.testing.assert_close
    close(Features(encoder, "cls")(IMAGES), classes)
    close(Features(encoder, "mean")(IMAGES), mean)
    close(FineTuneFeatures(encoder, "cls")(IMAGES), classes)
    tuned = FineTuneFeatures(encoder, "mean")
    close(tuned(IMAGES), tuned.fc_norm(plain_mean))
    attentive = AttentiveFeatures(encoder, 4, 0)
    close(attentive(IMAGES), attentive.attention(tokens[:, TOKENS:]))


@pytest.mark.parametrize("mask_tokens", [False, True])
def test_decoders_tell_class_tokens_from_patches(mask_tokens: bool) -> None:
    """A class token gets no position; of patches each has its own."""
    decoder = Decoder(GRID, WIDTH, 12, 8, 1, 2, mask_tokens=not mask_tokens)
    model = MAE(make_encoder(), decoder, mask_tokens=mask_tokens)
    seen = []
    decoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder.blocks[0].outputs_after = lambda tokens, skip: (
        seen.append((tokens, skip)) or tokens[:, skip:]
    )
    predicted = model(IMAGES, MASKING)
    assert predicted.shape == (3, 12, 12)
    tokens, skip = seen[-1]
    assert skip == TOKENS + 4
    hidden = model._encoder_mask_tokens(MASKING)
    encoded = decoder.embed(model.encoder(IMAGES, MASKING.visible_BV, hidden))
    torch.testing.assert_close(tokens[:, :TOKENS], encoded[:, :TOKENS])
    visible = encoded[:, TOKENS : TOKENS + 4]
    positions = decoder.pos_embed[0, 1:][MASKING.visible_BV]
    torch.testing.assert_close(tokens[:, TOKENS : TOKENS + 4], visible + positions)


def test_a_linear_head_reads_the_hidden_patches() -> None:
    head = LinearHead(WIDTH, 12)
    encoded = torch.randn(3, TOKENS + 16, WIDTH)
    close = torch.testing.assert_close
    close(head(encoded, MASKING), head.head(encoded[:, TOKENS + 4 :]))
    close(head(encoded, MASKING, True), head.head(encoded[:, TOKENS:]))


def test_positions_are_resampled_for_patches_alone() -> None:
    positions = torch.randn(1, TOKENS + 16, WIDTH)
    one = torch.cat([positions[:, :1], positions[:, TOKENS:]], dim=1)
    for resampling in ("port", "timm"):
        ours = resample_positions(positions, GRID, (6, 4), resampling)
        expected = resample_positions(one, GRID, (6, 4), resampling)
        assert torch.equal(ours[:, :TOKENS], positions[:, :TOKENS])
        torch.testing.assert_close(ours[:, TOKENS:], expected[:, 1:])


def test_weights_are_written_under_our_names_and_refused_elsewhere(
    tmp_path: Path,
) -> None:
    geometry = Geometry(3, PATCH, GRID, Stack(WIDTH, 2, 4, 4.0), None, TOKENS)
    state = {k: v.clone() for k, v in make_encoder().state_dict().items()}
    weights = Weights(state, None, None, geometry, "safetensors", None)
    for layout in ("timm", "official", "hf"):
        with pytest.raises(ValueError, match="one class token, these weights 5; use"):
            write_weights(weights, tmp_path / layout, layout)
    write_weights(weights, tmp_path / "a.safetensors", "safetensors")
    again, _ = read_weights(tmp_path / "a.safetensors")
    assert again.geometry == geometry
    encoder = build_encoder(again.geometry)
    load_encoder(encoder, again)
    torch.testing.assert_close(encoder(IMAGES), make_encoder()(IMAGES))
    plain = Encoder(GRID, PATCH, 3, WIDTH, 2, 4)
    with pytest.raises(ValueError, match=r"model\.class_tokens=5"):
        load_encoder(plain, again)


def test_one_class_token_keeps_older_results() -> None:
    (one,) = plan_for("stages=[pretrain]").stages
    (eight,) = plan_for("stages=[pretrain]", "model.class_tokens=8").stages
    assert "class_tokens" not in one.science["model"]
    assert eight.science["model"] == one.science["model"] | {"class_tokens": 8}
    assert "_target_" not in one.science["model"]
    assert "_target_" not in one.science["decoder"]
