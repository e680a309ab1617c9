"""Model FLOPs utilisation (MFU; PaLM, arXiv 2204.02311, appendix B)."""

from functools import partial

from unmask.config.hardware import peak_flops
from unmask.distributed import collectives
from unmask.training.dashboards import device_name
from unmask.training.flops import count_flops
from unmask.training.outline import build_outline
from unmask.training.run import Stage


def peak_images_per_second(stage: Stage) -> float | None:
    """Return at which speed the stage's devices would reach their peak.

    The FLOPs are those of the model's matrix products; what is recomputed does not
    count. None where the peak of the device is unknown, as that of a CPU is.
    """
    spec = stage.spec
    name = device_name(stage)
    peak = peak_flops(name, stage.config.trainer.precision) if name else None
    if peak is None or spec.kind == "tokenizer":
        return None
    num_classes = stage.run.plan.num_classes
    outline = partial(build_outline, stage.config, spec.kind, spec.start, num_classes)
    return collectives.world_size() * peak / count_flops(outline).training
