"""`import unmask` gives what the commands give: the same images, features, classes and reconstructions."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import unmask
from foreign_weights import HINTS, official_state, save_official
from small_runs import (
    ROOT,
    call,
    environment,
    image_folder,
    load_weights,
    run,
    stage,
)
from unmask.exchange.read_weights import read_weights
from unmask.exchange.write import write_weights
from unmask.heads import Features
from unmask.masking import BlockMasking
from unmask.storage import checkpoints

TINY_TIMM = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a folder of images, and a ledger with a pretraining and classifiers."""
    root = tmp_path_factory.mktemp("library")
    images = image_folder(root / "images", per_class=6, size=24)
    run(
        f"runs_dir={root / 'runs'}",
        "data=image_folder",
        f"data.root={images}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.eval_crop=0.875",
        "data.holdout=0.3",
        "data.num_workers=0",
        "pretrain.epochs=1",
        "pretrain.batch_size=4",
        "stages=[pretrain,finetune]",
        "finetune.batch_size=4",
        "controls=[pixels]",
    )
    return images, root / "runs"


@pytest.fixture(scope="module")
def autoencoder(place: tuple[Path, Path]) -> unmask.Model:
    return unmask.load(stage(place[1], "pretrain", "random"))


def test_importing_imports_nothing() -> None:
    """Torch alone takes seconds; `import unmask` must not wait for it."""
    code = (
        "import sys; before = {*sys.modules}; import unmask;"
        "print(*{*sys.modules} - before, *dir(unmask))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(ROOT / "src")),
    )
    assert set(unmask.__all__) <= set(done.stdout.split()), done.stderr
    assert not {"torch", "numpy", "PIL", "pydantic"} & set(done.stdout.split())
    assert (ROOT / "src/unmask/py.typed").is_file()
    assert all(getattr(unmask, name) for name in unmask.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = unmask.nonsense  # type: ignore[attr-defined]


def test_features_are_those_of_the_stage_and_of_timm(
    place: tuple[Path, Path], autoencoder: unmask.Model, tmp_path: Path
) -> None:
    """Of timm's own model, from the file that src/convert.py writes."""
    pretrained = stage(place[1], "pretrain", "random")
    weights, _ = read_weights(pretrained)
    write_weights(weights, tmp_path / "timm.safetensors", "timm")
    theirs = timm.create_model(
        "vit_base_patch16_224",
        **TINY_TIMM,
        num_heads=2,
        num_classes=0,
        checkpoint_path=tmp_path / "timm.safetensors",
    ).eval()
    # one image as evaluation sees it, prepared by Pillow and torch alone
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    whole = unmask.load(pretrained, eval_crop=1.0)
    image_format = whole.image_format
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (image_format.mean, image_format.std)
    )
    normalised = (torch.tensor(pixels).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        tokens = theirs.forward_features(normalised[None])
        hidden = theirs.forward_intermediates(
            normalised[None], norm=False, output_fmt="NLC", intermediates_only=True
        )
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(whole.encode(pixels, pool="cls"), tokens[:, 0], **close)
    torch.testing.assert_close(
        whole.encode(pixels, pool="patches"), tokens[:, 1:], **close
    )
    torch.testing.assert_close(
        whole.encode(pixels, layer=1, pool="patches"), hidden[0], **close
    )
    torch.testing.assert_close(
        whole.encode(pixels, layer=-1, pool="mean"), hidden[0].mean(dim=1), **close
    )
    assert autoencoder.autoencoder is not None
    encoder = autoencoder.autoencoder.model.encoder
    for pool in ("cls", "mean", "mean_norm"):
        expected = Features(encoder, pool)(normalised[None])  # type: ignore[arg-type]
        assert torch.equal(whole.encode(pixels, pool=pool), expected)  # type: ignore[arg-type]
    embedded = whole.encode(pixels, layer=0, pool="patches")
    assert embedded.shape == (1, 16, 16)
    assert not torch.allclose(embedded, hidden[0])


def test_every_kind_of_image_is_the_same_image(
    place: tuple[Path, Path], autoencoder: unmask.Model
) -> None:
    path = place[0] / "cat" / "000.png"
    opened = Image.open(path)
    array = np.asarray(opened)
    tensor = torch.tensor(array).permute(2, 0, 1)
    expected = autoencoder.encode(path)
    assert expected.shape == (1, autoencoder.width)
    for image in (str(path), [path], opened, array, array.transpose(2, 0, 1), tensor):
        assert torch.equal(autoencoder.encode(image), expected)
    batch = autoencoder.encode(tensor[None].repeat(3, 1, 1, 1))
    torch.testing.assert_close(batch, expected.repeat(3, 1))
    # without rounding to bytes between resizing and the model
    deep16 = array.astype(np.uint16) * 257
    for deep in (array / 255, deep16, deep16.astype(">u2"), tensor.bfloat16() / 255):
        torch.testing.assert_close(
            autoencoder.encode(deep), expected, atol=0.05, rtol=0.05
        )
    folder = autoencoder.encode(place[0], pool="mean")
    names = unmask.list_images(place[0])
    assert [path.name for path in names[:2]] == ["000.png", "001.png"]
    assert len(folder) == len(names) == 12
    one_by_one = [autoencoder.encode(each, pool="mean") for each in names]
    torch.testing.assert_close(folder, torch.cat(one_by_one))
    few = unmask.load(autoencoder.place, batch_size=5).encode(place[0], pool="mean")
    torch.testing.assert_close(few, folder)


def test_reconstructions_are_those_of_the_command(
    place: tuple[Path, Path], autoencoder: unmask.Model, tmp_path: Path
) -> None:
    out = tmp_path / "sheet.png"
    typed = [f"checkpoint={autoencoder.place}", f"images={place[0]}", "count=5"]
    done = call(
        *typed,
        "mask_ratio=0.5",
        "seed=3",
        f"out={out}",
        script="reconstruct.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    images = unmask.list_images(place[0])[:5]
    result = autoencoder.reconstruct(images, mask_ratio=0.5, seed=3)
    with Image.open(out) as sheet:
        assert np.array_equal(np.asarray(result.picture()), np.asarray(sheet))
    assert result.hidden.shape == (5, 4, 4)
    assert (result.hidden.sum(dim=(1, 2)) == 8).all()
    visible = ~result.hidden.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    torch.testing.assert_close(result.pasted * visible, result.original * visible)
    # the masks do not depend on how images are cut into batches
    few = unmask.load(autoencoder.place, batch_size=2)
    again = few.reconstruct(images, mask_ratio=0.5, seed=3)
    assert torch.equal(again.hidden, result.hidden)
    torch.testing.assert_close(again.pasted, result.pasted)


def test_masks_are_named_sampled_or_drawn_by_hand(
    place: tuple[Path, Path], autoencoder: unmask.Model
) -> None:
    path = place[0] / "cat" / "000.png"
    assert autoencoder.reconstruct(path).hidden.sum() == 12
    blocks = autoencoder.reconstruct(path, 0.5, "block").hidden
    sampler = BlockMasking((4, 4), 0.5)
    assert torch.equal(autoencoder.reconstruct(path, masking=sampler).hidden, blocks)
    lattice = autoencoder.reconstruct(path, masking="grid").hidden
    assert not lattice[0, ::2, ::2].any()
    drawn = torch.zeros(2, 4, 4, dtype=torch.bool)
    drawn[0, 1:3] = True
    drawn[1, :, 0] = True
    pair = autoencoder.reconstruct([path, path], masking=drawn)
    assert torch.equal(pair.hidden, drawn)
    alone = autoencoder.reconstruct(path, masking=drawn[0].numpy())
    torch.testing.assert_close(alone.pasted[0], pair.pasted[0])


def test_classes_are_those_of_the_command(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    images, ledger = place
    out = tmp_path / "classes.csv"
    folder = stage(ledger, "finetune")
    typed = [f"checkpoint={folder}", f"images={images}", f"out={out}", "device=cpu"]
    assert call(*typed, script="predict.py", tiny=False).returncode == 0
    classifier = unmask.load(folder, device="cpu")
    answer = classifier.classify(images)
    lines = out.read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in lines] == answer.best
    assert [float(line.split(",")[2]) for line in lines] == pytest.approx(
        answer.probabilities.max(dim=1).values.tolist(), abs=1e-6
    )
    assert classifier.classes == answer.classes == ("cat", "dog")
    assert [len(row) for row in answer.top(1)] == [1] * 12
    named = unmask.load(folder, classes=["Katze", "Hund"]).classify(images)
    assert {*named.best} <= {"Katze", "Hund"}
    # what its own head sees
    features = classifier.encode(images)
    newest = checkpoints.newest(folder / "checkpoints")
    assert newest is not None
    head = load_weights(newest, "model.head.")
    logits = features @ head["weight"].T + head["bias"]
    torch.testing.assert_close(logits.softmax(dim=1), answer.probabilities)


def test_a_prefix_finds_a_stage_in_the_ledger(place: tuple[Path, Path]) -> None:
    folder = stage(place[1], "pretrain", "random")
    found = unmask.load(f"pretrain/{folder.name[:5]}", runs_dir=place[1])
    assert found.place == folder
    assert (found.kind, found.depth, found.grid) == ("autoencoder", 1, (4, 4))
    assert (found.image_size, found.channels, found.classes) == ((16, 16), 3, ())
    assert repr(found).endswith("16 x 16 x 3 images on cpu>")


@pytest.mark.parametrize("head", ["fc_norm", "cls", "probe", "norm"])
def test_weights_of_others_give_what_timm_gives(head: str, tmp_path: Path) -> None:
    weights, _ = read_weights(
        save_official(tmp_path / "official.pth", official_state(head=head)), HINTS
    )
    write_weights(weights, tmp_path / "timm.safetensors", "timm")
    theirs = timm.create_model(
        "vit_base_patch16_224",
        **{**TINY_TIMM, "img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2},
        num_heads=4,
        num_classes=0 if head == "norm" else 5,
        global_pool="avg" if head == "fc_norm" else "token",
        checkpoint_path=tmp_path / "timm.safetensors",
    ).eval()
    if head == "probe":
        # timm has no BatchNorm: src/convert.py folds it into the head
        assert isinstance(theirs.head, torch.nn.Linear)
    ours = unmask.load(tmp_path / "official.pth", heads=4, eval_crop=1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in (ours.image_format.mean, ours.image_format.std)
    )
    normalised = (torch.tensor(pixels).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        features = theirs.forward_features(normalised[None])
        pooled = theirs.forward_head(features, pre_logits=True)
        logits = theirs(normalised[None])
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours.encode(pixels), pooled, **close)
    if head != "norm":
        torch.testing.assert_close(
            ours.classify(pixels).probabilities, logits.softmax(dim=1), **close
        )


def test_errors_are_sentences(
    place: tuple[Path, Path], autoencoder: unmask.Model, tmp_path: Path
) -> None:
    images, ledger = place
    path = images / "cat" / "000.png"
    classifier = unmask.load(stage(ledger, "finetune"))
    on_pixels = unmask.load(stage(ledger, "finetune", "pixels"))
    assert on_pixels.classify(path).probabilities.shape == (1, 2)
    official = save_official(tmp_path / "tuned.pth", official_state(head="fc_norm"))
    plain = save_official(tmp_path / "plain.pth", official_state())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    tuned = unmask.load(official, heads=4)
    closed = Image.open(path)
    closed.close()
    wrong: dict[str, Callable[[], Any]] = {
        r"is an autoencoder, which knows no classes": lambda: autoencoder.classify(
            path
        ),
        r"is a classifier; only pretraining has a decoder": lambda: (
            classifier.reconstruct(path)
        ),
        r"plain.pth has no decoder": lambda: unmask.load(plain, heads=4).reconstruct(
            path
        ),
        r"classifies raw pixels: it has no encoder": lambda: on_pixels.encode(path),
        r"layer=2: this encoder has 1 blocks; give 0": lambda: autoencoder.encode(
            path, layer=2
        ),
        r"layer=True: this encoder has 1 blocks": lambda: autoencoder.encode(
            path, layer=True
        ),
        r"layer=-2: this encoder": lambda: autoencoder.encode(path, layer=-2),
        r"pool=cls: this classifier normalises the mean .* layer=2": lambda: (
            tuned.encode(path, pool="cls")
        ),
        r"images=\[\]: nothing in it": lambda: autoencoder.encode([]),
        r"images=.*nowhere: no such file": lambda: autoencoder.encode("nowhere"),
        r"images=.*images is a folder; give it alone": lambda: autoencoder.encode(
            [images]
        ),
        r"\(5, 5\) and this model takes 3 channels": lambda: autoencoder.encode(
            np.zeros((5, 5), np.uint8)
        ),
        r"floats from -1 to -1; give shares": lambda: autoencoder.encode(
            -torch.ones(3, 8, 8)
        ),
        r"floats from nan": lambda: autoencoder.encode(np.full((8, 8, 3), np.nan)),
        r"int64 has no range of its own": lambda: autoencoder.encode(
            np.zeros((8, 8, 3), np.int64)
        ),
        r"broken.png cannot be read as an image": lambda: autoencoder.encode(broken),
        r"seed=-1: give a whole": lambda: autoencoder.reconstruct(path, seed=-1),
        r"device=cuda:99: torch finds no": lambda: unmask.load(
            plain, heads=4, device="cuda:99"
        ),
        r"mask_ratio=1: give a share": lambda: autoencoder.reconstruct(path, 1),
        r"grid masking hides three patches of four": lambda: autoencoder.reconstruct(
            path, 0.5, "grid"
        ),
        r"the given masking says itself": lambda: autoencoder.reconstruct(
            path, 0.5, np.eye(4, dtype=bool)
        ),
        r"give bools of shape \(4, 4\)": lambda: autoencoder.reconstruct(
            path, masking=np.eye(4)
        ),
        r"hides \[0\] of 16 patches": lambda: autoencoder.reconstruct(
            path, masking=np.zeros((4, 4), bool)
        ),
        r"^/nowhere: no such file": lambda: unmask.load("/nowhere"),
        r"a784: there is no stage": lambda: unmask.load("a784", runs_dir=tmp_path),
        r"device=gpu: give device=auto": lambda: unmask.load(
            plain, heads=4, device="gpu"
        ),
        r"eval_crop=2: .* less than or equal to 1": lambda: unmask.load(
            plain, eval_crop=2
        ),
        r"batch_size=0": lambda: unmask.load(plain, heads=4, batch_size=0),
        r"header: there is no such option": lambda: unmask.load(
            plain,
            header=1,  # type: ignore[call-arg]
        ),
        r"heads=4: .* says it itself; leave it out": lambda: unmask.load(
            autoencoder.place, heads=4
        ),
        r"classes=.* has no classifier's head": lambda: unmask.load(
            plain, heads=4, classes=["a"]
        ),
        r"target=pixel: .*plain.pth has no decoder": lambda: unmask.load(
            plain, heads=4, target="pixel"
        ),
        r"classes: 1 names, and the head has 5": lambda: unmask.load(
            official, heads=4, classes=["a"]
        ),
        r"classes=5: give the names": lambda: unmask.load(
            official,
            heads=4,
            classes=5,  # type: ignore[arg-type]
        ),
        r"neither model.safetensors nor": lambda: unmask.load(tmp_path),
        r"^place='': give a path": lambda: unmask.load(""),
        r"^images='': give a path": lambda: autoencoder.encode(""),
        r"device=meta: torch finds no such": lambda: unmask.load(
            plain, heads=4, device="meta"
        ),
        r"heads=0: .* greater than or equal to 1": lambda: unmask.load(plain, heads=0),
        r"images=a\\nb.png: no such file": lambda: autoencoder.encode("a\nb.png"),
        r"images\[0\] cannot be read .* closed image": lambda: autoencoder.encode(
            [closed]
        ),
        r"a tensor of torch.sparse_coo": lambda: autoencoder.encode(
            torch.zeros(3, 8, 8).to_sparse()
        ),
        r"a tensor of .* on meta": lambda: autoencoder.encode(
            torch.zeros(3, 8, 8, device="meta")
        ),
        r"per_row=0: ": lambda: autoencoder.reconstruct(path).picture(per_row=0),
        r"count=0: ": lambda: classifier.classify(path).top(0),
    }
    for message, attempt in wrong.items():
        with pytest.raises(unmask.InputError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)


@pytest.mark.process
def test_a_wheel_works_outside_the_checkout(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    """Build it of a copy, unpack it, and use it where nothing else is."""
    source = tmp_path / "source"
    for folder in ("src", "conf"):
        shutil.copytree(
            ROOT / folder,
            source / folder,
            ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info"),
        )
    for file in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / file, source)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    built = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = source.glob("unmask-*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        file.extractall(tmp_path / "site")
    assert "unmask/py.typed" in names
    assert "unmask/conf/predict.yaml" in names
    assert not [name for name in names if name.startswith(("train", "tests", "conf"))]
    (weights,) = [stage(place[1], "pretrain", "random")]
    write_weights(read_weights(weights)[0], tmp_path / "mae.pth", "official")
    code = (
        "import runpy, sys, unmask; assert 'site' in unmask.__file__;"
        f"model = unmask.load({str(tmp_path / 'mae.pth')!r}, heads=2, decoder_heads=2);"
        f"image = {str(place[0] / 'cat' / '000.png')!r};"
        "print(model.encode(image).shape, model.reconstruct(image).hidden.sum())\n"
        # values of other types than are annotated: no test process lets them pass
        "for attempt in (lambda: model.encode(image, pool='max'),"
        " lambda: model.encode([image, 3]),"
        " lambda: model.reconstruct(image, masking='x'),"
        " lambda: model.encode(image, layer=1.5),"
        " lambda: model.encode(image, layer='1'),"
        " lambda: unmask.load(3),"
        " lambda: model.reconstruct(image, masking=[[True], [True, False]]),"
        " lambda: unmask.load(model.place, target='x'),"
        " lambda: model.reconstruct(image, masking=3)):\n"
        "    try: attempt()\n"
        "    except unmask.InputError as error: print(error)\n"
        f"sys.argv = ['unmask', 'reconstruct', 'checkpoint={weights}',"
        " f'images={image}', 'out=sheet.png'];"
        "runpy.run_module('unmask', run_name='__main__')\n"
        "sys.argv = ['unmask', 'train']\n"
        "try: runpy.run_module('unmask', run_name='__main__')\n"
        "except SystemExit as leaving: print('code', leaving.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(tmp_path / "site")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 16]) tensor(12)" in done.stdout
    assert "pool=max: give one of cls, mean" in done.stdout
    assert "images[1]: of type int; give a path" in done.stdout
    assert "masking=x: give random, block" in done.stdout
    assert "layer=1.5: " in done.stdout
    assert "layer='1': this encoder has" in done.stdout
    assert "place=3: give a path" in done.stdout
    assert "masking: object of shape (0,); give bools" in done.stdout
    assert "target='x': Input should be 'pixel' or 'pixel_norm'" in done.stdout
    assert "masking: of type int; give a name" in done.stdout
    assert (tmp_path / "sheet.png").is_file()
    assert "code 2" in done.stdout
    assert "need a checkout of the project: python src/train.py" in done.stderr


def python_blocks(page: str) -> str:
    return "".join(
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    )


def test_the_pages_python_runs(
    place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, ledger = place
    monkeypatch.chdir(tmp_path)
    code = python_blocks("README.md") + python_blocks("docs/library.md")
    for before, after in {
        "/path/to/images": images,
        "runs/pretrain/<fingerprint>": stage(ledger, "pretrain", "random"),
        "runs/finetune/<fingerprint>": stage(ledger, "finetune"),
    }.items():
        assert before in code
        code = code.replace(before, str(after))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["features"].shape == (12, 16)
    assert names["patches"].shape == (12, 16, 16)
    assert len(names["answer"].best) == 12
    assert (tmp_path / "sheet.png").is_file()


def test_the_notebook_runs_cell_by_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = f"runs_dir={tmp_path / 'runs'}"
    run(runs, "stages=[pretrain,finetune]", "pretrain.epochs=1", "labels=20")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "notebooks" / "first_steps.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert names["features"].shape == (10, 16)
    assert names["hidden"].sum() == 8
    assert names["answer"].probabilities.shape == (10, 10)
    assert "which knows no classes" in capsys.readouterr().out
