"""The studio's answers, without the library that makes its page."""

import re
import socket
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foreign_weights import TINY, build_weights
from small_runs import call, check, image_folder, raw_config, run
from unmask.commands.reconstruct.autoencoder import find_checkpoint, reconstruct_images
from unmask.commands.reconstruct.foreign import NO_READING
from unmask.commands.studio import check_gradio, check_port
from unmask.commands.studio.animation import REVEAL_FRAMES, SWEEP
from unmask.commands.studio.answers import Answer
from unmask.commands.studio.attention import (
    attention_map,
    attention_weights,
    layer_tokens,
)
from unmask.commands.studio.examples import find_examples
from unmask.commands.studio.figures import answer_html, files_html
from unmask.commands.studio.filling import fill_in
from unmask.commands.studio.masks import (
    BRUSH,
    collect_samplers,
    painted_masking,
    read_marks,
    write_marks,
)
from unmask.commands.studio.models import StudioModel, load_studio_model
from unmask.commands.studio.pictures import enlarge, feature_colours
from unmask.commands.studio.session import (
    Choices,
    Session,
    open_session,
    read_ratio,
    read_seed,
)
from unmask.config.checks import ConfigError
from unmask.exchange.facts import Facts
from unmask.exchange.write import write_weights
from unmask.masking import num_visible
from unmask.reconstructions import GREY, to_tiles
from unmask.targets import NormalisedPixel


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger with a pretraining on normalised patches, and a classifier."""
    runs = tmp_path_factory.mktemp("runs")
    run(
        f"runs_dir={runs}",
        "stages=[pretrain,scratch]",
        "target=pixel_norm",
        "masking=block",
        "pretrain.epochs=1",
        "labels=20",
    )
    return runs


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return weights of others, on 4 x 4 patches of 2 x 2 pixels in colour."""
    path = tmp_path_factory.mktemp("others") / "mae"
    facts = Facts("pixel", 0.5, (0.5,) * 3, (0.25,) * 3)
    write_weights(replace(build_weights(TINY), facts=facts), path, "hf")
    return path


@pytest.fixture(scope="module")
def models(runs: Path, others: Path) -> dict[str, StudioModel]:
    (pretrained,), (classifier,) = (
        list(runs.glob(f"{kind}/*")) for kind in ("pretrain", "scratch")
    )
    locations = {"own": pretrained, "classifier": classifier, "others": others}
    return {
        name: load_studio_model(path, NO_READING) for name, path in locations.items()
    }


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_attention_is_what_the_block_mixes_values_by(make_mae, images: Tensor) -> None:
    encoder = make_mae().encoder
    block = encoder.blocks[1]
    weights_BATT = attention_weights(encoder, images, layer=2)
    assert weights_BATT.sum(dim=-1).allclose(torch.ones(4, 4, 17))
    normed_BTD = block.norm1(encoder.unnormalised_tokens(images, depth=1))
    value_BATd = (
        block.attn.qkv(normed_BTD)[..., 64:].unflatten(2, (4, 8)).transpose(1, 2)
    )
    mixed_BTD = block.attn.proj((weights_BATT @ value_BATd).transpose(1, 2).flatten(2))
    assert mixed_BTD.allclose(block.attn(normed_BTD), atol=1e-6)
    with pytest.raises(ValueError, match="layer 3: this encoder has 2"):
        attention_weights(encoder, images, layer=3)


def test_a_map_is_one_heads_row_or_the_mean_of_all(make_mae, images: Tensor) -> None:
    weights_BATT = attention_weights(make_mae().encoder, images, layer=1)
    of_patch = attention_map(weights_BATT, (4, 4), head=2, query=5)
    assert of_patch.equal(weights_BATT[0, 1, 6, 1:].view(4, 4))
    of_class = [
        attention_map(weights_BATT, (4, 4), head, None) for head in (1, 2, 3, 4)
    ]
    mean = attention_map(weights_BATT, (4, 4), None, None)
    assert mean.allclose(torch.stack(of_class).mean(dim=0))
    with pytest.raises(ValueError, match="head 5: this layer has 4"):
        attention_map(weights_BATT, (4, 4), 5, None)
    with pytest.raises(ValueError, match="patch 17: this picture has 16"):
        attention_map(weights_BATT, (4, 4), None, 16)


def test_the_last_layers_tokens_are_the_encoders(make_mae, images: Tensor) -> None:
    encoder = make_mae().encoder
    assert layer_tokens(encoder, images, 2).equal(encoder(images)[:, 1:])
    assert not layer_tokens(encoder, images, 1).allclose(encoder(images)[:, 1:])


