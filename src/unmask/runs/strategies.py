"""How several processes share one model: a copy each (DDP), or a share each (FSDP2)."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from unmask import collectives
from unmask.shards import gathered, shard, shared_out
from unmask.tasks.classify import Classify


class Sharded(DDPStrategy):
    """Lightning's DDP with shares in the place of copies; its checkpoints are DDP's, and each reads the other's.

    Weights are restored before they are cut, the optimiser's state after. Lightning's own ModelParallelStrategy reads
    and writes files of its own, past our checkpoints, and wants to be told the shares by every module.
    """

    def setup(self, trainer: L.Trainer) -> None:
        """For a fit, and for the validation of its final weights, which are cut already."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        mesh = init_device_mesh(self.root_device.type, (collectives.count(),))
        for model in _models(self.lightning_module):
            shard(model, mesh, half=trainer.precision == "bf16-mixed")
        self.model_to_device()  # what is not cut: a target's tables, metrics
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return gathered((optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer).state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(shared_out(state, optimizer))

    def teardown(self) -> None:
        """The shares stay where they are: the validation after the fit needs them there."""
        assert self.accelerator is not None
        assert self.cluster_environment is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def _models(module: Any) -> list[nn.Module]:
    """What is trained, and its average where there is one; frozen targets stay whole."""
    averaged = [module.ema.module] if isinstance(module, Classify) and module.ema else []
    return [module.model, *averaged]


def strategy(sharded: bool) -> DDPStrategy:
    """Of processes that have joined."""
    if sharded:
        return Sharded()
    # buffers: the same everywhere by construction; sending them would wait where validation batches are uneven
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
