"""Steps whose loss jumps: not made, counted, and too many of them end the run.

What a step's loss is compared with is part of the checkpoint, and the verdict is reached on the device, the same in
every process: a run that was stopped skips the very steps that an undisturbed one skips.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class SpikeRule(NamedTuple):
    """A step is a spike if its loss is more than `factor` times the mean of the last `window` steps that were made.

    limit: how many may be skipped in a stage.
    """

    factor: float
    window: int
    limit: int


class Spikes:
    """Knows the losses of the steps before."""

    def __init__(self, rule: SpikeRule) -> None:
        self.rule = rule
        self.recent_W = torch.full((rule.window,), torch.nan)  # not a number: no such step yet
        self.spiked = torch.zeros(())  # how many on the device; the host may be a step behind
        self.skipped = 0  # as far as the host has looked

    def judge(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """1 for a spike, else 0, on the loss's device; the loss of a step that is made is remembered."""
        self.recent_W = self.recent_W.to(loss.device)
        # a mean with missing numbers is not a number, and nothing is larger than that: no verdict in the first steps
        spike = loss > self.rule.factor * self.recent_W.mean()
        made = torch.cat([self.recent_W[1:], loss[None]])
        self.recent_W = torch.where(spike, self.recent_W, made)
        self.spiked = self.spiked.to(loss.device) + spike
        return spike.float()

    def count(self, step: int, loss: float) -> str | None:
        """One more was skipped; what to say when these are too many."""
        self.skipped += 1
        if self.skipped <= self.rule.limit:
            return None
        return (
            f"the training loss jumped to {loss:.4g} at step {step}, more than {self.rule.factor:g} times the mean of "
            f"{self.rule.window} steps before, and so it did {self.skipped} times: spikes.limit="
            f"{self.rule.limit} are allowed"
        )

    def state(self) -> dict[str, Any]:
        return {"recent": self.recent_W.tolist(), "skipped": int(self.spiked)}

    def load(self, state: dict[str, Any]) -> None:
        self.recent_W, self.skipped = torch.tensor(state["recent"]), int(state["skipped"])
        self.spiked = torch.tensor(float(self.skipped))
