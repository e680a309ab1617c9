"""Predict the classes of images with a classifier on disk, as evaluation sees them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from unmask.commands.images import find_images
from unmask.commands.predict.arguments import Predict, check_places
from unmask.config.checks import ConfigError
from unmask.data.images.tensors import PixelBatch, PixelTensor, concatenate
from unmask.data.images.unreadable import printable
from unmask.data.listing.names import FolderStore, pack_names
from unmask.data.loading.batch import Batch
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import normalise
from unmask.data.loading.views import Views
from unmask.exchange.geometry import Hints
from unmask.storage.atomic import write_csv_rows
from unmask.tasks.logits import refuse_nonfinite
from unmask.training.classifiers import TrainedClassifier, load_trained_classifier

MAX_ROWS = 20  # images in the table, and faults in an error, when there are more


@dataclass(frozen=True)
class Predictions:
    """Hold the class probabilities of all images that could be read.

    top: how many classes are shown for each image. skipped: what is wrong with the
    other files. assumption: what is assumed about foreign weights, in a sentence.
    """

    names: tuple[str, ...]
    probabilities_NK: Float[Tensor, "N K"]
    classes: tuple[str, ...]
    top: int
    skipped: tuple[str, ...]
    assumption: str = ""

    def top_classes(self) -> list[list[tuple[str, float]]]:
        """Return (class, probability) of the top classes of each image, best first."""
        top = self.probabilities_NK.topk(min(self.top, len(self.classes)))
        rows = []
        for values, indices in zip(
            top.values.tolist(), top.indices.tolist(), strict=True
        ):
            labels = [self.classes[k] for k in indices]
            rows.append(list(zip(labels, values, strict=True)))
        return rows


def predict(arguments: Predict) -> Predictions:
    """Predict the classes of all wanted images.

    Raises ConfigError for wrong arguments, ValueError where no image can be read.
    """
    _check_arguments(arguments)
    root, names = find_images(Path(arguments.images))
    names = names[: arguments.count]
    classifier = load_trained_classifier(
        Path(arguments.checkpoint),
        Hints(heads=arguments.heads, grid=arguments.grid),
        arguments.eval_crop,
        Path(arguments.classes) if arguments.classes else None,
        arguments.weights,
    )
    # `auto` takes a GPU where there is one
    use_gpu = arguments.device != "cpu" and torch.cuda.is_available()
    device = "cuda" if use_gpu else "cpu"
    classifier.model.to(device)
    # batch by batch: a folder may hold more images than memory
    readable = []
    probabilities = []
    faults = []
    for start in range(0, len(names), classifier.batch_size):
        batch_names = names[start : start + classifier.batch_size]
        read_names, images, batch_faults = _read_crops(root, batch_names, classifier)
        readable += read_names
        faults += batch_faults
        if images:
            images_BCHW = concatenate(images)
            probabilities.append(class_probabilities(classifier, images_BCHW, device))
    if not probabilities:
        first_faults = "\n".join(faults[:MAX_ROWS])
        raise ValueError(
            f"{first_faults}\nnone of {len(names)} files can be read as an image"
        )
    return Predictions(
        tuple(readable),
        torch.cat(probabilities),
        classifier.class_names,
        arguments.top,
        tuple(faults),
        describe_assumption(classifier) if classifier.is_foreign else "",
    )


def _check_arguments(arguments: Predict) -> None:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device={arguments.device}: torch finds no GPU here; use device=auto or"
            " device=cpu"
        )
    check_places(arguments)


def _read_crops(
    root: Path, names: list[str], classifier: TrainedClassifier
) -> tuple[list[str], list[PixelTensor], list[str]]:
    """Read images as evaluation crops them.

    Returns the names that could be read, their images, and what is wrong with the
    other files.
    """
    # the classes are what we want to know
    no_labels_N = torch.full((len(names),), -1)
    files = StoredImages(
        FolderStore(root, pack_names(names)),
        no_labels_N,
        classifier.channels,
        ranges=classifier.ranges,
    )
    # in training another image would stand in for a bad one; here it must not
    views = Views(files, classifier.image_format, None, seed=0, allow_substitutes=False)

    def read_crop(i: int) -> Tensor | ValueError:
        try:
            return views.batch(0, [i]).images_BCHW
        except ValueError as error:
            return error

    with ThreadPoolExecutor() as pool:
        crops = list(pool.map(read_crop, range(len(names))))
    readable = []
    images = []
    faults = []
    for name, crop in zip(names, crops, strict=True):
        if isinstance(crop, Tensor):
            readable.append(name)
            images.append(crop)
        else:
            faults.append(str(crop))
    return readable, images, faults


@torch.no_grad()
def class_probabilities(
    classifier: TrainedClassifier, images_BCHW: PixelBatch, device: str
) -> Float[Tensor, "B K"]:
    # a batch wants ids and labels, but nothing here depends on them
    ids_B = torch.arange(len(images_BCHW))
    batch = normalise(
        Batch(images_BCHW.to(device), ids_B, ids_B, 0), classifier.image_format
    )
    with torch.autocast(device, torch.bfloat16, enabled=classifier.bfloat16):
        logits_BK = classifier.model(batch.images_BCHW)
    refuse_nonfinite(logits_BK, "logits")
    return logits_BK.softmax(dim=1).cpu()


def predictions_table(predictions: Predictions, max_rows: int | None) -> Table:
    """Return a table with a row for each image: of the first `max_rows`, or of all."""
    rows = predictions.top_classes()[:max_rows]
    table = Table("image", *(str(rank) for rank in range(1, len(rows[0]) + 1)))
    for name, row in zip(predictions.names, rows, strict=False):
        # escaped: Rich reads [bold] in a file's name as markup
        table.add_row(
            escape(printable(name)),
            *(f"{escape(label)} {100 * p:.1f} %" for label, p in row),
        )
    return table


def write_csv(predictions: Predictions, path: Path) -> None:
    """Write a row for each image: its name, then each top class and its probability."""
    rows = predictions.top_classes()
    header = ["image"]
    for rank in range(1, len(rows[0]) + 1):
        header += [f"class_{rank}", f"probability_{rank}"]
    lines = [header]
    for name, row in zip(predictions.names, rows, strict=True):
        values = [name]
        for label, probability in row:
            values += [label, f"{probability:.6f}"]
        lines.append(values)
    write_csv_rows(path, lines)


def describe_assumption(classifier: TrainedClassifier) -> str:
    """Say which images foreign weights are assumed to expect: their file does not."""
    image_format = classifier.image_format
    height, width = image_format.shape
    return (
        f"assumed of these weights: {height} x {width} pixels, mean"
        f" {list(image_format.mean)}, std {list(image_format.std)}, centre crop"
        f" {image_format.eval_crop:g} (eval_crop=...)"
    )
