"""Labels and names of shards are read as other people's tools write them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import shards
from small_runs import plan_for
from test_conventions import write_tar
from unmask.config.checks import ConfigError
from unmask.data.containers.source import list_container
from unmask.data.containers.tar_names import KeyEncoder, decode_name
from unmask.data.listing.listing import Listing, list_images
from unmask.data.loading.folders import read_stored, splits_from_listing

# the class of image k, where a test has no others
WORDS = ("dog", "cat", "emu")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(k: int) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels(k)).save(file, "PNG")
        return file.getvalue()


def found(listing: Listing) -> dict[int, str]:
    """Return the class of each image, by the number that its pixels are made of."""
    known = {pixels(k).tobytes(): k for k in range(40)}
    classes = {}
    for split in splits_from_listing(listing, 3, (8, 8), False):
        for i in range(len(split)):
            array = read_stored(split, i).permute(1, 2, 0).contiguous().numpy()
            label = int(split.labels_N[i])
            classes[known[array.tobytes()]] = (
                listing.classes[label] if listing.classes else ""
            )
    return classes


def tars(root: Path, *shards_of_members: dict[str, bytes]) -> Listing:
    for number, members in enumerate(shards_of_members):
        write_tar(root / f"part-{number}.tar", members)
    return list_container("webdataset", str(root), 0.2)


def label_members(form: str, k: int) -> dict[str, bytes]:
    """Return the members that tell the class of sample k."""
    word = WORDS[k % 3]
    return {
        "cls": {f"{k:03d}.jpg": png(k), f"{k:03d}.cls": word.encode()},
        "field": {f"{k:03d}.image.jpg": png(k), f"{k:03d}.class.cls": word.encode()},
        "txt": {f"{k:03d}.png": png(k), f"{k:03d}.txt": f"{word}\n".encode()},
        "cls.txt": {f"{k:03d}.png": png(k), f"{k:03d}.cls.txt": word.encode()},
        "class": {f"{k:03d}.png": png(k), f"{k:03d}.class": word.encode()},
        "folders": {f"{k:03d}/image.jpg": png(k), f"{k:03d}/class.cls": word.encode()},
        "json": {
            f"{k:03d}.jpg": png(k),
            f"{k:03d}.json": json.dumps({"width": 8, "label": word}).encode(),
        },
        "json class": {
            f"{k:03d}.json": json.dumps({"id": k, "Class Name": word}).encode(),
            f"{k:03d}.jpg": png(k),
        },
        "json object": {
            f"{k:03d}.jpg": png(k),
            f"{k:03d}.json": json.dumps({"label": {"id": 7, "name": word}}).encode(),
        },
        "label.json": {
            f"{k:03d}.jpg": png(k),
            f"{k:03d}.label.json": json.dumps(word).encode(),
        },
        "caption, too": {
            f"{k:03d}.jpg": png(k),
            f"{k:03d}.txt": f"a photo, {k % 2}".encode(),
            f"{k:03d}.json": json.dumps({"label": word}).encode(),
        },
    }[form]


@pytest.mark.parametrize(
    "form",
    [
        "cls",
        "field",
        "txt",
        "cls.txt",
        "class",
        "folders",
        "json",
        "json class",
        "json object",
        "label.json",
        "caption, too",
    ],
)
def test_words_beside_images_in_tars_are_classes(form: str, tmp_path: Path) -> None:
    halves: tuple[dict[str, bytes], dict[str, bytes]] = ({}, {})
    for k in range(12):
        halves[k // 6].update(label_members(form, k))
    listing = tars(tmp_path / "tars", *halves)
    assert listing.classes == ("cat", "dog", "emu")
    assert found(listing) == {k: WORDS[k % 3] for k in range(12)}


def test_captions_are_no_classes_and_are_named(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for k in range(6):
        members |= {f"{k}.jpg": png(k), f"{k}.txt": f"photo {k}".encode()}
        members |= {f"{k}.json": json.dumps({"width": 8}).encode()}
    listing = tars(tmp_path / "tars", members)
    assert listing.classes == ()
    (note,) = listing.notes
    assert "6 different texts of 6" in note
    assert ".json (width)" in note
    # from the index, too
    root = tmp_path / "tars"
    assert list_container("webdataset", str(root), 0.2).notes == (note,)
    with pytest.raises(ConfigError, match="knn need labels"):
        plan_for(
            "data=image_folder",
            "source=webdataset",
            f"data.root={root}",
            "data.image_size=8",
            "data.patch_size=4",
            "stages=[knn]",
        )


def npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


def test_masks_and_labels_of_a_sample_are_no_images(tmp_path: Path) -> None:
    members = {}
    for k in range(12):
        mask = png(20 + k)
        # a mask may come before its image
        members |= {f"{k:03d}.seg.png": mask, f"{k:03d}.jpg": png(k)}
        members |= {f"{k:03d}.label.npy": npy(np.array(k % 3))}
    listing = tars(tmp_path, members)
    assert found(listing) == {k: str(k % 3) for k in range(12)}
    assert any(".seg.png beside an image are taken" in n for n in listing.notes)


def test_dotted_names_and_masks_alone_are_images(tmp_path: Path) -> None:
    names = ("mask.0.jpg", "mask.1.jpg", "x.seg.png", "y.edited.jpg", "y.jpg")
    listing = tars(tmp_path, {name: png(k) for k, name in enumerate(names)})
    assert len(listing.train) + len(listing.val) == len(names)


def test_numbers_with_gaps_are_the_classes_that_there_are(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for k in range(12):
        number = (47219, 9, 100)[k % 3]
        members |= {f"{k}.jpg": png(k), f"{k}.cls": str(number).encode()}
    listing = tars(tmp_path / "tars", members)
    assert listing.classes == ("9", "100", "47219")
    assert found(listing)[0] == "47219"


def test_keys_that_begin_again_keep_all_images_with_their_labels(
    tmp_path: Path,
) -> None:
    """In two tars, and in one, as webdataset reads them."""
    samples = [
        ({f"{k % 4}.jpg": png(k)}, {f"{k % 4}.cls": WORDS[k % 3].encode()})
        for k in range(16)
    ]
    first: dict[str, bytes] = {}
    for image, label in samples[:4]:
        first |= image | label
    root = tmp_path / "tars"
    write_tar(root / "part-0.tar", first)
    write_members(
        root / "part-1.tar",
        [m for pair in samples[4:] for each in pair for m in each.items()],
    )
    listing = list_container("webdataset", str(root), 0.2)
    assert found(listing) == {k: WORDS[k % 3] for k in range(16)}
    names = [name for name, _ in (*listing.train, *listing.val)]
    assert "part-0-00000003-3.jpg" in names
    assert "part-1-00000011-3.jpg" in names
    for kind in ("webdataset", "folder"):
        shards.run_prepare(root, tmp_path / kind, kind)
    assert list_container("webdataset", str(tmp_path / "webdataset"), 0.2).identity == (
        listing.identity
    )
    assert found(list_images(tmp_path / "folder", 0.2)) == found(listing)


def write_members(path: Path, members: list[tuple[str, bytes]]) -> None:
    import tarfile

    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def parquet(
    root: Path,
    columns: dict[str, pa.Array],
    features: dict[str, Any] | None = None,
    name: str = "train-00000-of-00001.parquet",
    **options: Any,
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, root / name, **options)
    return root


def images(numbers: range, names: Any = "{}.png") -> pa.Array:
    rows = [{"bytes": png(k), "path": names.format(k % 4)} for k in numbers]
    return pa.array(rows, IMAGE)


@pytest.mark.parametrize(
    "kind",
    [
        "string",
        "large",
        "dictionary",
        "struct",
        "class label",
        "named class_name",
        "binary image",
    ],
)
def test_labels_of_parquet_may_be_words_numbers_or_structs(
    kind: str, tmp_path: Path
) -> None:
    words = [WORDS[k % 3] for k in range(12)]
    labels: dict[str, Any] = {
        "string": pa.array(words),
        "large": pa.array(words, pa.large_string()),
        "dictionary": pa.array(words).dictionary_encode(),
        "struct": pa.array([{"id": 7, "name": word} for word in words]),
        "class label": pa.array([k % 3 for k in range(12)]),
    }
    columns = {"image": images(range(12)), "label": labels.get(kind, pa.array(words))}
    features = None
    if kind == "class label":
        label = {"names": list(WORDS), "_type": "ClassLabel"}
        features = {"image": {"_type": "Image"}, "label": label}
    if kind == "named class_name":
        columns = {"Image": images(range(12)), "id": pa.array(range(12))} | {
            "class_name": pa.array(words)
        }
    if kind == "binary image":
        columns["image"] = pa.array([png(k) for k in range(12)])
    options = {"compression": "none", "use_dictionary": False}
    root = parquet(tmp_path / "parquet", columns, features, **options)
    listing = list_container("parquet", str(root), 0.2)
    assert found(listing) == {k: WORDS[k % 3] for k in range(12)}
    expected = WORDS if kind == "class label" else tuple(sorted(WORDS))
    assert listing.classes == expected


def test_the_only_column_of_bytes_holds_the_images(tmp_path: Path) -> None:
    words = pa.array([WORDS[k % 3] for k in range(6)])
    contents = pa.array([png(k) for k in range(6)])
    table = pa.table({"blob": contents, "class": words})
    pq.write_table(table, tmp_path / "train.parquet")
    listing = list_container("parquet", str(tmp_path), 0.3)
    assert found(listing) == {k: WORDS[k % 3] for k in range(6)}
    pq.write_table(table.append_column("thumb", contents), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="columns blob, class, thumb; expected image"):
        list_container("parquet", str(tmp_path), 0.3)


def test_columns_that_are_no_labels_are_named(tmp_path: Path) -> None:
    columns = {"image": images(range(8)), "caption": pa.array(["x"] * 8)}
    root = parquet(tmp_path / "parquet", columns, compression="none")
    (note,) = list_container("parquet", str(root), 0.2).notes
    assert "the column caption: string" in note


def test_names_that_repeat_in_parquet_get_the_shard_and_the_row(
    tmp_path: Path,
) -> None:
    """The Hub stores base names, which each class may begin again."""
    labels = pa.array([k // 4 for k in range(12)])
    columns = {"image": images(range(12)), "label": labels}
    root = parquet(tmp_path / "hub", columns, compression="snappy")
    more = {"image": images(range(12, 16)), "label": pa.array([0, 1, 2, 2])}
    parquet(root, more, name="test-00000-of-00001.parquet")
    with pytest.warns(UserWarning, match="compressed"):
        listing = list_container("parquet", str(root), 0.2)
    expected = {k: str(k // 4) for k in range(12)} | dict(
        zip(range(12, 16), ("0", "1", "2", "2"), strict=True)
    )
    assert found(listing) == expected
    assert next(iter(listing.val))[0] == "test/0.png"
    with pytest.warns(UserWarning, match="compressed"):
        shards.run_prepare(root, tmp_path / "tars", "webdataset")
    ours = list_container("webdataset", str(tmp_path / "tars"), 0.2)
    assert ours.identity == listing.identity


def test_names_of_classes_that_differ_between_shards_are_matched_by_name(
    tmp_path: Path,
) -> None:
    for name, order in (("train", ("dog", "cat")), ("test", ("cat", "dog"))):
        first = 0 if name == "train" else 4
        label = {"names": list(order), "_type": "ClassLabel"}
        parquet(
            tmp_path / "parquet",
            {
                "image": images(range(first, first + 4)),
                "label": pa.array([order.index(WORDS[k % 2]) for k in range(4)]),
            },
            {"image": {"_type": "Image"}, "label": label},
            f"{name}-00000-of-00001.parquet",
            compression="none",
        )
    listing = list_container("parquet", str(tmp_path / "parquet"), 0.2)
    assert found(listing) == {k: WORDS[k % 2] for k in range(8)}


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    label = {"names": ["a", "b"], "_type": "ClassLabel"}
    columns = {"image": images(range(4)), "label": pa.array([0, 1, 2, 0])}
    root = parquet(
        tmp_path / "parquet", columns, {"image": {"_type": "Image"}, "label": label}
    )
    with pytest.raises(ValueError, match=r"has the label 2, but names 2 classes: a, b"):
        list_container("parquet", str(root), 0.2)


def test_rows_that_hold_paths_read_the_files_and_are_refused_without_them(
    tmp_path: Path,
) -> None:
    """So datasets writes an image folder."""
    rows = []
    for k in range(12):
        path = tmp_path / "folder" / WORDS[k % 3] / f"{k // 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
        rows.append({"bytes": None, "path": str(path)})
    label = {"names": list(WORDS), "_type": "ClassLabel"}
    root = parquet(
        tmp_path / "parquet",
        {
            "image": pa.array(rows, IMAGE),
            "label": pa.array([k % 3 for k in range(12)]),
        },
        {"image": {"_type": "Image"}, "label": label},
        compression="none",
    )
    listing = list_container("parquet", str(root), 0.2)
    assert found(listing) == {k: WORDS[k % 3] for k in range(12)}
    printed = shards.run_prepare(root, tmp_path / "tars", "webdataset")
    assert "12 images in 1 shards, each read back and compared" in printed
    ours = list_container("webdataset", str(tmp_path / "tars"), 0.2)
    assert (ours.identity, found(ours)) == (listing.identity, found(listing))
    (tmp_path / "folder").rename(tmp_path / "moved")
    (root / "unmask.index").unlink()
    with pytest.raises(ValueError, match=r"not there: .*/folder/dog/0\.png; .*embed_"):
        list_container("parquet", str(root), 0.2)


def test_empty_images_do_not_count_as_compared(tmp_path: Path) -> None:
    for k in range(40):
        (tmp_path / "folder" / f"{k:02d}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "folder" / f"{k:02d}.png").write_bytes(png(k) if k else b"")
    printed = shards.run_prepare(tmp_path / "folder", tmp_path / "tars", "webdataset")
    assert "39 of 40 images" in printed
    bad = (tmp_path / "tars" / "bad_images.csv").read_text()
    assert "00.png,it is empty" in bad


def test_keys_in_tars_have_no_points_and_stand_for_the_same_names() -> None:
    encode = KeyEncoder()
    names = [
        "train/a.b/leaf.0.jpg",
        "train/a.b/leaf.1.jpg",
        "a.jpg",
        "a.png",
        "a.JPG",
        "100%.jpg",
        "a%2Eb.jpg",
        "a.b%2E.c.jpg",
        "x%25.jpg",
        "y%_.jpg",
        "y.jpg",
        "plain name.jpeg",
    ]
    keys = [encode(name) for name in names]
    assert len({key for key, _ in keys}) == len(names)
    assert not any("." in key.rpartition("/")[2] for key, _ in keys)
    assert [decode_name(f"{key}.{suffix}") for key, suffix in keys] == names
    assert keys[2] == ("a", "jpg")
    assert keys[-1] == ("plain name", "jpeg")


def test_tars_of_dotted_names_are_one_sample_an_image(tmp_path: Path) -> None:
    import webdataset

    folder = tmp_path / "folder"
    for k in range(12):
        path = folder / WORDS[k % 3] / f"leaf.{k // 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
    shards.run_prepare(folder, tmp_path / "tars", "webdataset")
    (shard,) = (tmp_path / "tars").glob("*.tar")
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert len(samples) == 12
    assert {sample["png"] for sample in samples} == {png(k) for k in range(12)}
    listing = list_images(folder)
    assert list_container("webdataset", str(tmp_path / "tars"), 0.1).identity == (
        listing.identity
    )
    # the members alone tell the names
    (tmp_path / "tars" / "unmask.index").unlink()
    again = list_container("webdataset", str(tmp_path / "tars"), 0.1)
    assert list(again.train) == list(listing.train)
