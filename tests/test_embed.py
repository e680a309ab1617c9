"""src/embed.py writes what a model's encode returns, and a stopped command goes on to the same bytes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image

import unmask
from foreign_weights import TINY, build_weights
from small_runs import call, image_folder
from unmask.commands import embed
from unmask.commands.cli import parse
from unmask.commands.embed import pictures
from unmask.commands.embed.arguments import Embed
from unmask.commands.embed.embedding import Embedding
from unmask.commands.embed.files import read_chunks
from unmask.commands.embed.partial import as_dtype, partial_folder
from unmask.config.checks import ConfigError
from unmask.exchange.write import write_weights

WIDTH = TINY.encoder.width


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return weights, and a folder with two classes of ten images."""
    root = tmp_path_factory.mktemp("embed")
    write_weights(build_weights(TINY), root / "mae.safetensors", "safetensors")
    return root / "mae.safetensors", image_folder(root / "images", size=20)


def embed_images(place: tuple[Path, Path], out: Path, *typed: str) -> Path:
    weights, images = place
    own = [f"checkpoint={weights}", f"images={images}", f"out={out}", "device=cpu"]
    arguments = [*own, "num_workers=0", "batch_size=4", *typed]
    return embed.run(parse(Embed, arguments))


def read_features(out: Path) -> np.ndarray:
    column = pd.read_parquet(out)["features"]
    return np.stack([np.stack(list(row)) for row in column])


@pytest.mark.parametrize(
    ("layer", "pool"),
    [(None, None), (None, "mean"), (None, "mean_norm"), (1, "patches"), (-1, "cls")],
)
def test_rows_are_what_encode_returns(
    place: tuple[Path, Path], tmp_path: Path, layer: int | None, pool: Any
) -> None:
    typed = [f"layer={layer}"] if layer else []
    typed += [f"pool={pool}"] if pool else []
    model = unmask.load(place[0], batch_size=4)
    expected = model.encode(place[1], layer=layer, pool=pool)
    names = [f"{p.parent.name}/{p.name}" for p in unmask.list_images(place[1])]
    embed_images(place, tmp_path / "f.parquet", *typed)
    table = pd.read_parquet(tmp_path / "f.parquet")
    assert table["image"].tolist() == names
    assert table["label"].tolist() == ["cat"] * 10 + ["dog"] * 10
    rows = read_features(tmp_path / "f.parquet")
    torch.testing.assert_close(torch.from_numpy(rows), expected)
    embed_images(place, tmp_path / "f.npy", *typed)
    array = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert np.array_equal(array, rows)
    listed = pd.read_csv(tmp_path / "f.npy.csv")
    assert listed["image"].tolist() == names
    note = json.loads((tmp_path / "f.npy.json").read_text())
    assert note["shape"] == list(array.shape) == [20, *expected.shape[1:]]
    # nothing else is left behind
    assert len([*tmp_path.iterdir()]) == 4


