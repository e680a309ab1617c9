"""iNaturalist, Places and CSV lists are read as distributed.

Their identity depends on images and labels, not on the order of lines or the location.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from small_runs import plan_for, run
from unmask.config.checks import ConfigError
from unmask.data.listing.listing import Listing
from unmask.data.sources import list_source

SPECIES = {
    0: "Aphrodita aculeata",
    1: "Hediste diversicolor",
    2: "Hediste diversicolor",
}
PLACES = ("/a/airfield", "/a/airplane_cabin", "/a/apartment_building/outdoor")


def write_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path.name)) + shade).integers(
        0, 60, (16, 16, 3), dtype=np.uint8
    )
    Image.fromarray(noise + np.uint8(70 * shade)).save(path)


def inaturalist(
    root: Path, year: int = 2018, folder: str = "train_val2018", backwards: bool = False
) -> Path:
    """Write six training and three validation images, with ids out of order."""
    for split, per_class in (("train", 2), ("val", 1)):
        images, annotations = [], []
        for number in range(3 * per_class):
            category, image_id = number % 3, 900 - 7 * number
            name = f"{folder}/Animalia/{category}/{split}{number}.jpg"
            write_image(root / name, category)
            images.append(
                {"id": image_id, "file_name": name, "width": 16, "height": 16}
            )
            annotations.append(
                {"id": number, "image_id": image_id, "category_id": category}
            )
        categories = [
            {"id": i, "name": name, "supercategory": "Animalia"}
            for i, name in SPECIES.items()
        ]
        content = {
            "images": images,
            "annotations": annotations[::-1],
            "categories": categories[::-1],
            "info": {},
        }
        if backwards:
            content["images"].reverse()
        (root / f"{split}{year}.json").write_text(json.dumps(content))
    return root


def places365(root: Path, size: str = "256", more: str = "") -> Path:
    lines: dict[str, list[str]] = {"train_standard": [], "val": []}
    for key, name in enumerate(PLACES):
        for number in (1, 2):
            lines["train_standard"].append(f"{name}/{number:08d}.jpg {key}")
            write_image(
                root / f"data_{size}{more}" / f"{name[1:]}/{number:08d}.jpg", key
            )
        lines["val"].append(f"Places365_val_{key:08d}.jpg {2 - key}")
        write_image(root / f"val_{size}" / f"Places365_val_{key:08d}.jpg", 2 - key)
    for split, each in lines.items():
        (root / f"places365_{split}.txt").write_text("\n".join(each) + "\n")
    (root / "categories_places365.txt").write_text(
        "".join(f"{name} {key}\n" for key, name in enumerate(PLACES))
    )
    return root


def places205(root: Path) -> Path:
    images = root / "data" / "vision" / "torralba" / "deeplearning" / "images256"
    for split, per_class in (("train", 2), ("val", 1)):
        lines = []
        for key, name in enumerate(PLACES):
            for number in range(per_class):
                file = f"{name[1:]}/gsun_{split}{number}.jpg"
                write_image(images / file, key)
                lines.append(f"{file} {key}")
        folder = root / "trainvalsplit_places205"
        folder.mkdir(exist_ok=True)
        (folder / f"{split}_places205.csv").write_text("\n".join(lines))
    return root


def write_lists(root: Path, train: str, val: str) -> Path:
    for name in ("x/1.png", "x/2.png", "y/3.png", "y/4, or so.png"):
        write_image(root / name)
    (root / "train.csv").write_text(train)
    (root / "val.csv").write_text(val)
    return root


def plan(source: str, root: Path, *more: str) -> Any:
    return plan_for(
        f"data={source}",
        f"data.root={root}",
        "data.image_size=16",
        "data.patch_size=4",
        "knn.k=3",
        *more,
    )


def class_names_by_file(listing: Listing) -> dict[str, str]:
    return {
        Path(name).name: listing.classes[label]
        for name, label in (*listing.train, *listing.val)
    }


@pytest.mark.parametrize(
    ("year", "folder"),
    [(2017, "train_val_images"), (2018, "train_val2018"), (2019, "train_val2019")],
)
def test_inaturalist_is_labelled_by_image_id_and_category(
    year: int, folder: str, tmp_path: Path
) -> None:
    listing = plan(f"inat{year}", inaturalist(tmp_path, year, folder)).listing
    assert (len(listing.train), len(listing.val)) == (6, 3)
    assert next(iter(listing.train)) == (f"{folder}/Animalia/0/train0.jpg", 0)
    assert all(
        Path(name).parts[2] == str(label)
        for name, label in (*listing.train, *listing.val)
    )
    assert listing.classes == (
        "Aphrodita aculeata",
        "Hediste diversicolor (1)",
        "Hediste diversicolor (2)",
    )


def test_species_names_published_later_change_no_fingerprint(tmp_path: Path) -> None:
    before = plan("inat2018", inaturalist(tmp_path))
    (tmp_path / "categories.json").write_text(
        json.dumps([{"id": 1, "name": "Nereis"}, {"id": 77, "name": "other"}])
    )
    after = plan("inat2018", tmp_path)
    assert after.class_names == ("Aphrodita aculeata", "Nereis", "Hediste diversicolor")
    assert after.stages[0].fingerprint == before.stages[0].fingerprint


def test_the_order_of_a_list_and_the_location_of_its_files_do_not_matter(
    tmp_path: Path,
) -> None:
    here, there = (
        inaturalist(tmp_path / "here"),
        inaturalist(tmp_path / "there", backwards=True),
    )
    assert list(list_source("inat2018", here).train) == list(
        list_source("inat2018", there).train
    )
    assert (
        list_source("inat2018", here).identity
        == list_source("inat2018", there).identity
    )
    write_image(there / "train_val2018" / "Animalia" / "0" / "train0.jpg", 3)
    assert (
        list_source("inat2018", here).identity
        != list_source("inat2018", there).identity
    )


def test_another_label_is_another_data_set(tmp_path: Path) -> None:
    root = places365(tmp_path)
    before = list_source("places365", root).identity
    file = root / "places365_val.txt"
    file.write_text(file.read_text().replace("00000.jpg 2", "00000.jpg 1"))
    assert list_source("places365", root).identity != before


@pytest.mark.parametrize(
    ("size", "more"), [("256", ""), ("large", ""), ("256", "_standard")]
)
def test_places365_in_both_sizes_and_as_torchvision_renames_it(
    size: str, more: str, tmp_path: Path
) -> None:
    listing = plan("places365", places365(tmp_path, size, more)).listing
    assert listing.classes == (
        "airfield",
        "airplane_cabin",
        "apartment_building/outdoor",
    )
    assert next(iter(listing.train)) == (
        f"data_{size}{more}/a/airfield/00000001.jpg",
        0,
    )
    assert next(iter(listing.val)) == (f"val_{size}/Places365_val_00000000.jpg", 2)


def test_places205_names_classes_by_folders(tmp_path: Path) -> None:
    listing = plan("places205", places205(tmp_path)).listing
    assert listing.classes == (
        "airfield",
        "airplane_cabin",
        "apartment_building/outdoor",
    )
    assert (len(listing.train), len(listing.val)) == (6, 3)
    assert all(
        (tmp_path / name).is_file() for name, _ in (*listing.train, *listing.val)
    )


def test_a_single_list_is_split_as_a_folder_whatever_the_order_of_its_lines(
    tmp_path: Path,
) -> None:
    lines = [f"x/{i}.png,dog" for i in range(10)] + [
        f"{tmp_path}/y/{i}.png,cat" for i in range(10)
    ]
    for i in range(10):
        write_image(tmp_path / "x" / f"{i}.png")
        write_image(tmp_path / "y" / f"{i}.png")
    (tmp_path / "train.csv").write_text("\n".join(lines))
    listing = list_source("listed", tmp_path, holdout=0.2)
    assert (len(listing.train), len(listing.val)) == (16, 4)
    assert sorted(label for _, label in listing.val) == [0, 0, 1, 1]
    assert all(
        (listing.root / name).is_file() and not Path(name).is_absolute()
        for name, _ in (*listing.train, *listing.val)
    )
    (tmp_path / "train.csv").write_text("\n".join(reversed(lines)))
    again = list_source("listed", tmp_path, holdout=0.2)
    assert (again.identity, list(again.val)) == (listing.identity, list(listing.val))


def test_labels_of_lists_may_be_words(tmp_path: Path) -> None:
    root = write_lists(
        tmp_path,
        'path,label\nx/1.png, dog\ny/3.png,cat\n\n"y/4, or so.png",cat\n',
        "x/2.png,dog",
    )
    listing = plan("listed", root).listing
    assert listing.classes == ("cat", "dog")
    assert class_names_by_file(listing) == {
        "1.png": "dog",
        "3.png": "cat",
        "4, or so.png": "cat",
        "2.png": "dog",
    }


def test_number_labels_are_sorted_as_numbers(tmp_path: Path) -> None:
    root = write_lists(tmp_path, "x/1.png,10\ny/3.png,9\n", "x/2.png,10\n")
    listing = list_source("listed", root)
    assert listing.classes == ("9", "10")
    assert class_names_by_file(listing) == {"1.png": "10", "2.png": "10", "3.png": "9"}


@pytest.mark.parametrize(
    ("source", "make", "gone"),
    [
        ("inat2018", inaturalist, "val2018.json"),
        ("places365", places365, "categories_places365.txt"),
        ("places205", places205, "trainvalsplit_places205/train_places205.csv"),
    ],
)
def test_a_missing_file_is_named_with_the_layout(
    source: str, make: Any, gone: str, tmp_path: Path
) -> None:
    make(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(
        ConfigError,
        match=rf"{gone} .*; data={source} expects in data\.root=.*: .*val",
    ):
        plan(source, tmp_path)


@pytest.mark.parametrize(
    ("source", "make", "gone"),
    [
        ("inat2018", inaturalist, "train_val2018"),
        ("places365", places365, "val_256"),
        ("places365", places365, "data_256"),
    ],
)
def test_images_that_were_never_unpacked_are_named_with_the_layout(
    source: str, make: Any, gone: str, tmp_path: Path
) -> None:
    shutil.rmtree(make(tmp_path) / gone)
    (tmp_path / gone).mkdir()
    with pytest.raises(
        ConfigError,
        match=rf"{gone}/.*jpg .*; data={source} expects in data\.root=.*val",
    ):
        plan(source, tmp_path)


def test_a_list_of_folders_is_refused(tmp_path: Path) -> None:
    root = write_lists(tmp_path, "x/1.png,dog\ny/3.png,cat", "x,dog\ny,cat")
    with pytest.raises(
        ConfigError, match=r"none of 2 listed images is a file; the first is .*x"
    ):
        plan("listed", root)


def test_a_missing_listed_image_is_noted_at_the_start_and_becomes_a_bad_image(
    tmp_path: Path,
) -> None:
    root = write_lists(
        tmp_path / "images",
        "x/1.png,dog\nx/0.png,cat\ny/3.png,cat",
        'x/2.png,dog\n"y/4, or so.png",cat',
    )
    listing = list_source("listed", root)
    (note,) = (note for note in listing.notes if "not there" in note)
    assert note.startswith("1 of 5 listed images")
    assert note.endswith("x/0.png")
    overrides = (
        "data=listed",
        f"data.root={root}",
        "data.image_size=16",
        "data.patch_size=4",
        "stages=[pretrain]",
        "data.bad_limit=0.5",
        "data.num_workers=0",
        "pretrain.batch_size=3",
        "pretrain.epochs=1",
        f"runs_dir={tmp_path / 'runs'}",
    )
    run(*overrides)
    (bad_images,) = (tmp_path / "runs").glob("pretrain/*/bad_images.jsonl")
    assert "x/0.png" in bad_images.read_text()


def test_a_missing_root_is_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        ConfigError, match=r"nowhere/train2017.json is not there; data=inat2017 expects"
    ):
        plan("inat2017", tmp_path / "nowhere")
    with pytest.raises(
        ConfigError, match=r"data.root: missing; .* add data.root=/path/to/images"
    ):
        plan_for("data=places205", tiny=False)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (
            "x/1.png,dog\nx/2.png\n",
            "y/3.png,dog",
            r"line 2 of .*train\.csv is 'x/2\.png'; expected path,label",
        ),
        (
            "x/1.png,dog\ny/3.png,cat",
            "x/2.png,cow",
            r"x/2\.png .* label cow, .*training lacks; .* cat",
        ),
        (
            "/x/1.png,dog",
            "x/2.png,dog",
            r"/x/1\.png .* leaves data\.root",
        ),
        (
            "../1.png,dog",
            "x/2.png,dog",
            r"\.\./1\.png .* leaves data\.root",
        ),
        (
            "x/1.png,dog",
            "path,label\n",
            r"1 training and 0 validation images",
        ),
    ],
)
def test_lists_that_cannot_be_understood_are_refused(
    train: str, val: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan("listed", write_lists(tmp_path, train, val))


def test_a_list_of_another_encoding_is_named(tmp_path: Path) -> None:
    root = write_lists(tmp_path, "x/1.png,dog", "y/3.png,dog")
    (root / "train.csv").write_bytes("x/1.png,fuchs\nx/2.png,dächs".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"train\.csv is not UTF-8 \(byte 23\)"):
        plan("listed", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', r"val2018\.json is damaged"),
        (
            '{"images": [], "categories": []}',
            r"val2018\.json lacks 'annotations'; .* images \(id, file_name\)",
        ),
        (
            (
                '{"images": [{"id": 3, "file_name": "a"}], "annotations": [],'
                ' "categories": []}'
            ),
            r"val2018\.json lacks 3;",
        ),
        (
            (
                '{"images": [], "annotations": [{"image_id": 1, "category_id": 0},'
                ' {"image_id": 1, "category_id": 2}], "categories": []}'
            ),
            r"val2018\.json gives 1 images two categories",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
            r"category has no 'name'; each needs id and name",
        ),
    ],
)
def test_damaged_annotations_are_named(
    content: str, message: str, tmp_path: Path
) -> None:
    (inaturalist(tmp_path) / "val2018.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        plan("inat2018", tmp_path)


def test_a_places_line_without_a_number_is_named(tmp_path: Path) -> None:
    (places365(tmp_path) / "places365_val.txt").write_text(
        "Places365_val_00000000.jpg\n"
    )
    with pytest.raises(
        ConfigError,
        match=r"line 1 of .*places365_val\.txt is 'Places365_val_00000000\.jpg'",
    ):
        plan("places365", tmp_path)


def test_a_data_set_with_annotations_is_trained_on_and_evaluated(
    tmp_path: Path,
) -> None:
    root = inaturalist(tmp_path / "inat")
    (result,) = run(
        "data=inat2018",
        f"data.root={root}",
        "data.image_size=16",
        "data.patch_size=4",
        "stages=[scratch]",
        f"runs_dir={tmp_path / 'runs'}",
        "scratch.batch_size=6",
    )
    assert result["images"] == 3
    (folder,) = (tmp_path / "runs" / "scratch").iterdir()
    assert (
        (folder / "classes.csv")
        .read_text()
        .splitlines()[1]
        .startswith("Aphrodita aculeata,1,")
    )
