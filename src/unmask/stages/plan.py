"""The plan of a run: its stages in order, and the data set they work on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from unmask.config.checks import ConfigError, raise_errors
from unmask.config.data import Container, Data
from unmask.config.datasets import Arrays
from unmask.config.probes import ExactProbe
from unmask.config.recipes import LABELLED_STAGES
from unmask.config.robustness import Corruption, Robustness
from unmask.config.schema import Config
from unmask.config.stage_checks import check_labels
from unmask.stages.evaluation_sets import each_test_set
from unmask.stages.fingerprint import StageSpec, set_title
from unmask.stages.precision import settle_precision
from unmask.stages.stage_order import list_stages
from unmask.stages.view_science import ImageSizes

# in functions: they import NumPy, which runs on arrays need not wait for
if TYPE_CHECKING:
    from unmask.data.listing.listing import Listing

NUM_PEEKED = 8  # images of a split that are looked at to learn their size
# of files that may hold more than 8 bits
DEEP_SUFFIXES = (".npy", ".tif", ".tiff", ".png", ".ppm", ".pgm")
# training images that are tried before anything starts
NUM_TRIED = 16


@dataclass(frozen=True)
class Plan:
    """The stages of a run in order, and what is known before any image is read."""

    config: Config
    stages: tuple[StageSpec, ...]
    class_names: tuple[str, ...]
    # None for data sets that come as arrays, whose content is known
    listing: "Listing | None"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def data_identity(self) -> str:
        """Return a hash of the data set's content, wherever it lies."""
        return _known(self.config.data, self.listing).identity

    @property
    def num_training_images(self) -> int:
        if self.listing:
            return len(self.listing.train)
        assert self.config.data.arrays
        return sum(self.config.data.arrays.class_sizes)


def list_dataset(data: Data, container: Container) -> "Listing | None":
    """List the images in a folder; None for data sets that come as arrays.

    Raises ConfigError where there are no images.
    """
    if data.arrays:
        return None
    from unmask.data.sources import list_source

    try:
        return list_source(data.source, str(data.root), data.holdout, container)
    except ValueError as error:
        raise ConfigError(str(error)) from None


class Listings:
    """List the images of many runs: those of one data set once, not for every run."""

    def __init__(self) -> None:
        self._known: dict[str, Listing | None] = {}

    def of(self, config: Config) -> "Listing | None":
        """Return what `list_dataset` does; its errors are raised each time."""
        data = config.data
        key = repr((data.source, data.root, data.holdout, config.source))
        if key not in self._known:
            self._known[key] = list_dataset(data, config.source)
        return self._known[key]


def make_plan(
    config: Config, listing: "Listing | None" = None, needs_range: bool = True
) -> Plan:
    """Return the plan of a run; ConfigError where images or labels are missing.

    listing: of the images, if the caller has just listed them. needs_range: whether it
    is an error that the range of their values is not known.
    """
    config = settle_precision(config)
    listing = listing or list_dataset(config.data, config.source)
    known = _known(config.data, listing)
    identity, class_names = known.identity, known.classes
    measured = config.data.statistics_identity
    if measured not in (None, identity):
        raise ConfigError(
            f"data.statistics was measured on other images ({measured}; these are"
            f" {identity}); measure again: python src/measure.py with the same data"
        )
    raise_errors(
        [
            *check_labels(config, len(class_names), listing.notes if listing else ()),
            *_check_label_counts(config, known),
            *_check_holdout(config, known),
            *_check_neighbours(config, known),
        ]
    )
    test_identities = {}
    if "robustness" in config.stages:
        test_identities = _robustness_identities(config, class_names)
    if listing and needs_range:
        _refuse_unreadable(config.data, listing)
    if listing and _is_deep(config.data, listing, needs_range):
        # earlier versions rounded these values to 8 bits: their results differ
        identity = f"{identity}, not rounded"
    sizes = _image_sizes(config.data, listing)
    stages = tuple(list_stages(config, identity, test_identities, sizes))
    return Plan(config, stages, class_names, listing)


