"""How several processes share one model: a copy each (DDP), or a share each (FSDP2)."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from unmask.decoder import Decoder
from unmask.distributed import collectives
from unmask.distributed.collectives import full_tensor
from unmask.tasks.classify import Classify


def shard(model: nn.Module, mesh: DeviceMesh, half: bool) -> None:
    """Cut every parameter along its first axis into one share a process of the mesh, once.

    half: blocks are sent and computed in bfloat16, from float32 shares, and gradients added up in float32. Norms,
    embeddings, tokens and the head stay with the root in float32: what autocast makes of them is then what it makes
    of whole models.
    """
    if isinstance(model, FSDPModule):
        return
    policy = MixedPrecisionPolicy(
        torch.bfloat16 if half else None, torch.float32, cast_forward_inputs=False
    )
    for block in _called(model):
        fully_shard([block.attn, block.mlp], mesh=mesh, mp_policy=policy)
    # the root, too, drops what it gathered: else parameters() would be whole tensors
    # after a validation
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _called(model: nn.Module) -> list[Any]:
    """Blocks whose forward runs; a decoder's last one is taken apart (`decoder.last_block`), and nothing would gather
    what it needs.
    """
    apart = {part.blocks[-1] for part in model.modules() if isinstance(part, Decoder)}
    return [
        part
        for part in model.modules()
        if isinstance(part, Block) and part not in apart
    ]


def gathered(state: Any) -> Any:
    """The state with whole tensors on the CPU, for the process that leads; the others help and get nothing."""

    def gather(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        full = full_tensor(value.detach())
        return full.cpu() if collectives.is_rank_zero() else None

    found = tree_map(gather, state)
    return found if collectives.is_rank_zero() else {}


def shared_out(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's whole state with each moment cut as its parameter is; every process has read all of it."""
    parameters = [
        parameter for group in optimizer.param_groups for parameter in group["params"]
    ]

    def share(value: Any, parameter: Tensor) -> Any:
        if (
            not isinstance(parameter, DTensor)
            or not isinstance(value, Tensor)
            or value.shape != parameter.shape
        ):
            return value  # a count of steps
        return distribute_tensor(
            value, parameter.device_mesh, parameter.placements, src_data_rank=None
        )

    moments = {
        i: {name: share(value, parameters[i]) for name, value in kept.items()}
        for i, kept in state["state"].items()
    }
    return {**state, "state": moments}


class Sharded(DDPStrategy):
    """Lightning's DDP with shares in the place of copies; its checkpoints are DDP's, and each reads the other's.

    Weights are restored before they are cut, the optimiser's state after. Lightning's own ModelParallelStrategy reads
    and writes files of its own, past our checkpoints, and wants to be told the shares by every module.
    """

    def setup(self, trainer: L.Trainer) -> None:
        """For a fit, and for the validation of its final weights, which are cut already."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        mesh = init_device_mesh(self.root_device.type, (collectives.world_size(),))
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
        return gathered(
            (
                optimizer._optimizer
                if isinstance(optimizer, LightningOptimizer)
                else optimizer
            ).state_dict()
        )

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(
            self.optimizers, checkpoint["optimizer_states"], strict=True
        ):
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
    averaged = (
        [module.ema.module] if isinstance(module, Classify) and module.ema else []
    )
    return [module.model, *averaged]


def strategy(sharded: bool) -> DDPStrategy:
    """Of processes that have joined."""
    if sharded:
        return Sharded()
    # buffers: the same everywhere by construction; sending them would wait where
    # validation batches are uneven
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