def test_colours_are_principal_components() -> None:
    generator = torch.Generator().manual_seed(0)
    along = torch.linspace(0, 1, 12)
    line_LD = along[:, None] * torch.tensor([3.0, 1.0, 0.0, 0.0, 0.5])
    colours = feature_colours(line_LD + 7, (3, 4))
    # patches on a line have one component, from 0 to 1
    assert colours[0, 0].flatten().allclose(along, atol=1e-5)
    assert not colours[0, 1:].any()
    assert not feature_colours(torch.ones(12, 5), (3, 4)).any()
    # a rotation of the features changes no colour, up to a component's direction
    tokens_LD = torch.randn(12, 5, generator=generator) * torch.tensor([9, 5, 3, 1, 1])
    rotation_DD = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    before, after = (
        feature_colours(each, (3, 4))[0]
        for each in (tokens_LD, tokens_LD @ rotation_DD)
    )
    for one, other in zip(before, after, strict=True):
        assert one.allclose(other, atol=1e-4) or one.allclose(1 - other, atol=1e-4)


def test_what_is_painted_is_hidden() -> None:
    marks = "0110" + "0000" * 2 + "0001"
    painted_hw = read_marks(marks, (4, 4))
    masking = painted_masking(painted_hw, (4, 4))
    assert masking.hidden_BL[0].nonzero().flatten().tolist() == [1, 2, 15]
    assert masking.hidden_BM.sort().values.tolist() == [[1, 2, 15]]
    assert write_marks(masking) == marks
    # on a grid twice as fine, each patch is four
    finer = painted_masking(painted_hw, (8, 8)).hidden_BL.view(8, 8).numpy()
    assert (finer == painted_hw.repeat(2, axis=0).repeat(2, axis=1)).all()
    # by area where neither divides the other: the patch above has a quarter of its own
    cell_hw = np.zeros((4, 3), np.bool_)
    cell_hw[1:3, 0:2] = True
    middle = painted_masking(cell_hw, (3, 2)).hidden_BL[0]
    assert middle.nonzero().flatten().tolist() == [2]
    for value, message in ((False, "0 of 16 patches are painted"), (True, "all 16 p")):
        with pytest.raises(ValueError, match=message):
            painted_masking(np.full((4, 4), value), (4, 4))


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (read_ratio, {0.75: 0.75}, [None, 0, 1, -5, 99, "a", float("nan")]),
        (
            read_seed,
            {0: 0, 7.0: 7, 2**53 - 1: 2**53 - 1},
            [None, -1, 1.5, 1e20, "a", float("nan"), float("inf")],
        ),
    ],
)
def test_what_is_typed_is_read_or_refused(
    read: Callable[[Any], float], good: dict[float, float], bad: list[Any]
) -> None:
    assert {typed: read(typed) for typed in good} == good
    for typed in bad:
        with pytest.raises(ValueError, match=r"give a (whole )?number"):
            read(typed)


def test_statistics_of_hidden_patches_give_the_answer_away(images: Tensor) -> None:
    """A perfect prediction becomes the picture itself, which visible ones cannot do."""
    target = NormalisedPixel()
    patches_BLP = 3 * images.view(4, 16, 12) + 1
    normalised = target(patches_BLP)
    exact = target.to_pixels_by_answer(normalised, patches_BLP)
    assert exact.allclose(patches_BLP, atol=1e-5)
    assert not target.to_pixels(normalised, patches_BLP).allclose(patches_BLP, atol=0.1)


