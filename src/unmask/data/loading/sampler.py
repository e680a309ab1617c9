"""The order of the samples: a function of (seed, epoch).

A resumed run therefore needs no saved state.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from unmask.randomness import Key, permutation

SampleKey = tuple[int, int]  # (epoch, sample id)


def evenly_spread(total: int, count: int) -> list[int]:
    """Return at most `count` positions from 0 to total - 1, in order.

    The first images of a folder would all be of one class.
    """
    positions = torch.linspace(0, total - 1, min(count, total))
    return positions.long().unique().tolist()


class Repeats(NamedTuple):
    """How many views a batch has of each of its images (repeated augmentation).

    View k of image i is sample i + k * num_images, with a crop and a mask of its own.
    num_images counts the whole split, whichever of its images are sampled.
    """

    views: int = 1
    num_images: int = 0


NO_REPEATS = Repeats()


class EpochBatches(Sampler[list[SampleKey]]):
    """Yield batches of (epoch, sample id) for one rank, from where training stands.

    Global batch k is slice k of the epoch's permutation. It is cut into `accumulate`
    micro-batches, and each of the `world_size` ranks takes its part of them: so the
    samples of an optimiser step do not depend on the machine. Images that do not fill a
    whole optimiser step are left out until the next epoch's permutation.

    With repeats a batch has batch_size / views images, and all views of an image are
    side by side in one rank.

    position: returns how many micro-batches this rank has had (Lightning's progress).
    key: of the permutation; None keeps the order of `ids`.
    """

    def __init__(
        self,
        ids: Sequence[int],
        batch_size: int,
        accumulate: int,
        key: Key | None,
        position: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        repeats: Repeats = NO_REPEATS,
    ) -> None:
        if batch_size > len(ids) * repeats.views:
            views = f" in {repeats.views} views each" if repeats.views > 1 else ""
            raise ValueError(
                f"a batch of {batch_size} cannot be drawn from {len(ids)}"
                f" images{views}; lower batch_size"
            )
        if batch_size % (accumulate * world_size):
            raise ValueError(
                f"a batch of {batch_size} does not split into {accumulate}"
                f" micro-batches on {world_size} processes; pick trainer.micro_batch so"
                f" that micro_batch x processes divides {batch_size}"
            )
        per_rank = batch_size // (accumulate * world_size)
        if per_rank % repeats.views:
            raise ValueError(
                f"{per_rank} images at once on each of {world_size} processes are not a"
                f" multiple of augment.repeats={repeats.views}: views of an image stay"
                " together"
            )
        self.ids = ids
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.key = key
        self.position = position
        self.rank = rank
        self.world_size = world_size
        self.repeats = repeats
        self.sampler = self  # Lightning looks for set_epoch one level down

    def __len__(self) -> int:
        return len(self.ids) * self.repeats.views // self.batch_size * self.accumulate

    @property
    def max_samples(self) -> int:
        """Return the largest number of samples in a batch."""
        return self.batch_size // (self.accumulate * self.world_size)

    def order(self, epoch: int) -> Sequence[int]:
        """Return the images of an epoch in their order."""
        if self.key is None:
            return self.ids
        shuffled = permutation(self.key, epoch, len(self.ids)).tolist()
        return [self.ids[i] for i in shuffled]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        # a resumed run begins inside an epoch
        epoch, first = divmod(self.position(), len(self))
        order = self.order(epoch)
        micro_batch = self.batch_size // self.accumulate
        per_rank = micro_batch // self.world_size
        views, num_images = self.repeats
        for k in range(first, len(self)):
            # this rank's part of global micro-batch k, counted in samples
            start = k * micro_batch + self.rank * per_rank
            ids = order[start // views : (start + per_rank) // views]
            # the views of an image are side by side
            if views > 1:
                ids = [i + view * num_images for i in ids for view in range(views)]
            yield [(epoch, i) for i in ids]


class EvalBatches(Sampler[list[SampleKey]]):
    """Yield all samples once, in order; the last batch may be smaller.

    Samples alternate between ranks, and none is seen twice.
    """

    def __init__(
        self, ids: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.ids = ids[rank::world_size]
        self.batch_size = batch_size

    @property
    def max_samples(self) -> int:
        """Return the largest number of samples in a batch."""
        return min(self.batch_size, len(self.ids))

    def __len__(self) -> int:
        return -(-len(self.ids) // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start in range(0, len(self.ids), self.batch_size):
            yield [(0, i) for i in self.ids[start : start + self.batch_size]]


def balanced_subset(labels_N: Int[Tensor, "N"], count: int, key: Key) -> list[int]:
    """Draw `count` sample ids without replacement, the same number of each class.

    The numbers differ by one at most. Raises ValueError if a class has too few samples.
    """
    classes = sorted(set(labels_N.tolist()))
    shares = [count // len(classes)] * len(classes)
    # which classes get one more is drawn, too
    for extra in permutation(key, 1, len(classes)).tolist()[: count % len(classes)]:
        shares[extra] += 1
    order = permutation(key, 0, len(labels_N))
    chosen = []
    for label, share in zip(classes, shares, strict=True):
        members = order[labels_N[order] == label]
        if len(members) < share:
            most = int(torch.bincount(labels_N).min()) * len(classes)
            raise ValueError(
                f"labels={count} asks for {share} images of class {label}, which has"
                f" {len(members)}; at most labels={most} can be balanced"
            )
        chosen += members[:share].tolist()
    return sorted(chosen)
