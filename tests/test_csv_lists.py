"""Lists are read whatever wrote them; what cannot be told is refused with the line."""

from pathlib import Path

import pytest

from test_listing import write_files
from unmask.data.listing.csv_lists import read_csv_lists, read_table
from unmask.data.listing.listing import Listing
from unmask.data.sources import list_source

ROWS = [("x/1.png", "dog"), ("x/2.png", "cat"), ("y/3.png", "dog")]
PLAIN = "x/1.png,dog\nx/2.png,cat\ny/3.png,dog\n"


def listed(root: Path, train: str, val: str | None = None) -> Listing:
    write_files(root, *(f"x/{k}.png" for k in range(20)))
    # contents differ, so that no image is another one
    for k in range(20):
        (root / f"x/{k}.png").write_bytes(b"%d" % k)
    (root / "train.csv").write_text(train)
    if val is not None:
        (root / "val.csv").write_text(val)
    return list_source("listed", root, 0.3)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN + "\n\n",
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace(",", " , "),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace("\n", ",\n"),
        "\ufeffpath,label\n" + PLAIN,
        "file_name,label\n" + PLAIN,
        "Path,Label\n" + PLAIN,
        "image,class\n" + PLAIN,
        '"Image Path";"Class Name"\n' + PLAIN.replace(",", ";"),
        "Bild,Klasse\n" + PLAIN,
        "path,label\n" + PLAIN + "path,label\n",
        "\n# ,\n".replace("# ,", "file,y") + PLAIN,
        "dog,x/1.png\ncat,x/2.png\ndog,y/3.png",
        "label,path\ndog,x/1.png\ncat,x/2.png\ndog,y/3.png",
        "id,path,label\n7,x/1.png,dog\n3,x/2.png,cat\n4,y/3.png,dog",
        ",path,label\n0,x/1.png,dog\n1,x/2.png,cat\n2,y/3.png,dog",
        "0,x/1.png,dog\n1,x/2.png,cat\n2,y/3.png,dog",
        "path,width,label,split\nx/1.png,9,dog,a\nx/2.png,9,cat,b\ny/3.png,8,dog,a",
        "path,mask,label\nx/1.png,m/1.png,dog\nx/2.png,m/2.png,cat\ny/3.png,m.png,dog",
        "path,Klasse\n" + PLAIN,
        PLAIN.replace("/", "\\"),
        "path,label,\n" + PLAIN.replace("\n", ",\n"),
    ],
)
def test_a_list_means_the_same_however_it_is_written(text: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(text.encode())
    assert read_table(tmp_path / "train.csv") == ROWS


@pytest.mark.parametrize(
    "names", [("Train.csv", "valid.csv"), ("training_set.CSV", "dev.csv")]
)
def test_lists_are_named_as_splits_are(names: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / names[0]).write_text(PLAIN)
    (tmp_path / names[1]).write_text("x/9.png,cat")
    # Kaggle's test images have no labels
    (tmp_path / "test.csv").write_text("id\n1\n2")
    annotations = read_csv_lists(tmp_path)
    assert annotations.train == ROWS
    assert annotations.val == [("x/9.png", "cat")]


def test_spreadsheets_unicode_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(PLAIN.replace(",", "\t").encode("utf-16"))
    assert read_table(tmp_path / "train.csv") == ROWS


def test_paths_with_delimiters_are_quoted_or_told_by_their_lines(
    tmp_path: Path,
) -> None:
    path = tmp_path / "train.csv"
    path.write_text('"a, b.png",cat\n"c ""d"".png",dog')
    assert read_table(path) == [("a, b.png", "cat"), ('c "d".png', "dog")]
    path.write_text("a, b.png;cat\nc.png;dog")
    assert read_table(path) == [("a, b.png", "cat"), ("c.png", "dog")]


def test_images_without_a_suffix_are_known_by_their_files(tmp_path: Path) -> None:
    write_files(tmp_path, "x/1", "x/2")
    (tmp_path / "train.csv").write_text("Bild,Klasse\nx/1,dog\nx/2,cat")
    assert read_table(tmp_path / "train.csv") == [("x/1", "dog"), ("x/2", "cat")]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("10", "9", "100"), ["9", "10", "100"]),
        (("10.0", "9.0", "100.0"), ["9", "10", "100"]),
        (("-1", "0", "1"), ["-1", "0", "1"]),
        (("0.5", "10.5", "2.5"), ["0.5", "2.5", "10.5"]),
        (("n10", "n9", "x"), ["n10", "n9", "x"]),
    ],
)
def test_numbers_as_labels_keep_their_order(
    labels: tuple[str, ...], classes: list[str], tmp_path: Path
) -> None:
    lines = [f"x/{k}.png,{labels[k % 3]}" for k in range(20)]
    listing = listed(tmp_path, "image,class\n" + "\n".join(lines))
    assert list(listing.classes) == classes
    rows = {
        name: listing.classes[label] for name, label in (*listing.train, *listing.val)
    }
    assert float(rows["x/1.png"].lstrip("nx") or 0) == float(labels[1].lstrip("n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x/1,cat\nx/2.png,cat",
            r"line 1 of .*'x/1,cat': neither a header nor the path",
        ),
        ("x/1.png,cat\nx/2.png", r"line 2 of .*'x/2\.png'; expected path,label"),
        ("file,class\nx/1.png,cat\nx/2.png,a,b", r"line 3 of .*; expected file,class"),
        ("x/1.png,cat\nx/2.png,", r"line 2 of .* a path and a label in each line"),
        ("x/1.png,7\nx/2.png,NaN", r"line 2 of .* a path and a label in each line"),
        ("path,a,b\nx/1.png,0,1\nx/2.png,1,0", r"which column is the class .* header"),
        ("x/1.png,u,v\nx/2.png,w,u", r"'x/1\.png,u,v': which column is the class"),
        ("x/1.png\nx/2.png", r"line 1 of .*; expected path,label"),
    ],
)
def test_what_cannot_be_told_is_refused_with_its_line(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_csv_lists(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.tsv", PLAIN.replace(",", "\t")),
        ("train.txt", PLAIN.replace(",", " ")),
        ("Training.txt", PLAIN.replace(",", "\t")),
    ],
)
def test_lists_of_other_endings_are_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read_csv_lists(tmp_path).train == ROWS