def test_a_picture_is_filled_in_where_it_was_hidden(
    models: dict[str, StudioModel], picture: Path
) -> None:
    model = models["own"]
    assert model.autoencoder
    session = Session((model,), [], picture.parent)
    image = session.picture(0, picture)
    masking = session.masking(0, Choices(picture, "random", 0.75, 1))
    plain, leaked = (
        fill_in(model.autoencoder, image, masking, by_answer)
        for by_answer in (False, True)
    )
    assert (plain.num_hidden, plain.num_patches) == (12, 16)
    assert plain.hidden_HW.sum() == 12 * 7 * 7
    original = plain.result.original_BCHW
    for filled in (plain, leaked):
        seen = ~filled.hidden_HW
        assert filled.result.pasted_BCHW[..., seen].equal(original[..., seen])
        assert (filled.prediction[..., seen] == GREY).all()
        assert not filled.error[seen].any()
        wrong = (
            filled.prediction[..., filled.hidden_HW] - original[..., filled.hidden_HW]
        )
        assert filled.root_mean_square == pytest.approx(wrong.square().mean().sqrt())
    # noise has equal patches; but the true brightness is nearer in any case
    assert not plain.result.pasted_BCHW.equal(leaked.result.pasted_BCHW)
    hidden = masking.hidden_BL[0]
    nothing = plain.revealed(torch.zeros_like(hidden), (4, 4))
    assert nothing.equal(plain.result.masked_BCHW)
    assert plain.revealed(hidden, (4, 4)).equal(plain.result.pasted_BCHW)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_page_shows_what_reconstruct_draws(
    runs: Path, models: dict[str, StudioModel], picture: Path, seed: int
) -> None:
    session = Session((models["own"],), [], picture.parent)
    (answer,) = session.reconstructions(Choices(picture, "block", 0.5, seed))
    (folder,) = runs.glob("pretrain/*")
    drawn = reconstruct_images(find_checkpoint(folder), picture, 1, 0.5, seed)
    shown = dict(map(reversed, answer.tiles))
    for name, part in zip(("original", "masked", "pasted"), drawn, strict=True):
        assert np.array_equal(shown[name], enlarge(to_tiles(part)[0])), name
    assert answer.text.startswith("8 of 16 patches hidden (50.0 %)")
    (leaked,) = session.reconstructions(
        Choices(picture, "block", 0.5, seed, by_answer=True)
    )
    assert "leak the answer" in leaked.text
    assert "leak" not in answer.text


