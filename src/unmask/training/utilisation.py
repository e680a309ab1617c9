"""Model FLOPs utilisation (MFU; PaLM, arXiv 2204.02311, appendix B)."""

import math
from collections.abc import Callable
from functools import partial

import torch

from unmask.callbacks.progress import PeakSpeed
from unmask.config.hardware import peak_flops
from unmask.config.recipes import ENCODER_STAGES
from unmask.distributed import collectives
from unmask.training.build import training_device
from unmask.training.dashboards import device_name
from unmask.training.flops import count_flops
from unmask.training.outline import build_outline
from unmask.training.product_rate import best_product_rate
from unmask.training.run import Stage

# a minute or two on two cores: what is shorter is not worth a second of measuring
LONG_FLOPS = 1e13


def peak_images_per_second(stage: Stage) -> PeakSpeed | None:
    """Return at which speed the stage's devices would reach their peak.

    The FLOPs are those of the model's matrix products; what is recomputed does not
    count. Where conf/hardware does not name the device, as it names no CPU, the peak is
    what large products reach on it; None for short stages there, and where that cannot
    be measured.
    """
    spec = stage.spec
    name = device_name(stage)
    precision = stage.config.precision
    peak = peak_flops(name, precision) if name else None
    is_measured = peak is None
    if spec.kind == "tokenizer" or (is_measured and not _is_long(stage)):
        return None
    if peak is None:
        device = training_device(stage.config)
        peak = collectives.on_rank_zero(lambda: _measured_peak(stage, device))
    if not peak:
        return None
    num_classes = stage.run.plan.num_classes
    outline = partial(build_outline, stage.config, spec.kind, spec.start, num_classes)
    # a model of the user's may need the values that it is counted without
    flops = _or_zero(stage, lambda: count_flops(outline).training)
    if not flops:
        return None
    return PeakSpeed(collectives.world_size() * peak / flops, is_measured)


def _measured_peak(stage: Stage, device: torch.device) -> float:
    """Return the FLOP/s of large products, 0 where they fail."""
    return _or_zero(stage, lambda: best_product_rate(stage.config.precision, device))


def _or_zero(stage: Stage, measure: Callable[[], float]) -> float:
    """Return what is measured; 0, said in a line, where that fails.

    A number on the progress line is no reason to end a training.
    """
    try:
        return measure()
    # whatever it is
    except Exception as error:
        line = str(error).partition("\n")[0]
        stage.console.print(f"  no MFU: {line}", markup=False, soft_wrap=True)
        return 0.0


def _is_long(stage: Stage) -> bool:
    """Estimate from the encoder alone whether training takes more than a minute."""
    config, kind = stage.config, stage.spec.kind
    if kind not in ENCODER_STAGES:
        return False
    model, recipe = config.model, stage.recipe
    seen = math.prod(config.grid)
    tokens = seen * (1 - config.mask_ratio) if kind == "pretrain" else seen
    # the matrices of a block have 12 width^2 numbers; forward and backward passes take
    # 6 FLOPs for each of them and each token
    per_image = 6 * 12 * model.depth * model.width**2 * tokens
    count = len(stage.run.splits[0])
    images = recipe.epochs * min(getattr(recipe, "labels", None) or count, count)
    if config.stop_after:
        images = min(images, config.stop_after * recipe.batch_size)
    return per_image * images > LONG_FLOPS
