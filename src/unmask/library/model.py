"""A loaded model: features, reconstructions and classes of any images."""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.commands.predict.predictions import class_logits
from unmask.commands.reconstruct.autoencoder import LoadedAutoencoder
from unmask.config.features import FeaturePooling
from unmask.data.images.decoding import DecodeMode
from unmask.data.images.depth import Ranges
from unmask.data.images.tensors import PixelBatch
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import MAX_CORES, normalise_images
from unmask.data.loading.views import Views
from unmask.distributed.processes import cores_per_rank
from unmask.library.errors import InputError, as_input_errors
from unmask.library.images import GivenImages, Images, collect_images, pixel_batches
from unmask.library.masks import FixedMasking, MaskingChoice, choose_masking
from unmask.library.results import Classification, Reconstructed, join_parts
from unmask.masking import Masking
from unmask.randomness import make_key
from unmask.reconstructions import reconstruct
from unmask.tasks.logits import refuse_nonfinite
from unmask.training.classifiers import TrainedClassifier
from unmask.training.encoders import TrainedEncoder, build_block_features

Kind = Literal["encoder", "autoencoder", "classifier"]


@dataclass(frozen=True)
class Model:
    """A trained model in eval mode, and how images are prepared for it.

    Made by `unmask.load`. Images are given as a path (of a file or a folder), an image
    of Pillow, an array or a tensor, or as a list of them; they are resized, cropped and
    normalised as in the evaluation of the model's own stage.

    place: where it was loaded from. image_format: size, mean, std and centre crop of
    images. batch_size: images that pass through it at once. notes: what was assumed of
    weights of others, in sentences. no_decoder: why nothing can be reconstructed.
    """

    place: Path
    kind: Kind
    image_format: ImageFormat
    device: torch.device
    batch_size: int
    encoder: TrainedEncoder | None = None
    autoencoder: LoadedAutoencoder | None = None
    classifier: TrainedClassifier | None = None
    notes: tuple[str, ...] = ()
    no_decoder: str = ""

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) in pixels of what the model sees."""
        return self.image_format.shape

    @property
    def channels(self) -> int:
        """Return the channels of images: 3 of colours, 1 of grey ones."""
        return len(self.image_format.mean)

    @property
    def depth(self) -> int:
        """Return the number of the encoder's blocks, the largest `layer`."""
        return len(self._require_encoder().encoder.blocks)

    @property
    def width(self) -> int:
        """Return the length of a feature vector."""
        return self._require_encoder().encoder.width

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of patches."""
        return self._require_encoder().encoder.grid

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; empty without a classifier."""
        return self.classifier.class_names if self.classifier else ()

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"<unmask {self.kind} {self.place}: {height} x {width} x {self.channels}"
            f" images on {self.device}>"
        )

    def encode(
        self,
        images: Images,
        layer: int | None = None,
        pool: FeaturePooling | None = None,
    ) -> Float[Tensor, "N D"] | Float[Tensor, "N L D"]:
        """Return features of N images, float32 on the CPU.

        layer: after which block, 1 to depth, or -1 for the last and so on; 0 for the
        embedded patches: tokens as the next block receives them. None: the last one and
        the encoder's norm. pool: `cls`, `mean` or `mean_norm` for a vector an image,
        `patches` for one a patch, row by row; None: what the stage's evaluation pools.
        Raises InputError for wrong arguments and for images that cannot be read.
        """
        with as_input_errors(), torch.no_grad():
            trained = self._require_encoder()
            features = build_block_features(trained, layer, pool)
            outputs = []
            for images_BCHW in self._batches(images, trained.ranges, trained.decode):
                device = self.device.type
                with torch.autocast(device, torch.bfloat16, enabled=trained.bfloat16):
                    values = features(self._normalise(images_BCHW)).float()
                refuse_nonfinite(values.flatten(1), "features")
                outputs.append(values.cpu())
            return torch.cat(outputs)

    def classify(self, images: Images) -> Classification:
        """Return class probabilities of images, as src/predict.py.

        Raises InputError as `encode`, and for a model without a classifier's head.
        """
        with as_input_errors():
            classifier = self.classifier
            if classifier is None:
                raise InputError(
                    f"{self.place} is an {self.kind}, which knows no classes; load a"
                    " stage with a head (finetune, linear_probe) or fine-tuned weights"
                )
            probabilities = [
                class_logits(classifier, images_BCHW, self.device).softmax(dim=1)
                for images_BCHW in self._batches(images, classifier.ranges)
            ]
            return Classification(torch.cat(probabilities), classifier.class_names)

    def reconstruct(
        self,
        images: Images,
        mask_ratio: float | None = None,
        masking: MaskingChoice | None = None,
        seed: int = 0,
    ) -> Reconstructed:
        """Hide patches of images and fill them in, as src/reconstruct.py.

        mask_ratio: the hidden share. masking: `random`, `block` or `grid`, a sampler,
        or bools of rows x columns of patches (for each image, or for all), True where
        one is hidden. Both are the pretraining's own where they are None. seed: others
        give other masks. Raises InputError as `encode`, and for a model without a
        decoder.
        """
        with as_input_errors():
            autoencoder = self.autoencoder
            if autoencoder is None:
                raise InputError(f"{self.no_decoder}")
            if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
                raise InputError(
                    f"seed={seed!r}: give a whole number from 0 to 2**63 - 1"
                )
            config = autoencoder.config
            store = collect_images(images, self.channels, config.data.ranges)
            sampler = choose_masking(config, mask_ratio, masking, len(store))
            uneven = isinstance(sampler, FixedMasking) and not sampler.is_even
            key = make_key(int(seed), "picture")
            parts: list[Reconstructed] = []
            done = 0
            decode = self.encoder.decode if self.encoder else "fast"
            views = self._views(store, config.data.ranges, decode)
            # images whose masks differ in size make no batch
            for images_BCHW in pixel_batches(views, 1 if uneven else self.batch_size):
                ids_B = torch.arange(done, done + len(images_BCHW))
                parts.append(self._fill_in(images_BCHW, sampler(key, ids_B, 0)))
                done += len(images_BCHW)
            return join_parts(parts)

    def _fill_in(self, images_BCHW: PixelBatch, masking: Masking) -> Reconstructed:
        assert self.autoencoder is not None
        masking = Masking(*(part.to(self.device) for part in masking))
        result = reconstruct(
            self.autoencoder.model,
            self.autoencoder.target,
            self._normalise(images_BCHW),
            masking,
            self.image_format.mean,
            self.image_format.std,
        )
        hidden_Brc = masking.hidden_BL.unflatten(1, self.autoencoder.model.encoder.grid)
        return Reconstructed(*(part.cpu() for part in (*result, hidden_Brc)))

    def _require_encoder(self) -> TrainedEncoder:
        if self.encoder is None:
            raise InputError(
                f"{self.place} classifies raw pixels: it has no encoder; load a stage"
                " that starts from a pretrained or a random one"
            )
        return self.encoder

    def _batches(
        self, images: Images, ranges: Ranges | None, decode: DecodeMode = "fast"
    ) -> Iterator[PixelBatch]:
        store = collect_images(images, self.channels, ranges)
        return pixel_batches(self._views(store, ranges, decode), self.batch_size)

    def _views(
        self, store: GivenImages, ranges: Ranges | None, decode: DecodeMode
    ) -> Views:
        """Return the images as evaluation sees them."""
        no_labels_N = torch.full((len(store),), -1)
        files = StoredImages(store, no_labels_N, self.channels, decode, ranges)
        threads = min(MAX_CORES, cores_per_rank())
        return Views(
            files, self.image_format, None, 0, allow_substitutes=False, threads=threads
        )

    def _normalise(self, images_BCHW: PixelBatch) -> Float[Tensor, "B C H W"]:
        return normalise_images(images_BCHW.to(self.device), self.image_format)