def test_the_checkpoints_own_sampler_comes_first(
    models: dict[str, StudioModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(collect_samplers((models["own"],))) == ["block", "random", "grid"]
    (tmp_path / "studio_masks.py").write_text(
        "from unmask.masking import GridMasking\n"
        "class Lattice:\n"
        "    def __init__(self, grid, mask_ratio, why): self.grid = grid\n"
        "    def __call__(self, key, ids_B, epoch):\n"
        "        return GridMasking(self.grid, 0.75)(key, ids_B, epoch)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    raw = raw_config("masking._target_=studio_masks.Lattice", "+masking.why=because")
    autoencoder = models["own"].autoencoder
    assert autoencoder
    model = replace(models["own"], autoencoder=autoencoder._replace(config=check(raw)))
    session = Session((model,), [], tmp_path)
    own, *usual = session.samplers
    assert (own, usual) == ("studio_masks.Lattice", ["random", "block", "grid"])
    marks = session.marks(Choices(None, own, 0.5, 0))
    assert marks == "0101111101011111"
    raw = raw_config("masking=coarse", "masking.block=2")
    model = replace(model, autoencoder=autoencoder._replace(config=check(raw)))
    session = Session((model,), [], tmp_path)
    assert list(session.samplers) == ["coarse", "random", "block", "grid"]
    black = tmp_path / "black.png"
    Image.new("L", (28, 28)).save(black)
    assert len(session.sweep(Choices(black, "coarse", 0.5, 0))) == 1
    # all patches are one square
    session.samplers["coarse"]["block"] = 4
    with pytest.raises(ValueError, match="none or all of 4 x 4 patches"):
        session.sweep(Choices(black, "coarse", 0.5, 0))


def test_a_classifier_shows_attention_and_features_alone(
    models: dict[str, StudioModel], picture: Path
) -> None:
    session = Session((models["classifier"], models["own"]), [], picture.parent)
    choices = Choices(picture, "random", 0.75, 0)
    first, second = session.reconstructions(choices)
    assert not first.tiles
    assert "of stage scratch; only pretraining has a decoder" in first.text
    assert len(second.tiles) == 5
    attention = session.attention(picture, 9, None, session.no_marks)
    # two heads, and their mean
    assert [len(answer.tiles) for answer in attention] == [3, 3]
    assert all("layer 1 of 1: where the class" in each.text for each in attention)
    alone = Session((models["classifier"],), [], picture.parent)
    assert len(alone.features(picture, 1)[0].tiles) == 2
    for make in (alone.sheet, alone.sweep, alone.reveal):
        with pytest.raises(ValueError, match="only pretraining has a decoder"):
            make(choices)


def test_encoders_that_attend_in_their_own_way_are_shown_without_attention(
    models: dict[str, StudioModel], picture: Path
) -> None:
    encoder = deepcopy(models["own"].encoder)
    blocks: Any = encoder.blocks
    for block in blocks:
        block.attention = block.attn
        del block.attn
    session = Session((replace(models["own"], encoder=encoder),), [], picture.parent)
    assert session.heads == 1
    (answer,) = session.attention(picture, 1, None, session.no_marks)
    assert "have no attn.qkv" in answer.text


def test_two_models_on_other_grids_see_the_same_place(
    models: dict[str, StudioModel], picture: Path
) -> None:
    other = models["others"]
    assert other.autoencoder
    coarse = models["own"]
    session = Session((coarse, other), [], picture.parent)
    marks = "0" * 6 + "1" + "0" * 9
    for answer in session.attention(picture, 1, 2, marks):
        assert "where patch 7 attends" in answer.text
        assert answer.tiles[0][1].startswith("head 2: up to ")
    painted = Choices(picture, BRUSH, 0.5, 0, painted=marks)
    for answer in session.reconstructions(painted):
        assert answer.text.startswith("1 of 16 patches hidden")
    # what is wrong with one picture stands in the place of its answer
    nothing = replace(painted, painted="")
    for answer in session.reconstructions(nothing):
        assert answer == Answer("0 of 16 patches are painted: paint over what to hide")
    assert session._same_patch("0" * 10 + "1" + "0" * 5, (8, 8)) == 8 * 5 + 5


def test_pictures_and_animations_are_saved(
    models: dict[str, StudioModel], picture: Path
) -> None:
    session = Session((models["own"], models["others"]), [], picture.parent)
    choices = Choices(picture, "random", 0.75, 0)
    (sheet,) = session.sheet(choices)
    with Image.open(sheet) as drawn:
        # five pictures of 224 pixels in frames, and two rows with titles
        assert drawn.size == (5 * 228, 2 * (228 + 18 + 22))
    for path in session.sweep(choices):
        with Image.open(path) as moving:
            # ratios that hide as many patches are one frame
            assert moving.n_frames == len({num_visible(16, r) for r in SWEEP})
            assert moving.size == (2 * 228, 228 + 18)
    first, _ = session.reveal(choices)
    with Image.open(first) as moving:
        # twelve hidden patches, each after the other, after none
        assert moving.n_frames == min(REVEAL_FRAMES, 12) + 1
        assert moving.info["loop"] == 0
        masked = np.asarray(moving.convert("L")).astype(int)
        moving.seek(12)
        filled = np.asarray(moving.convert("L")).astype(int)
    answer = session.reconstructions(choices)[0]
    tiles = {name: tile[..., 0].astype(int) for tile, name in answer.tiles}
    # of 256 colours for all frames, the nearest is at most a few shades off
    place = slice(20, 244), slice(2, 226)
    assert abs(masked[place] - tiles["masked"]).max() <= 8
    assert abs(filled[place] - tiles["pasted"]).max() <= 8
    for sampler, message in (("grid", "the same patches"), (BRUSH, "one mask ratio")):
        with pytest.raises(ValueError, match=message):
            session.sweep(replace(choices, sampler=sampler))


def test_pictures_of_any_kind_are_read(
    models: dict[str, StudioModel], tmp_path: Path
) -> None:
    """Models of one and of three channels take grey, colour, opacity and 16 bits."""
    ramp = np.linspace(0, 255, 48 * 48).reshape(48, 48).astype(np.uint8)
    kinds = {
        "grey": Image.fromarray(ramp),
        "opaque": Image.fromarray(np.stack([ramp] * 3 + [255 - ramp], axis=2)),
        "deep": Image.fromarray(ramp.astype(np.uint16) * 257),
        "turned": Image.fromarray(ramp),
    }
    session = Session((models["own"], models["others"]), [], tmp_path)
    seen = {}
    for name, image in kinds.items():
        exif = Image.Exif()
        exif[0x0112] = 3 if name == "turned" else 1
        image.save(tmp_path / f"{name}.png", exif=exif)
        one, three = (session.picture(i, tmp_path / f"{name}.png") for i in (0, 1))
        assert (one.shape, three.shape) == ((1, 1, 28, 28), (1, 3, 8, 8))
        seen[name] = one
    assert seen["opaque"].allclose(seen["grey"], atol=0.02)
    assert seen["deep"].allclose(seen["grey"], atol=0.02)
    assert seen["turned"].allclose(seen["grey"].flip(2, 3), atol=0.02)


def test_a_picture_that_cannot_be_read_is_said_in_a_line(
    models: dict[str, StudioModel], tmp_path: Path
) -> None:
    session = Session((models["own"],), [], tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    for name in ("text.png", "cut.png"):
        with pytest.raises(ValueError, match=rf"^{name} cannot be read as an image \("):
            session.picture(0, tmp_path / name)
    # of 40,000 x 40,000 pixels, as its header claims
    (tmp_path / "huge.pgm").write_bytes(b"P5 40000 40000 255\n")
    with pytest.raises(ValueError, match=r"^huge.pgm .* more than the 178,956,970"):
        session.picture(0, tmp_path / "huge.pgm")
    with pytest.raises(ValueError, match="drop a picture first"):
        session.picture(0, None)
    (answer,) = session.features(tmp_path / "text.png", 1)
    assert answer.text.startswith("text.png cannot be read")


def test_examples_are_the_datas_own_or_the_users(
    models: dict[str, StudioModel], runs: Path, others: Path, tmp_path: Path
) -> None:
    (folder,) = runs.glob("pretrain/*")
    session, notes = open_session([folder], NO_READING, None, 5, tmp_path)
    assert notes == []
    drawn = reconstruct_images(find_checkpoint(folder), None, 5, None, 0)
    assert len(session.examples) == 5
    for path, image_CHW in zip(session.examples, drawn.original_BCHW, strict=True):
        assert np.array_equal(
            session.canvas(path), enlarge(to_tiles(image_CHW[None])[0])
        )
    image_folder(tmp_path / "images", per_class=3)
    found, _ = find_examples(models["own"], tmp_path / "images", 4, tmp_path)
    assert [path.name for path in found] == ["000.png", "001.png", "002.png", "000.png"]
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_examples(models["own"], tmp_path / "none", 4, tmp_path)
    (tmp_path / "images" / "cat" / "000.png").write_text("no picture")
    found, note = find_examples(models["own"], tmp_path / "images", 4, tmp_path)
    assert len(found) == 4
    assert "left out: 000.png cannot be read" in note
    for path in found:
        path.write_text("no picture")
    (tmp_path / "images" / "dog" / "002.png").unlink()
    with pytest.raises(ConfigError, match=r"000\.png cannot .*; none can be read"):
        find_examples(models["own"], tmp_path / "images", 4, tmp_path)
    for name in ("others", "classifier"):
        assert find_examples(models[name], None, 4, tmp_path)[0] == []
    # the data lie elsewhere by now
    autoencoder = models["own"].autoencoder
    assert autoencoder
    raw = raw_config("data=image_folder", "data.root=/not/here", "data.channels=1")
    moved = replace(models["own"], autoencoder=autoencoder._replace(config=check(raw)))
    found, note = find_examples(moved, None, 4, tmp_path)
    assert (found, "/not/here" in note, "\n" in note) == ([], True, False)


def test_html_names_what_it_shows_and_fetches_nothing(tmp_path: Path) -> None:
    tile = np.zeros((2, 2, 3), np.uint8)
    html = answer_html("<b>a&b", Answer("1 < 2", ((tile, 'head "1"'),)))
    assert "&lt;b&gt;a&amp;b</b>: 1 &lt; 2</p>" in html
    assert 'alt="head &quot;1&quot;, by &lt;b&gt;a&amp;b"' in html
    Image.fromarray(tile).save(tmp_path / "a.gif")
    made = files_html([tmp_path / "a.gif"])
    assert '<a download="a.gif" href="data:image/gif;base64,' in made
    addresses = re.findall(r'(?:src|href)="([^"]{20})', html + made)
    assert len(addresses) == 3
    assert all(each.startswith("data:image/") for each in addresses)


@pytest.mark.process
def test_what_is_missing_is_said_before_anything_starts(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = runs.glob("pretrain/*")
    for typed, message in (
        (("checkpoint=/nowhere",), "checkpoint=/nowhere: no such file"),
        ((), "checkpoint: missing; give a stage"),
        ((f"checkpoint={folder}", "other=/nowhere"), "other=/nowhere: no such file"),
        ((f"checkpoint={folder}", "port=80"), "port = 80"),
        ((f"checkpoint={folder}", "heads=4"), "says it itself; leave it out"),
        ((f"checkpoint={folder}", "host=0.0.0.0"), "host"),
    ):
        done = call(*typed, script="studio.py", tiny=False)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    monkeypatch.setattr("unmask.commands.studio.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gradio.* type: make studio"):
        check_gradio()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port={port} is taken .* port=\d+"):
            check_port(port)
    check_port(port)
