"""What communication adds to a step on many devices that share a batch."""

from unmask.commands.plan.memory import FLOAT_BYTES
from unmask.config.hardware import Hardware, Precision
from unmask.training.flops import Flops

# a backward pass takes twice the products of a forward pass
BACKWARD_SHARE = 2 / 3
# DDP's buckets: the last one is full only when nothing is left to compute
BUCKET_BYTES = 25 * 2**20


def step_seconds(
    per_image: Flops, images: float, precision: Precision, hardware: Hardware
) -> tuple[float, float]:
    """Return the seconds of a step: of all, and of waiting for gradients alone.

    images: on each device.
    """
    compute = images * per_image.training / hardware.flops_per_second(precision)
    waiting = exposed_seconds(FLOAT_BYTES * per_image.trained, compute, hardware)
    return compute + waiting, waiting


def exposed_seconds(
    gradient_bytes: float, compute_seconds: float, hardware: Hardware
) -> float:
    """Return the seconds in which devices wait for the gradients of a step.

    compute_seconds: of a device's forward and backward pass. 0 for one device, and
    where the hardware does not say how its devices are linked.
    """
    rate = hardware.link_rate
    if rate is None:
        return 0.0
    # a ring sends 2 (n - 1) / n of the gradients from each device to its neighbour
    # (Patarasu & Yuan 2009, J. Parallel Distrib. Comput. 69, section 4)
    share = 2 * (hardware.devices - 1) / hardware.devices
    whole = share * gradient_bytes / rate
    last_bucket = share * min(gradient_bytes, BUCKET_BYTES) / rate
    # the others are sent while earlier layers compute their gradients
    return max(whole - BACKWARD_SHARE * compute_seconds, last_bucket)
