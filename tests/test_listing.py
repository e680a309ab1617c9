"""A folder of images is understood as people lay it out, and known by its content wherever it lies."""

from pathlib import Path

import pytest

from unmask.data.listing import list_images
from unmask.data.scan import scan


def make(root: Path, *names: str, size: int = 3) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    return root


def numbered(folder: str, count: int) -> list[str]:
    return [f"{folder}{i:03d}.png" for i in range(count)]


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_split_folders_with_class_folders(tmp_path: Path, held_out: str) -> None:
    make(tmp_path, "train/cat/1.png", "train/dog/1.jpg", "train/dog/deep/2.JPEG", f"{held_out}/dog/1.webp")
    found = list_images(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.train == (("train/cat/1.png", 0), ("train/dog/1.jpg", 1), ("train/dog/deep/2.JPEG", 1))
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
    found = list_images(make(tmp_path, *numbered("cat/", 20), *numbered("dog/", 30)), holdout=0.1)
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


@pytest.mark.parametrize(("prefix", "count", "size"), [("b/", 4, 3), ("a/", 5, 3), ("a/", 4, 9)])
def test_identity_changes_with_names_number_and_sizes(tmp_path: Path, prefix: str, count: int, size: int) -> None:
    before = list_images(make(tmp_path / "before", *numbered("a/", 4)))
    after = list_images(make(tmp_path / "after", *numbered(prefix, count), size=size))
    assert before.identity != after.identity


def test_identity_knows_which_images_are_held_out(tmp_path: Path) -> None:
    root = make(tmp_path, *numbered("a/", 20))
    assert list_images(root, holdout=0.1).identity != list_images(root, holdout=0.2).identity


def test_a_train_folder_alone_is_not_a_class(tmp_path: Path) -> None:
    assert list_images(make(tmp_path, *numbered("train/cat/", 9), *numbered("train/dog/", 9))).classes == ("cat", "dog")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.root=.*nowhere is not a folder; give an existing folder of images"):
        list_images(tmp_path / "nowhere")


def test_a_folder_without_images_says_what_counts_as_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 0 training and 0 validation images; both need .* \.png"):
        list_images(make(tmp_path, "notes.txt"))


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"validation has 1 classes that training lacks: dog; training has cat: give"):
        list_images(make(tmp_path, "train/cat/1.png", "val/dog/1.png"))


def test_a_flat_validation_folder_beside_training_classes_is_named(tmp_path: Path) -> None:
    """ImageNet's val/ comes like that."""
    said = r"val/ILSVRC2012_val_1.JPEG and 1 more .* lie in no class folder, but training has 2 classes; sort them"
    with pytest.raises(ValueError, match=said):
        list_images(make(tmp_path, "train/a/1.png", "train/b/1.png", "val/ILSVRC2012_val_1.JPEG", "val/x_2.JPEG"))


@pytest.mark.parametrize("holdout", [0.1, 0.25, 0.29, 0.4, 0.45, 0.5])
def test_the_share_held_out_is_the_one_asked_for(holdout: float, tmp_path: Path) -> None:
    found = list_images(make(tmp_path, *numbered("cat/", 100), *numbered("dog/", 200)), holdout)
    held = [Path(name).parts[0] for name, _ in found.val]
    assert (held.count("cat"), held.count("dog")) == (round(100 * holdout), round(200 * holdout))


def test_a_class_of_one_image_is_trained_on(tmp_path: Path) -> None:
    found = list_images(make(tmp_path, "a/1.png", "b/1.png", "c/1.png", "c/2.png"))
    assert {label for _, label in found.train} == {0, 1, 2}
    with pytest.raises(ValueError, match=r"has 3 training and 0 validation images"):
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


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    root = make(tmp_path, *numbered("a/", 4))
    (root / "a" / "zz.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"zz.png cannot be read .*mend or remove it"):
        list_images(root)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("unmask.data.listing.sha256", denied)  # root may read everything
    with pytest.raises(ValueError, match=r"000.png cannot be read \(Permission denied\); mend or remove it"):
        list_images(make(tmp_path, *numbered("a/", 4)))


def test_linked_class_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    """A hundred classes of ImageNet are often a folder of links."""
    whole = make(tmp_path / "whole", *numbered("train/cat/", 3), *numbered("train/dog/", 3), *numbered("val/dog/", 2))
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
    names = ["a/1.png", "a-b/1.png", "a.png", "a.b/1.png", "ab/1.png", "a/é.png", "a/z.png", "a/b/1.png"]
    assert list(scan(make(tmp_path, *names), [tmp_path])[0]) == sorted(names)
