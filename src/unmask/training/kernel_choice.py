"""Choose the kernels that are fastest for a stage on this CPU, by measuring them.

A choice is made once for each machine and each shape, kept in the user's cache and in
the stage's folder: a run that goes on computes as it began, bit for bit.
"""

import itertools
import os
import statistics
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor, nn

from unmask import kernels
from unmask.config.architecture import CrossDecoder
from unmask.config.recipes import FITTED_STAGES, MEASURING_STAGES
from unmask.config.schema import Config
from unmask.data.loading.module import EVAL_BATCH
from unmask.distributed import collectives
from unmask.distributed.machine import cpu_identity
from unmask.encoder import transformer_blocks
from unmask.kernels import Attention, Kernels, Linear
from unmask.stages.fingerprint import digest
from unmask.storage.atomic import read_note, write_json
from unmask.storage.user_cache import user_cache
from unmask.training.build import count_visible, training_device
from unmask.training.fsdp import is_sharded
from unmask.training.prepare import has_fixed_features
from unmask.training.run import Stage

Name = TypeVar("Name", bound=str)
KERNELS_FILE = "kernels.json"
ROUNDS = 5
# of all images that a measurement takes: more change its seconds, not its verdict
MAX_TOKENS = 4096
# another kernel must be this much faster, or a coin would be tossed
MIN_GAIN = 1.03
# from so many on, half of them are tried, too
MIN_THREADS = 4


class BlockShape(NamedTuple):
    """Describe the blocks of an encoder or a decoder, and what passes through them.

    depth: how many there are.
    """

    images: int
    tokens: int
    width: int
    heads: int
    mlp_ratio: float
    depth: int


@dataclass(frozen=True)
class Choice:
    """Hold kernels, and the seconds that all blocks take with them, back and forth."""

    kernels: Kernels
    seconds: float


def stage_kernels(stage: Stage) -> AbstractContextManager[None]:
    """Compute with what the stage began with, or else with what is fastest here.

    All ranks take the choice of rank zero, which notes it in the stage's folder.
    """
    return kernels.using(collectives.on_rank_zero(lambda: _kernels_of(stage)))


def _kernels_of(stage: Stage) -> Kernels:
    kind = stage.spec.kind
    if kind in FITTED_STAGES or training_device(stage.config).type != "cpu":
        return Kernels()
    # Stages of a run share features: whichever computes them, they are the same bits.
    if kind in MEASURING_STAGES or has_fixed_features(stage.config, kind):
        return Kernels()
    path = stage.folder.path / KERNELS_FILE
    note = read_note(path)
    if noted := _parse(note):
        return noted
    if note:
        stage.console.print(
            f"warning: {path} asks for kernels that are not here; the last digits may"
            " differ from those of an undisturbed run",
            soft_wrap=True,
        )
    chosen = _choose(stage)
    write_json(path, asdict(chosen))
    return chosen


def _choose(stage: Stage) -> Kernels:
    config, kind = stage.config, stage.spec.kind
    # a stage of an earlier version goes on as it began; shares of a model are gathered
    # by the forward passes of timm's parts
    began_earlier = any(stage.folder.checkpoints.glob("*.ckpt"))
    if began_earlier or is_sharded(config, kind):
        return Kernels(blocks="timm")
    if config.trainer.kernels == "default":
        return Kernels()
    shapes = stage_shapes(config, kind, _micro_batch(stage), count_visible(config))
    choice = cached_choice(shapes, config.precision == "bf16-mixed")
    if choice is None:
        stage.console.print(
            "  the usual kernels: no choice can be kept (XDG_CACHE_HOME or ~/.cache"
            " cannot be written)",
            soft_wrap=True,
        )
        return Kernels()
    stage.console.print(f"  {describe(choice.kernels)}")
    return choice.kernels


