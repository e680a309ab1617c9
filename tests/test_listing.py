"""A folder of images is understood as people lay it out, and known by its content wherever it lies."""

import os
import tempfile
from pathlib import Path

import pytest

from test_faults import somebody_else
from unmask.data.listing.listing import list_images
from unmask.data.listing.scan import scan


def make(root: Path, *names: str, size: int = 3) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    return root


def numbered(folder: str, count: int) -> list[str]:
    return [f"{folder}{i:03d}.png" for i in range(count)]


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_split_folders_with_class_folders(tmp_path: Path, held_out: str) -> None:
    make(
        tmp_path,
        "train/cat/1.png",
        "train/dog/1.jpg",
        "train/dog/deep/2.JPEG",
        f"{held_out}/dog/1.webp",
    )
    found = list_images(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.train == (
        ("train/cat/1.png", 0),
        ("train/dog/1.jpg", 1),
        ("train/dog/deep/2.JPEG", 1),
    )
    assert found.val == ((f"{held_out}/dog/1.webp", 1),)


def test_split_folders_without_classes_are_unlabelled(tmp_path: Path) -> None:
    """One image outside a class folder and there are no classes: never one class an image."""
    found = list_images(make(tmp_path, "train/1.png", "train/cat/2.png", "val/1.png"))
    assert found.classes == ()
    assert {label for _, label in (*found.train, *found.val)} == {-1}


def test_what_is_not_an_image_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "2.npy", "notes.txt", ".hidden.png", "Thumbs.db")
    found = list_images(tmp_path, holdout=0.5)
    assert [name for name, _ in (*found.train, *found.val)] == ["1.png", "2.npy"]


def test_every_tenth_image_of_each_class_is_held_out(tmp_path: Path) -> None:
    found = list_images(
        make(tmp_path, *numbered("cat/", 20), *numbered("dog/", 30)), holdout=0.1
    )
    assert [label for _, label in found.val] == [0, 0, 1, 1, 1]
    assert len(found.train) == 45
    assert not set(found.train) & set(found.val)


@pytest.mark.parametrize("count", [2, 3, 9, 10])
def test_a_small_flat_heap_still_has_both_splits(tmp_path: Path, count: int) -> None:
    found = list_images(make(tmp_path, *numbered("", count)), holdout=0.1)
    assert len(found.val) >= 1
    assert len(found.train) + len(found.val) == count
    assert found.classes == ()


def test_identity_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    here = list_images(make(tmp_path / "here", *numbered("a/", 4)))
    there = list_images(make(tmp_path / "there" / "deeper", *numbered("a/", 4)))
    assert here.identity == there.identity


@pytest.mark.parametrize(
    ("prefix", "count", "size"), [("b/", 4, 3), ("a/", 5, 3), ("a/", 4, 9)]
)
def test_identity_changes_with_names_number_and_sizes(
    tmp_path: Path, prefix: str, count: int, size: int
) -> None:
    before = list_images(make(tmp_path / "before", *numbered("a/", 4)))
    after = list_images(make(tmp_path / "after", *numbered(prefix, count), size=size))
    assert before.identity != after.identity


def test_identity_knows_which_images_are_held_out(tmp_path: Path) -> None:
    root = make(tmp_path, *numbered("a/", 20))
    assert (
        list_images(root, holdout=0.1).identity
        != list_images(root, holdout=0.2).identity
    )


def test_a_train_folder_alone_is_not_a_class(tmp_path: Path) -> None:
    assert list_images(
        make(tmp_path, *numbered("train/cat/", 9), *numbered("train/dog/", 9))
    ).classes == ("cat", "dog")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"data.root=.*nowhere is not a folder; give an existing folder of images",
    ):
        list_images(tmp_path / "nowhere")


def test_a_folder_without_images_says_what_counts_as_one(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has 0 training and 0 validation images; both need .* \.png"
    ):
        list_images(make(tmp_path, "notes.txt"))


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"validation has 1 classes that training lacks: dog; training has cat: give"
        ),
    ):
        list_images(make(tmp_path, "train/cat/1.png", "val/dog/1.png"))