def test_names_and_labels_keep_their_letters(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    """Also the narrow space in names of screenshots, line breaks, and bytes of no text."""
    names = ["10\u202fAM.png", "a\nb.png", "x\udcff.png"]
    folder = tmp_path / "images" / "l\udcff"
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(place[1] / "cat" / "000.png", folder / name)
    typed = ["neighbours=true", "map=true"]
    out = embed_images((place[0], tmp_path / "images"), tmp_path / "f.parquet", *typed)
    table = pd.read_parquet(out)
    escaped = "l\\udcff"
    expected = [f"{escaped}/{name}" for name in [*names[:2], "x\\udcff.png"]]
    assert sorted(table["image"]) == sorted(expected)
    assert table["label"].tolist() == [escaped] * 3


def test_nothing_that_is_read_or_of_others_is_replaced(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    images = shutil.copytree(place[1], tmp_path / "images")
    listed = tmp_path / "f.npy.csv"
    listed.write_text(f"image,label\n{images / 'cat' / '000.png'},cat\n")
    own = tmp_path / "g.npy.partial" / "precious"
    own.parent.mkdir()
    own.write_text("mine")
    for source, name, typed, message in (
        (listed, "f.npy", [], r"it would replace .*f.npy.csv, which images= reads"),
        (images, "g.npy", [], r"g.npy.partial, which is something else"),
        (images, "images/f.npy", [], r"would be one of the images"),
        (images, "images/f.parquet", ["map=true"], r"would be one of the images"),
        (images, "h.npy", ["map=true", "count=2"], r"map=true needs at least 3 images"),
    ):
        with pytest.raises(ConfigError, match=message):
            embed_images((place[0], source), tmp_path / name, *typed)
    assert own.read_text() == "mine"
    assert "cat" in listed.read_text()


def test_rows_of_another_job_outlive_one_that_is_done(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    out = embed_images(place, tmp_path / "f.npy")
    for begun, stays in (({"weights": "others"}, True), (None, False)):
        partial = partial_folder(out)
        partial.mkdir(exist_ok=True)
        job = begun or json.loads((tmp_path / "f.npy.json").read_text())["job"]
        (partial / "job.json").write_text(json.dumps(job))
        embed_images(place, out)
        assert partial.exists() == stays


def test_damaged_and_half_replaced_files_are_not_taken_for_finished(
    place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = embed_images(place, tmp_path / "f.npy")
    names = tmp_path / "f.npy.csv"
    kept = names.rename(tmp_path / "kept")
    with pytest.raises(ConfigError, match="something else"):
        embed_images(place, out)
    kept.rename(names)
    with out.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConfigError, match="something else"):
        embed_images(place, out)
    embed_images(place, out, "overwrite=true")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    # between the names of the new rows and the rows
    with monkeypatch.context() as patch:
        patch.setattr("unmask.commands.embed.files.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            embed_images(place, out, "layer=1", "overwrite=true")
    embed_images(place, out, "layer=1")
    expected = unmask.load(place[0], batch_size=4).encode(place[1], layer=1)
    assert np.allclose(np.load(out), expected)


def test_features_too_large_for_half_precision_are_refused() -> None:
    rows = np.array([[1.0, 7e4]], np.float32)
    with pytest.raises(FloatingPointError, match=r"features reach 70000.*65504"):
        as_dtype(rows, np.dtype("float16"))
    assert as_dtype(rows, np.dtype("float32"))[0, 1] == 7e4


def stop_after(
    batches: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Embedding.batches

    def some(self: Embedding, start: int) -> Iterator[Any]:
        for k, batch in enumerate(whole(self, start)):
            if k == batches:
                raise error
            yield batch

    monkeypatch.setattr(Embedding, "batches", some)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_a_stopped_command_goes_on_to_the_same_bytes(
    place: tuple[Path, Path],
    tmp_path: Path,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also with rows after the last save, as a kill leaves them, and bad images on both sides."""
    images = shutil.copytree(place[1], tmp_path / "images")
    for name in ("cat/001.png", "dog/008.png"):
        (images / name).write_bytes(b"nothing")
    out, whole = tmp_path / f"f{suffix}", tmp_path / f"whole{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        # of anything but Ctrl-C nothing is saved at the end
        stop_after(3, RuntimeError("killed"), patch)
        patch.setattr(embed, "SAVE_SECONDS", 0.0)
        with pytest.raises(RuntimeError, match="killed"):
            embed_images((place[0], images), out)
    partial = tmp_path / f"f{suffix}.partial"
    progress = json.loads((partial / "progress.json").read_text())
    assert progress == {"images": 12, "rows": 11}
    with (partial / "rows").open("ab") as file:
        file.write(b"unsaved" * 99)
    with (partial / "skipped.jsonl").open("a") as file:
        file.write('{"image": 13, "reason": "unsaved"}\n{"image": 1')
    asked: list[int] = []
    whole_batches = Embedding.batches

    def counted(self: Embedding, start: int) -> Iterator[Any]:
        asked.append(start)
        return whole_batches(self, start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedding, "batches", counted)
        embed_images((place[0], images), out)
        embed_images((place[0], images), whole)
        # a third time it is found
        embed_images((place[0], images), out)
    assert asked == [12, 0]
    assert out.read_bytes() == whole.read_bytes()
    assert sum(len(chunk) for chunk in read_chunks(out)) == 18
    assert not partial.exists()
    said = capsys.readouterr()
    assert "12 of 20 images are there already" in said.out
    assert "18 images, 2 skipped" in said.out
    assert "is there already" in said.out.splitlines()[-1]
    assert "cat/001.png" in said.err
    assert "dog/008.png" in said.err


def test_other_weights_images_and_settings_are_refused(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    images = shutil.copytree(place[1], tmp_path / "images")
    out = tmp_path / "f.npy"
    embed_images((place[0], images), out)
    first = out.read_bytes()
    with pytest.raises(ConfigError, match=r"exists, with features of pool=cls; give"):
        embed_images((place[0], images), out, "pool=mean")
    Image.new("RGB", (9, 9)).save(images / "cat" / "000.png")
    with pytest.raises(ConfigError, match=r"with features of other images"):
        embed_images((place[0], images), out)
    assert out.read_bytes() == first
    embed_images((place[0], images), out, "overwrite=true")
    second = np.load(out)
    assert not np.array_equal(np.frombuffer(first[128:], np.float32), second.ravel())
    # the same for what was begun
    begun = tmp_path / "begun.parquet"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            embed_images((place[0], images), begun)
    with pytest.raises(
        ConfigError, match=r"begun.parquet.partial was begun with layer"
    ):
        embed_images((place[0], images), begun, "layer=1")
    embed_images((place[0], images), begun, "layer=1", "overwrite=true")
    assert read_features(begun).shape == (20, WIDTH)
    # a file that is none of ours
    other = tmp_path / "other.parquet"
    other.write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"with features of something else"):
        embed_images((place[0], images), other)
    with (
        FileLock(tmp_path / ".new.npy.lock"),
        pytest.raises(ValueError, match="another process is writing it"),
    ):
        embed_images((place[0], images), tmp_path / "new.npy")


def test_lists_give_labels_and_half_precision_half_the_size(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    lines = [f"cat/{i:03d}.png,{i % 3}" for i in range(6)]
    listed = place[1] / "some.csv"
    listed.write_text("\n".join(["image,label", *lines]))
    out = embed_images(
        (place[0], listed), tmp_path / "f.parquet", "dtype=float16", "count=5"
    )
    listed.unlink()
    table = pd.read_parquet(out)
    assert table["label"].tolist() == ["0", "1", "2", "0", "1"]
    assert table["features"][0].dtype == np.float16
    exact = unmask.load(place[0]).encode(unmask.list_images(place[1])[:5])
    assert np.allclose(np.stack(list(table["features"])), exact, atol=1e-2)
    flat = embed_images((place[0], place[1] / "cat"), tmp_path / "flat.parquet")
    assert "label" not in pd.read_parquet(flat)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_pictures_show_the_nearest_and_the_widest(
    place: tuple[Path, Path],
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # many small parts, as a large file has
    monkeypatch.setattr("unmask.commands.embed.files.GROUP_BYTES", 7 * WIDTH * 4)
    out = embed_images(place, tmp_path / f"f{suffix}", "neighbours=true", "map=true")
    chunks = [*read_chunks(out)]
    assert len(chunks) == 3
    rows = np.concatenate(chunks)
    found = pictures.find_neighbours(out, len(rows))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for query, nearest, cosines in zip(*(part.tolist() for part in found), strict=True):
        expected = unit @ unit[query]
        expected[query] = -2
        assert nearest == np.argsort(-expected)[:5].tolist()
        assert np.allclose(cosines, np.sort(expected)[::-1][:5], atol=1e-6)
    points, shares = pictures.project(out, np.arange(20))
    centred = rows - rows.mean(axis=0)
    _, values, axes = np.linalg.svd(centred.astype(np.float64))
    assert np.allclose(np.abs(points), np.abs(centred @ axes[:2].T), atol=1e-4)
    assert shares == pytest.approx(
        (values**2 / (values**2).sum())[:2].tolist(), abs=1e-6
    )
    for kind in ("neighbours", "map"):
        with Image.open(tmp_path / f"f.{kind}.png") as picture:
            assert min(picture.size) > 300
            assert len({*picture.convert("RGB").resize((64, 64)).getdata()}) > 20


def test_a_map_is_of_umap_where_it_is_installed(
    place: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It takes long to install: a module of its name stands in."""
    (tmp_path / "umap.py").write_text(
        "class UMAP:\n"
        "    def __init__(self, n_neighbors, metric, random_state, n_jobs):\n"
        "        assert (n_neighbors, metric, random_state) == (15, 'cosine', 0)\n"
        "    def fit_transform(self, vectors):\n"
        f"        assert vectors.shape == (20, {WIDTH})\n"
        "        return vectors[:, :2]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    embed_images(place, tmp_path / "f.npy", "map=true")
    assert "map, by UMAP" in capsys.readouterr().out
    assert (tmp_path / "f.map.png").is_file()


def test_wrong_arguments_are_refused_in_a_line(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    weights, images = place
    good = {
        "checkpoint": weights,
        "images": images,
        "out": tmp_path / "f.npy",
        "num_workers": 0,
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"checkpoint": "/nowhere"}, "checkpoint=/nowhere: no such file"),
        ({"images": "/nowhere"}, "images=/nowhere: no such file"),
        ({"out": tmp_path / "f.csv"}, "end it in .parquet or .npy"),
        ({"out": "/nowhere/f.npy"}, "its folder does not exist"),
        ({"layer": 3}, "layer=3: this encoder has 2 blocks"),
        ({"pool": "max"}, "pool = 'max'"),
        ({"pool": "patches", "map": "true"}, "map=true compares images"),
        ({"dtype": "int8"}, "dtype = 'int8'"),
        ({"device": "cuda"}, "device=cuda: torch finds no such device here"),
        ({"images": weights.parent / "mae.safetensors"}, "none of 1 images"),
    ]
    if torch.cuda.is_available():
        wrong = [each for each in wrong if "device" not in each[0]]
    for changes, message in wrong:
        typed = [f"{key}={value}" for key, value in (good | changes).items()]
        done = call(*typed, script="embed.py", tiny=False)
        assert message in done.stderr, done.stderr
        assert done.returncode == (1 if "none of" in message else 2)
        assert len(done.stderr.splitlines()) == 1


def test_a_full_disk_is_seen_before_the_work(
    place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * WIDTH * 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        ValueError, match=r"GiB more and 0.0 GiB are free; give another"
    ):
        embed_images(place, tmp_path / "huge.npy")
