"""Folders of images are listed in any usual layout, and identified by content alone."""

import os
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from small_runs import plan_for
from test_faults import another_user
from unmask.config.checks import ConfigError
from unmask.data.listing.listing import list_image_files, list_images
from unmask.data.sources import list_source


def write_files(root: Path, *names: str, size: int = 3) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    return root


def numbered_names(folder: str, count: int) -> list[str]:
    return [f"{folder}{i:03d}.png" for i in range(count)]


@pytest.mark.parametrize("val_split", ["val", "valid", "validation", "test"])
def test_split_folders_with_class_folders(tmp_path: Path, val_split: str) -> None:
    write_files(
        tmp_path,
        "train/cat/1.png",
        "train/dog/1.jpg",
        "train/dog/deep/2.JPEG",
        f"{val_split}/dog/1.webp",
    )
    listing = list_images(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert tuple(listing.train) == (
        ("train/cat/1.png", 0),
        ("train/dog/1.jpg", 1),
        ("train/dog/deep/2.JPEG", 1),
    )
    assert tuple(listing.val) == ((f"{val_split}/dog/1.webp", 1),)


def test_split_folders_without_classes_are_unlabelled(tmp_path: Path) -> None:
    """A single image outside class folders means that there are no classes."""
    listing = list_images(
        write_files(tmp_path, "train/1.png", "train/cat/2.png", "val/1.png")
    )
    assert listing.classes == ()
    assert {label for _, label in (*listing.train, *listing.val)} == {-1}


def test_files_that_are_not_images_are_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, "1.png", "2.npy", "notes.txt", ".hidden.png", "Thumbs.db")
    listing = list_images(tmp_path, holdout=0.5)
    assert [name for name, _ in (*listing.train, *listing.val)] == ["1.png", "2.npy"]


def test_every_tenth_image_of_each_class_is_held_out(tmp_path: Path) -> None:
    listing = list_images(
        write_files(tmp_path, *numbered_names("cat/", 20), *numbered_names("dog/", 30)),
        holdout=0.1,
    )
    assert [label for _, label in listing.val] == [0, 0, 1, 1, 1]
    assert len(listing.train) == 45
    assert not set(listing.train) & set(listing.val)


@pytest.mark.parametrize("count", [2, 3, 9, 10])
def test_a_small_flat_folder_still_has_both_splits(tmp_path: Path, count: int) -> None:
    listing = list_images(
        write_files(tmp_path, *numbered_names("", count)), holdout=0.1
    )
    assert len(listing.val) >= 1
    assert len(listing.train) + len(listing.val) == count
    assert listing.classes == ()


def test_identity_depends_on_content_and_not_on_location(tmp_path: Path) -> None:
    here = list_images(write_files(tmp_path / "here", *numbered_names("a/", 4)))
    there = list_images(
        write_files(tmp_path / "there" / "deeper", *numbered_names("a/", 4))
    )
    assert here.identity == there.identity


@pytest.mark.parametrize(
    ("prefix", "count", "size"), [("b/", 4, 3), ("a/", 5, 3), ("a/", 4, 9)]
)
def test_identity_changes_with_names_number_and_sizes(
    tmp_path: Path, prefix: str, count: int, size: int
) -> None:
    before = list_images(write_files(tmp_path / "before", *numbered_names("a/", 4)))
    after = list_images(
        write_files(tmp_path / "after", *numbered_names(prefix, count), size=size)
    )
    assert before.identity != after.identity


def test_identity_depends_on_which_images_are_held_out(tmp_path: Path) -> None:
    root = write_files(tmp_path, *numbered_names("a/", 20))
    assert (
        list_images(root, holdout=0.1).identity
        != list_images(root, holdout=0.2).identity
    )


def test_a_train_folder_alone_is_not_a_class(tmp_path: Path) -> None:
    assert list_images(
        write_files(
            tmp_path, *numbered_names("train/cat/", 9), *numbered_names("train/dog/", 9)
        )
    ).classes == ("cat", "dog")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"data.root=.*nowhere.*data\.root=/path/to/it",
    ):
        list_images(tmp_path / "nowhere")


def test_a_folder_without_images_says_what_counts_as_one(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"0 training and 0 validation images; .* \.png"
    ):
        list_images(write_files(tmp_path, "notes.txt"))


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"validation has 1 classes .*: dog; training has cat;",
    ):
        list_images(write_files(tmp_path, "train/cat/1.png", "val/dog/1.png"))