def _micro_batch(stage: Stage) -> int:
    """Return how many images a rank passes through its model at once."""
    batch = getattr(stage.recipe, "batch_size", None) or EVAL_BATCH
    limit = stage.config.trainer.micro_batch or batch
    return max(1, min(limit, batch // collectives.world_size()))


def describe(chosen: Kernels) -> str:
    """Say in one line what was found the fastest."""
    library = {"torch": "torch's", "onednn": "oneDNN's"}[chosen.linear]
    kernel = {"products": "plain products", "fused": "the fused kernel"}
    attention = ", ".join(
        f"{kernel[name]} for {tokens} tokens"
        for tokens, name in chosen.attention.items()
    )
    threads = f"; {chosen.threads} threads" if chosen.threads else ""
    return f"fastest here: {library} matrix products; attention by {attention}{threads}"


def read_kernels(stage_folder: Path) -> Kernels | None:
    """Return the kernels that a stage was computed with; None where it has no note."""
    return _parse(read_note(stage_folder / KERNELS_FILE))


def _parse(note: dict[str, Any]) -> Kernels | None:
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        attention: dict[int, Attention] = {
            int(tokens): kernel for tokens, kernel in note["attention"].items()
        }
        threads = note.get("threads")
        chosen = Kernels(note["blocks"], note["linear"], attention, threads)
        # written on a machine whose torch had it
        if chosen.linear == "torch" or kernels.has_onednn():
            return chosen
    return None


def cached_choice(shapes: list[BlockShape], bfloat16: bool) -> Choice | None:
    """Return the fastest kernels; measured where this machine has not done it yet.

    None where no choice can be kept: near a tie each run would make another one, and
    its last digits would differ.
    """
    path = _cache_path(shapes, bfloat16)
    if path is None:
        return None
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # side by side, processes would disturb each other's measurement
        with FileLock(path.with_suffix(".lock")):
            if _read_choice(path) is None:
                write_json(path, asdict(measure(shapes, bfloat16)))
            return _read_choice(path)
    return None


def _read_choice(path: Path) -> Choice | None:
    note = read_note(path)
    chosen = _parse(note.get("kernels", {}))
    return Choice(chosen, float(note["seconds"])) if chosen else None


def _cache_path(shapes: list[BlockShape], bfloat16: bool) -> Path | None:
    folder = user_cache()
    key = {
        "cpu": cpu_identity(),
        "threads": torch.get_num_threads(),
        # two choices of the same thing could differ near a tie
        "chooses_threads": _chooses_among(torch.get_num_threads()),
        "torch": torch.__version__,
        "shapes": shapes,
        "bfloat16": bfloat16,
    }
    return folder and folder / "kernels" / f"{digest(key)}.json"


def measure(shapes: list[BlockShape], bfloat16: bool) -> Choice:
    """Return the fastest kernels, and with many cores also the number of threads.

    A small model may be faster on fewer threads, which have less to wait for.
    """
    best = _measure_kernels(shapes, bfloat16)
    threads = torch.get_num_threads()
    while _chooses_among(threads):
        threads //= 2
        with kernels.using(Kernels(threads=threads)):
            tried = _measure_kernels(shapes, bfloat16)
        if tried.seconds * MIN_GAIN >= best.seconds:
            break
        best = replace(tried, kernels=replace(tried.kernels, threads=threads))
    return best


def _chooses_among(threads: int) -> bool:
    """Return whether fewer threads are tried.

    That is where nobody has said how many, and no other ranks share the cores.
    """
    is_free = "OMP_NUM_THREADS" not in os.environ and collectives.world_size() == 1
    return is_free and threads >= MIN_THREADS


def _measure_kernels(shapes: list[BlockShape], bfloat16: bool) -> Choice:
    """Time one block of each shape with all kernels, in turn, and take the fastest."""
    # the first is kept where no other gains enough
    linears: list[Linear] = ["torch"]
    if kernels.has_onednn() and not bfloat16:
        linears.append("onednn")
    seconds = {
        shape: _block_seconds(shape, bfloat16, linears)
        for shape in dict.fromkeys(shapes)
    }

    def total(linear: Linear, attention: Attention, tokens: int) -> float:
        return sum(
            shape.depth * seconds[shape][linear, attention]
            for shape in shapes
            if shape.tokens == tokens
        )

    choices = {}
    for linear in linears:
        chosen: dict[int, Attention] = {}
        spent = 0.0
        for tokens in dict.fromkeys(shape.tokens for shape in shapes):
            names = _attentions(tokens, bfloat16)
            costs = {name: total(linear, name, tokens) for name in names}
            chosen[tokens] = _fastest(costs)
            spent += costs[chosen[tokens]]
        choices[linear] = Choice(Kernels("merged", linear, chosen), spent)
    return choices[_fastest({name: its.seconds for name, its in choices.items()})]


def _attentions(tokens: int, bfloat16: bool) -> list[Attention]:
    """Return both kernels of attention, the one that is usual for the length first."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    usual = kernels.usual_attention(tokens, dtype)
    return [usual, "fused" if usual == "products" else "products"]


def _fastest(seconds: dict[Name, float]) -> Name:
    """Return the first name, unless another is faster by MIN_GAIN."""
    first = next(iter(seconds))
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * MIN_GAIN < seconds[first] else first


def _block_seconds(
    shape: BlockShape, bfloat16: bool, linears: list[Linear]
) -> dict[tuple[Linear, Attention], float]:
    """Return the seconds of one block with each pair of kernels, back and forth."""
    images = max(1, min(shape.images, MAX_TOKENS // shape.tokens))
    tokens_BTD = torch.randn(images, shape.tokens, shape.width, requires_grad=True)
    (block,) = transformer_blocks(shape.width, 1, shape.heads, shape.mlp_ratio)
    pairs = [
        (linear, attention)
        for linear in linears
        for attention in _attentions(shape.tokens, bfloat16)
    ]
    taken: dict[tuple[Linear, Attention], list[float]] = {pair: [] for pair in pairs}
    for _, (linear, attention) in itertools.product(range(ROUNDS), pairs):
        tried = Kernels("merged", linear, {shape.tokens: attention})
        with kernels.using(tried):
            taken[linear, attention].append(time_block(block, tokens_BTD, bfloat16))
    # the first round warms up
    return {
        pair: statistics.median(times[1:]) * shape.images / images
        for pair, times in taken.items()
    }


def time_block(
    block: nn.Module, tokens_BTD: Float[Tensor, "B T D"], bfloat16: bool
) -> float:
    """Return the seconds of one pass through a block, back and forth."""
    device = tokens_BTD.device
    # on a GPU the host goes on before the device has done its work
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else int
    wait()
    began = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        output_BTD = block(tokens_BTD)
    output_BTD.backward(torch.ones_like(output_BTD))
    wait()
    return time.perf_counter() - began


def stage_shapes(
    config: Config, kind: str, images: int, num_visible: int
) -> list[BlockShape]:
    """Return the blocks that a stage passes its batches through.

    images: of a micro-batch on this rank. num_visible: patches that a mask leaves.
    """
    model, decoder = config.model, config.decoder
    rows, cols = config.grid_for(config.stage_image_size(kind))
    everything = model.class_tokens + rows * cols
    seen = everything
    if kind == "pretrain" and not config.encoder.mask_tokens:
        seen = model.class_tokens + num_visible
    shapes = [
        BlockShape(images, seen, model.width, model.heads, model.mlp_ratio, model.depth)
    ]
    if kind == "pretrain" and decoder.depth:
        assert decoder.mlp_ratio is not None
        decoded = everything
        if isinstance(decoder, CrossDecoder):
            # mask tokens alone pass through its blocks
            decoded = config.count_predicted(num_visible) or rows * cols - num_visible
        shapes.append(
            BlockShape(
                images,
                decoded,
                decoder.width,
                decoder.heads,
                decoder.mlp_ratio,
                decoder.depth,
            )
        )
    return shapes
