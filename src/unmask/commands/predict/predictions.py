"""Predict the classes of images with a classifier on disk, as evaluation sees them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.commands.device import choose_device
from unmask.commands.predict.arguments import Predict
from unmask.commands.wanted_images import WantedImages
from unmask.data.images.tensors import PixelBatch, concatenate
from unmask.data.images.unreadable import BadImageError
from unmask.data.listing.names import FolderStore, name_at
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import normalise_images
from unmask.data.loading.views import Views
from unmask.exchange.geometry import Hints
from unmask.tasks.logits import refuse_nonfinite
from unmask.training.classifiers import TrainedClassifier, load_trained_classifier

BATCHES_AHEAD = 2  # one is read while another one is computed

# of an image, or what is wrong with it
Crop = Tensor | BadImageError


class PredictedBatch(NamedTuple):
    """Hold what is predicted of the images of a batch that could be read.

    labels_B: negative where no class is known. faults: what is wrong with the others.
    """

    names: list[str]
    labels_B: Int[Tensor, "B"]
    logits_BK: Float[Tensor, "B K"]
    faults: list[str]

    def probabilities(self) -> Float[Tensor, "B K"]:
        return self.logits_BK.softmax(dim=1)


class TopClasses(NamedTuple):
    """Name the most probable classes of an image, best first, and its own class."""

    image: str
    top: list[tuple[str, float]]
    label: str | None


@dataclass(frozen=True)
class Predictor:
    """Predict images batch by batch: no more than two batches are in memory."""

    classifier: TrainedClassifier
    images: WantedImages
    labels_N: Int[Tensor, "N"]
    device: torch.device
    batch_size: int
    top: int

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.class_names

    @property
    def knows_labels(self) -> bool:
        """Tell whether any image is known to be of a class of the classifier."""
        return bool((self.labels_N >= 0).any())

    def batches(self) -> Iterator[PredictedBatch]:
        """Yield all images in their order, in batches."""
        for ids, crops in self._read_ahead():
            images, faults = [], []
            readable = []
            for i, crop in zip(ids, crops, strict=True):
                if isinstance(crop, Tensor):
                    readable.append(i)
                    images.append(crop)
                else:
                    faults.append(str(crop))
            # of a batch without images the model would be asked in vain
            logits_BK = torch.empty(0, len(self.classes))
            if images:
                images_BCHW = concatenate(images)
                logits_BK = class_logits(self.classifier, images_BCHW, self.device)
            names = [name_at(self.images.names, i) for i in readable]
            yield PredictedBatch(names, self.labels_N[readable], logits_BK, faults)

    def rows(self, batch: PredictedBatch) -> list[TopClasses]:
        """Return the most probable classes of each image of a batch."""
        # equal logits come by class, as where the accuracy is counted
        order_BK = batch.logits_BK.sort(dim=1, descending=True, stable=True).indices
        top_BT = order_BK[:, : self.top]
        shares_BT = batch.probabilities().gather(1, top_BT)
        rows = []
        for name, label, values, indices in zip(
            batch.names,
            batch.labels_B.tolist(),
            shares_BT.tolist(),
            top_BT.tolist(),
            strict=True,
        ):
            labels = [self.classes[k] for k in indices]
            own = self.classes[label] if label >= 0 else None
            rows.append(TopClasses(name, list(zip(labels, values, strict=True)), own))
        return rows

    def _read_ahead(self) -> Iterator[tuple[range, list[Crop]]]:
        """Yield the numbers of images and their crops, while further ones are read."""
        views = self._views()

        def read_crop(i: int) -> Crop:
            try:
                return views.batch(0, [i]).images_BCHW
            except BadImageError as error:
                return error

        count = len(self.images)
        waiting: deque[tuple[range, list[Future[Crop]]]] = deque()
        with ThreadPoolExecutor() as pool:
            for start in range(0, count, self.batch_size):
                ids = range(start, min(start + self.batch_size, count))
                waiting.append((ids, [pool.submit(read_crop, i) for i in ids]))
                if len(waiting) == BATCHES_AHEAD:
                    yield _finish(waiting)
            while waiting:
                yield _finish(waiting)

    def _views(self) -> Views:
        """Return the images as evaluation crops them."""
        classifier = self.classifier
        files = StoredImages(
            FolderStore(self.images.root, self.images.names),
            self.labels_N,
            classifier.channels,
            ranges=classifier.ranges,
        )
        # in training another image would stand in for a bad one; here it must not
        return Views(
            files, classifier.image_format, None, seed=0, allow_substitutes=False
        )


def _finish(
    waiting: deque[tuple[range, list[Future[Crop]]]],
) -> tuple[range, list[Crop]]:
    ids, readings = waiting.popleft()
    return ids, [reading.result() for reading in readings]


def load_predictor(arguments: Predict, images: WantedImages) -> Predictor:
    """Load the classifier. Raises ConfigError for a wrong one, or a missing GPU."""
    device = choose_device(arguments.device)
    classifier = load_trained_classifier(
        Path(arguments.checkpoint),
        Hints(heads=arguments.heads, grid=arguments.grid),
        arguments.eval_crop,
        Path(arguments.classes) if arguments.classes else None,
        arguments.weights,
    )
    classifier.model.to(device)
    return Predictor(
        classifier,
        images,
        torch.from_numpy(images.labels(classifier.class_names)),
        device,
        arguments.batch_size or classifier.batch_size,
        arguments.top,
    )


@torch.no_grad()
def class_logits(
    classifier: TrainedClassifier, images_BCHW: PixelBatch, device: torch.device
) -> Float[Tensor, "B K"]:
    """Return the logits of images as evaluation crops them, on the CPU."""
    images_BCHW = normalise_images(images_BCHW.to(device), classifier.image_format)
    with torch.autocast(device.type, torch.bfloat16, enabled=classifier.bfloat16):
        logits_BK = classifier.model(images_BCHW)
    refuse_nonfinite(logits_BK, "logits")
    return logits_BK.cpu()


def describe_format(classifier: TrainedClassifier) -> str:
    """Say how images are prepared for weights of others, most of which do not say."""
    image_format = classifier.image_format
    height, width = image_format.shape
    return (
        f"images of these weights: {height} x {width} pixels, mean"
        f" {list(image_format.mean)}, std {list(image_format.std)}, centre crop"
        f" {image_format.eval_crop:g} (eval_crop=...)"
    )
