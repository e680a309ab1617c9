"""The order of the samples: a function of (seed, epoch), so a resumed run needs no saved state."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from unmask.randomness import Key, permutation

SampleKey = tuple[int, int]  # (epoch, sample id)


class Repeats(NamedTuple):
    """How often a batch has each of its images. View k of image i is sample i + k * images: it has its own crop and
    mask, and `images` is the size of the split, whichever of its images are drawn.
    """

    views: int = 1
    images: int = 0


ONCE = Repeats()


class EpochBatches(Sampler[list[SampleKey]]):
    """Batches of (epoch, sample id) for one process, from where training stands.

    Global batch k is slice k of the epoch's permutation; each of `accumulate` micro-batches is cut from it and each
    of `world` processes takes its part, so the samples of an optimiser step do not depend on the machine.
    Images that do not fill a whole optimiser step wait for the next epoch's order.
    With repeats a batch has batch_size / views images, and all views of an image stand side by side in one process.

    position: tells how many micro-batches this process has been given before (Lightning's progress).
    """

    def __init__(
        self,
        ids: Sequence[int],
        batch_size: int,
        accumulate: int,
        key: Key | None,
        position: Callable[[], int],
        rank: int = 0,
        world: int = 1,
        repeats: Repeats = ONCE,
    ) -> None:
        views = f" in {repeats.views} views each" if repeats.views > 1 else ""
        if batch_size > len(ids) * repeats.views:
            raise ValueError(
                f"a batch of {batch_size} cannot be drawn from {len(ids)}"
                f" images{views}; lower batch_size"
            )
        if batch_size % (accumulate * world):
            raise ValueError(
                f"a batch of {batch_size} does not split into {accumulate}"
                f" micro-batches on {world} processes; pick trainer.micro_batch so that"
                f" micro_batch x processes divides {batch_size}"
            )
        if batch_size // (accumulate * world) % repeats.views:
            raise ValueError(
                f"{batch_size // (accumulate * world)} images at once on each of"
                f" {world} processes are not a multiple of"
                f" augment.repeats={repeats.views}: views of an image stay together"
            )
        self.repeats = repeats
        self.ids, self.batch_size, self.accumulate = ids, batch_size, accumulate
        self.key, self.position, self.rank, self.world = key, position, rank, world
        self.sampler = self  # Lightning looks for set_epoch one level down

    def __len__(self) -> int:
        return len(self.ids) * self.repeats.views // self.batch_size * self.accumulate

    @property
    def largest(self) -> int:
        """Samples of a batch, at most."""
        return self.batch_size // (self.accumulate * self.world)

    def order(self, epoch: int) -> Sequence[int]:
        """Of the images."""
        if self.key is None:
            return self.ids
        return [
            self.ids[i] for i in permutation(self.key, epoch, len(self.ids)).tolist()
        ]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, first = divmod(self.position(), len(self))
        order = self.order(epoch)
        micro = self.batch_size // self.accumulate
        share = micro // self.world
        views, images = self.repeats
        for k in range(first, len(self)):
            start = k * micro + self.rank * share
            drawn = order[start // views : (start + share) // views]
            if views > 1:
                drawn = [i + view * images for i in drawn for view in range(views)]
            yield [(epoch, i) for i in drawn]


class EvalBatches(Sampler[list[SampleKey]]):
    """All samples once, in order, the last batch short; processes take turns, none sees a sample twice."""

    def __init__(
        self, ids: Sequence[int], batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        self.ids, self.batch_size = ids[rank::world], batch_size

    @property
    def largest(self) -> int:
        return min(self.batch_size, len(self.ids))

    def __len__(self) -> int:
        return -(-len(self.ids) // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start in range(0, len(self.ids), self.batch_size):
            yield [(0, i) for i in self.ids[start : start + self.batch_size]]


def balanced_subset(labels_N: torch.Tensor, count: int, key: Key) -> list[int]:
    """`count` sample ids, classes equally often (to within one), drawn without replacement.

    Raises ValueError where a class has too few samples.
    """
    classes = sorted(set(labels_N.tolist()))
    shares = [count // len(classes)] * len(classes)
    for extra in permutation(key, 1, len(classes)).tolist()[: count % len(classes)]:
        shares[extra] += 1
    order = permutation(key, 0, len(labels_N))
    chosen = []
    for label, share in zip(classes, shares, strict=True):
        of_class = order[labels_N[order] == label]
        if len(of_class) < share:
            raise ValueError(
                f"labels={count} asks for {share} images of class {label}, which has"
                f" {len(of_class)}; at most"
                f" labels={int(torch.bincount(labels_N).min()) * len(classes)} can be"
                " balanced"
            )
        chosen += of_class[:share].tolist()
    return sorted(chosen)
