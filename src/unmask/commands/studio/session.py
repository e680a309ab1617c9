"""What the page asks for, and who answers: without the page's library."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from unmask.commands.cli import USER_ERRORS, user_message
from unmask.commands.reconstruct.autoencoder import LoadedAutoencoder
from unmask.commands.reconstruct.foreign import MASK_RATIO, Reading
from unmask.commands.studio import animation, masks, pictures
from unmask.commands.studio.answers import (
    Answer,
    answer_attention,
    answer_features,
    answer_reconstruction,
    draw_sheet,
    to_shares,
)
from unmask.commands.studio.examples import find_examples
from unmask.commands.studio.filling import fill_in, normalises_patches
from unmask.commands.studio.models import StudioModel, load_studio_model
from unmask.masking import Masking

NO_PICTURE = "drop a picture first, or choose one"
# larger ones are not exact in a browser
MAX_SEED = 2**53 - 1
# pictures that stay decoded
MAX_CACHED = 8


@dataclass(frozen=True)
class Choices:
    """Hold what is chosen on the page.

    sampler: a name of `Session.samplers`, or "brush" for what is painted, which marks
    the hidden patches of the first model's grid by 1. by_answer: of targets that are
    normalised by patch, undo that by the hidden patches' statistics.
    """

    picture: Path | None
    sampler: str
    mask_ratio: float
    seed: int
    painted: str = ""
    by_answer: bool = False


def read_ratio(value: Any) -> float:
    """Return a typed mask ratio; ValueError for what is none."""
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(
            f"mask ratio {_show_typed(value)}: give a number between 0 and 1"
        )
    return float(value)


def read_seed(value: Any) -> int:
    """Return a typed seed; ValueError for what is none."""
    is_number = isinstance(value, int | float) and 0 <= value <= MAX_SEED
    if not is_number or value != int(value):
        raise ValueError(
            f"seed {_show_typed(value)}: give a whole number from 0 to {MAX_SEED}"
        )
    return int(value)


def _show_typed(value: Any) -> str:
    return "(empty)" if value is None else f"{value}"


class Session:
    """Answer what the page asks of one model or two, beside each other."""

    def __init__(
        self, models: tuple[StudioModel, ...], examples: list[Path], folder: Path
    ) -> None:
        self.models = models
        self.examples = examples
        self.folder = folder
        self.samplers = masks.collect_samplers(models)
        self._read = lru_cache(MAX_CACHED)(self._read_picture)

    @property
    def mask_ratio(self) -> float:
        """Return the mask ratio of the first checkpoint that has one."""
        ratios = [autoencoder.config.mask_ratio for _, autoencoder in self._drawn()]
        return ratios[0] if ratios else MASK_RATIO

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """Return the least and the largest ratio, in steps of 0.01, that leave a mask.

        Of the first model: one patch must be hidden, and one visible.
        """
        patches = math.prod(self.grid)
        least = max(1, math.ceil(100 / patches))
        return least / 100, 1 - least / 100

    @property
    def normalises_patches(self) -> bool:
        """Return whether some target is normalised by patch, which can be undone."""
        return any(normalises_patches(each) for _, each in self._drawn())

    @property
    def depth(self) -> int:
        return max(len(model.encoder.blocks) for model in self.models)

    @property
    def heads(self) -> int:
        # blocks of an encoder of the user's may attend otherwise
        parts = [getattr(m.encoder.blocks[0], "attn", None) for m in self.models]
        return max(getattr(part, "num_heads", 1) for part in parts)

    @property
    def grid(self) -> tuple[int, int]:
        """Return rows and columns of the patches that the page marks."""
        return self.models[0].encoder.grid

    @property
    def no_marks(self) -> str:
        """Return a text that marks no patch."""
        return "0" * math.prod(self.grid)

    def picture(self, index: int, path: Path | None) -> Float[Tensor, "1 C H W"]:
        """Return a picture as a model sees it, normalised.

        Raises ValueError where there is none or it cannot be read.
        """
        if path is None:
            raise ValueError(f"{NO_PICTURE} (of {len(self.examples)})")
        return self._read(index, path, path.stat().st_mtime_ns)

    def canvas(self, path: Path | None) -> pictures.Tile:
        """Return a picture as the first model sees it."""
        return pictures.to_tile(self._shares(0, path))

    def masking(self, index: int, choices: Choices) -> Masking:
        """Return which patches a model does not see.

        Raises ValueError where these are none or all.
        """
        grid = self.models[index].encoder.grid
        if choices.sampler != masks.BRUSH:
            spec = self.samplers[choices.sampler]
            return masks.sample_masking(spec, grid, choices.mask_ratio, choices.seed)
        marks = choices.painted or self.no_marks
        return masks.painted_masking(masks.read_marks(marks, self.grid), grid)

    def marks(self, choices: Choices) -> str:
        """Return what a sampler hides as marks, to paint on from there."""
        return masks.write_marks(self.masking(0, choices))

    def reconstructions(self, choices: Choices) -> list[Answer]:
        """Return original, masked, prediction, pasted and error of each model."""

        def reconstruct(index: int) -> Answer:
            model = self.models[index]
            if model.autoencoder is None:
                return Answer(f"it {model.lacking}; see attention and features")
            image = self.picture(index, choices.picture)
            masking = self.masking(index, choices)
            filled = fill_in(model.autoencoder, image, masking, choices.by_answer)
            leaks = choices.by_answer and normalises_patches(model.autoencoder)
            return answer_reconstruction(filled, leaks)

        return self._ask_each(reconstruct)

    def attention(
        self, path: Path | None, layer: int, head: int | None, marks: str
    ) -> list[Answer]:
        """Return how the marked patch attends; without one, the class token.

        layer, head: from 1 on. Where a model has fewer, its last one. head: None shows
        the mean, then all heads one by one.
        """

        def attend(index: int) -> Answer:
            encoder = self.models[index].encoder
            image, seen = self.picture(index, path), self._shares(index, path)
            query = self._same_patch(marks, encoder.grid)
            return answer_attention(encoder, image, seen, layer, head, query)

        return self._ask_each(attend)

    def features(self, path: Path | None, layer: int) -> list[Answer]:
        """Return the largest components of the patches' features as colours."""

        def colour(index: int) -> Answer:
            image, seen = self.picture(index, path), self._shares(index, path)
            return answer_features(self.models[index].encoder, image, seen, layer)

        return self._ask_each(colour)

    def sheet(self, choices: Choices) -> list[Path]:
        """Write the reconstructions of all models into one PNG.

        Raises ValueError where none reconstructs.
        """
        names = [model.name for model in self.models]
        path = self.folder / "reconstruction.png"
        draw_sheet(names, self.reconstructions(choices)).save(path)
        return [path]

    def sweep(self, choices: Choices) -> list[Path]:
        """Write a GIF for each model: more and more of the picture is hidden.

        Raises ValueError where all ratios hide the same, or nothing is filled in.
        """
        if choices.sampler == masks.BRUSH:
            raise ValueError(
                f"sampler {choices.sampler}: what is painted has one mask ratio; choose"
                " another sampler for the sweep"
            )
        spec = self.samplers[choices.sampler]

        def draw(index: int, autoencoder: LoadedAutoencoder) -> Any:
            image = self.picture(index, choices.picture)
            return animation.sweep_frames(
                autoencoder, image, spec, choices.seed, choices.by_answer
            )

        return self._animate("sweep", draw)

    def reveal(self, choices: Choices) -> list[Path]:
        """Write a GIF for each model: hidden patches are filled in, a few at a time.

        Raises ValueError where nothing is filled in.
        """

        def draw(index: int, autoencoder: LoadedAutoencoder) -> Any:
            masking = self.masking(index, choices)
            image = self.picture(index, choices.picture)
            filled = fill_in(autoencoder, image, masking, choices.by_answer)
            grid = autoencoder.model.encoder.grid
            return animation.reveal_frames(filled, masking, grid, choices.seed)

        return self._animate("reveal", draw)

    def _ask_each(self, ask: Callable[[int], Answer]) -> list[Answer]:
        """Return the answers of all models; what is wrong is the answer of one."""
        answers = []
        for index in range(len(self.models)):
            try:
                answers.append(ask(index))
            except USER_ERRORS as error:
                answers.append(Answer(user_message(error)))
        return answers

    def _animate(
        self, name: str, draw: Callable[[int, LoadedAutoencoder], Any]
    ) -> list[Path]:
        """Write the frames that are drawn for each model that fills in."""
        drawn = list(self._drawn())
        if not drawn:
            raise ValueError(f"{self.models[0].name} {self.models[0].lacking}")
        paths = []
        for index, autoencoder in drawn:
            path = self.folder / f"{name}-{index + 1}.gif"
            frames = list(draw(index, autoencoder))
            paths.append(animation.write_gif(frames, path))
        return paths

    def _drawn(self) -> Iterator[tuple[int, LoadedAutoencoder]]:
        """Yield the models that fill in, with their places."""
        for index, model in enumerate(self.models):
            if model.autoencoder:
                yield index, model.autoencoder

    def _same_patch(self, marks: str, grid: tuple[int, int]) -> int | None:
        """Return the patch of a grid at the middle of the marked one."""
        if "1" not in marks:
            return None
        rows, columns = self.grid
        row, column = divmod(marks.index("1"), columns)
        below = (2 * row + 1) * grid[0] // (2 * rows)
        right = (2 * column + 1) * grid[1] // (2 * columns)
        return below * grid[1] + right

    def _shares(self, index: int, path: Path | None) -> Float[Tensor, "1 C H W"]:
        """Return a picture as a model sees it, in [0, 1]."""
        image_format = self.models[index].image_format
        return to_shares(self.picture(index, path), image_format.mean, image_format.std)

    def _read_picture(self, index: int, path: Path, modified: int) -> Tensor:
        return self.models[index].read_picture(path)


def open_session(
    locations: list[Path],
    reading: Reading,
    images: Path | None,
    count: int,
    folder: Path,
) -> tuple[Session, list[str]]:
    """Load the checkpoints, find pictures to choose from, and say what was assumed.

    Raises ConfigError or ValueError where that cannot be.
    """
    models = tuple(load_studio_model(location, reading) for location in locations)
    examples, note = find_examples(models[0], images, count, folder)
    notes = [f"{model.name}: {each}" for model in models for each in model.notes]
    notes += [f"{model.name} {model.lacking}" for model in models if model.lacking]
    return Session(models, examples, folder), notes + [note] * bool(note)
