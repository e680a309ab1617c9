"""What is hidden and what a split is follow one rule in folders, lists and shards."""

import io
import tarfile
from pathlib import Path

import pytest

import shards
from test_listing import numbered_names, write_files
from unmask.commands.images import find_images
from unmask.config.checks import ConfigError
from unmask.data.containers.source import list_container
from unmask.data.listing.conventions import (
    Splits,
    class_keys,
    find_splits,
    is_hidden,
    is_image,
    look_like_splits,
    sort_classes,
    split_word,
)
from unmask.data.listing.evaluation_set import list_evaluation_set
from unmask.data.listing.listing import list_images

LEFT_BEHIND = (
    "@eaDir/a.jpg",
    ".git/a.jpg",
    "__MACOSX/._a.jpg",
    "__MACOSX/a.jpg",
    ".ipynb_checkpoints/a-checkpoint.jpg",
    "lost+found/a.jpg",
    "$RECYCLE.BIN/a.jpg",
    "System Volume Information/a.jpg",
    "#recycle/a.jpg",
    "cat/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "cat/._a.jpg",
    "cat/.a.jpg.crdownload",
    "cat/Thumbs.db",
    ".DS_Store",
)

SPLITS = ("train", "val")


@pytest.fixture(autouse=True)
def separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path.parent


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_behind_is_no_image(name: str) -> None:
    assert not is_image(name)
    assert not is_image(f"train/{name}")


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "train/a..b.jpg", "@home/a.jpg", "_/a.jpg", "__x/a.jpg", "./a.jpg"],
)
def test_odd_names_are_images(name: str) -> None:
    assert is_image(name)
    assert not is_hidden(name)


def test_hidden_folders_change_no_class_and_no_identity(tmp_path: Path) -> None:
    names = [
        f"{split}/{name}/{k}.jpg"
        for split in ("train", "val")
        for name in ("bird", "cat")
        for k in range(2)
    ]
    clean = list_images(write_files(tmp_path / "clean", *names))
    littered = write_files(
        tmp_path / "littered",
        *names,
        *(f"train/{name}" for name in LEFT_BEHIND),
        *(f"val/{name}" for name in LEFT_BEHIND),
        *LEFT_BEHIND,
    )
    ours = list_images(littered)
    assert (ours.classes, ours.identity) == (clean.classes, clean.identity)
    assert list(ours.train) == list(clean.train)
    # an empty one is no empty class
    (littered / "train" / "@eaDir" / "a.jpg").unlink()
    assert list_images(littered).identity == clean.identity
    evaluation = list_evaluation_set(littered / "train", clean.classes)
    assert len(evaluation.val) == 4
    _, found = find_images(littered)
    assert found == sorted(names)
    everything = sorted(path for path in littered.rglob("*") if path.is_file())
    members = {str(p.relative_to(littered)): p.read_bytes() for p in everything}
    tars = write_tar(tmp_path / "tars" / "all.tar", members)
    write_tar(tmp_path / "tars" / "__MACOSX" / "._all.tar", {})
    shard = list_container("webdataset", str(tars), 0.1)
    assert (shard.classes, shard.identity) == (clean.classes, clean.identity)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("TRAINING", "training"),
        ("training_set", "training"),
        ("trainset", "train"),
        ("TestSet", "test"),
        ("train2017", "train"),
        ("val2017", "val"),
        ("Validation", "validation"),
        ("test-images", "test"),
        ("dev", "dev"),
        ("eval", "eval"),
        ("bullet_train", None),
        ("seg_train", None),
        ("trains", None),
        ("contest", None),
        ("unset", None),
        ("поезд train", None),
    ],
)
def test_folders_that_tell_a_split(name: str, word: str | None) -> None:
    assert split_word(name) == word


def test_the_better_of_two_validation_folders_is_taken() -> None:
    assert find_splits(["Test", "Train", "Val"]) == Splits("Train", "Val")
    assert find_splits(["test", "train_images", "valid"]) == Splits(
        "train_images", "valid"
    )
    assert find_splits(["train", "train_images", "cat"]) == Splits("train", None)
    assert find_splits([]) == Splits(None, None)
    with pytest.raises(ValueError, match="Training and train both name one split"):
        find_splits(["train", "Training"])
    assert look_like_splits(["seg_pred", "seg_test", "seg_train"]) == (
        "seg_train",
        "seg_test",
    )
    assert look_like_splits(["bullet_train", "test_tube"]) is None


