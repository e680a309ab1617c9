"""Images are the same from a folder and from any container.

So are their names, labels, order and pixels, and the fingerprint of a run.
"""

import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from litdata.streaming.downloader import Downloader, register_downloader
from scipy.io import savemat

import shards
from small_runs import plan_for, raw_config, run
from unmask.config.checks import ConfigError, check
from unmask.data.augment.crops import Augmentation
from unmask.data.containers import roots, source
from unmask.data.containers.index import INDEX_FILE
from unmask.data.containers.source import catalogue_container, list_container
from unmask.data.listing.listing import Listing, list_images
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.folders import StoredImages, read_stored, splits_from_listing
from unmask.data.loading.module import ImageData, LoaderSettings

IMAGE_FORMAT = ImageFormat((16, 16), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
PREPARED_KINDS = ("webdataset", "parquet", "litdata")
KINDS = {
    **{kind: kind for kind in PREPARED_KINDS},
    "hub_tars": "webdataset",
    "hub_json": "webdataset",
    "hub_parquet": "parquet",
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write folder/, and the same images in each container."""
    data_root = tmp_path_factory.mktemp("sources")
    folder = shards.write_imagenet(data_root / "folder")
    for kind in PREPARED_KINDS:
        shards.run_prepare(folder, data_root / kind, kind)
    shards.write_hub_tars(folder, data_root / "hub_tars")
    shards.write_hub_tars(folder, data_root / "hub_json", label_suffix="json")
    shards.write_hub_parquet(folder, data_root / "hub_parquet")
    return data_root


@pytest.fixture(autouse=True)
def separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def files(listing: Listing) -> tuple[StoredImages, StoredImages]:
    train, val = splits_from_listing(listing, 3, (16, 16), in_memory=False)
    assert isinstance(train, StoredImages)
    assert isinstance(val, StoredImages)
    return train, val


def pixel_hashes(listing: Listing) -> list[str]:
    return [
        hashlib.sha256(read_stored(split, i).numpy().tobytes()).hexdigest()
        for split in files(listing)
        for i in range(len(split))
    ]


@pytest.mark.parametrize("name", KINDS)
def test_every_container_lists_what_the_folder_lists(
    name: str, data_root: Path
) -> None:
    """The Hub's images have other names, but ImageNet's names are recognised."""
    ours, theirs = (
        list_container(KINDS[name], str(data_root / name), 0.1),
        list_images(data_root / "folder"),
    )
    assert list(ours.train) == list(theirs.train)
    assert list(ours.val) == list(theirs.val)
    assert ours.classes == theirs.classes == shards.WNIDS
    assert ours.identity == theirs.identity
    assert pixel_hashes(ours) == pixel_hashes(theirs)


@pytest.mark.parametrize("name", ["webdataset", "hub_parquet"])
def test_a_run_has_one_fingerprint_whatever_the_source(
    name: str, data_root: Path
) -> None:
    common = (
        "data=imagenet",
        "data.image_size=16",
        "data.patch_size=4",
        "stages=[pretrain,linear_probe]",
    )
    by_folder = plan_for(*common, f"data.root={data_root / 'folder'}")
    by_shards = plan_for(
        *common, f"data.root={data_root / name}", f"source={KINDS[name]}"
    )
    assert [spec.fingerprint for spec in by_shards.stages] == [
        spec.fingerprint for spec in by_folder.stages
    ]
    assert by_shards.class_names == by_folder.class_names


def load_batches(listing: Listing, skipped: int = 0, workers: int = 0) -> list[Batch]:
    progress = SimpleNamespace(total=SimpleNamespace(ready=skipped))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    splits = files(listing)
    data = ImageData(
        *splits,
        IMAGE_FORMAT,
        Augmentation("random", flip=True),
        list(range(len(splits[0]))),
        6,
        0,
        LoaderSettings(workers),
    )
    data.trainer = SimpleNamespace(
        fit_loop=loop, accumulate_grad_batches=1, global_rank=0, world_size=1
    )  # type: ignore
    return list(data.train_dataloader())


@pytest.mark.parametrize("name", KINDS)
def test_a_run_on_files_continues_on_shards_with_the_same_batches(
    name: str, data_root: Path
) -> None:
    all_batches = load_batches(list_images(data_root / "folder"))
    listing = list_container(KINDS[name], str(data_root / name), 0.1)
    rest = load_batches(listing, skipped=2)
    assert len(rest) == len(all_batches) - 2 == 2
    for ours, theirs in zip(rest, all_batches[2:], strict=True):
        assert ours.ids_B.equal(theirs.ids_B)
        assert ours.labels_B.equal(theirs.labels_B)
        assert ours.images_BCHW.equal(theirs.images_BCHW)


def test_a_run_on_shards_has_the_result_and_fingerprint_of_the_run_on_files(
    data_root: Path, tmp_path: Path
) -> None:
    common = (
        "data=imagenet",
        "data.image_size=16",
        "data.patch_size=4",
        "stages=[pretrain]",
        "augment=crop_random",
    )
    small = (
        *common,
        "pretrain.batch_size=8",
        "pretrain.epochs=2",
        "data.num_workers=0",
        "watch.times=1",
    )
    roots = {
        name: (f"data.root={data_root / name}", f"source={KINDS.get(name, 'folder')}")
        for name in ("folder", "hub_tars")
    }
    ours, theirs = (
        run(*small, *roots[name], f"runs_dir={tmp_path / name}")[0] for name in roots
    )
    assert ours["fingerprint"] == theirs["fingerprint"]
    assert ours["metrics"]["val/loss"] == theirs["metrics"]["val/loss"]
    (again,) = run(*small, *roots["folder"], f"runs_dir={tmp_path / 'hub_tars'}")
    assert again == theirs


def test_loader_workers_read_shards_that_their_parent_has_read(data_root: Path) -> None:
    """Descriptors, locks and caches of the parent do no harm in a forked worker."""
    listing = list_container("parquet", str(data_root / "hub_parquet"), 0.1)
    ours, theirs = load_batches(listing, workers=2), load_batches(listing)
    assert all(
        a.images_BCHW.equal(b.images_BCHW) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("name", ["webdataset", "hub_parquet"])
def test_threads_may_read_at_once(name: str, data_root: Path) -> None:
    store, folder = (
        files(listing)[0].store
        for listing in (
            list_container(KINDS[name], str(data_root / name), 0.1),
            list_images(data_root / "folder"),
        )
    )
    indices = (
        np.random.default_rng(0).permutation(np.arange(len(store)).repeat(9)).tolist()
    )
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.read, indices)) == [folder.read(i) for i in indices]


def test_more_shards_than_open_files_are_read_too(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "MAX_DESCRIPTORS", 1)
    listing = list_container("webdataset", str(data_root / "hub_tars"), 0.1)
    assert pixel_hashes(listing) == pixel_hashes(list_images(data_root / "folder"))


def test_messages_name_an_image_with_its_shard(data_root: Path) -> None:
    store = files(list_container("webdataset", str(data_root / "webdataset"), 0.1))[
        0
    ].store
    assert (
        store.name(0)
        == f"{data_root}/webdataset/train-000000.tar: train/n01440764/n01440764_0.JPEG"
    )


@pytest.mark.parametrize("name", ["hub_tars", "hub_parquet"])
def test_hub_shards_with_unknown_names_have_labels_and_classes(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    """Their identity differs from the folder's, whose names differ."""
    root = tmp_path / "other"
    if name == "hub_parquet":
        shards.write_hub_parquet(
            data_root / "folder",
            root,
            named=False,
            names=("tench", "goldfish", "tabby"),
        )
    else:
        for path in (data_root / name).glob("*.tar"):
            rename_members(path, root / path.name, "n0", "photo_0")
    listing = list_container(KINDS[name], str(root), 0.1)
    assert listing.classes == (
        ("tench", "goldfish", "tabby") if name == "hub_parquet" else ("0", "1", "2")
    )
    assert np.bincount(listing.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(listing.val.labels).tolist() == [2, 2, 2]
    folder = list_images(data_root / "folder")
    assert listing.identity != folder.identity
    assert sorted(pixel_hashes(listing)) == sorted(pixel_hashes(folder))
    by_hash = dict(
        zip(
            pixel_hashes(folder),
            [*folder.train.labels, *folder.val.labels],
            strict=True,
        )
    )
    labels = [*listing.train.labels, *listing.val.labels]
    assert [by_hash[each] for each in pixel_hashes(listing)] == labels


def test_the_hubs_unlabelled_test_images_change_nothing(
    data_root: Path, tmp_path: Path
) -> None:
    root = copy_source(data_root, "hub_parquet", tmp_path)
    table = pq.read_table(root / "data" / "validation-00000-of-00002.parquet")
    table = table.set_column(1, "label", pa.array([-1] * len(table)))
    pq.write_table(table, root / "data" / "test-00000-of-00001.parquet")
    assert (
        list_container("parquet", str(root), 0.1).identity
        == list_images(data_root / "folder").identity
    )


def rename_members(source: Path, target: Path, old: str, new: str) -> None:
    target.parent.mkdir(exist_ok=True)
    with tarfile.open(source) as tar, tarfile.open(target, "w") as out:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            member.name = member.name.replace(old, new)
            out.addfile(member, io.BytesIO(content.read()))


def test_flat_images_in_shards_are_held_out_as_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "heap"
    for k in range(20):
        path = folder / "deep er" / f"ñ {k}.v{k % 3}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shards.encode_jpeg(k))
    for kind in PREPARED_KINDS:
        shards.run_prepare(folder, tmp_path / kind, kind)
        ours, theirs = (
            list_container(kind, str(tmp_path / kind), 0.2),
            list_images(folder, 0.2),
        )
        assert ([*ours.train], [*ours.val], ours.classes) == (
            [*theirs.train],
            [*theirs.val],
            theirs.classes,
        )
        assert ours.identity == theirs.identity


def test_large_sets_are_identified_by_sizes_from_any_source(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = list_images(data_root / "folder").identity
    monkeypatch.setattr("unmask.data.listing.identity.MAX_HASHED_FILES", 5)
    assert list_images(data_root / "folder").identity != small
    for name, kind in KINDS.items():
        assert (
            list_container(kind, str(data_root / name), 0.1).identity
            == list_images(data_root / "folder").identity
        )


def test_flat_validation_with_a_devkit_equals_class_folders(
    data_root: Path, tmp_path: Path
) -> None:
    root, wnids = tmp_path / "flat", [*shards.WNIDS, "n00000000"]
    shutil.copytree(data_root / "folder" / "train", root / "train")
    (root / "val").mkdir()
    truth = {}
    for path in (data_root / "folder" / "val").rglob("*.JPEG"):
        shutil.copy(path, root / "val" / path.name)
        # the devkit's numbers are not ours
        truth[int(path.stem[-8:])] = 30 - wnids.index(path.parent.name)
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    lines = "".join(f"{truth[number]}\n" for number in sorted(truth))
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [
        (30 - k, wnid, 3 if wnid == "n00000000" else 0) for k, wnid in enumerate(wnids)
    ]
    savemat(data / "meta.mat", {"synsets": np.array(rows, dtype=kind)})
    ours, theirs = list_images(root), list_images(data_root / "folder")
    assert ([*ours.train], [*ours.val], ours.identity) == (
        [*theirs.train],
        [*theirs.val],
        theirs.identity,
    )
    assert pixel_hashes(ours) == pixel_hashes(theirs)
    shards.run_prepare(root, tmp_path / "tars", "webdataset")
    assert (
        list_container("webdataset", str(tmp_path / "tars"), 0.1).identity
        == theirs.identity
    )


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_shards_in_object_storage_are_read_by_ranges(
    kind: str, data_root: Path
) -> None:
    system = fsspec.filesystem("memory")
    name = {"webdataset": "hub_tars", "parquet": "hub_parquet"}[kind]
    system.put(f"{data_root / name}/", f"/bucket/{name}/", recursive=True)
    (
        system.rm(f"/bucket/{name}/{INDEX_FILE}")
        if system.exists(f"/bucket/{name}/{INDEX_FILE}")
        else None
    )
    ours, theirs = (
        list_container(kind, f"memory://bucket/{name}", 0.1),
        list_images(data_root / "folder"),
    )
    assert ours.identity == theirs.identity
    assert pixel_hashes(ours) == pixel_hashes(theirs)


class Bucket(Downloader):
    """Imitate object storage by a folder, with the methods that LitData calls."""

    def path(self, url: str) -> Path:
        return Path(url.removeprefix("bucket://"))

    def download_fileobj(self, remote_filepath: str, fileobj: Any) -> None:
        fileobj.write(self.path(remote_filepath).read_bytes())

    def download_file(self, remote_chunkpath: str, local_chunkpath: str) -> None:
        shutil.copy(self.path(remote_chunkpath), local_chunkpath)

    def download_bytes(
        self, remote_filepath: str, offset: int, length: int, local_chunkpath: str
    ) -> bytes:
        return self.path(remote_filepath).read_bytes()[offset : offset + length]


@pytest.mark.parametrize("free", [0, 2**40])
def test_remote_litdata_is_cached_where_it_fits_and_else_read_by_ranges(
    free: int, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(data_root)._replace(free=free)
    monkeypatch.setattr(
        "unmask.data.containers.streamed.shutil.disk_usage", lambda _: usage
    )
    register_downloader("bucket://", Bucket, overwrite=True)
    ours, theirs = (
        list_container("litdata", f"bucket://{data_root}/litdata", 0.1),
        list_images(data_root / "folder"),
    )
    assert ours.identity == theirs.identity
    assert pixel_hashes(ours) == pixel_hashes(theirs)
    assert len(list((tmp_path / "cache").rglob("*.bin"))) == (2 if free else 0)
    with pytest.raises(
        ValueError,
        match=r"bucket:///nowhere/unmask\.index .*src/prepare\.py format=litdata",
    ):
        list_container("litdata", "bucket:///nowhere", 0.1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("data=mnist5k", "source=parquet"),
            r"source = parquet: data=mnist5k comes in no such container; set source=",
        ),
        (
            ("data=imagenet", "source=raw", "data.root=s3://b/x"),
            r"source = raw: it must lie in a local folder, not in",
        ),
        (
            ("data=imagenet", "data.root=s3://b/x"),
            r"source = folder: it must lie in a local folder.*source=litdata",
        ),
    ],
)
def test_an_impossible_source_is_refused_before_anything_is_read(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(raw_config(*overrides))


def copy_source(data_root: Path, name: str, tmp_path: Path) -> Path:
    shutil.copytree(data_root / name, tmp_path / name)
    return tmp_path / name


def config_error(name: str, root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_for("data=imagenet", f"data.root={root}", f"source={KINDS[name]}")
    return str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_or_missing_shard_is_named_at_the_start(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    root = copy_source(data_root, name, tmp_path)
    shard = sorted(
        path
        for path in root.rglob("*train*0000*")
        if path.suffix in (".tar", ".parquet")
    )
    victim = shard[0] if shard else root / "train" / "chunk-0-0.bin"
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    message = (
        r"not a complete (tar|Parquet) file .*copy or make it again"
        if name.startswith("hub")
        else "was written with"
    )
    assert_names(config_error(name, root), victim, message)
    if name in PREPARED_KINDS:
        victim.write_bytes(content)
        shutil.copy(victim, victim.with_name("more" + victim.suffix))
        assert_names(
            config_error(name, root),
            victim.with_name("more" + victim.suffix),
            r"move it away",
        )
        victim.with_name("more" + victim.suffix).unlink()
    victim.unlink()
    if name in PREPARED_KINDS and not list(root.rglob("*train*1*")):
        # its only shard is gone
        return
    assert_names(config_error(name, root), victim, r"is missing")


def assert_names(text: str, path: Path, pattern: str) -> None:
    assert "\n" not in text
    assert str(path) in text or "has no" in text
    assert re.search(pattern, text) or "has no" in text


def test_what_is_missing_is_named_in_one_line(data_root: Path, tmp_path: Path) -> None:
    assert "nowhere is not a folder" in config_error("webdataset", tmp_path / "nowhere")
    assert "no tar shards (*.tar)" in config_error("webdataset", data_root / "folder")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.tar.gz").touch()
    message = config_error("webdataset", tmp_path / "packed")
    assert re.search(r"a\.tar\.gz .*unpack it", message)


def test_the_hubs_counts_are_checked(data_root: Path, tmp_path: Path) -> None:
    root = copy_source(data_root, "hub_tars", tmp_path)
    (root / INDEX_FILE).unlink(missing_ok=True)
    (root / "_info.json").write_text(
        '{"splits": {"train": {"num_samples": 99}, "validation": {"num_samples": 6}}}'
    )
    assert re.search(
        r"_info\.json says 99 images in train, .* 24; .* copy",
        config_error("hub_tars", root),
    )


def test_an_index_of_other_shards_is_made_again(
    data_root: Path, tmp_path: Path
) -> None:
    root = copy_source(data_root, "hub_tars", tmp_path)
    before = list_container("webdataset", str(root), 0.1)
    written = (root / INDEX_FILE).read_bytes()
    shard = root / "imagenet1k-train-0001.tar"
    os.utime(shard, ns=(1, 1))
    assert list_container("webdataset", str(root), 0.1).identity == before.identity
    assert (root / INDEX_FILE).read_bytes() != written
    rename_members(shard, root / "new.tar", "_", "_9")
    (root / "new.tar").replace(shard)
    after = list_container("webdataset", str(root), 0.1)
    assert after.identity != before.identity
    (root / INDEX_FILE).write_bytes(b"no index")
    assert list_container("webdataset", str(root), 0.1).identity == after.identity


def test_the_index_lies_in_the_cache_where_the_shards_cannot_be_written_to(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copy_source(data_root, "hub_tars", tmp_path)
    (root / INDEX_FILE).unlink(missing_ok=True)
    # no user can replace a folder by a file
    (root / INDEX_FILE).mkdir()
    first = list_container("webdataset", str(root), 0.1)
    assert len(list((tmp_path / "cache" / "unmask").glob("*.index"))) == 1
    monkeypatch.setattr(
        "unmask.data.containers.source.scan_shards",
        lambda *_: pytest.fail("it is scanned again"),
    )
    assert list_container("webdataset", str(root), 0.1).identity == first.identity


def test_compressed_parquet_is_warned_of_with_the_remedy(data_root: Path) -> None:
    with pytest.warns(
        UserWarning,
        match=(
            r"compressed.* row group; .* python src/prepare.py from=.* format=parquet$"
        ),
    ):
        catalogue_container("parquet", str(data_root / "hub_parquet"))


def test_processes_that_start_together_scan_once(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scans = copy_source(data_root, "hub_tars", tmp_path), []
    (root / INDEX_FILE).unlink(missing_ok=True)
    scan_shards = source.scan_shards
    monkeypatch.setattr(
        source, "scan_shards", lambda *args: scans.append(1) or scan_shards(*args)
    )
    # a lock on a file holds threads apart as it does processes
    with ThreadPoolExecutor(4) as pool:
        identities = list(
            pool.map(
                lambda _: list_container("webdataset", str(root), 0.1).identity,
                range(4),
            )
        )
    assert len(scans) == 1
    assert len(set(identities)) == 1


def test_a_copy_of_a_shard_is_refused(data_root: Path, tmp_path: Path) -> None:
    root = copy_source(data_root, "hub_tars", tmp_path)
    shutil.copy(root / "imagenet1k-train-0000.tar", root / "imagenet1k-train-0003.tar")
    message = config_error("hub_tars", root)
    assert re.search(
        r"-0003\.tar holds the same images as .*-0000\.tar; remove one", message
    )


def test_a_shard_that_vanishes_later_is_an_error_when_it_is_read(
    data_root: Path, tmp_path: Path
) -> None:
    """The loader takes an OSError for a bad image, and the run goes on."""
    root = copy_source(data_root, "webdataset", tmp_path)
    store = files(list_container("webdataset", str(root), 0.1))[0].store
    (root / "train-000000.tar").unlink()
    with pytest.raises(OSError, match="No such file"):
        store.read(0)


def test_raw_pixels_are_arrays_of_mapped_memory(
    data_root: Path, tmp_path: Path
) -> None:
    shards.run_prepare(data_root / "folder", tmp_path / "raw", "raw", short_side=24)
    without = shutil.copytree(tmp_path / "raw", tmp_path / "without")
    (without / INDEX_FILE).unlink()
    with pytest.raises(
        ValueError,
        match=rf"unmask\.index; copy it too, .* src/prepare\.py .* to={without} format=",
    ):
        list_container("raw", str(without), 0.1)
    listing = list_container("raw", str(tmp_path / "raw"), 0.1)
    folder = list_images(data_root / "folder")
    assert list(listing.train) == list(folder.train)
    assert listing.identity != folder.identity
    (train, _), (original, _) = files(listing), files(folder)
    image = train.store.read(3)
    assert isinstance(image, np.ndarray)
    assert min(image.shape[:2]) == 24
    assert np.shares_memory(image, train.store.read(3))
    # torch warns of arrays that it may not write to
    assert image.flags.writeable
    theirs = read_stored(original, 3)[None].float()
    smaller = torch.nn.functional.interpolate(
        theirs, image.shape[:2], mode="bicubic", antialias=True
    )[0]
    assert (read_stored(train, 3).float() - smaller).abs().mean() < 1
    assert load_batches(listing)[0].images_BCHW.shape == (6, 3, 16, 16)
    with pytest.raises(
        ValueError, match=r"holds uint8 of shape \(24, 30, 3\); data.channels=1 needs"
    ):
        read_stored(StoredImages(train.store, train.labels_N, 1), 0)


def test_no_thread_is_left_behind(data_root: Path) -> None:
    before = threading.active_count()
    list_container("webdataset", str(data_root / "webdataset"), 0.1)
    assert threading.active_count() == before
