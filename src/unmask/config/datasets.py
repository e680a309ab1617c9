"""The data sets that `data.source` may name: all that is known of each, in one table.

A new data set is an entry here and a file in conf/data/ (docs/extending.md). Nothing in
here imports torch; `imported` names functions of modules that do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from unmask.config.foreign import check_part, load_part

# What lists call a class: a number in iNaturalist and Places, a word in a CSV.
ClassKey = int | str
# (path, class) of each image.
LabelledPaths = list[tuple[str, ClassKey]]


@dataclass(frozen=True)
class DatasetSize:
    """Numbers of training images, validation images and classes."""

    train: int
    val: int
    classes: int


@dataclass(frozen=True)
class Annotations:
    """Hold the images of both splits with their classes, and the name of each class.

    Paths are relative to the root, or absolute below it. val: None where nobody has
    divided the images: the share data.holdout of training becomes validation.
    """

    train: LabelledPaths
    val: LabelledPaths | None
    class_names: Mapping[ClassKey, str]


@dataclass(frozen=True)
class Arrays:
    """A data set of images of one size, which is loaded into memory.

    load: given data.root and data.download, returns (images_NCHW, labels_N) of training
        and of validation, as arrays of uint8 and int64. A ValueError says what is
        missing and what to do.
    identity: stands for the content in fingerprints: other content is another identity.
    class_sizes: training images of each class.
    size: (height, width) in pixels. Where it is known and evaluation sees whole images,
        fingerprints do not depend on how the centre is cut out.
    is_installed: comes with the install, and reads no data.root.
    """

    load: Callable[[Path, bool], Any]
    identity: str
    channels: int
    classes: tuple[str, ...]
    class_sizes: Sequence[int]
    is_installed: bool = False
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Lists:
    """A data set of files, whose labels are in lists beside them.

    read: given data.root, reads the lists. An OSError names a file that is missing, a
        ValueError says what cannot be understood.
    layout: what data.root must hold.
    """

    read: Callable[[Path], Annotations]
    layout: str


@dataclass(frozen=True)
class Dataset:
    """A data set: of arrays, of lists, or (with neither) of class folders and shards.

    title: its name in reports. size: where it is known before the images are here.
    """

    title: str
    size: DatasetSize | None = None
    arrays: Arrays | None = None
    lists: Lists | None = None

    @property
    def is_folder(self) -> bool:
        return not self.arrays and not self.lists


def find_dataset(source: str) -> Dataset:
    """Return the data set of that name, or of `module.NAME` in a file of the user's."""
    return DATASETS[source] if source in DATASETS else load_part(source)


def known_size(source: str) -> DatasetSize | None:
    """Return the size of a data set where it is known before the images are here."""
    if source in KNOWN_SIZES:
        return KNOWN_SIZES[source]
    return find_dataset(source).size


def check_foreign_dataset(source: str) -> str:
    """Return the name of a user's data set; ValueError where it leads to none."""
    check_part(source)
    if not isinstance(found := load_part(source), Dataset):
        raise ValueError(
            f"data.source = {source}: it is {type(found).__name__}; make it a Dataset"
            " of unmask.config.datasets (docs/extending.md)"
        )
    return source


def imported(path: str, **options: Any) -> Callable[..., Any]:
    """Return a function of another module, imported when it is called.

    path: the module and the name in it, as `unmask.data.listing.annotations:read_csv`.
    """

    def call(*arguments: Any) -> Any:
        return resolve_name(path)(*arguments, **options)

    return call


def _torchvision(class_name: str) -> Callable[..., Any]:
    return imported(
        "unmask.data.loading.arrays:load_torchvision", class_name=class_name
    )