def test_a_flat_validation_folder_beside_training_classes_is_named(
    tmp_path: Path,
) -> None:
    """ImageNet's val/ is distributed flat."""
    message = (
        r"val/ILSVRC2012_val_1.JPEG and 1 more .* no class folder.* 2 classes"
        r".*ILSVRC2012_devkit_t12/ in data\.root"
    )
    with pytest.raises(ValueError, match=message):
        list_images(
            write_files(
                tmp_path,
                "train/a/1.png",
                "train/b/1.png",
                "val/ILSVRC2012_val_1.JPEG",
                "val/x_2.JPEG",
            )
        )


@pytest.mark.parametrize("holdout", [0.1, 0.25, 0.29, 0.4, 0.45, 0.5])
def test_the_share_held_out_is_the_requested_one(
    holdout: float, tmp_path: Path
) -> None:
    listing = list_images(
        write_files(
            tmp_path, *numbered_names("cat/", 100), *numbered_names("dog/", 200)
        ),
        holdout,
    )
    held_out = [Path(name).parts[0] for name, _ in listing.val]
    assert (held_out.count("cat"), held_out.count("dog")) == (
        round(100 * holdout),
        round(200 * holdout),
    )


def test_a_class_of_one_image_is_trained_on(tmp_path: Path) -> None:
    listing = list_images(
        write_files(tmp_path, "a/1.png", "b/1.png", "c/1.png", "c/2.png")
    )
    assert {label for _, label in listing.train} == {0, 1, 2}


def test_folders_of_one_image_each_are_no_classes_and_can_be_pretrained_on(
    tmp_path: Path,
) -> None:
    root = write_files(tmp_path, "a/1.png", "b/1.png", "c/1.png")
    for k, name in enumerate("abc"):
        Image.new("L", (4, 4), k).save(root / name / "1.png")
    listing = list_images(root)
    assert (len(listing.train), len(listing.val), listing.classes) == (2, 1, ())
    (note,) = (note for note in listing.notes if "only one of its class" in note)
    assert "add val/" in note
    common = (f"data.root={root}", "data.image_size=16", "data.patch_size=4")
    plan_for("data=image_folder", *common, "stages=[pretrain]")
    with pytest.raises(
        ConfigError, match=r"knn need labels.* the only one of its class"
    ):
        plan_for("data=image_folder", *common, "stages=[knn]")
    (root / "train.csv").write_text("a/1.png,a\nb/1.png,b\nc/1.png,c")
    listed = list_source("listed", root)
    assert (len(listed.train), len(listed.val), listed.classes) == (2, 1, ())
    assert any("only one of its class" in note for note in listed.notes)


def test_lists_beside_flat_images_are_named(tmp_path: Path) -> None:
    root = write_files(tmp_path, *numbered_names("train/", 4), "train/metadata.csv")
    *_, note = list_images(root).notes
    assert "train/metadata.csv is not read" in note
    assert (
        f"data=listed reads train.csv with lines of path,label in data.root={root}"
        in note
    )


def test_a_validation_split_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has val/ but no train/"):
        list_images(write_files(tmp_path, *numbered_names("val/cat/", 9)))


def test_other_content_of_the_same_size_is_another_data_set(tmp_path: Path) -> None:
    root = write_files(tmp_path, *numbered_names("a/", 4))
    before = list_images(root).identity
    file = next(root.rglob("*.png"))
    file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))
    assert list_images(root).identity != before


def test_dead_links_and_pipes_are_listed_as_unreadable(
    tmp_path: Path,
) -> None:
    """The run reads substitutes; the identity differs, and nobody waits for the pipe."""
    root = write_files(tmp_path / "images", *numbered_names("a/", 4))
    (root / "a" / "zz.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "a" / "pipe.png")
    listing = list_images(root, holdout=0.5)
    assert {"a/zz.png", "a/pipe.png"} <= {
        name for name, _ in (*listing.train, *listing.val)
    }
    (root / "a" / "zz.png").unlink()
    write_files(root, "a/zz.png")
    assert list_images(root, holdout=0.5).identity != listing.identity


def test_a_folder_of_dead_links_is_refused(tmp_path: Path) -> None:
    """A disk that is not mounted ends the run at the start, in one line."""
    for name in numbered_names("", 4):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        ValueError,
        match=r"none of 4 images below data\.root=.* 000\.png; is the disk there",
    ):
        list_images(tmp_path)


@pytest.mark.parametrize("below", ["", "train/"])
def test_a_class_folder_without_an_image_is_named(below: str, tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        f"{below}cat/1.png",
        f"{below}cat/2.png",
        f"{below}dog/1.png",
        f"{below}emu/readme.txt",
        f"{below}.cache/x.txt",
    )
    with pytest.raises(
        ValueError,
        match=r"has 1 class folders .* 3 images of 2 classes: emu;",
    ):
        list_images(root)


