"""The assumptions that a price rests on, as sentences below its tables."""

from collections.abc import Iterator

from unmask.commands.plan.memory import FREE_SHARE
from unmask.commands.plan.price_types import Cell
from unmask.config.hardware import PRECISION_NAMES, Hardware, Precision
from unmask.config.recipes import PRICED_STAGES

# narrower models cannot keep a large device busy
VIT_B_WIDTH = 768


def assumptions(cells: list[Cell], hardware: Hardware) -> list[str]:
    """Return all sentences that apply to these runs on this hardware."""
    precisions = sorted({cell.config.precision for cell in cells})
    return [
        *_about_speed(cells, hardware, precisions),
        *_about_memory(cells, precisions),
        *_about_omissions(cells),
        *_about_devices(hardware, precisions),
    ]


def _about_speed(
    cells: list[Cell], hardware: Hardware, precisions: list[Precision]
) -> Iterator[str]:
    was_measured = hardware.source.startswith("measured")
    if hardware.tflops is not None and hardware.utilisation is not None:
        if was_measured:
            yield (
                f"{hardware.name}, {hardware.source}; every stage is assumed to reach"
                " the same FLOP/s."
            )
        else:
            # only precisions that these runs use
            reached = [
                f"{100 * share:.3g} % of {hardware.tflops[precision]:g} TFLOP/s in"
                f" {PRECISION_NAMES[precision]}"
                for precision, share in hardware.utilisation.items()
                if precision in precisions
            ]
            yield f"Each device reaches {' and '.join(reached)}: {hardware.source}."
    # a measured speed is that of the very model
    if not was_measured and any(
        cell.config.model.width < VIT_B_WIDTH for cell in cells
    ):
        yield (
            "Models narrower than ViT-B do not keep such devices busy: they take longer"
            " than this."
        )
    yield (
        "FLOPs are those of matrix products, counted on the modules. The devices are"
        " assumed to be busy all the time: loaders that do not keep up add to it."
    )


def _about_memory(cells: list[Cell], precisions: list[Precision]) -> Iterator[str]:
    names = " and ".join(PRECISION_NAMES[precision] for precision in precisions)
    yield (
        f"Memory is for {names} with fused attention, and {100 * FREE_SHARE:.0f} % of a"
        " device is left free. Disk is what finished stages leave; while one trains,"
        " checkpoint.keep + 1 of its checkpoints may be there."
    )
    # FSDP divides weights, gradients and optimizer state; this is not modelled
    if any(cell.config.trainer.sharded for cell in cells):
        yield (
            "Memory is that of a whole copy of the model on each device; with"
            " trainer.sharded=true each device holds a share of it and needs less:"
            " docs/devices.md."
        )


def _about_omissions(cells: list[Cell]) -> Iterator[str]:
    """Yield what is not part of the price."""
    not_priced = {
        price.spec.title
        for cell in cells
        for price in cell.prices
        if price.spec.kind not in PRICED_STAGES
    }
    if not_priced:
        yield f"Not counted: {', '.join(sorted(not_priced))}."
    # pixel targets cost nothing; others run a dVAE, or compute gradients
    if any(not cell.config.target.target_.endswith("Pixel") for cell in cells):
        yield (
            "What a target computes from the images (a dVAE's tokens, gradients,"
            " coefficients) is not counted."
        )


def _about_devices(hardware: Hardware, precisions: list[Precision]) -> Iterator[str]:
    if hardware.devices > 1:
        communication = "communication between them is not counted"
        if hardware.link:
            communication = (
                "they wait for gradients (float32, in a ring, at the data sheet's"
                " bandwidth) where these take longer than the backward pass, and for"
                " DDP's last bucket of 25 MiB"
            )
        yield (
            f"Hours are of {hardware.devices} devices that share each batch"
            f" (trainer.devices={hardware.devices}); {communication}."
        )
    peaks = hardware.tflops
    is_float32 = precisions == ["32-true"]
    if is_float32 and peaks and peaks["bf16-mixed"] > peaks["32-true"]:
        yield (
            "trainer=gpu would train in bf16-mixed, which these devices are made for."
        )