def _cifar(identity: str, classes: list[str]) -> Dataset:
    size = DatasetSize(50_000, 10_000, len(classes))
    arrays = Arrays(
        load=_torchvision(f"CIFAR{size.classes}"),
        identity=identity,
        channels=3,
        classes=tuple(classes),
        class_sizes=[size.train // size.classes] * size.classes,
        size=(32, 32),
    )
    return Dataset(f"CIFAR-{size.classes}", size, arrays)


def _inaturalist(year: int, size: DatasetSize, images: str) -> Dataset:
    train, val = f"train{year}.json", f"val{year}.json"
    read = imported(
        "unmask.data.listing.annotations:read_coco_lists",
        train=train,
        val=val,
        # 2018 and 2019 were first published with numbers in place of names
        names="categories.json",
    )
    layout = f"{train}, {val}, {images}/"
    return Dataset(f"iNaturalist {year}", size, lists=Lists(read, layout))


PLACES205_LISTS = "trainvalsplit_places205"
PLACES205_IMAGES = "data/vision/torralba/deeplearning/images256"

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm
"""

# Sizes are of: CIFAR: Krizhevsky 2009; iNaturalist: the README of each year in
# github.com/visipedia/inat_comp; Places205: Zhou et al. 2014; Places365: its devkit
DATASETS = {
    "mnist5k": Dataset(
        "5,000 MNIST digits",
        DatasetSize(4_000, 1_000, 10),
        Arrays(
            load=imported("unmask.data.loading.arrays:load_digits"),
            identity="mnist5k-1",
            channels=1,
            classes=tuple("0123456789"),
            class_sizes=[400] * 10,
            is_installed=True,
            size=(28, 28),
        ),
    ),
    "cifar10": _cifar("cifar10-c58f3010", CIFAR10.split()),
    "cifar100": _cifar("cifar100-eb9058c3", CIFAR100.split()),
    "image_folder": Dataset("image folder"),
    "inat2017": _inaturalist(
        2017, DatasetSize(579_184, 95_986, 5_089), "train_val_images"
    ),
    "inat2018": _inaturalist(
        2018, DatasetSize(437_513, 24_426, 8_142), "train_val2018"
    ),
    "inat2019": _inaturalist(2019, DatasetSize(265_213, 3_030, 1_010), "train_val2019"),
    "places205": Dataset(
        "Places205",
        DatasetSize(2_448_873, 20_500, 205),
        lists=Lists(
            imported(
                "unmask.data.listing.annotations:read_numbered_lists",
                train=f"{PLACES205_LISTS}/train_places205.csv",
                val=f"{PLACES205_LISTS}/val_places205.csv",
                folders=[(PLACES205_IMAGES, PLACES205_IMAGES)],
            ),
            layout=(
                f"{PLACES205_LISTS}/train_places205.csv,"
                f" {PLACES205_LISTS}/val_places205.csv, {PLACES205_IMAGES}/"
            ),
        ),
    ),
    "places365": Dataset(
        "Places365",
        DatasetSize(1_803_460, 36_500, 365),
        lists=Lists(
            imported(
                "unmask.data.listing.annotations:read_numbered_lists",
                train="places365_train_standard.txt",
                val="places365_val.txt",
                categories="categories_places365.txt",
                # torchvision renames data_256 to data_256_standard
                folders=[
                    ("data_256", "val_256"),
                    ("data_256_standard", "val_256"),
                    ("data_large", "val_large"),
                    ("data_large_standard", "val_large"),
                ],
            ),
            layout=(
                "categories_places365.txt, places365_train_standard.txt,"
                " places365_val.txt, and data_256/ with val_256/ or data_large/ with"
                " val_large/"
            ),
        ),
    ),
    "listed": Dataset(
        "listed images",
        lists=Lists(
            imported("unmask.data.listing.csv_lists:read_csv_lists"),
            layout=(
                "train.csv with lines of path,label, the images at those paths, and"
                " val.csv unless a share of train.csv is held out"
            ),
        ),
    ),
}

INSTALLED_DATASETS = [
    name for name, each in DATASETS.items() if each.arrays and each.arrays.is_installed
]

# ImageNet-1K is a folder (Russakovsky et al. 2015, Table 2).
IMAGENET_SIZE = DatasetSize(1_281_167, 50_000, 1_000)
# By the name that data=... takes.
KNOWN_SIZES = {"imagenet": IMAGENET_SIZE} | {
    name: each.size for name, each in DATASETS.items() if each.size
}
