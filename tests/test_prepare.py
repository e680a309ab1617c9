"""src/prepare.py loses nothing, continues after a kill, and refuses faults beforehand."""

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
from PIL import Image

import shards
from shards import run_prepare
from small_runs import ROOT, raw_config
from unmask.commands import cli
from unmask.commands.prepare.arguments import Prepare
from unmask.commands.prepare.conversion import Conversion
from unmask.commands.prepare.shard_tasks import SHARD_MB, ShardTask, hash_plan
from unmask.commands.prepare.source import detect_container
from unmask.commands.prepare.transcode import Transcode
from unmask.commands.prepare.writers import WRITERS
from unmask.config.checks import ConfigError, check
from unmask.data.containers.source import list_container
from unmask.data.listing.catalogue import Catalogue
from unmask.data.listing.listing import list_images
from unmask.data.listing.names import FolderStore, pack_names
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages, read_stored, splits_from_listing
from unmask.data.loading.views import Views
from unmask.data.sources import list_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards.write_imagenet(
        tmp_path_factory.mktemp("prepare") / "folder", per_class=5
    )


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several shards of each split: a mebibyte becomes the size of an image."""
    monkeypatch.setattr("unmask.commands.prepare.prepare.MEBIBYTE", 1500)
    monkeypatch.setattr(
        "unmask.commands.prepare.shard_tasks.SHARD_MB", dict.fromkeys(SHARD_MB, 3)
    )
    monkeypatch.setattr(
        "unmask.commands.prepare.prepare.SHARD_MB", dict.fromkeys(SHARD_MB, 3)
    )


def image_bytes(root: Path) -> dict[str, bytes]:
    found = (
        path
        for split in ("train", "val")
        for path in (root / split).rglob("*")
        if path.is_file()
    )
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def modification_times(root: Path) -> dict[str, int]:
    found = (
        path
        for path in root.rglob("*")
        if path.suffix in (".tar", ".parquet", ".bin", ".pixels", ".JPEG")
    )
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in found}


@pytest.mark.usefixtures("small_shards")
def test_every_byte_survives_the_way_through_all_containers(
    folder: Path, tmp_path: Path
) -> None:
    last, identity = folder, list_images(folder).identity
    for kind in ("webdataset", "parquet", "litdata", "folder"):
        printed = run_prepare(last, tmp_path / kind, kind)
        assert re.search(rf"identity {identity}, .*fingerprints", printed)
        last = tmp_path / kind
    assert image_bytes(last) == image_bytes(folder)
    assert len(list((tmp_path / "webdataset").glob("train-*.tar"))) > 2
    index = json.loads((tmp_path / "litdata" / "train" / "index.json").read_bytes())
    assert len(index["chunks"]) > 2


def test_shards_of_the_hub_become_class_folders(folder: Path, tmp_path: Path) -> None:
    run_prepare(
        shards.write_hub_parquet(folder, tmp_path / "hub"), tmp_path / "known", "folder"
    )
    assert image_bytes(tmp_path / "known") == image_bytes(folder)
    other = shards.write_hub_parquet(
        folder, tmp_path / "other", named=False, names=("a/b", "c", "d")
    )
    run_prepare(other, tmp_path / "named", "folder")
    assert sorted(path.name for path in (tmp_path / "named" / "train").iterdir()) == [
        "a_b",
        "c",
        "d",
    ]
    run_prepare(other, tmp_path / "tars", "webdataset")
    ours, theirs = (
        list_container(k, str(r), 0.1)
        for k, r in (("webdataset", tmp_path / "tars"), ("parquet", other))
    )
    assert ([*ours.train], ours.classes, ours.identity) == (
        [*theirs.train],
        ("a/b", "c", "d"),
        theirs.identity,
    )


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", ["webdataset", "parquet", "litdata", "raw", "folder"])
def test_a_killed_conversion_continues_and_ends_as_an_undisturbed_one(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, more = tmp_path / "target", {"short_side": 16} if kind == "raw" else {}
    write, written = WRITERS.get(kind), 0

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
        patch.setitem(WRITERS, kind, dying)
        patch.setattr(
            "unmask.commands.prepare.conversion._write_files",
            dying_files if kind == "folder" else None,
        )
        with pytest.raises(KeyboardInterrupt):
            run_prepare(folder, target, kind, workers=1, **more)
    before = modification_times(target)
    printed = run_prepare(folder, target, kind, workers=1, **more)
    assert kind == "folder" or (len(before) >= 2 and f"{len(before)} shards" in printed)
    assert kind == "folder" or all(
        modification_times(target)[name] == stamp for name, stamp in before.items()
    )
    assert not [*target.rglob("*.tmp"), *target.rglob(".chunk*")]
    assert not (target / ".preparing").exists()
    run_prepare(folder, tmp_path / "undisturbed", kind, workers=1, **more)
    assert {p: (target / p).read_bytes() for p in modification_times(target)} == {
        p: (tmp_path / "undisturbed" / p).read_bytes()
        for p in modification_times(tmp_path / "undisturbed")
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
def test_a_second_run_verifies_all_shards_and_writes_damaged_ones_again(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    target, more = tmp_path / "target", {"short_side": 16} if kind == "raw" else {}
    run_prepare(folder, target, kind, **more)
    before = modification_times(target)
    run_prepare(folder, target, kind, **more)
    assert modification_times(target) == before
    victim = target / sorted(before)[1]
    written = victim.read_bytes()
    victim.write_bytes(written[:-1] + bytes([written[-1] ^ 1]))
    printed = run_prepare(folder, target, kind, **more)
    assert victim.read_bytes() == written
    assert "15 images" in printed or "21 images" in printed
    shard = "train" if kind == "folder" else victim.name
    assert re.search(rf"made again: {shard}", printed)


@pytest.mark.usefixtures("small_shards")
def test_a_second_run_that_is_killed_or_loses_a_record_leaves_the_rest_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    run_prepare(folder, target, "webdataset")
    made = {path.name: path.read_bytes() for path in target.iterdir()}
    before = modification_times(target)
    first, second, *rest = sorted(before)
    for name in (first, second):
        (target / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Conversion, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_prepare(folder, target, "webdataset")
    # the shard's record in the index still tells that it stands
    (target / ".preparing" / f"{first}.json").write_text("half a rec")
    printed = run_prepare(folder, target, "webdataset")
    assert "made again" not in printed
    assert {name: modification_times(target)[name] for name in rest} == {
        name: before[name] for name in rest
    }
    assert {
        path.name: path.read_bytes()
        for path in target.iterdir()
        if path.suffix in (".tar", ".json")
    } == {name: made[name] for name in made if name.endswith((".tar", ".json"))}


def test_too_small_a_disk_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=9000)
    monkeypatch.setattr(
        "unmask.commands.prepare.prepare.shutil.disk_usage", lambda _: free
    )
    with pytest.raises(
        OSError,
        match=r"to=.*: 0\.00 GiB .* 0\.00 GiB ",
    ):
        run_prepare(folder, tmp_path / "target", "webdataset")
    with pytest.raises(OSError, match=r"to=.* short_side .* quality"):
        run_prepare(
            folder, tmp_path / "target", "webdataset", short_side=24, quality=95
        )
    with pytest.raises(OSError, match=r"GiB are needed"):
        run_prepare(folder, tmp_path / "target", "webdataset")
    assert not modification_times(tmp_path / "target")
    with pytest.raises(OSError, match=r"about 0.00 GiB are needed"):
        run_prepare(folder, tmp_path / "target2", "raw")
    run_prepare(folder, tmp_path / "target3", "raw", short_side=5)


def test_a_folder_that_holds_something_else_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(
        ConfigError,
        match=r"to=.*full: .*thesis\.tex",
    ):
        run_prepare(folder, tmp_path / "full", "webdataset")
    run_prepare(folder, tmp_path / "made", "webdataset")
    with pytest.raises(
        ConfigError,
        match=r"short_side was null, is 16; quality was null, is 90",
    ):
        run_prepare(folder, tmp_path / "made", "webdataset", short_side=16)
    (other := shutil.copytree(folder, tmp_path / "other"))
    first = min(path for path in other.rglob("*") if path.is_file())
    first.rename(first.with_name("renamed" + first.suffix))
    with pytest.raises(
        ConfigError,
        match=r"to=.*made: .*names, sizes, classes or shards differ",
    ):
        run_prepare(other, tmp_path / "made", "webdataset")
    with pytest.raises(ConfigError, match=r"to=.*shards: .*from="):
        run_prepare(folder, folder / "shards", "webdataset")
    with (
        FileLock(tmp_path / "made" / ".preparing.lock"),
        pytest.raises(ConfigError, match=r"another src/prepare.py"),
    ):
        run_prepare(folder, tmp_path / "made", "webdataset")


def test_images_become_smaller_never_larger_and_keep_their_names(
    folder: Path, tmp_path: Path
) -> None:
    printed = run_prepare(
        folder, tmp_path / "small", "webdataset", short_side=33, quality=80
    )
    ours, theirs = (
        list_container("webdataset", str(tmp_path / "small"), 0.1),
        list_images(folder),
    )
    assert list(ours.train) == list(theirs.train)
    assert re.search(rf"identity {ours.identity}, .* {theirs.identity}", printed)
    small, original = (
        splits_from_listing(listing, 3, (8, 8), False)[0] for listing in (ours, theirs)
    )
    assert isinstance(small, StoredImages)
    assert isinstance(original, StoredImages)
    sizes = [
        (read_stored(small, i).shape[1:], read_stored(original, i).shape[1:])
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
    pixels = Transcode(24, None, 3)(path.read_bytes(), path.name)
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (24, 32, 3)
    if mode != "1":
        expected = ramp.reshape(24, 2, 32, 2).mean(axis=(1, 3))
        levels = pixels[:, :, 1] / (257 if mode == "I;16" else 1)
        assert np.abs(levels - expected)[2:-2, 2:-2].max() < 4
    assert isinstance(Transcode(24, 90)(path.read_bytes(), path.name), bytes)


def test_photos_are_stored_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with io.BytesIO() as file:
        Image.new("RGB", (40, 20)).save(file, "JPEG", exif=exif)
        assert Image.open(
            io.BytesIO(Transcode(20, 90)(file.getvalue(), "x.png"))
        ).size == (20, 40)  # type: ignore[arg-type]


def bad_folder(folder: Path, tmp_path: Path) -> Path:
    root = tmp_path / "bad"
    shutil.copytree(folder, root)
    (root / "train" / shards.WNIDS[0] / f"{shards.WNIDS[0]}_7.JPEG").write_bytes(
        b"\xff\xd8\xff half a photo"
    )
    (root / "train" / shards.WNIDS[1] / f"{shards.WNIDS[1]}_0.JPEG").write_bytes(b"")
    return root


def test_bad_images_are_copied_and_listed(folder: Path, tmp_path: Path) -> None:
    root = bad_folder(folder, tmp_path)
    run_prepare(root, tmp_path / "same", "parquet")
    # bytes that are only copied are not decoded, but an empty file has none
    assert (tmp_path / "same" / "bad_images.csv").read_text().splitlines()[1:] == [
        "train/n01443537/n01443537_0.JPEG,it is empty"
    ]
    printed = run_prepare(root, tmp_path / "small", "webdataset", short_side=20)
    assert "2 could not be decoded and were copied" in printed
    rows = list(
        csv.reader((tmp_path / "small" / "bad_images.csv").read_text().splitlines())
    )
    assert [row[0] for row in rows[1:]] == [
        "train/n01440764/n01440764_7.JPEG",
        "train/n01443537/n01443537_0.JPEG",
    ]
    assert "2 could not be decoded" in run_prepare(
        root, tmp_path / "small", "webdataset", short_side=20
    )
    assert (
        list(
            csv.reader((tmp_path / "small" / "bad_images.csv").read_text().splitlines())
        )
        == rows
    )
    run_prepare(tmp_path / "small", tmp_path / "back", "folder")
    assert image_bytes(tmp_path / "back").keys() == image_bytes(root).keys()
    assert image_bytes(tmp_path / "back")[rows[1][0]] == b"\xff\xd8\xff half a photo"


def forbid_reading(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Act as if these files could not be read; root, who may run tests, can read all."""
    read = FolderStore.read

    def refused(self: FolderStore, i: int) -> bytes:
        if self.name(i).endswith(names):
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(self, i)

    monkeypatch.setattr(FolderStore, "read", refused)


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
def test_an_unreadable_file_is_left_out_until_it_can_be_read(
    kind: str,
    short_side: int | None,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, name = tmp_path / "made", "n01440764_0.JPEG"
    with monkeypatch.context() as patch:
        forbid_reading(patch, name)
        printed = run_prepare(folder, target, kind, short_side=short_side)
    assert "1 could not be read" in printed
    assert (target / "bad_images.csv").read_text().splitlines()[1:] == [
        f"train/n01440764/{name},not read: Permission denied"
    ]
    if kind != "folder":
        train, _ = splits_from_listing(
            list_container(kind, str(target), 0.1), 3, (8, 8), in_memory=False
        )
        views = Views(train, ImageFormat((8, 8), (0.5,) * 3, (0.5,) * 3), None, 0)
        assert [bad.id for bad in views.__getitems__([(0, 0), (0, 2)]).bad_images] == [
            0
        ]
    assert "could not be read" not in run_prepare(
        folder, target, kind, short_side=short_side
    )
    assert not (target / "bad_images.csv").exists()
    run_prepare(folder, tmp_path / "undisturbed", kind, short_side=short_side)
    made, undisturbed = (
        {k: v for k, v in image_bytes(root).items() if "index.json" not in k}
        for root in (target, tmp_path / "undisturbed")
    )
    assert made == undisturbed


@pytest.mark.parametrize("kind", ["parquet", "litdata"])
def test_names_that_are_not_utf8_are_refused_before_anything_is_written(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(folder, tmp_path / "odd")
    image = next((source / "train" / "n01440764").iterdir())
    image.rename(image.with_name(os.fsdecode(b"a\xff.JPEG")))
    with pytest.raises(
        ConfigError,
        match=rf"format = {kind}: .* train/n01440764/a\\udcff\.JPEG .*UTF-8",
    ):
        run_prepare(source, tmp_path / "made", kind)
    assert not (tmp_path / "made").exists()
    run_prepare(source, tmp_path / "tars", "webdataset")
    run_prepare(tmp_path / "tars", tmp_path / "back", "folder")
    assert image_bytes(tmp_path / "back") == image_bytes(source)


@pytest.mark.parametrize("kind", ["webdataset", "folder"])
def test_an_unfinished_target_cannot_be_trained_on(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Conversion, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_prepare(folder, tmp_path / "made", kind)
    with pytest.raises(
        ValueError,
        match=r"data\.root=.*made is not finished: .*src/prepare\.py",
    ):
        (
            list_container(kind, str(tmp_path / "made"), 0.1)
            if kind == "webdataset"
            else list_images(tmp_path / "made")
        )
    run_prepare(folder, tmp_path / "made", kind)
    assert (
        list_source("image_folder", tmp_path / "made", 0.1, kind).identity
        == list_images(folder).identity
    )


def test_many_unreadable_files_stop_the_conversion(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        forbid_reading(patch, ".JPEG")
        with pytest.raises(
            ValueError,
            match=r"\.JPEG \(Permission denied\) and \d+ more of \d+ images",
        ):
            run_prepare(folder, tmp_path / "tars", "webdataset")
    assert "could not be read" not in run_prepare(
        folder, tmp_path / "tars", "webdataset"
    )
    assert (
        list_container("webdataset", str(tmp_path / "tars"), 0.1).identity
        == list_images(folder).identity
    )


def test_a_bad_image_among_raw_pixels_is_bad_when_it_is_read(
    folder: Path, tmp_path: Path
) -> None:
    printed = run_prepare(bad_folder(folder, tmp_path), tmp_path / "raw", "raw")
    assert "2 could not be decoded; empty pixels" in printed
    train, _ = splits_from_listing(
        list_container("raw", str(tmp_path / "raw"), 0.1), 3, (8, 8), in_memory=False
    )
    views = Views(train, ImageFormat((8, 8), (0.5,) * 3, (0.5,) * 3), None, 0)
    bad = views.__getitems__([(0, 4), (0, 2)]).bad_images[0]
    assert bad.name.endswith("train-000000.pixels: train/n01440764/n01440764_7.JPEG")
    assert "it is empty" in bad.reason


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quality": 90}, r"quality = 90: raw pixels have none; set quality=null"),
        (
            {"format": "parquet", "channels": 3},
            r"channels = 3: only format=raw .*set channels=null",
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
            r"shard_mb = 2048: .*1024 MiB at most; set shard_mb=1024",
        ),
    ],
)
def test_impossible_arguments_are_refused(
    changed: dict[str, object], message: str
) -> None:
    typed = {"from": "a", "to": "b", "format": "raw"} | changed
    with pytest.raises(ConfigError, match=message):
        cli.parse(
            Prepare, [f"{key}={json.dumps(value)}" for key, value in typed.items()]
        )


def test_the_kind_of_a_folder_is_detected_or_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    root = shards.write_hub_tars(folder, tmp_path / "both")
    shards.write_hub_parquet(folder, root)
    with pytest.raises(
        ConfigError,
        match=r"from=.*both: .*webdataset and parquet; .*source=webdataset",
    ):
        run_prepare(root, tmp_path / "target", "folder")
    with pytest.raises(ConfigError, match=r"from=.*nowhere:"):
        run_prepare(tmp_path / "nowhere", tmp_path / "target", "folder")
    (tmp_path / "heap").mkdir()
    (tmp_path / "heap" / "weights.bin").touch()
    (tmp_path / "heap" / "1.jpg").write_bytes(shards.encode_jpeg(1))
    assert (
        detect_container(str(tmp_path / "heap"))
        == detect_container(str(folder))
        == "folder"
    )
    run_prepare(folder, tmp_path / "raw", "raw")
    assert detect_container(str(tmp_path / "raw")) == "raw"
    with pytest.raises(
        ConfigError,
        match=r"format=folder .* quality=90",
    ):
        run_prepare(tmp_path / "raw", tmp_path / "target", "folder")
    run_prepare(tmp_path / "raw", tmp_path / "photos", "folder", quality=95)
    assert image_bytes(tmp_path / "photos").keys() == image_bytes(folder).keys()
    run_prepare(root, tmp_path / "target", "folder", source="webdataset")
    assert image_bytes(tmp_path / "target") == image_bytes(folder)


def test_targets_that_version_0_1_began_can_be_continued() -> None:
    """A conversion continues only where the hash of its plan is the stored one."""
    names = pack_names(["train/a/1.png", "train/b/2.png"])
    store = FolderStore(Path("x"), names)
    catalogue = Catalogue(names, np.array([3, 5]), store, ("train",), str)
    tasks = [ShardTask("data/train.parquet", np.arange(2))]
    assert (
        hash_plan(catalogue, Transcode(16, 90), "parquet", tasks) == "fbdb1a1f23c66f1d"
    )


PAGE = (ROOT / "docs" / "containers.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_are_accepted(command: str) -> None:
    _, script, *overrides = shlex.split(command)
    if script == "src/train.py":
        assert check(raw_config(*overrides, tiny=False)).data.source == "image_folder"
    else:
        assert script == "src/prepare.py"
        arguments = cli.parse(Prepare, overrides)
        assert arguments.input_path.startswith("/path/to/")


def test_the_command_prints_and_exits_as_documented(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the script in this process, and restore the state that it changes."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(cli, "TELEMETRY_OFF", {})

    def call(*typed: str) -> None:
        monkeypatch.setattr(sys, "argv", ["prepare.py", *typed])
        runpy.run_path(str(ROOT / "src" / "prepare.py"), run_name="__main__")

    call(f"from={folder}", f"to={tmp_path / 'shards'}", "format=parquet")
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("21 images", "GiB free", "identity"))
    with pytest.raises(SystemExit, match="2"):
        call(f"from={tmp_path / 'none'}", f"to={tmp_path / 'x'}", "format=parquet")
    assert re.fullmatch(r"from=.*none: .*\n", capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        call("fromm=a", "to=b")
    assert re.search(r"fromm: .*\bfrom\b", capsys.readouterr().err)
    (folder / "train.csv").write_text("a.png,cat\n")
    monkeypatch.setattr(Conversion, "finish", interrupted)
    with pytest.raises(SystemExit, match="130"):
        call(f"from={folder}", f"to={tmp_path / 'later'}", "format=parquet")
    (folder / "train.csv").unlink()
    captured = capsys.readouterr()
    assert re.search(r"train\.csv: labels .*data=listed", captured.out)
    assert re.search(r"interrupted; .*same command.*\n$", captured.err)


def write_listed(root: Path, with_val: bool) -> Path:
    """Write images in one folder, and lists of their classes."""
    (root / "img").mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": ["path,label"], "val": ["path,label"]}
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"img/{k}.png")
        split = "val" if with_val and k >= 8 else "train"
        lists[split].append(f"./img/{k}.png,{(10, 9, 2)[k % 3]}")
    for split, lines in lists.items():
        if split == "train" or with_val:
            (root / f"{split}.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "litdata", "folder"])
@pytest.mark.parametrize("with_val", [True, False])
def test_labels_and_splits_of_lists_are_carried_over(
    kind: str, with_val: bool, tmp_path: Path
) -> None:
    root = write_listed(tmp_path / "from", with_val)
    printed = run_prepare(root, tmp_path / "to", kind)
    assert "labels and splits are those of train.csv; source=folder" in printed
    before = list_source("listed", root, 0.3)
    after = list_source("image_folder", tmp_path / "to", 0.3, kind)
    assert after.classes == (
        before.classes if kind != "folder" else tuple(sorted(before.classes))
    )
    for splits in ((before.train, after.train), (before.val, after.val)):
        pairs = [
            {(name.rpartition("/")[2], classes[label]) for name, label in split}
            for split, classes in zip(
                splits, (before.classes, after.classes), strict=True
            )
        ]
        assert pairs[0] == pairs[1]


def test_a_list_that_cannot_be_read_is_named_and_folders_are_taken(
    tmp_path: Path,
) -> None:
    root = write_listed(tmp_path / "from", False)
    (root / "train.csv").write_text("path,a,b\nimg/0.png,0,1\nimg/1.png,1,0\n")
    printed = run_prepare(root, tmp_path / "to", "parquet")
    assert re.search(r"train\.csv is not read, .* which column is the class", printed)
    assert "12 images" in printed
    root = write_listed(tmp_path / "more", True)
    assert "those of train.csv" not in run_prepare(
        root, tmp_path / "folders", "parquet", source="folder"
    )


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_arrays_become_raw_pixels_but_never_jpegs() -> None:
    # channels first
    array = np.random.default_rng(0).integers(0, 256, (5, 40, 30), dtype=np.uint8)
    with io.BytesIO() as file:
        np.save(file, array)
        content = file.getvalue()
    assert np.array_equal(
        Transcode(None, None, 5)(content, "x.npy"), np.moveaxis(array, 0, 2)
    )
    smaller = Transcode(15, None, 5)(content, "x.npy")
    assert isinstance(smaller, np.ndarray)
    assert smaller.shape == (20, 15, 5)
    assert Transcode(15, 90)(content, "x.npy") == content
