"""One contestant of the step benchmark, in a process of its own.

It builds its model, makes one step, says what it is, and then makes a step whenever it
is asked to: its threads, its allocator and its peak memory are its own.
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unmask.blocks import compile_blocks
from unmask.commands.bench.contestants.built import Built, copy_weights
from unmask.commands.bench.contestants.official import NOISE_SEED
from unmask.commands.bench.contestants.ours import (
    build_our_mae,
    build_ours,
    set_up_device,
    use_settings,
)
from unmask.commands.bench.entries import OURS, SOURCES, Entry
from unmask.commands.bench.measure import device_clock
from unmask.commands.bench.memory_use import (
    available_bytes,
    peak_bytes,
    restart_peak,
)
from unmask.commands.bench.step_messages import END, TURN, Facts, Failure, Request
from unmask.config.hardware import Precision
from unmask.initialisation import skip_initialisation
from unmask.training.product_rate import ProductRate

# FLOPs are linear in the number of images
COUNTED_IMAGES = 2
# makes a training step on (images, noise) and returns its loss
Step = Callable[[Tensor, Tensor], float]


def build_contestant(entry: Entry, spec: dict[str, Any]) -> Built:
    """Build the model of an entry. Peers are imported only where they take part."""
    if entry.implementation == OURS:
        return build_ours(spec, entry.settings.optimizer)
    if entry.implementation == "official":
        from unmask.commands.bench.contestants.official import build_official

        return build_official(spec, entry.attention)
    if entry.implementation == "transformers":
        from unmask.commands.bench.contestants.vitmae import build_vitmae

        return build_vitmae(spec, entry.attention)
    from unmask.commands.bench.contestants.lightly_mae import build_lightly

    return build_lightly(spec, entry.attention)


def draw_batch(
    spec: dict[str, Any], batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return images and noise, the same in all contestants.

    Random images: a step takes as long whatever it sees.
    """
    side, num_patches = spec["image_size"], spec["image_size"] // spec["patch_size"]
    images = torch.randn(
        (batch, spec["channels"], side, side),
        generator=torch.Generator().manual_seed(1),
    )
    # as the official code draws it, on its device
    torch.manual_seed(NOISE_SEED)
    return images.to(device), torch.rand(batch, num_patches**2, device=device)


def count_step_flops(entry: Entry, spec: dict[str, Any]) -> float:
    """Return the FLOPs of a step's matrix products, of which nothing is computed."""
    with torch.device("meta"), skip_initialisation():
        built = build_contestant(entry, spec)
        side, num_patches = spec["image_size"], spec["image_size"] // spec["patch_size"]
        images = torch.empty(COUNTED_IMAGES, spec["channels"], side, side)
        noise = torch.empty(COUNTED_IMAGES, num_patches**2)
        with FlopCounterMode(display=False) as counter:
            built.loss(images, noise).backward()
    return counter.get_total_flops() * spec["batch"] / COUNTED_IMAGES


def make_step(built: Built, precision: Precision) -> Step:
    """Return a training step: forward, backward, optimiser. It returns its loss."""
    optimizer = built.make_optimizer(built.model)
    is_mixed = precision == "bf16-mixed"

    def step(images_BCHW: Tensor, noise_BL: Tensor) -> float:
        kind = images_BCHW.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=is_mixed):
            loss = built.loss(images_BCHW, noise_BL)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # .item() waits for the device, as a loop that logs its loss does
        return loss.item()

    return step


def prepare_contestant(
    entry: Entry, spec: dict[str, Any], device: torch.device
) -> tuple[Facts, Callable[[], float]]:
    """Return what the contestant is, and a step that returns its seconds."""
    flops = count_step_flops(entry, spec)
    before = restart_peak(device)
    if entry.implementation == OURS:
        use_settings(entry.settings, spec, entry.precision)
        # what measuring kernels took at most is not what a step takes
        restart_peak(device)
    built = build_contestant(entry, spec)
    if entry.implementation != OURS:
        ours, _ = build_our_mae(spec)
        copy_weights(ours.state_dict(), built, spec["patch_size"])
        del ours
    built.model.to(device).train()
    if entry.settings.compiled:
        compile_blocks(built.model)
    step = make_step(built, entry.precision)
    batch = draw_batch(spec, spec["batch"], device)
    loss = step(*batch)
    trained = [p for p in built.model.parameters() if p.grad is not None]
    facts = Facts(
        version(SOURCES[entry.implementation].package),
        built.optimizer,
        loss,
        sum(parameter.numel() for parameter in trained),
        flops,
        before,
        peak_bytes(device),
        available_bytes(device),
    )
    clock = device_clock(device)

    def timed_step() -> float:
        start = clock()
        step(*batch)
        return clock() - start

    return facts, timed_step


def serve(connection: Connection) -> None:
    """Answer the parent until it asks for the end, or is gone."""
    request: Request = connection.recv()
    device = set_up_device(request.spec)
    try:
        if request.entry is None:
            _serve_products(connection, device)
        else:
            facts, step = prepare_contestant(request.entry, request.spec, device)
            connection.send(facts)
            while connection.recv() == TURN:
                connection.send(step())
            connection.send(peak_bytes(device))
    except (EOFError, BrokenPipeError):
        return
    # whatever a peer of any version raises: the others are measured without it
    except Exception as error:
        connection.send(Failure(error_line(error)))


def _serve_products(connection: Connection, device: torch.device) -> None:
    rates: dict[Precision, ProductRate] = {}
    while (precision := connection.recv()) != END:
        rate = rates.setdefault(precision, ProductRate(precision, device))
        connection.send(rate())


def error_line(error: Exception) -> str:
    """Return an error's type and the first line of its text."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
