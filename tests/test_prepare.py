"""src/prepare.py: nothing is lost on the way, a killed conversion goes on, and faults are told before time is spent."""

import csv
import errno
import io
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from omegaconf import OmegaConf
from PIL import Image

import shards
from shards import prepared
from small_runs import ROOT, raw_config
from unmask.commands import cli
from unmask.commands.prepare import found_kind
from unmask.config.arguments import Prepare, arguments
from unmask.config.checks import ConfigError, check
from unmask.data.containers.change import Change
from unmask.data.containers.convert import Conversion
from unmask.data.containers.source import list_container
from unmask.data.containers.tasks import SHARD_MB
from unmask.data.containers.writers import WRITE
from unmask.data.listing.listing import list_images
from unmask.data.listing.stores import Folder
from unmask.data.loading.batch import Format
from unmask.data.loading.folders import Files, folder_splits, stored
from unmask.data.loading.views import Views
from unmask.data.sources import list_source

RAW = {"from": "a", "to": "b", "format": "raw", **shards.ARGUMENTS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards.imagenet(tmp_path_factory.mktemp("prepare") / "folder", per_class=5)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of each split: one mebibyte is as many bytes as an image."""
    monkeypatch.setattr("unmask.commands.prepare.MEBIBYTE", 1500)
    monkeypatch.setattr(
        "unmask.data.containers.tasks.SHARD_MB", dict.fromkeys(SHARD_MB, 3)
    )
    monkeypatch.setattr("unmask.commands.prepare.SHARD_MB", dict.fromkeys(SHARD_MB, 3))


def contents(root: Path) -> dict[str, bytes]:
    found = (
        path
        for split in ("train", "val")
        for path in (root / split).rglob("*")
        if path.is_file()
    )
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def stamps(root: Path) -> dict[str, int]:
    found = (
        path
        for path in root.rglob("*")
        if path.suffix in (".tar", ".parquet", ".bin", ".pixels", ".JPEG")
    )
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in found}


@pytest.mark.usefixtures("small_shards")
def test_through_all_containers_and_back_every_byte_is_the_same(
    folder: Path, tmp_path: Path
) -> None:
    last, identity = folder, list_images(folder).identity
    for kind in ("webdataset", "parquet", "litdata", "folder"):
        said = prepared(last, tmp_path / kind, kind)
        assert (
            f"identity {identity}, the source's: runs share their fingerprints" in said
        )
        last = tmp_path / kind
    assert contents(last) == contents(folder)
    assert len(list((tmp_path / "webdataset").glob("train-*.tar"))) > 2
    assert (
        len(
            json.loads((tmp_path / "litdata" / "train" / "index.json").read_bytes())[
                "chunks"
            ]
        )
        > 2
    )


def test_shards_of_the_hub_become_class_folders(folder: Path, tmp_path: Path) -> None:
    prepared(shards.hub_parquet(folder, tmp_path / "hub"), tmp_path / "known", "folder")
    assert contents(tmp_path / "known") == contents(folder)
    other = shards.hub_parquet(
        folder, tmp_path / "other", named=False, names=("a/b", "c", "d")
    )
    prepared(other, tmp_path / "named", "folder")
    assert sorted(path.name for path in (tmp_path / "named" / "train").iterdir()) == [
        "a_b",
        "c",
        "d",
    ]
    prepared(other, tmp_path / "tars", "webdataset")
    found, theirs = (
        list_container(k, str(r), 0.1)
        for k, r in (("webdataset", tmp_path / "tars"), ("parquet", other))
    )
    assert (found.train, found.classes, found.identity) == (
        theirs.train,
        ("a/b", "c", "d"),
        theirs.identity,
    )


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", ["webdataset", "parquet", "litdata", "raw", "folder"])
def test_a_killed_conversion_goes_on_and_ends_as_an_undisturbed_one(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, more = tmp_path / "target", {"short_side": 16} if kind == "raw" else {}
    write, written = WRITE.get(kind), 0

    def dying(path: Path, samples: object, classes: tuple[str, ...]) -> None:
        nonlocal written
        written += 1
        if written == 3:
            (path.parent / f".{path.name}.0abc.tmp").write_bytes(b"what a kill leaves")
            (path.parent / ".chunk0abc").mkdir()
            (path.parent / ".chunk0abc" / "part").write_bytes(b"what LitData leaves")
            raise KeyboardInterrupt
        assert write is not None
        write(path, samples, classes)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setitem(WRITE, kind, dying)
        patch.setattr(
            "unmask.data.containers.convert._write_files",
            dying_files if kind == "folder" else None,
        )
        with pytest.raises(KeyboardInterrupt):
            prepared(folder, target, kind, workers=1, **more)
    before = stamps(target)
    said = prepared(folder, target, kind, workers=1, **more)
    assert kind == "folder" or (
        len(before) >= 2 and f"{len(before)} shards stand already" in said
    )
    assert kind == "folder" or all(
        stamps(target)[name] == stamp for name, stamp in before.items()
    )
    assert not [*target.rglob("*.tmp"), *target.rglob(".chunk*")]
    assert not (target / ".preparing").exists()
    prepared(folder, tmp_path / "undisturbed", kind, workers=1, **more)
    assert {p: (target / p).read_bytes() for p in stamps(target)} == {
        p: (tmp_path / "undisturbed" / p).read_bytes()
        for p in stamps(tmp_path / "undisturbed")
    }


def dying_files(target: Path, samples: object) -> int:
    for number, sample in enumerate(samples):  # type: ignore[var-annotated, arg-type]
        (target / sample.name).parent.mkdir(parents=True, exist_ok=True)
        (target / sample.name).write_bytes(sample.content[: -(number == 1) or None])
        if number == 1:
            raise KeyboardInterrupt
    return 0


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", ["webdataset", "raw", "folder"])
def test_run_again_it_verifies_all_and_mends_what_was_damaged(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    target, more = tmp_path / "target", {"short_side": 16} if kind == "raw" else {}
    prepared(folder, target, kind, **more)
    before = stamps(target)
    prepared(folder, target, kind, **more)
    assert stamps(target) == before
    victim = target / sorted(before)[1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    said = prepared(folder, target, kind, **more)
    assert victim.read_bytes() == whole
    assert "15 images" in said or "21 images" in said
    assert (
        "damaged or missing, and made again: "
        + ("train" if kind == "folder" else victim.name)
    ) in said


def test_too_small_a_disk_is_told_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=9000)
    monkeypatch.setattr("unmask.commands.prepare.shutil.disk_usage", lambda _: free)
    with pytest.raises(
        OSError,
        match=r"to=.*: 0.00 GiB are needed and 0.00 GiB are free; make room, or choose",
    ):
        prepared(folder, tmp_path / "target", "webdataset")
    with pytest.raises(
        OSError, match=r"choose another disk, a smaller short_side or a lower quality"
    ):
        prepared(folder, tmp_path / "target", "webdataset", short_side=24, quality=95)
    with pytest.raises(OSError, match=r"GiB are needed"):
        prepared(folder, tmp_path / "target", "webdataset")
    assert not stamps(tmp_path / "target")
    with pytest.raises(OSError, match=r"about 0.00 GiB are needed"):
        prepared(folder, tmp_path / "target2", "raw")
    prepared(folder, tmp_path / "target3", "raw", short_side=5)


def test_a_folder_that_holds_something_else_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(
        ConfigError,
        match=r"to=.*full: it holds thesis.tex already; choose an empty folder",
    ):
        prepared(folder, tmp_path / "full", "webdataset")
    prepared(folder, tmp_path / "made", "webdataset")
    with pytest.raises(
        ConfigError,
        match=(
            r"in another way \(short_side was null, is 16; quality was null, is 90\);"
            r" choose"
        ),
    ):
        prepared(folder, tmp_path / "made", "webdataset", short_side=16)
    (other := shutil.copytree(folder, tmp_path / "other"))
    first = min(path for path in other.rglob("*") if path.is_file())
    first.rename(first.with_name("renamed" + first.suffix))
    with pytest.raises(
        ConfigError,
        match=r"\(as many, but their names, sizes, classes or shards differ\); choose",
    ):
        prepared(other, tmp_path / "made", "webdataset")
    with pytest.raises(ConfigError, match=r"it must not lie in from="):
        prepared(folder, folder / "shards", "webdataset")
    with (
        FileLock(tmp_path / "made" / ".preparing.lock"),
        pytest.raises(ConfigError, match=r"another src/prepare.py"),
    ):
        prepared(folder, tmp_path / "made", "webdataset")


def test_images_are_made_smaller_never_larger_and_keep_their_names(
    folder: Path, tmp_path: Path
) -> None:
    said = prepared(folder, tmp_path / "small", "webdataset", short_side=33, quality=80)
    ours, theirs = (
        list_container("webdataset", str(tmp_path / "small"), 0.1),
        list_images(folder),
    )
    assert ours.train == theirs.train
    assert (
        f"identity {ours.identity}, another than the source's {theirs.identity}" in said
    )
    small, whole = (
        folder_splits(listing, 3, (8, 8), False)[0] for listing in (ours, theirs)
    )
    assert isinstance(small, Files)
    assert isinstance(whole, Files)
    sizes = [
        (stored(small, i).shape[1:], stored(whole, i).shape[1:])
        for i in range(len(small))
    ]
    assert {min(after) for after, _ in sizes} == {32, 33}
    assert all(after == before for after, before in sizes if min(before) <= 33)
    assert all(abs(a[1] / a[0] - b[1] / b[0]) < 0.03 for a, b in sizes)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_kind_of_image_is_stored_as_it_looks(mode: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 48 * 64).astype(np.uint8).reshape(48, 64)
    image = (
        Image.fromarray(ramp.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(ramp).convert(mode)
    )
    image.save(path := tmp_path / ("image.tif" if mode == "CMYK" else "image.png"))
    pixels = Change(24, None, 3)(path.read_bytes(), path.name)
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (24, 32, 3)
    if mode != "1":
        expected = ramp.reshape(24, 2, 32, 2).mean(axis=(1, 3))
        assert np.abs(pixels[:, :, 1].astype(float) - expected)[2:-2, 2:-2].max() < 4
    assert isinstance(Change(24, 90)(path.read_bytes(), path.name), bytes)


def test_photos_are_stored_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with io.BytesIO() as file:
        Image.new("RGB", (40, 20)).save(file, "JPEG", exif=exif)
        assert Image.open(
            io.BytesIO(Change(20, 90)(file.getvalue(), "x.png"))
        ).size == (20, 40)  # type: ignore[arg-type]


def bad_folder(folder: Path, tmp_path: Path) -> Path:
    root = tmp_path / "bad"
    shutil.copytree(folder, root)
    (root / "train" / shards.WNIDS[0] / f"{shards.WNIDS[0]}_7.JPEG").write_bytes(
        b"\xff\xd8\xff half a photo"
    )
    (root / "train" / shards.WNIDS[1] / f"{shards.WNIDS[1]}_0.JPEG").write_bytes(b"")
    return root


def test_bad_images_are_copied_and_listed_and_counts_stay(
    folder: Path, tmp_path: Path
) -> None:
    root = bad_folder(folder, tmp_path)
    prepared(root, tmp_path / "same", "parquet")
    assert not (tmp_path / "same" / "bad_images.csv").exists()
    said = prepared(root, tmp_path / "small", "webdataset", short_side=20)
    assert "2 could not be decoded and were copied as they are: " in said
    rows = list(
        csv.reader((tmp_path / "small" / "bad_images.csv").read_text().splitlines())
    )
    assert [row[0] for row in rows[1:]] == [
        "train/n01440764/n01440764_7.JPEG",
        "train/n01443537/n01443537_0.JPEG",
    ]
    assert "2 could not be decoded" in prepared(
        root, tmp_path / "small", "webdataset", short_side=20
    )
    assert (
        list(
            csv.reader((tmp_path / "small" / "bad_images.csv").read_text().splitlines())
        )
        == rows
    )
    prepared(tmp_path / "small", tmp_path / "back", "folder")
    assert contents(tmp_path / "back").keys() == contents(root).keys()
    assert contents(tmp_path / "back")[rows[1][0]] == b"\xff\xd8\xff half a photo"


def closed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if these files could not be read: tests run by root can read all."""
    read = Folder.read

    def refused(self: Folder, i: int) -> bytes:
        if self.name(i).endswith(names):
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(self, i)

    monkeypatch.setattr(Folder, "read", refused)


@pytest.mark.parametrize(
    ("kind", "short_side"),
    [
        ("webdataset", None),
        ("webdataset", 16),
        ("parquet", None),
        ("litdata", None),
        ("folder", None),
        ("raw", 16),
    ],
)
def test_a_file_that_cannot_be_read_costs_its_place_until_it_can(
    kind: str,
    short_side: int | None,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, name = tmp_path / "made", "n01440764_0.JPEG"
    with monkeypatch.context() as patch:
        closed(patch, name)
        said = prepared(folder, target, kind, short_side=short_side)
    assert "1 could not be read, and nothing stands in their place" in said
    assert (target / "bad_images.csv").read_text().splitlines()[1:] == [
        f"train/n01440764/{name},not read: Permission denied"
    ]
    if kind != "folder":
        train, _ = folder_splits(
            list_container(kind, str(target), 0.1), 3, (8, 8), in_memory=False
        )
        views = Views(train, Format((8, 8), (0.5,) * 3, (0.5,) * 3), None, 0)
        assert [bad.id for bad in views.__getitems__([(0, 0), (0, 2)]).bad] == [0]
    assert "could not be read" not in prepared(
        folder, target, kind, short_side=short_side
    )
    assert not (target / "bad_images.csv").exists()
    prepared(folder, tmp_path / "whole", kind, short_side=short_side)
    made, whole = (
        {k: v for k, v in contents(root).items() if "index.json" not in k}
        for root in (target, tmp_path / "whole")
    )
    assert made == whole


@pytest.mark.parametrize("kind", ["parquet", "litdata"])
def test_names_that_are_no_text_are_told_before_anything_is_written(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(folder, tmp_path / "odd")
    image = next((source / "train" / "n01440764").iterdir())
    image.rename(image.with_name(os.fsdecode(b"a\xff.JPEG")))
    with pytest.raises(
        ConfigError,
        match=(
            rf"format = {kind}: .* train/n01440764/a\\udcff.JPEG is none .UTF-8.;"
            r" rename it"
        ),
    ):
        prepared(source, tmp_path / "made", kind)
    assert not (tmp_path / "made").exists()
    prepared(source, tmp_path / "tars", "webdataset")
    prepared(tmp_path / "tars", tmp_path / "back", "folder")
    assert contents(tmp_path / "back") == contents(source)


@pytest.mark.parametrize("kind", ["webdataset", "folder"])
def test_what_is_half_made_is_no_data_set_yet(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Conversion, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepared(folder, tmp_path / "made", kind)
    with pytest.raises(
        ValueError,
        match=r"made is not finished: run the same src/prepare.py again, which goes on",
    ):
        (
            list_container(kind, str(tmp_path / "made"), 0.1)
            if kind == "webdataset"
            else list_images(tmp_path / "made")
        )
    prepared(folder, tmp_path / "made", kind)
    assert (
        list_source("image_folder", tmp_path / "made", 0.1, kind).identity
        == list_images(folder).identity
    )


def test_many_files_that_cannot_be_read_are_the_disks_fault(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        closed(patch, ".JPEG")
        with pytest.raises(
            ValueError,
            match=r".JPEG \(Permission denied\) and \d+ more of \d+ images cannot be",
        ):
            prepared(folder, tmp_path / "tars", "webdataset")
    assert "could not be read" not in prepared(folder, tmp_path / "tars", "webdataset")
    assert (
        list_container("webdataset", str(tmp_path / "tars"), 0.1).identity
        == list_images(folder).identity
    )


def test_a_bad_image_among_raw_pixels_is_known_as_one_when_it_is_read(
    folder: Path, tmp_path: Path
) -> None:
    said = prepared(bad_folder(folder, tmp_path), tmp_path / "raw", "raw")
    assert "2 could not be decoded; empty pixels stand in their place: " in said
    train, _ = folder_splits(
        list_container("raw", str(tmp_path / "raw"), 0.1), 3, (8, 8), in_memory=False
    )
    views = Views(train, Format((8, 8), (0.5,) * 3, (0.5,) * 3), None, 0)
    bad = views.__getitems__([(0, 4), (0, 2)]).bad[0]
    assert bad.name.endswith("train-000000.pixels: train/n01440764/n01440764_7.JPEG")
    assert "it is empty" in bad.reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quality": 90}, r"quality = 90: raw pixels have none; set quality=null"),
        (
            {"format": "parquet", "channels": 3},
            r"channels = 3: only raw pixels are brought to a number of them",
        ),
        (
            {"format": None},
            r"format: missing; give folder, webdataset, parquet, litdata or raw",
        ),
        ({"format": "zip"}, r"format = 'zip': Input should be 'folder', 'webdataset'"),
        ({"short_side": 0}, r"short_side = 0"),
        ({"channels": 0}, r"channels = 0"),
        (
            {"format": "litdata", "shard_mb": 2048},
            r"shard_mb = 2048: LitData's chunks have 1024 at most",
        ),
    ],
)
def test_arguments_that_change_nothing_or_cannot_be_are_refused(
    given: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        arguments(Prepare, {**RAW, **given})


def test_what_a_folder_of_several_kinds_holds_must_be_said(
    folder: Path, tmp_path: Path
) -> None:
    root = shards.hub_tars(folder, tmp_path / "both")
    shards.hub_parquet(folder, root)
    with pytest.raises(
        ConfigError,
        match=r"it holds webdataset and parquet; say which: source=webdataset",
    ):
        prepared(root, tmp_path / "target", "folder")
    with pytest.raises(ConfigError, match=r"from=.*nowhere: no such folder"):
        prepared(tmp_path / "nowhere", tmp_path / "target", "folder")
    (tmp_path / "heap").mkdir()
    (tmp_path / "heap" / "weights.bin").touch()
    (tmp_path / "heap" / "1.jpg").write_bytes(shards.jpeg(1))
    assert found_kind(str(tmp_path / "heap")) == found_kind(str(folder)) == "folder"
    prepared(folder, tmp_path / "raw", "raw")
    assert found_kind(str(tmp_path / "raw")) == "raw"
    with pytest.raises(
        ConfigError,
        match=(
            r"format = folder: raw pixels have to be compressed for it; add quality=90"
        ),
    ):
        prepared(tmp_path / "raw", tmp_path / "target", "folder")
    prepared(tmp_path / "raw", tmp_path / "photos", "folder", quality=95)
    assert contents(tmp_path / "photos").keys() == contents(folder).keys()
    prepared(root, tmp_path / "target", "folder", source="webdataset")
    assert contents(tmp_path / "target") == contents(folder)


PAGE = (ROOT / "docs" / "sources.md").read_text()
TYPED = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("typed", TYPED)
def test_the_commands_of_the_page_are_accepted(typed: str) -> None:
    _, script, *given = shlex.split(typed)
    if script == "src/train.py":
        assert check(raw_config(*given, tiny=False)).data.source == "image_folder"
    else:
        assert script == "src/prepare.py"
        words = OmegaConf.to_container(OmegaConf.from_dotlist(given))
        assert arguments(Prepare, {**shards.ARGUMENTS, **words}).given.startswith(
            "/path/to/"
        )  # type: ignore[dict-item]


def test_the_command(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process, whose state a command may change, and does."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(cli, "started", False)
    monkeypatch.setattr(cli, "QUIET", {})

    def call(*typed: str) -> None:
        monkeypatch.setattr(sys, "argv", ["prepare.py", *typed])
        runpy.run_path(str(ROOT / "src" / "prepare.py"), run_name="__main__")

    call(f"from={folder}", f"to={tmp_path / 'shards'}", "format=parquet")
    said = capsys.readouterr().out
    assert all(words in said for words in ("21 images", "GiB free", "identity"))
    with pytest.raises(SystemExit, match="2"):
        call(f"from={tmp_path / 'none'}", f"to={tmp_path / 'x'}", "format=parquet")
    assert re.fullmatch(r"from=.*none: no such folder.*\n", capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        call("fromm=a", "to=b")
    assert "fromm: there is no such key; did you mean from?" in capsys.readouterr().err
    (folder / "train.csv").write_text("a.png,cat\n")
    monkeypatch.setattr(Conversion, "finish", interrupted)
    with pytest.raises(SystemExit, match="130"):
        call(f"from={folder}", f"to={tmp_path / 'later'}", "format=parquet")
    (folder / "train.csv").unlink()
    told = capsys.readouterr()
    assert "train.csv: labels of a list are not carried over" in told.out
    assert told.err.endswith(
        "interrupted; the same command goes on after what is done\n"
    )


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_arrays_become_raw_pixels_as_training_reads_them_and_no_jpegs() -> None:
    # channels first
    array = np.random.default_rng(0).integers(0, 256, (5, 40, 30), dtype=np.uint8)
    with io.BytesIO() as file:
        np.save(file, array)
        content = file.getvalue()
    assert np.array_equal(
        Change(None, None, 5)(content, "x.npy"), np.moveaxis(array, 0, 2)
    )
    smaller = Change(15, None, 5)(content, "x.npy")
    assert isinstance(smaller, np.ndarray)
    assert smaller.shape == (20, 15, 5)
    assert Change(15, 90)(content, "x.npy") == content