@pytest.mark.parametrize(
    ("train", "val"),
    [("Training", "Testing"), ("TRAIN", "Valid"), ("train2017", "val2017")],
)
def test_splits_are_known_however_they_are_written(
    train: str, val: str, tmp_path: Path
) -> None:
    root = write_files(
        tmp_path / "images",
        *(f"{split}/{name}/1.jpg" for split in (train, val) for name in "ab"),
    )
    listing = list_images(root)
    assert listing.classes == ("a", "b")
    assert tuple(listing.train) == ((f"{train}/a/1.jpg", 0), (f"{train}/b/1.jpg", 1))
    assert tuple(listing.val) == ((f"{val}/a/1.jpg", 0), (f"{val}/b/1.jpg", 1))
    # one spelling stands for all
    kinds = ("webdataset", "parquet", "litdata", "folder") if train == "TRAIN" else ()
    for kind in kinds:
        shards.run_prepare(root, tmp_path / kind, kind)
        ours = (
            list_images(tmp_path / kind)
            if kind == "folder"
            else list_container(kind, str(tmp_path / kind), 0.1)
        )
        assert ours.identity == listing.identity


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["data/train/a/1.png", "data/val/a/1.png"],
            r"set data\.root=.*/data, or move",
        ),
        (["data/train/a/1.png", "data/train/b/1.png"], r"set data\.root=.*/data, or"),
        (
            ["x/y/Train/a/1.png", "x/y/Test/a/1.png"],
            r"x/y/Train and x/y/Test .* set data\.root=.*/x/y, ",
        ),
        (["cup/train/1.png", "cup/test/1.png", "jar/train/1.png"], r"root=.*/cup, "),
        (["seg_train/a/1.png", "seg_test/a/1.png"], r"rename them to train and test"),
        (["train/1.png", "Train/1.png"], r"Train and train both name one split"),
        (
            ["images/1.png", "images/2.png", "masks/1.png", "masks/2.png"],
            r"masks seems to hold masks .* of the images in images, .*root=.*/images$",
        ),
        (
            [f"train/{name}_512/{k}.png" for name in ("img", "labels") for k in "12"],
            r"train/labels_512 seems to hold .*; move train/labels_512/ out of train/$",
        ),
        (
            ["JPEGImages/1.png", "SegmentationClass/1.png", "SegmentationObject/1.png"],
            r"SegmentationClass seems .*root=.*/JPEGImages$",
        ),
        (
            [f"{x}/{y}/1.png" for x in ("gtFine", "leftImg8bit") for y in SPLITS],
            r"seem to be splits, and lie too deep; set data\.root=.*/leftImg8bit, ",
        ),
        (
            [f"fold{k}/{name}/1.png" for k in "123" for name in "ab"],
            r"fold1, fold2, fold3 seem to be folds",
        ),
        (
            ["Test/a/1.png", "b/1.png"],
            r"has Test/ but no train/; .* put them .* train/",
        ),
        (
            ["train/1.png", "bus/1.png", "car/1.png"],
            r"in train/ itself, and in bus, car beside it; .*root=.*/train$",
        ),
    ],
)
def test_splits_that_would_become_classes_are_refused_with_the_remedy(
    names: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        list_images(write_files(tmp_path, *names))


def test_folders_that_are_only_called_alike_are_classes(tmp_path: Path) -> None:
    names = ["masks/1.png", "gloves/1.png", "masks/2.png", "gloves/2.png"]
    assert list_images(write_files(tmp_path / "a", *names)).classes == (
        "gloves",
        "masks",
    )
    # texts of boxes beside images are no class without images
    root = write_files(tmp_path / "b", *(f"train/images/{k}.png" for k in "123"))
    write_files(root, "train/labels/1.txt")
    assert len(list_images(root, 0.4).train) == 2


def test_images_beside_class_folders_are_named(tmp_path: Path) -> None:
    names = [f"{label}/{k}.png" for label in "ab" for k in "123"]
    listing = list_images(write_files(tmp_path, *names, "sample.png"))
    assert listing.classes == ()
    (note,) = (note for note in listing.notes if "sample.png" in note)
    assert "1 of 7 training images lie beside the folders of the others" in note


def test_folders_that_all_classes_share_are_named(tmp_path: Path) -> None:
    names = [f"{x}/{y}/{k}.png" for x in ("art", "photo") for y in "ab" for k in "123"]
    listing = list_images(write_files(tmp_path, *names))
    assert listing.classes == ("art", "photo")
    assert any("each of them holds the folders a, b" in n for n in listing.notes)


def test_splits_too_deep_are_not_converted(tmp_path: Path) -> None:
    root = write_files(tmp_path / "from", "x/Train/a/1.png", "x/Test/a/1.png")
    with pytest.raises(ConfigError, match=rf"from={root}: .* set from={root}/x, "):
        shards.run_prepare(root, tmp_path / "to", "webdataset")
    assert not (tmp_path / "to").exists()


def test_splits_too_deep_in_a_tar_are_refused(tmp_path: Path) -> None:
    jpeg = shards.encode_jpeg(0)
    root = write_tar(
        tmp_path / "tars" / "all.tar",
        {"set/train/a/1.jpg": jpeg, "set/val/a/1.jpg": jpeg},
    )
    with pytest.raises(ValueError, match="make the shards without set/"):
        list_container("webdataset", str(root), 0.1)


def test_folders_beside_train_without_images_are_left_out(tmp_path: Path) -> None:
    root = write_files(tmp_path, *numbered_names("train/", 4), "labels/1.txt")
    assert len(list_images(root).train) == 3


def test_classes_are_numbers_where_all_labels_are() -> None:
    assert class_keys({"10", "2.0", "-1"}) == {"10": 10, "2.0": 2, "-1": -1}
    assert class_keys({3, "x"}) == {3: "3", "x": "x"}
    assert sort_classes([10, 2, -1]) == [-1, 2, 10]
    assert sort_classes(["10.5", "2.5", "0.5"]) == ["0.5", "2.5", "10.5"]
    assert sort_classes(["10", "2", "cat"]) == ["10", "2", "cat"]
