"""Merged blocks are timm's blocks: outputs and gradients, whatever is chosen."""

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from unmask import kernels
from unmask.blocks import TransformerBlock, compile_blocks
from unmask.decoder import Decoder
from unmask.drop_path import DropPath
from unmask.encoder import Encoder, LayerNorm
from unmask.kernels import Kernels
from unmask.mae import MAE
from unmask.masking import RandomMasking
from unmask.randomness import make_key
from unmask.targets import Pixel, targets_at

IMAGES, TOKENS, WIDTH, HEADS = 5, 9, 16, 4
TIMM = Kernels(blocks="timm")
MERGED = {
    "products": Kernels(attention={TOKENS: "products"}),
    "fused": Kernels(attention={TOKENS: "fused"}),
}
Run = Callable[[TransformerBlock, Tensor], Tensor]


def make_block(dtype: torch.dtype = torch.float64) -> TransformerBlock:
    """Return a block none of whose parameters is zero."""
    torch.manual_seed(0)
    block = TransformerBlock(WIDTH, HEADS, qkv_bias=True, norm_layer=LayerNorm)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block.to(dtype)


def results(block: TransformerBlock, run: Run, chosen: Kernels) -> dict[str, Tensor]:
    """Return the output, and the gradients of the tokens and of what is trained."""
    dtype = block.norm1.weight.dtype
    torch.manual_seed(1)
    tokens = torch.randn(IMAGES, TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    with kernels.using(chosen):
        output = run(block, tokens)
        weight = torch.randn(output.shape, dtype=torch.float64).to(dtype)
        trained = {k: p for k, p in block.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(
            (output * weight).sum(), [tokens, *trained.values()], allow_unused=True
        )
    assert all(grad is not None for grad in grads)
    return dict(zip(["output", "tokens", *trained], [output, *grads], strict=True))


@pytest.mark.parametrize("attention", MERGED)
@pytest.mark.parametrize("skip", [0, 3])
def test_a_merged_block_is_timms_in_float64(attention: str, skip: int) -> None:
    block = make_block()
    theirs = results(block, lambda b, x: Block.forward(b, x)[:, skip:], TIMM)
    ours = results(block, lambda b, x: b.outputs_after(x, skip), MERGED[attention])
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    if not skip:
        whole = results(block, lambda b, x: b(x), MERGED[attention])
        torch.testing.assert_close(whole, ours, rtol=0, atol=0)


def test_without_merging_the_last_block_computes_hidden_tokens_alone() -> None:
    block = make_block()
    theirs = results(block, lambda b, x: Block.forward(b, x)[:, 3:], TIMM)
    ours = results(block, lambda b, x: b.outputs_after(x, 3), TIMM)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("frozen", ["attn", "mlp", "norm1", "norm2", "mlp.fc1"])
def test_a_part_that_is_frozen_gets_no_gradient_and_changes_no_other(
    frozen: str,
) -> None:
    block = make_block()
    block.get_submodule(frozen).requires_grad_(False)
    theirs = results(block, lambda b, x: Block.forward(b, x), TIMM)
    ours = results(block, lambda b, x: b(x), MERGED["products"])
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_dropped_branches_are_timms() -> None:
    block = make_block()
    block.drop_path1, block.drop_path2 = DropPath(0.5), DropPath(0.25)
    block.drop_path1.uniform_B = torch.tensor([0.1, 0.9, 0.6, 0.4, 0.7])
    block.drop_path2.uniform_B = torch.tensor([0.9, 0.1, 0.6, 0.2, 0.7])
    ours = results(block, lambda b, x: b(x), MERGED["products"])
    theirs = results(block, lambda b, x: Block.forward(b, x), TIMM)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    # image 0 drops the first branch, image 1 the second
    block.eval()
    evaluated = results(block, lambda b, x: b(x), MERGED["products"])
    assert not torch.equal(evaluated["output"], ours["output"])


@pytest.mark.skipif(not kernels.has_onednn(), reason="this torch has no oneDNN")
def test_products_by_onednn_are_equal_up_to_rounding() -> None:
    block = make_block(torch.float32)
    theirs = results(block, lambda b, x: Block.forward(b, x), TIMM)
    chosen = Kernels(linear="onednn", attention={TOKENS: "products"})
    ours = results(block, lambda b, x: b(x), chosen)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", MERGED)
def test_in_bfloat16_the_error_is_no_larger_than_timms(attention: str) -> None:
    block = make_block(torch.float32)

    def autocast(block: TransformerBlock, tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return block(tokens)

    exact = results(block, lambda b, x: b(x), TIMM)
    theirs = results(block, autocast, TIMM)
    ours = results(block, autocast, MERGED[attention])
    for name, value in exact.items():
        assert ours[name].dtype == value.dtype
        their_error = (theirs[name] - value).norm()
        assert 0 < (ours[name] - value).norm() <= 1.5 * their_error + 1e-3, name


def test_attention_without_a_measurement_depends_on_length_and_type() -> None:
    with kernels.using(Kernels()):
        assert kernels.attends_by_products(64, torch.float32)
        assert not kernels.attends_by_products(65, torch.float32)
        assert kernels.attends_by_products(197, torch.bfloat16)
    with kernels.using(Kernels(attention={65: "products"})):
        assert kernels.attends_by_products(65, torch.float32)
        assert not kernels.attends_by_products(66, torch.float32)


def test_kernels_change_two_hundred_losses_by_rounding_alone() -> None:
    """Within 1e-6 (relative), at the learning rate of Table 8."""
    choices = [
        TIMM,
        Kernels(),
        Kernels(attention={5: "fused", 17: "fused"}),
        *([Kernels(linear="onednn")] if kernels.has_onednn() else []),
    ]
    first, *others = map(two_hundred_losses, choices)
    assert first[-1] < 0.6 * first[0]
    for losses in others:
        torch.testing.assert_close(losses, first, rtol=1e-6, atol=0)


def two_hundred_losses(chosen: Kernels) -> Tensor:
    """Return the losses of a small autoencoder's first steps."""
    model = MAE(Encoder((4, 4), 4, 3, 64, 3, 4), Decoder((4, 4), 64, 48, 32, 2, 4))
    optimizer = torch.optim.AdamW(model.parameters(), 1.5e-4, (0.9, 0.95), fused=True)
    noise = torch.randn(512, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    # smooth, as images are
    images = noise.cumsum(2).cumsum(3) / 8
    mask, target = RandomMasking((4, 4), 0.75), Pixel()
    losses = []
    with kernels.using(chosen):
        for step in range(200):
            ids = torch.arange(64) + 64 * (step % 8)
            masking = mask(make_key(0, "mask"), ids, step // 8)
            patches = targets_at(target, images[ids], masking.hidden_BM, 4)
            loss = target.loss(model(images[ids], masking), patches)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def test_another_mask_ratio_compiles_the_encoder_once_more_and_never_again() -> None:
    compiled = CompileCounter()
    model = MAE(Encoder((4, 4), 4, 3, 64, 3, 4), Decoder((4, 4), 64, 48, 32, 3, 4))
    images = torch.randn(2, 3, 16, 16)
    maskings = {
        ratio: RandomMasking((4, 4), ratio)(make_key(0, "mask"), torch.arange(2), 0)
        for ratio in (0.75, 0.5, 0.25, 0.9)
    }
    plain = {ratio: model(images, masking) for ratio, masking in maskings.items()}
    compile_blocks(model, compiled)
    counts = []
    for ratio, masking in maskings.items():
        for _ in range(2):
            output = model(images, masking)
        torch.testing.assert_close(output, plain[ratio], rtol=1e-4, atol=1e-5)
        counts.append(compiled.frame_count)
    # one of the encoder and one of the decoder, then one of any number of tokens
    assert counts == [2, 3, 3, 3]
