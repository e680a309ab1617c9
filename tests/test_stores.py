"""Images are the same from a folder and from any container: names, labels, order, pixels, fingerprint."""

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
from unmask.data.augment.crops import Augment
from unmask.data.containers import roots, source
from unmask.data.containers.contents import INDEX
from unmask.data.containers.source import catalogue_of, list_container
from unmask.data.listing.listing import Listing, list_images
from unmask.data.loading.batch import Batch, Format
from unmask.data.loading.folders import Files, folder_splits, stored
from unmask.data.loading.module import ImageData, Loading

FORM = Format((16, 16), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
MADE = ("webdataset", "parquet", "litdata")
KINDS = {
    **{kind: kind for kind in MADE},
    "hub_tars": "webdataset",
    "hub_json": "webdataset",
    "hub_parquet": "parquet",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """folder/, and the same images in each container."""
    place = tmp_path_factory.mktemp("sources")
    folder = shards.imagenet(place / "folder")
    for kind in MADE:
        shards.prepared(folder, place / kind, kind)
    shards.hub_tars(folder, place / "hub_tars")
    shards.hub_tars(folder, place / "hub_json", beside="json")
    shards.hub_parquet(folder, place / "hub_parquet")
    return place


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def files(listing: Listing) -> tuple[Files, Files]:
    train, val = folder_splits(listing, 3, (16, 16), in_memory=False)
    assert isinstance(train, Files)
    assert isinstance(val, Files)
    return train, val


def pixel_hashes(listing: Listing) -> list[str]:
    return [
        hashlib.sha256(stored(split, i).numpy().tobytes()).hexdigest()
        for split in files(listing)
        for i in range(len(split))
    ]


@pytest.mark.parametrize("name", KINDS)
def test_every_container_is_the_folder(name: str, place: Path) -> None:
    """Those of the Hub too, whose images have other names: ImageNet's are known."""
    ours, theirs = (
        list_container(KINDS[name], str(place / name), 0.1),
        list_images(place / "folder"),
    )
    assert ours.train == theirs.train
    assert ours.val == theirs.val
    assert ours.classes == theirs.classes == shards.WNIDS
    assert ours.identity == theirs.identity
    assert pixel_hashes(ours) == pixel_hashes(theirs)


@pytest.mark.parametrize("name", ["webdataset", "hub_parquet"])
def test_a_run_has_one_fingerprint_whichever_the_source(name: str, place: Path) -> None:
    common = (
        "data=imagenet",
        "data.image_size=16",
        "data.patch_size=4",
        "stages=[pretrain,linear_probe]",
    )
    by_folder = plan_for(*common, f"data.root={place / 'folder'}")
    by_shards = plan_for(*common, f"data.root={place / name}", f"source={KINDS[name]}")
    assert [spec.fingerprint for spec in by_shards.stages] == [
        spec.fingerprint for spec in by_folder.stages
    ]
    assert by_shards.class_names == by_folder.class_names


def batches(listing: Listing, taken: int = 0, workers: int = 0) -> list[Batch]:
    progress = SimpleNamespace(total=SimpleNamespace(ready=taken))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    splits = files(listing)
    data = ImageData(
        *splits,
        FORM,
        Augment("random", flip=True),
        list(range(len(splits[0]))),
        6,
        0,
        Loading(workers),
    )
    data.trainer = SimpleNamespace(
        fit_loop=loop, accumulate_grad_batches=1, global_rank=0, world_size=1
    )  # type: ignore
    return list(data.train_dataloader())


@pytest.mark.parametrize("name", KINDS)
def test_stopped_at_a_step_and_gone_on_with_from_shards_the_rest_is_equal(
    name: str, place: Path
) -> None:
    whole = batches(list_images(place / "folder"))
    rest = batches(list_container(KINDS[name], str(place / name), 0.1), taken=2)
    assert len(rest) == len(whole) - 2 == 2
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert ours.ids_B.equal(theirs.ids_B)
        assert ours.labels_B.equal(theirs.labels_B)
        assert ours.images_BCHW.equal(theirs.images_BCHW)


def test_a_run_on_shards_ends_as_the_run_on_files_and_is_the_same_run(
    place: Path, tmp_path: Path
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
        name: (f"data.root={place / name}", f"source={KINDS.get(name, 'folder')}")
        for name in ("folder", "hub_tars")
    }
    ours, theirs = (
        run(*small, *roots[name], f"runs_dir={tmp_path / name}")[0] for name in roots
    )
    assert ours["fingerprint"] == theirs["fingerprint"]
    assert ours["metrics"]["val/loss"] == theirs["metrics"]["val/loss"]
    (again,) = run(*small, *roots["folder"], f"runs_dir={tmp_path / 'hub_tars'}")
    assert again == theirs


def test_loader_processes_read_shards_that_their_parent_has_read(place: Path) -> None:
    """Descriptors, locks and caches of a process that forks are not a trap for its children."""
    listing = list_container("parquet", str(place / "hub_parquet"), 0.1)
    ours, theirs = batches(listing, workers=2), batches(listing)
    assert all(
        a.images_BCHW.equal(b.images_BCHW) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("name", ["webdataset", "hub_parquet"])
def test_threads_read_at_once(name: str, place: Path) -> None:
    store, folder = (
        files(listing)[0].store
        for listing in (
            list_container(KINDS[name], str(place / name), 0.1),
            list_images(place / "folder"),
        )
    )
    places = (
        np.random.default_rng(0).permutation(np.arange(len(store)).repeat(9)).tolist()
    )
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.read, places)) == [folder.read(i) for i in places]


def test_more_shards_than_descriptors_are_read_all_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "OPEN", 1)
    listing = list_container("webdataset", str(place / "hub_tars"), 0.1)
    assert pixel_hashes(listing) == pixel_hashes(list_images(place / "folder"))


