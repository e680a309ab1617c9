"""Steps on a GPU: of large models, of a sharded one, in bfloat16, and their guards."""

import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from unmask.commands.bench.callbacks import measure_overhead
from unmask.commands.bench.contestants.ours import build_ours
from unmask.commands.bench.entries import OURS, Entry, Settings
from unmask.commands.bench.gpu.context import PartRequest, Report
from unmask.commands.bench.gpu.digits import digit_batches
from unmask.commands.bench.gpu.small_images import images_per_second
from unmask.commands.bench.memory_use import peak_bytes, restart_peak
from unmask.commands.bench.step import WARM_UP_ROUNDS, Worker, WorkerError
from unmask.commands.bench.step_messages import END, TURN, Facts, Request
from unmask.commands.bench.step_tables import NO_RATE
from unmask.commands.bench.step_worker import draw_batch, make_step
from unmask.commands.units import format_number
from unmask.config.hardware import GIB, TERA, Precision
from unmask.training.fsdp import shard

BFLOAT16: Precision = "bf16-mixed"
# of a process that compiles, at least
LEAST_SECONDS = 60.0
MODEL_HEADER = ("batch", "blocks", "ms", "images/s", "TFLOP/s", "of the rate", "GiB")
# losses are averaged over so many steps before they are compared
WINDOW = 20
SHOWN_STEPS = (1, 3, 10, 30, 100, 300)


def measure_models(request: PartRequest) -> Iterator[Report]:
    """Yield a table for each model: bfloat16, eager and compiled, by batch."""
    best = 0.0
    with Worker(Request(request.spec())) as products:
        for _ in range(3):
            best = max(best, products.ask(BFLOAT16))
    for name, typed in request.sizes.models.items():
        rows, notes = [], []
        for batch in request.sizes.batches:
            for is_compiled in (False, True):
                if request.seconds_left < LEAST_SECONDS:
                    notes.append(f"batch {batch} and later ones: no time was left")
                    break
                spec = request.spec(*typed, f"batch={batch}")
                rows.append(_model_row(spec, is_compiled, request.sizes.rounds, best))
        title = f"ViT-{name.capitalize()}, bf16-mixed"
        notes.append(f"{title}; large products: {best / TERA:.3g} TFLOP/s")
        yield Report(MODEL_HEADER, rows, notes)


def _model_row(
    spec: dict[str, Any], is_compiled: bool, rounds: int, rate: float
) -> tuple[str, ...]:
    """Return the row of one model at one batch size, in a process of its own."""
    name = "compiled" if is_compiled else ""
    entry = Entry(OURS, BFLOAT16, "auto", Settings(compiled=is_compiled), name)
    about = (str(spec["batch"]), "compiled" if is_compiled else "eager")
    try:
        with Worker(Request(spec, entry)) as worker:
            facts: Facts = worker.receive()
            seconds = [worker.ask(TURN) for _ in range(WARM_UP_ROUNDS + rounds)]
            peak = worker.ask(END)
    except WorkerError as error:
        return (*about, str(error), *[""] * (len(MODEL_HEADER) - 3))
    median = statistics.median(seconds[WARM_UP_ROUNDS:])
    speed = facts.flops / median
    return (
        *about,
        format_number(1000 * median),
        format_number(spec["batch"] / median),
        f"{speed / TERA:.3g}",
        f"{speed / rate:.0%}" if rate else NO_RATE,
        format_number(peak / GIB),
    )


def measure_guards(request: PartRequest) -> Iterator[Report]:
    """Yield what each callback takes in a step, and a checkpoint's cost."""
    # images of all steps lie in the host's memory
    batch = f"batch={min(request.sizes.batches)}"
    spec = request.spec(*request.first_model, batch, f"rounds={request.sizes.rounds}")
    overhead = measure_overhead(spec)
    guards = overhead.guards | {"all guards": sum(overhead.guards.values())}
    rows = [
        (name, f"{1000 * seconds:.3f}", f"{seconds / overhead.step:.3%} of a step")
        for name, seconds in guards.items()
    ]
    rows += [
        (name, f"{1000 * seconds:.3f}", f"{seconds / 60:.3%} of a minute")
        for name, seconds in overhead.checkpoint.items()
    ]
    note = f"{spec['model']['name']}, {batch}: a step takes {overhead.step:.4f} s"
    yield Report(("what", "ms", "share"), rows, (note,))


def measure_parity(request: PartRequest) -> Iterator[Report]:
    """Train on real digits in both precisions, from the same weights and masks."""
    spec = request.spec(*request.small_model, f"batch={request.sizes.small_batch}")
    device = torch.device(request.device)
    precisions: tuple[Precision, ...] = ("32-true", BFLOAT16)
    steps = {}
    for precision in precisions:
        built = build_ours(spec)
        built.model.to(device).train()
        steps[precision] = make_step(built, precision)
    losses: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    for batch in digit_batches(spec, request.sizes.parity_steps, device):
        for precision, step in steps.items():
            losses[precision].append(step(*batch))
    yield parity_report(losses["32-true"], losses[BFLOAT16])


def parity_report(float32: list[float], bfloat16: list[float]) -> Report:
    """Compare two loss curves, step by step and smoothed."""
    rows = [
        (
            str(step),
            f"{float32[step - 1]:.5f}",
            f"{bfloat16[step - 1]:.5f}",
            f"{bfloat16[step - 1] / float32[step - 1] - 1:+.2%}",
        )
        for step in SHOWN_STEPS
        if step <= len(float32)
    ]
    window = min(WINDOW, len(float32))
    means = [
        [statistics.mean(curve[k : k + window]) for k in range(len(curve) - window + 1)]
        for curve in (float32, bfloat16)
    ]
    worst = max(abs(b / a - 1) for a, b in zip(*means, strict=True))
    note = f"Means of {window} steps differ by {worst:.2%} at most."
    return Report(("step", "float32", "bf16-mixed", "difference"), rows, (note,))


def measure_fsdp(request: PartRequest) -> Iterator[Report]:
    """Yield a step of a whole model beside one that is sharded over one device."""
    device = torch.device(request.device)
    spec = request.spec(*request.first_model, f"batch={request.sizes.batch}")
    # no other process can meet this one
    store = dist.HashStore()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    rows = []
    for name in ("whole", "sharded over one"):
        before = restart_peak(device)
        built = build_ours(spec)
        built.model.to(device).train()
        if name != "whole":
            mesh = init_device_mesh(device.type, (1,))
            shard(built.model, mesh, bfloat16=True)
        step = make_step(built, BFLOAT16)
        batch = draw_batch(spec, spec["batch"], device)
        loss = step(*batch)
        run = partial(step, *batch)
        pace = images_per_second(run, spec["batch"], request.sizes.rounds, device)
        peak = (peak_bytes(device) - before) / GIB
        rows.append((name, format_number(pace), f"{peak:.2f}", f"{loss:.5f}"))
        # or both models would be held at once
        del built, step, run
    dist.destroy_process_group()
    yield Report(("model", "images/s", "GiB", "first loss"), rows)
