"""CrossMAE's decoder is what its paper defines (Fu et al. 2024, Sec. 3.2 to 3.4)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from unmask import kernels
from unmask.blocks import CrossBlock, compile_blocks
from unmask.cross_decoder import CrossDecoder
from unmask.data.loading.batch import Batch
from unmask.encoder import Encoder
from unmask.kernels import Kernels
from unmask.mae import MAE
from unmask.masking import Masking, RandomMasking, predict_part
from unmask.randomness import make_key
from unmask.targets import Pixel
from unmask.tasks.pretrain import VALIDATION_KEY, Pretrain

GRID, PATCH, WIDTH, HEADS = (4, 4), 2, 16, 4
TIMM = Kernels(blocks="timm")
PRODUCTS = Kernels(attention={5: "products"})
FUSED = Kernels(attention={5: "fused"})
IDS = torch.arange(3)


def make_model(inter_block: bool = True, dtype: torch.dtype = torch.float64) -> MAE:
    """Return a CrossMAE none of whose trained parameters is zero."""
    encoder = Encoder(GRID, PATCH, 3, 24, 3, 4)
    decoder = CrossDecoder(
        GRID, 24, 12, WIDTH, 2, HEADS, encoder_depth=3 if inter_block else None
    )
    model = MAE(encoder, decoder)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model.to(dtype)


@pytest.fixture
def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64)


@pytest.fixture
def hidden() -> Masking:
    return RandomMasking(GRID, 0.75)(make_key(0, "mask"), IDS, 0)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    x = (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()
    return x * norm.weight + norm.bias


def slow_prediction(model: MAE, image: Tensor, visible: Tensor, patch: int) -> Tensor:
    """Return the prediction of one patch of one image, written from the definition."""
    decoder = model.decoder
    # f_0: the embedded patches; f_k: the output of block k
    features = [f[0] for f in model.encoder.block_outputs(image[None], visible[None])]
    x = decoder.mask_token[0, 0] + decoder.pos_embed[0, patch]
    size = WIDTH // HEADS
    for j, block in enumerate(decoder.blocks):
        if decoder.mix is None:
            source = [layer_norm(t, model.encoder.norm) for t in features[-1]]
        else:
            weights = decoder.mix.weight[j]
            mixed = sum(w * f for w, f in zip(weights, features, strict=True))
            source = [layer_norm(token, block.norm_source) for token in mixed]
        query = block.attn.query(layer_norm(x, block.norm1))
        pairs = [block.attn.key_value(token) for token in source]
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            keys = [pair[:WIDTH][part] for pair in pairs]
            values = [pair[WIDTH:][part] for pair in pairs]
            scores = torch.stack([query[part] @ key for key in keys]) / math.sqrt(size)
            shares = scores.exp() / scores.exp().sum()
            heads.append(sum(s * v for s, v in zip(shares, values, strict=True)))
        x = x + block.attn.proj(torch.cat(heads))
        mlp = block.mlp
        x = x + mlp.fc2(F.gelu(mlp.fc1(layer_norm(x, block.norm2))))
    return decoder.head(layer_norm(x, decoder.norm))


@pytest.mark.parametrize("chosen", [TIMM, PRODUCTS, FUSED], ids=["timm", "products", "fused"])  # fmt: skip
@pytest.mark.parametrize("inter_block", [True, False])
def test_predictions_are_those_of_slow_loops(
    inter_block: bool, chosen: Kernels, pictures: Tensor, hidden: Masking
) -> None:
    model = make_model(inter_block)
    with kernels.using(chosen), torch.no_grad():
        predicted = model(pictures, hidden)
        for b, i in ((0, 0), (1, 11), (2, 5)):
            patch = int(hidden.hidden_BM[b, i])
            visible = hidden.visible_BV[b]
            expected = slow_prediction(model, pictures[b], visible, patch)
            torch.testing.assert_close(predicted[b, i], expected)


@pytest.mark.parametrize("inter_block", [True, False])
def test_merged_blocks_have_the_gradients_of_plain_ones(
    inter_block: bool, pictures: Tensor, hidden: Masking
) -> None:
    gradients = []
    for chosen in (TIMM, PRODUCTS, FUSED):
        model = make_model(inter_block)
        with kernels.using(chosen):
            model(pictures, hidden).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        for other in gradients[1:]:
            torch.testing.assert_close(other[name], gradient)


@pytest.mark.parametrize("inter_block", [True, False])
def test_bfloat16_is_near_float32_with_every_kernel(
    inter_block: bool, pictures: Tensor, hidden: Masking
) -> None:
    model, images = make_model(inter_block, torch.float32), pictures.float()
    expected = model(images, hidden).detach()
    for chosen in (TIMM, PRODUCTS, FUSED):
        model.zero_grad()
        with kernels.using(chosen), torch.autocast("cpu", torch.bfloat16):
            predicted = model(images, hidden)
        assert predicted.dtype == torch.bfloat16
        assert (predicted - expected).norm() < 0.03 * expected.norm()
        predicted.float().square().mean().backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("inter_block", [True, False])
def test_all_that_is_trained_is_used(
    inter_block: bool, pictures: Tensor, hidden: Masking
) -> None:
    """Ranks wait for the gradient of every trained parameter."""
    model = make_model(inter_block)
    model(pictures, hidden).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    # with the blocks' outputs nobody reads the encoder's last norm
    assert model.encoder.norm.weight.requires_grad is not inter_block


def test_a_patch_is_predicted_alike_whatever_else_is(
    pictures: Tensor, hidden: Masking
) -> None:
    model = make_model()
    with torch.no_grad():
        whole = model(pictures, hidden)
        scores = torch.rand(3, 12, generator=torch.Generator().manual_seed(3))
        part = predict_part(hidden, scores, 4)
        predicted = model(pictures, part)
        both = model(pictures, hidden, predict_visible=True)
    chosen = scores.argsort(dim=1)[:, :4]
    expected = whole.gather(1, chosen[:, :, None].expand(-1, -1, 12))
    torch.testing.assert_close(predicted, expected)
    torch.testing.assert_close(both[:, 4:], whole)
    assert torch.equal(part.hidden_BL, hidden.hidden_BL)


def test_a_training_step_predicts_a_part_drawn_anew_and_validation_all() -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    module = Pretrain(
        make_model(dtype=torch.float32),
        RandomMasking(GRID, 0.75),
        Pixel(),
        seed=0,
        make_optimizer=lambda model: pytest.fail("no step is taken"),
        num_predicted=4,
    )
    batch = Batch(images, torch.zeros(3, dtype=torch.long), IDS, epoch=0)
    predicted, target = module.predict(batch, module.mask_key, 0)
    assert predicted.shape == target.shape == (3, 4, 12)
    whole, targets = module.predict(batch, VALIDATION_KEY, 0)
    assert whole.shape == targets.shape == (3, 12, 12)
    # each target is that of the patch which was predicted
    module.num_predicted = None
    everything, of_everything = module.predict(batch, module.mask_key, 0)
    places = torch.cdist(target, of_everything).argmin(dim=2)
    index = places[:, :, None].expand(-1, -1, 12)
    torch.testing.assert_close(of_everything.gather(1, index), target)
    torch.testing.assert_close(everything.gather(1, index), predicted)
    # of 12 hidden patches each is drawn in a third of the epochs, whatever the batch
    module.num_predicted = 4
    seen = torch.zeros(12)
    for epoch in range(90):
        _, target = module.predict(batch, module.mask_key, epoch)
        module.num_predicted = None
        _, of_everything = module.predict(batch, module.mask_key, epoch)
        module.num_predicted = 4
        seen += torch.bincount(
            torch.cdist(target, of_everything).argmin(dim=2).flatten(), minlength=12
        )
    assert seen.sum() == 3 * 90 * 4
    assert (seen / (3 * 90) - 1 / 3).abs().max() < 0.12


def test_blocks_are_compiled_once_for_all(pictures: Tensor, hidden: Masking) -> None:
    model = make_model(dtype=torch.float32)
    counter = CompileCounter()
    with torch.no_grad():
        expected = model(pictures.float(), hidden)
        for block in model.encoder.blocks:
            block.compile(backend="eager")
        model.decoder.blocks[0].compile(backend=counter)
        model(pictures.float(), hidden)
        # in several pieces here, where annotations are checked
        of_one_block = counter.frame_count
        compile_blocks(model.decoder, counter)
        torch.testing.assert_close(model(pictures.float(), hidden), expected)
    assert [type(block) for block in model.decoder.blocks] == [CrossBlock] * 2
    assert counter.frame_count == of_one_block > 0