def test_blanks_in_paths_of_text_lists_are_kept(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a b/1.png 10\na b/2 (1).png 9\n")
    assert read_csv_lists(tmp_path).train == [("a b/1.png", 10), ("a b/2 (1).png", 9)]
    # two lists of one split: the first ending counts
    (tmp_path / "train.csv").write_text("x.png,1\n")
    assert read_csv_lists(tmp_path).train == [("x.png", 1)]


@pytest.mark.parametrize("name", ["train.csv", "metadata.csv", "all.tsv"])
def test_a_column_may_tell_the_splits(name: str, tmp_path: Path) -> None:
    rows = ["path,label,split"]
    rows += [f"x/{k}.png,{'ab'[k % 2]},train" for k in range(4)]
    rows += ["x/4.png,a,valid", "x/5.png,b,valid", "x/6.png,,test", "x/7.png,a,test"]
    (tmp_path / name).write_text("\n".join(rows))
    annotations = read_csv_lists(tmp_path)
    assert annotations.train == [(f"x/{k}.png", "ab"[k % 2]) for k in range(4)]
    assert annotations.val == [("x/4.png", "a"), ("x/5.png", "b")]
    # a list of its own goes before the column
    (tmp_path / name).rename(tmp_path / "train.csv")
    (tmp_path / "val.csv").write_text("x/9.png,b\n")
    assert read_csv_lists(tmp_path).train == annotations.train
    assert read_csv_lists(tmp_path).val == [("x/9.png", "b")]


def test_a_column_of_other_words_tells_no_split(tmp_path: Path) -> None:
    rows = ["path,label,split", "x/1.png,a,train", "x/2.png,b,7"]
    (tmp_path / "train.csv").write_text("\n".join(rows))
    assert len(read_csv_lists(tmp_path).train) == 2
    (tmp_path / "train.csv").rename(tmp_path / "all.csv")
    with pytest.raises(FileNotFoundError, match=r"train\.csv"):
        read_csv_lists(tmp_path)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("x/1.png,dog\nx/1.png,cat\nx/2.png,dog", None),
        ("x/1.png,dog\n./x/1.png,cat\nx/2.png,dog", None),
        ("x/1.png,dog\nx/2.png,cat", "x/1.png,cat\nx/3.png,dog"),
    ],
)
def test_an_image_with_two_labels_is_refused(
    train: str, val: str | None, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"x/1\.png is listed with two labels, .*cat"):
        listed(tmp_path, train, val)


def test_lines_that_repeat_count_once_and_shared_images_are_noted(
    tmp_path: Path,
) -> None:
    val = "x/1.png,dog\nx/4.png,cat"
    listing = listed(tmp_path, PLAIN.replace("y", "x") + "x/1.png,dog\n", val)
    assert [name for name, _ in listing.train] == ["x/1.png", "x/2.png", "x/3.png"]
    notes = "\n".join(listing.notes)
    assert "1 lines of the lists repeat others" in notes
    assert (
        "1 of 2 listed validation images are listed for training, too: x/1.png" in notes
    )
