"""Into how many micro-batches a stage's batch is cut, so that each fits the device."""

from unmask.config.augmentation import indivisible_group_size, stage_repeats
from unmask.config.recipes import FROZEN_STAGES
from unmask.config.schema import Config
from unmask.distributed import collectives


def num_micro_batches(config: Config, kind: str, batch_size: int) -> int:
    """Return the micro-batches of one optimiser step; the ranks share each of them.

    As few as fit trainer.micro_batch and divide the batch; trainer.split=2, set after
    the memory was full, asks for twice as many. Raises ValueError where no number
    divides the batch evenly among the ranks.
    """
    # A probe's BatchNorm must see the whole batch, and only its frozen encoder, which
    # has micro-batches of its own, is costly. The small dVAE counts over the batch how
    # evenly its codes are used.
    if kind in (*FROZEN_STAGES, "tokenizer"):
        return 1
    ranks = collectives.world_size()
    # images that are mixed with each other, or views of one image, stay together
    group = indivisible_group_size(
        getattr(config, kind), batch_size, stage_repeats(config, kind)
    )
    largest = min((config.trainer.micro_batch or batch_size) * ranks, batch_size)
    fewest = -(-batch_size // largest)  # rounded up
    possible = [
        parts
        for parts in range(fewest, batch_size + 1)
        if batch_size % (parts * group * ranks) == 0
    ]
    if not possible:
        groups = (
            f", in groups of {group} images that are mixed with each other or views of"
            " one"
            if group > 1
            else ""
        )
        raise ValueError(
            f"{kind}.batch_size = {batch_size}: does not split evenly on {ranks}"
            f" processes{groups}; set a multiple of {group * ranks}"
        )
    wanted = fewest * config.trainer.split
    return next((parts for parts in possible if parts >= wanted), possible[-1])