def _refuse_unreadable(data: Data, listing: "Listing") -> None:
    """Raise ConfigError where none of some training images can be read.

    The first one that can ends the search. Images far away are left to their readers.
    """
    if "://" in str(data.root):
        return
    # Pillow takes a while to import
    from unmask.data.images.first_look import find_fault
    from unmask.data.listing.names import FolderStore, name_at

    names = listing.train.names
    stores = listing.stores or [FolderStore(Path(listing.root), names)]
    faults = []
    for i in range(0, len(names), max(1, len(names) // NUM_TRIED)):
        name = name_at(names, i)
        fault = find_fault(stores[0], i, name, data.channels, data.ranges)
        if fault is None:
            return
        faults.append(f"{name} ({fault})")
    raise ConfigError(
        f"data.root={data.root}: none of {len(faults)} training images that were tried"
        f" can be read, the first is {faults[0]}"
    )


def _is_deep(data: Data, listing: "Listing", needs_range: bool) -> bool:
    """Return whether the first image has more than 8 bits and data.range is not set.

    Raises ConfigError where its values have no known range, unless none is needed.
    """
    from unmask.data.listing.names import FolderStore, name_at

    names = listing.train.names
    name = name_at(names, 0)
    if data.ranges or not name.lower().endswith(DEEP_SUFFIXES):
        return False
    # Pillow takes a while to import
    from unmask.data.images.arrays import is_array, read_array
    from unmask.data.images.depth import UnknownRangeError, to_shares
    from unmask.data.images.pillow import is_deep_file

    stores = listing.stores or [FolderStore(Path(listing.root), names)]
    try:
        content = stores[0].read(0)
        if isinstance(content, bytes) and not is_array(content, name):
            return is_deep_file(content)
        values = read_array(content, name, data.channels)
        to_shares(values, None)
    except UnknownRangeError as error:
        if needs_range:
            raise ConfigError(f"data.range = null: {name}: {error}") from None
        return True
    # it is reported when it is used
    except Exception:
        return False
    return str(values.dtype) != "uint8"


def _image_sizes(data: Data, listing: "Listing | None") -> ImageSizes:
    """Return (height, width) of the images, as far as some of them tell.

    Nothing where that does not matter: a part of an image lies between pixels.
    """
    if listing is None:
        size = data.arrays.size if data.arrays else None
        return frozenset([size] if size else [])
    if data.eval_crop < 1:
        return frozenset()
    # Pillow takes a while to import
    from unmask.data.images.pillow import read_size
    from unmask.data.listing.names import FolderStore

    sizes = set()
    for index, split in enumerate((listing.train, listing.val)):
        root = Path(listing.root)
        store = (
            listing.stores[index] if listing.stores else FolderStore(root, split.names)
        )
        for i in range(0, len(store), max(1, len(store) // NUM_PEEKED)):
            try:
                content, name = store.read(i), store.name(i)
                sizes.add(read_size(content, name, data.channels))
            # it is reported when it is used, and its substitute has a size
            except Exception:
                continue
    return frozenset(sizes)


def _known(data: Data, listing: "Listing | None") -> "Listing | Arrays":
    """Return what is known of the images before any is read."""
    known = listing or data.arrays
    assert known
    return known


def stages_without_data(config: Config, dataset: str) -> tuple[StageSpec, ...]:
    """Return the stages of a run whose images need not be here, as for a price.

    dataset: a name that stands for the data set's content. Fingerprints tell these
    stages apart, but they are the ledger's only for data sets that come as arrays.
    """
    arrays = config.data.arrays
    identity = arrays.identity if arrays else dataset
    return tuple(list_stages(config, identity, None, _image_sizes(config.data, None)))


def robustness_folders(recipe: Robustness) -> dict[tuple[str, int], Path]:
    """Return the folders of images that the robustness stage reads.

    They are those of each (corruption, severity) in ImageNet-C's layout, which is
    root/<corruption>/<severity>/<class>/, or root alone as ("folder", 0). There are
    none where the stage corrupts the validation images itself.
    """
    if recipe.source == "corrupted":
        return {}
    root = Path(str(recipe.root))
    if recipe.source == "folder":
        return {("folder", 0): root}
    return {
        (name, severity): root / name / str(severity)
        for name in recipe.corruptions or get_args(Corruption)
        for severity in recipe.severities
    }


def _robustness_identities(
    config: Config, class_names: tuple[str, ...]
) -> dict[str, str]:
    """Return the identity of each root of folders that robustness stages read.

    None of a stage that corrupts the validation images itself.
    """
    identities = {}
    for each in each_test_set(config):
        recipe = each.robustness
        key = "robustness.root" if config.robustness.sets is None else "robustness.sets"
        if folders := list(robustness_folders(recipe).values()):
            root = str(recipe.root)
            try:
                identities[root] = _folders_identity(folders, recipe, class_names)
            except ValueError as error:
                raise ConfigError(f"{key} = {root}: {error}") from None
    _refuse_same_titles(list(identities))
    return identities


def _folders_identity(
    folders: list[Path], recipe: Robustness, class_names: tuple[str, ...]
) -> str:
    """Return the identity of the images; ValueError where there are none."""
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing and len(folders) == 1:
        raise ValueError(f"{missing[0]} is no folder; correct the path")
    if missing:
        raise ValueError(
            f"{missing[0]} is missing ({len(missing)} of {len(folders)} folders);"
            " correct robustness.root, or name those that are there:"
            " robustness.corruptions=[fog] robustness.severities=[3]; folders of other"
            " names: robustness.sets"
        )
    from unmask.data.listing.evaluation_set import list_evaluation_set

    # of ImageNet-C's 75 folders the first stands for all: listing each is slow
    leave_out = recipe.unknown_classes == "leave_out"
    return list_evaluation_set(folders[0], class_names, leave_out).identity


def _refuse_same_titles(roots: list[str]) -> None:
    """Raise ConfigError where tables would call two sets the same."""
    titles: dict[str, str] = {}
    for root in roots:
        other = titles.setdefault(set_title(root), root)
        if other != root:
            raise ConfigError(
                f"robustness.sets: {other} and {root} would both be called"
                f" {set_title(root)}; rename one of them, or link to it"
            )


def _check_neighbours(config: Config, known: "Listing | Arrays") -> list[str]:
    """Return an error message where kNN wants more neighbours than there are images."""
    size = sum(known.class_sizes) if isinstance(known, Arrays) else len(known.train)
    images = min(config.knn.labels or size, size)
    if "knn" not in config.stages or config.knn.k <= images:
        return []
    return [
        f"knn.k = {config.knn.k}: the bank holds {images:,} labelled images; set"
        f" knn.k={images} or less"
    ]


def _class_sizes(known: "Listing | Arrays") -> Sequence[int]:
    """Return how many training images each class has."""
    if isinstance(known, Arrays):
        return known.class_sizes
    import numpy as np

    return np.unique(known.train.labels, return_counts=True)[1].tolist()


def _check_holdout(config: Config, known: "Listing | Arrays") -> list[str]:
    """Return an error message where too few labels are there to choose a penalty on."""
    probe = config.linear_probe
    if "linear_probe" not in config.active_stages or not isinstance(probe, ExactProbe):
        return []
    if len(probe.penalties) == 1:
        return []
    sizes = _class_sizes(known)
    smallest = min(sizes, default=0)
    if probe.labels:
        per_class, more = divmod(probe.labels, len(sizes))
        # which classes have one label more does not matter here
        sizes = [per_class + (i < more) for i in range(len(sizes))]
    held = sum(map(probe.count_held, sizes))
    if 0 < held < sum(sizes):
        return []
    which = "none" if held == 0 else "each"
    # images of each class of which some are held out and some are not
    enough = (n for n in range(smallest + 1) if 0 < probe.count_held(n) < n)
    least = next(enough, 0) * len(sizes)
    labels = f"linear_probe.labels={least} or more, or " if least else ""
    return [
        f"linear_probe.holdout = {probe.holdout:g}: of {sum(sizes)} labelled images of"
        f" {len(sizes)} classes {which} is held out to choose among"
        f" {len(probe.penalties)} penalties; set {labels}a single penalty, such as"
        f" 'linear_probe.penalties=[{probe.penalties[0]:g}]'"
    ]


def _check_label_counts(config: Config, known: "Listing | Arrays") -> list[str]:
    """Return an error message for each stage with more labels than a class has."""
    class_sizes = _class_sizes(known)
    num_classes, smallest = len(class_sizes), min(class_sizes)
    labels_of = {
        name: getattr(config, name).labels
        for name in config.active_stages
        if name in LABELLED_STAGES and name != "robustness"
    }
    too_few = [
        f"labels={labels}: {name} needs at least one label of each of {num_classes}"
        f" classes; at least labels={num_classes}"
        for name, labels in labels_of.items()
        if labels and labels < num_classes
    ]
    # rounded up: some classes have one label more than others
    per_class = {
        name: -(-(labels or 0) // num_classes) for name, labels in labels_of.items()
    }
    too_many = [
        f"labels={labels} asks {name} for {per_class[name]} images of each of"
        f" {num_classes} classes, and the smallest has {smallest}; at most"
        f" labels={smallest * num_classes}, or labels=null for all"
        for name, labels in labels_of.items()
        if per_class[name] > smallest
    ]
    return too_few + too_many