def test_a_flat_validation_folder_beside_training_classes_is_named(
    tmp_path: Path,
) -> None:
    """ImageNet's val/ comes like that."""
    said = (
        r"val/ILSVRC2012_val_1.JPEG and 1 more .* lie in no class folder, but training"
        r" has 2 classes; sort them"
    )
    with pytest.raises(ValueError, match=said):
        list_images(
            make(
                tmp_path,
                "train/a/1.png",
                "train/b/1.png",
                "val/ILSVRC2012_val_1.JPEG",
                "val/x_2.JPEG",
            )
        )


@pytest.mark.parametrize("holdout", [0.1, 0.25, 0.29, 0.4, 0.45, 0.5])
def test_the_share_held_out_is_the_one_asked_for(
    holdout: float, tmp_path: Path
) -> None:
    found = list_images(
        make(tmp_path, *numbered("cat/", 100), *numbered("dog/", 200)), holdout
    )
    held = [Path(name).parts[0] for name, _ in found.val]
    assert (held.count("cat"), held.count("dog")) == (
        round(100 * holdout),
        round(200 * holdout),
    )


def test_a_class_of_one_image_is_trained_on(tmp_path: Path) -> None:
    found = list_images(make(tmp_path, "a/1.png", "b/1.png", "c/1.png", "c/2.png"))
    assert {label for _, label in found.train} == {0, 1, 2}
    with pytest.raises(
        ValueError,
        match=(
            r"none of its 3 images can be held out for validation: each is alone in its"
        ),
    ):
        list_images(make(tmp_path.with_name("lone"), "a/1.png", "b/1.png", "c/1.png"))


def test_a_validation_split_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has val/ but no train/"):
        list_images(make(tmp_path, *numbered("val/cat/", 9)))


def test_other_content_of_the_same_size_is_another_data_set(tmp_path: Path) -> None:
    root = make(tmp_path, *numbered("a/", 4))
    before = list_images(root).identity
    file = next(root.rglob("*.png"))
    file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))
    assert list_images(root).identity != before


def test_a_link_that_leads_nowhere_and_a_pipe_are_listed_as_what_cannot_be_read(
    tmp_path: Path,
) -> None:
    """They are the run's to replace; what they are counts in the identity, and nobody waits for the pipe."""
    root = make(tmp_path / "images", *numbered("a/", 4))
    (root / "a" / "zz.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "a" / "pipe.png")
    found = list_images(root, holdout=0.5)
    assert {"a/zz.png", "a/pipe.png"} <= {
        name for name, _ in (*found.train, *found.val)
    }
    (root / "a" / "zz.png").unlink()
    make(root, "a/zz.png")
    assert list_images(root, holdout=0.5).identity != found.identity


def test_a_folder_of_links_that_lead_nowhere_is_refused(tmp_path: Path) -> None:
    """A disk that is not there costs a line at the start."""
    for name in numbered("", 4):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        ValueError,
        match=(
            r"none of 4 images below data.root=.* can be read, the first is 000.png; is"
            r" the disk there"
        ),
    ):
        list_images(tmp_path)


@pytest.mark.parametrize("below", ["", "train/"])
def test_a_class_folder_without_an_image_is_named(below: str, tmp_path: Path) -> None:
    root = make(
        tmp_path,
        f"{below}cat/1.png",
        f"{below}cat/2.png",
        f"{below}dog/1.png",
        f"{below}emu/readme.txt",
        f"{below}.cache/x.txt",
    )
    with pytest.raises(
        ValueError,
        match=(
            r"has 1 class folders without an image beside 3 images of 2 classes: emu;"
            r" put images"
        ),
    ):
        list_images(root)