def test_an_empty_class_folder_of_validation_is_named(tmp_path: Path) -> None:
    root = write_files(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png")
    (root / "val" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"val has 1 class folders .*: dog;"):
        list_images(root)


def test_folders_beside_flat_images_are_not_classes(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert list_images(write_files(tmp_path, *numbered_names("", 4))).classes == ()


def test_a_class_without_validation_images_is_allowed_and_noted(tmp_path: Path) -> None:
    listing = list_images(
        write_files(
            tmp_path,
            "train/cat/1.png",
            "train/dog/1.jpg",
            "train/emu/1.png",
            "val/dog/1.webp",
        )
    )
    (note,) = (note for note in listing.notes if "no validation image" in note)
    assert note.startswith("2 of 3 classes")
    assert note.endswith("cat, emu")


def test_classes_whose_names_differ_only_in_case_are_noted(tmp_path: Path) -> None:
    """They may be meant: data sets of handwritten letters are sorted so."""
    listing = list_images(
        write_files(
            tmp_path, *(f"{name}/{i}.png" for name in ("a", "A", "b") for i in range(3))
        )
    )
    assert listing.classes == ("A", "a", "b")
    assert any(note.startswith("A and a are two classes") for note in listing.notes)


def test_validation_images_that_are_training_images_are_counted(tmp_path: Path) -> None:
    for k, name in enumerate(
        ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png")
    ):
        write_files(tmp_path, name, size=5 + k)
    assert list_images(tmp_path).notes == ()
    (tmp_path / "val/b/9.jpg").write_bytes((tmp_path / "train/a/1.png").read_bytes())
    (note, other) = list_images(tmp_path).notes
    assert other.startswith("1 images lie in several classes")
    assert note.startswith("1 of 3 validation images are training images")


def test_a_split_that_is_a_file_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, "train", *numbered_names("val/", 3))
    with pytest.raises(
        ValueError,
        match=r"train is a file.*; rename or remove it",
    ):
        list_images(tmp_path)


def test_shards_in_place_of_images_are_recognised(tmp_path: Path) -> None:
    write_files(tmp_path, "train-000000.tar", "unmask.index")
    with pytest.raises(
        ValueError,
        match=r"1 x \.index, 1 x \.tar: set source=webdataset",
    ):
        list_images(tmp_path)


def test_other_suffixes_are_counted_where_there_are_no_images(
    tmp_path: Path,
) -> None:
    write_files(
        tmp_path, *(f"cat/{i}.jpge" for i in range(3)), "cat/1.heic", "Makefile"
    )
    with pytest.raises(ValueError, match=r"3 x \.jpge, 1 x \.heic, 1 x Makefile"):
        list_images(tmp_path)


def test_a_folder_that_may_not_be_read_is_named() -> None:
    """Otherwise its images would vanish silently."""
    with tempfile.TemporaryDirectory() as directory:
        root = write_files(
            Path(directory), *numbered_names("a/", 3), *numbered_names("b/", 3)
        )
        root.chmod(0o755)
        (root / "b").chmod(0)
        with (
            another_user(),
            pytest.raises(ValueError, match=r"/b cannot be read \(Permission denied\)"),
        ):
            list_images(root)
        (root / "b").chmod(0o755)


def test_a_folder_in_a_class_folder_is_part_of_the_class(tmp_path: Path) -> None:
    listing = list_images(
        write_files(
            tmp_path,
            "train/cat/1.png",
            "train/cat/old/2.png",
            "train/dog/1.png",
            "val/cat/new/9.png",
        )
    )
    assert listing.classes == ("cat", "dog")
    assert list(listing.train)[1] == ("train/cat/old/2.png", 0)
    assert next(iter(listing.val)) == ("val/cat/new/9.png", 0)


def test_linked_class_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """A hundred classes of ImageNet are often a folder of links."""
    complete = write_files(
        tmp_path / "complete",
        *numbered_names("train/cat/", 3),
        *numbered_names("train/dog/", 3),
        *numbered_names("val/dog/", 2),
    )
    part = tmp_path / "part"
    (part / "train").mkdir(parents=True)
    for name in ("train/dog", "val"):
        (part / name).symlink_to(complete / name)
    dogs = complete / "train" / "dog"
    (dogs / "again").symlink_to(dogs)
    listing = list_images(part)
    assert tuple(listing.train) == tuple(
        (name, 0) for name in numbered_names("train/dog/", 3)
    )
    assert len(listing.val) == 2


def test_files_and_folders_are_in_the_order_of_full_names(tmp_path: Path) -> None:
    """A slash sorts after a hyphen and a point, and before letters."""
    names = [
        "a/1.png",
        "a-b/1.png",
        "a.png",
        "a.b/1.png",
        "ab/1.png",
        "a/é.png",
        "a/z.png",
        "a/b/1.png",
    ]
    assert list_image_files(write_files(tmp_path, *names), tmp_path) == sorted(names)