def test_an_image_of_a_shard_is_named_with_its_shard(place: Path) -> None:
    store = files(list_container("webdataset", str(place / "webdataset"), 0.1))[0].store
    assert (
        store.name(0)
        == f"{place}/webdataset/train-000000.tar: train/n01440764/n01440764_0.JPEG"
    )


@pytest.mark.parametrize("name", ["hub_tars", "hub_parquet"])
def test_shards_of_the_hub_without_known_names_have_labels_and_classes(
    name: str, place: Path, tmp_path: Path
) -> None:
    """Then the identity is another than a folder's, whose names differ."""
    root = tmp_path / "other"
    if name == "hub_parquet":
        shards.hub_parquet(
            place / "folder", root, named=False, names=("tench", "goldfish", "tabby")
        )
    else:
        for path in (place / name).glob("*.tar"):
            _renamed(path, root / path.name, "n0", "photo_0")
    found = list_container(KINDS[name], str(root), 0.1)
    assert found.classes == (
        ("tench", "goldfish", "tabby") if name == "hub_parquet" else ("0", "1", "2")
    )
    assert np.bincount(found.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(found.val.labels).tolist() == [2, 2, 2]
    folder = list_images(place / "folder")
    assert found.identity != folder.identity
    assert sorted(pixel_hashes(found)) == sorted(pixel_hashes(folder))
    by_hash = dict(
        zip(
            pixel_hashes(folder),
            [*folder.train.labels, *folder.val.labels],
            strict=True,
        )
    )
    labels = [*found.train.labels, *found.val.labels]
    assert [by_hash[each] for each in pixel_hashes(found)] == labels


def test_the_hubs_unlabelled_test_images_are_left_alone(
    place: Path, tmp_path: Path
) -> None:
    root = copied(place, "hub_parquet", tmp_path)
    table = pq.read_table(root / "data" / "validation-00000-of-00002.parquet")
    table = table.set_column(1, "label", pa.array([-1] * len(table)))
    pq.write_table(table, root / "data" / "test-00000-of-00001.parquet")
    assert (
        list_container("parquet", str(root), 0.1).identity
        == list_images(place / "folder").identity
    )


def _renamed(source: Path, target: Path, old: str, new: str) -> None:
    target.parent.mkdir(exist_ok=True)
    with tarfile.open(source) as tar, tarfile.open(target, "w") as out:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            member.name = member.name.replace(old, new)
            out.addfile(member, io.BytesIO(content.read()))


def test_a_flat_heap_is_held_out_from_as_the_folder_is(tmp_path: Path) -> None:
    folder = tmp_path / "heap"
    for k in range(20):
        path = folder / "deep er" / f"ñ {k}.v{k % 3}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shards.jpeg(k))
    for kind in MADE:
        shards.prepared(folder, tmp_path / kind, kind)
        ours, theirs = (
            list_container(kind, str(tmp_path / kind), 0.2),
            list_images(folder, 0.2),
        )
        assert (ours.train, ours.val, ours.classes) == (
            theirs.train,
            theirs.val,
            theirs.classes,
        )
        assert ours.identity == theirs.identity


def test_large_sets_are_known_by_sizes_from_either(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = list_images(place / "folder").identity
    monkeypatch.setattr("unmask.data.listing.listing.READ_FILES", 5)
    assert list_images(place / "folder").identity != small
    for name, kind in KINDS.items():
        assert (
            list_container(kind, str(place / name), 0.1).identity
            == list_images(place / "folder").identity
        )


def test_validation_images_that_a_devkit_labels_are_those_in_class_folders(
    place: Path, tmp_path: Path
) -> None:
    root, wnids = tmp_path / "flat", [*shards.WNIDS, "n00000000"]
    shutil.copytree(place / "folder" / "train", root / "train")
    (root / "val").mkdir()
    truth = {}
    for path in (place / "folder" / "val").rglob("*.JPEG"):
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
    ours, theirs = list_images(root), list_images(place / "folder")
    assert (ours.train, ours.val, ours.identity) == (
        theirs.train,
        theirs.val,
        theirs.identity,
    )
    assert pixel_hashes(ours) == pixel_hashes(theirs)
    shards.prepared(root, tmp_path / "tars", "webdataset")
    assert (
        list_container("webdataset", str(tmp_path / "tars"), 0.1).identity
        == theirs.identity
    )


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_shards_in_object_storage_are_read_by_ranges(kind: str, place: Path) -> None:
    system = fsspec.filesystem("memory")
    name = {"webdataset": "hub_tars", "parquet": "hub_parquet"}[kind]
    system.put(f"{place / name}/", f"/bucket/{name}/", recursive=True)
    (
        system.rm(f"/bucket/{name}/{INDEX}")
        if system.exists(f"/bucket/{name}/{INDEX}")
        else None
    )
    ours, theirs = (
        list_container(kind, f"memory://bucket/{name}", 0.1),
        list_images(place / "folder"),
    )
    assert ours.identity == theirs.identity
    assert pixel_hashes(ours) == pixel_hashes(theirs)


class Bucket(Downloader):
    """Object storage that is a folder; what LitData calls of any other."""

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
def test_litdata_in_object_storage_is_kept_where_it_fits_and_else_read_by_ranges(
    free: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(place)._replace(free=free)
    monkeypatch.setattr(
        "unmask.data.containers.streamed.shutil.disk_usage", lambda _: usage
    )
    register_downloader("bucket://", Bucket, overwrite=True)
    ours, theirs = (
        list_container("litdata", f"bucket://{place}/litdata", 0.1),
        list_images(place / "folder"),
    )
    assert ours.identity == theirs.identity
    assert pixel_hashes(ours) == pixel_hashes(theirs)
    assert len(list((tmp_path / "cache").rglob("*.bin"))) == (2 if free else 0)
    with pytest.raises(
        ValueError,
        match=(
            r"bucket:///nowhere/unmask.index cannot be read .*src/prepare.py format=lit"
        ),
    ):
        list_container("litdata", "bucket:///nowhere", 0.1)


@pytest.mark.parametrize(
    ("overrides", "said"),
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
def test_a_source_that_cannot_be_is_refused_before_anything_is_read(
    overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        check(raw_config(*overrides))


def copied(place: Path, name: str, tmp_path: Path) -> Path:
    shutil.copytree(place / name, tmp_path / name)
    return tmp_path / name


def fault(name: str, root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_for("data=imagenet", f"data.root={root}", f"source={KINDS[name]}")
    return str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_a_shard_that_was_cut_or_lost_is_named_at_the_start(
    name: str, place: Path, tmp_path: Path
) -> None:
    root = copied(place, name, tmp_path)
    shard = sorted(
        path
        for path in root.rglob("*train*0000*")
        if path.suffix in (".tar", ".parquet")
    )
    victim = shard[0] if shard else root / "train" / "chunk-0-0.bin"
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    said = (
        r"no whole (tar|Parquet) file .*copy or make it again"
        if name.startswith("hub")
        else "was written with"
    )
    assert_said(fault(name, root), victim, said)
    if name in MADE:
        victim.write_bytes(content)
        shutil.copy(victim, victim.with_name("more" + victim.suffix))
        assert_said(
            fault(name, root),
            victim.with_name("more" + victim.suffix),
            r"among shards .*: move it away",
        )
        victim.with_name("more" + victim.suffix).unlink()
    victim.unlink()
    if name in MADE and not list(root.rglob("*train*1*")):
        return  # its only shard
    assert_said(fault(name, root), victim, r"is missing")


def assert_said(text: str, path: Path, pattern: str) -> None:
    assert "\n" not in text
    assert str(path) in text or "has no" in text
    assert re.search(pattern, text) or "has no" in text


def test_what_is_not_there_is_told_in_a_line(place: Path, tmp_path: Path) -> None:
    assert "is not a folder" in fault("webdataset", tmp_path / "nowhere")
    assert "has no tar shards (*.tar)" in fault("webdataset", place / "folder")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.tar.gz").touch()
    assert "a.tar.gz is compressed as a whole: unpack it" in fault(
        "webdataset", tmp_path / "packed"
    )
    (root := copied(place, "litdata", tmp_path)).joinpath(INDEX).unlink()
    assert (
        "no whole unmask.index; copy it too, or make both: python src/prepare.py"
        in fault("litdata", root)
    )


def test_the_hubs_count_is_heeded(place: Path, tmp_path: Path) -> None:
    root = copied(place, "hub_tars", tmp_path)
    (root / INDEX).unlink(missing_ok=True)
    (root / "_info.json").write_text(
        '{"splits": {"train": {"num_samples": 99}, "validation": {"num_samples": 6}}}'
    )
    assert (
        "_info.json says 99 images in train, the shards hold 24: copy them all"
        in fault("hub_tars", root)
    )


def test_an_index_of_other_shards_is_made_anew(place: Path, tmp_path: Path) -> None:
    root = copied(place, "hub_tars", tmp_path)
    before = list_container("webdataset", str(root), 0.1)
    kept = (root / INDEX).read_bytes()
    shard = root / "imagenet1k-train-0001.tar"
    os.utime(shard, ns=(1, 1))
    assert list_container("webdataset", str(root), 0.1).identity == before.identity
    assert (root / INDEX).read_bytes() != kept
    _renamed(shard, root / "new.tar", "_", "_9")
    (root / "new.tar").replace(shard)
    after = list_container("webdataset", str(root), 0.1)
    assert after.identity != before.identity
    (root / INDEX).write_bytes(b"no index")
    assert list_container("webdataset", str(root), 0.1).identity == after.identity


def test_an_index_is_kept_elsewhere_where_the_shards_cannot_be_written_to(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(place, "hub_tars", tmp_path)
    (root / INDEX).unlink(missing_ok=True)
    (root / INDEX).mkdir()  # a file cannot take its place, whoever we are
    first = list_container("webdataset", str(root), 0.1)
    assert len(list((tmp_path / "cache" / "unmask").glob("*.index"))) == 1
    monkeypatch.setattr(
        "unmask.data.containers.source.scanned",
        lambda *_: pytest.fail("it is scanned again"),
    )
    assert list_container("webdataset", str(root), 0.1).identity == first.identity


def test_compressed_parquet_is_said_to_be_slow_in_a_line(place: Path) -> None:
    with pytest.warns(
        UserWarning,
        match=(
            r"compressed.* row group; .* python src/prepare.py from=.* format=parquet$"
        ),
    ):
        catalogue_of("parquet", str(place / "hub_parquet"))


def test_processes_that_start_together_scan_once(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scans = copied(place, "hub_tars", tmp_path), []
    (root / INDEX).unlink(missing_ok=True)
    scanned = source.scanned
    monkeypatch.setattr(
        source, "scanned", lambda *given: scans.append(1) or scanned(*given)
    )
    # a lock on a file holds threads apart as it does processes
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(
                lambda _: list_container("webdataset", str(root), 0.1).identity,
                range(4),
            )
        )
    assert len(scans) == 1
    assert len(set(found)) == 1


def test_two_images_of_one_name_are_refused(place: Path, tmp_path: Path) -> None:
    root = copied(place, "hub_tars", tmp_path)
    shutil.copy(root / "imagenet1k-train-0000.tar", root / "imagenet1k-train-0003.tar")
    said = fault("hub_tars", root)
    assert (
        "stands in imagenet1k-train-0000.tar and again in imagenet1k-train-0003.tar;"
        " names must differ" in said
    )


def test_a_shard_that_vanishes_later_is_an_error_of_reading(
    place: Path, tmp_path: Path
) -> None:
    """Which stands for a bad image, not for the end of the run."""
    root = copied(place, "webdataset", tmp_path)
    store = files(list_container("webdataset", str(root), 0.1))[0].store
    (root / "train-000000.tar").unlink()
    with pytest.raises(OSError, match="No such file"):
        store.read(0)


def test_raw_pixels_are_arrays_of_mapped_memory(place: Path, tmp_path: Path) -> None:
    shards.prepared(place / "folder", tmp_path / "raw", "raw", short_side=24)
    listing = list_container("raw", str(tmp_path / "raw"), 0.1)
    folder = list_images(place / "folder")
    assert listing.train == folder.train
    assert listing.identity != folder.identity
    (train, _), (whole, _) = files(listing), files(folder)
    image = train.store.read(3)
    assert isinstance(image, np.ndarray)
    assert min(image.shape[:2]) == 24
    assert np.shares_memory(image, train.store.read(3))
    assert image.flags.writeable  # torch warns of others
    theirs = stored(whole, 3)[None].float()
    smaller = torch.nn.functional.interpolate(
        theirs, image.shape[:2], mode="bicubic", antialias=True
    )[0]
    assert (stored(train, 3).float() - smaller).abs().mean() < 1
    assert batches(listing)[0].images_BCHW.shape == (6, 3, 16, 16)
    with pytest.raises(
        ValueError, match=r"holds uint8 of shape \(24, 30, 3\); data.channels=1 needs"
    ):
        stored(Files(train.store, train.labels_N, 1), 0)


def test_no_thread_is_left_behind(place: Path) -> None:
    before = threading.active_count()
    list_container("webdataset", str(place / "webdataset"), 0.1)
    assert threading.active_count() == before