def test_an_empty_class_folder_of_validation_is_named(tmp_path: Path) -> None:
    root = make(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png")
    (root / "val" / "dog").mkdir()
    with pytest.raises(
        ValueError, match=r"val has 1 class folders without an image .*: dog;"
    ):
        list_images(root)


def test_folders_beside_a_flat_heap_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert list_images(make(tmp_path, *numbered("", 4))).classes == ()


def test_a_class_without_validation_images_is_allowed_and_told(tmp_path: Path) -> None:
    found = list_images(
        make(
            tmp_path,
            "train/cat/1.png",
            "train/dog/1.jpg",
            "train/emu/1.png",
            "val/dog/1.webp",
        )
    )
    assert "2 of 3 classes have no validation image: cat, emu" in found.notes


def test_classes_whose_names_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    """They may be meant: letters by hand are sorted so."""
    found = list_images(
        make(
            tmp_path, *(f"{name}/{i}.png" for name in ("a", "A", "b") for i in range(3))
        )
    )
    assert found.classes == ("A", "a", "b")
    assert any(
        note.startswith("A and a are two classes, whose names differ in case")
        for note in found.notes
    )


def test_validation_images_that_are_trained_on_too_are_counted(tmp_path: Path) -> None:
    for k, name in enumerate(
        ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png")
    ):
        make(tmp_path, name, size=5 + k)
    assert list_images(tmp_path).notes == ()
    (tmp_path / "val/b/9.jpg").write_bytes((tmp_path / "train/a/1.png").read_bytes())
    assert list_images(tmp_path).notes == (
        "1 of 3 validation images are training images too, by their content",
    )


def test_a_split_that_is_a_file_is_named(tmp_path: Path) -> None:
    make(tmp_path, "train", *numbered("val/", 3))
    with pytest.raises(
        ValueError,
        match=(
            r"train is a file, where a folder of images is looked for; rename or"
            r" remove it"
        ),
    ):
        list_images(tmp_path)


def test_shards_in_place_of_images_are_known(tmp_path: Path) -> None:
    make(tmp_path, "train-000000.tar", "unmask.index")
    with pytest.raises(
        ValueError,
        match=r"what is there: 1 x \.index, 1 x \.tar: set source=webdataset",
    ):
        list_images(tmp_path)


def test_suffixes_that_are_no_images_are_told_where_there_is_nothing_else(
    tmp_path: Path,
) -> None:
    make(tmp_path, *(f"cat/{i}.jpge" for i in range(3)), "cat/1.heic", "Makefile")
    with pytest.raises(
        ValueError, match=r"what is there: 3 x \.jpge, 1 x \.heic, 1 x Makefile"
    ):
        list_images(tmp_path)


def test_a_folder_that_may_not_be_read_is_named() -> None:
    """Its images would vanish without a word."""
    with tempfile.TemporaryDirectory() as place:
        root = make(Path(place), *numbered("a/", 3), *numbered("b/", 3))
        root.chmod(0o755)
        (root / "b").chmod(0)
        with (
            somebody_else(),
            pytest.raises(ValueError, match=r"/b cannot be read \(Permission denied\)"),
        ):
            list_images(root)
        (root / "b").chmod(0o755)


def test_a_class_folder_in_a_class_folder_is_a_part_of_it(tmp_path: Path) -> None:
    found = list_images(
        make(
            tmp_path,
            "train/cat/1.png",
            "train/cat/old/2.png",
            "train/dog/1.png",
            "val/cat/new/9.png",
        )
    )
    assert found.classes == ("cat", "dog")
    assert found.train[1] == ("train/cat/old/2.png", 0)
    assert found.val[0] == ("val/cat/new/9.png", 0)


def test_linked_class_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    """A hundred classes of ImageNet are often a folder of links."""
    whole = make(
        tmp_path / "whole",
        *numbered("train/cat/", 3),
        *numbered("train/dog/", 3),
        *numbered("val/dog/", 2),
    )
    part = tmp_path / "part"
    (part / "train").mkdir(parents=True)
    for name in ("train/dog", "val"):
        (part / name).symlink_to(whole / name)
    (whole / "train" / "dog" / "again").symlink_to(whole / "train" / "dog")
    found = list_images(part)
    assert found.train == tuple((name, 0) for name in numbered("train/dog/", 3))
    assert len(found.val) == 2


def test_files_and_folders_are_in_the_order_of_whole_names(tmp_path: Path) -> None:
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
    assert list(scan(make(tmp_path, *names), [tmp_path])[0]) == sorted(names)
