"""How several ranks train one model: with a copy each (DDP) or a share each (FSDP2)."""

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

from unmask.blocks import CrossBlock
from unmask.config.recipes import ENCODER_STAGES
from unmask.config.schema import Config
from unmask.decoder import Decoder
from unmask.distributed import collectives
from unmask.distributed.collectives import full_tensor
from unmask.tasks.classify import Classify


def is_sharded(config: Config, kind: str) -> bool:
    """Return whether this stage's ranks hold shares: only where the encoder trains.

    Of a frozen one there are no gradients and moments, which take most of the memory.
    """
    is_trained = kind in ENCODER_STAGES
    return config.trainer.sharded and is_trained and collectives.world_size() > 1


def build_strategy(sharded: bool) -> DDPStrategy:
    """Return Lightning's strategy for ranks that have joined a process group."""
    if sharded:
        return ShardedStrategy()
    # buffers are the same on all ranks by construction; broadcasting them would wait
    # where ranks have different numbers of validation batches
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


class ShardedStrategy(DDPStrategy):
    """Train with a share of the model on each rank.

    Checkpoints are those of DDP, and either strategy reads the other's: weights are
    loaded before they are cut, the optimiser's state after. Lightning's own
    ModelParallelStrategy writes files of its own instead, and leaves the cutting to
    every module.
    """

    def setup(self, trainer: L.Trainer) -> None:
        """Cut the model, and set up the optimisers for a fit.

        The validation after a fit finds the model cut already.
        """
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        mesh = init_device_mesh(self.root_device.type, (collectives.world_size(),))
        for model in _sharded_models(self.lightning_module):
            shard(model, mesh, bfloat16=trainer.precision == "bf16-mixed")
        # what is not cut moves as it is: a target's tables, metrics
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return gather_state(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer._optimizer
        return gather_state(optimizer.state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = checkpoint["optimizer_states"]
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(shard_optimizer_state(state, optimizer))

    def teardown(self) -> None:
        """Leave the shares in place: the validation after the fit needs them."""
        # DDPStrategy's own teardown would move the model to the CPU
        assert self.accelerator is not None
        assert self.cluster_environment is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def _sharded_models(module: Any) -> list[nn.Module]:
    """Return the trained model and its average; a frozen target stays whole."""
    if isinstance(module, Classify) and module.ema:
        return [module.model, module.ema.module]
    return [module.model]


def shard(model: nn.Module, mesh: DeviceMesh, bfloat16: bool) -> None:
    """Cut every parameter along its first axis into one share a rank, once.

    bfloat16: gather and compute blocks in bfloat16, from float32 shares, and add
    gradients up in float32. Norms, embeddings, tokens and the head stay in float32
    with the root, so that autocast does to them what it does to a whole model.
    """
    if isinstance(model, FSDPModule):
        return
    policy = MixedPrecisionPolicy(
        torch.bfloat16 if bfloat16 else None, torch.float32, cast_forward_inputs=False
    )
    for block in _blocks_with_forward(model):
        fully_shard([block.attn, block.mlp], mesh=mesh, mp_policy=policy)
    # the root, too, drops what it gathered: else parameters() would be whole tensors
    # after a validation
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _blocks_with_forward(model: nn.Module) -> list[Any]:
    """Return the blocks whose forward is called, which is when FSDP gathers them.

    A decoder's last block is not: its `outputs_after` calls its parts one by one.
    """
    last_blocks = {
        part.blocks[-1] for part in model.modules() if isinstance(part, Decoder)
    }
    return [
        part
        for part in model.modules()
        if isinstance(part, Block | CrossBlock) and part not in last_blocks
    ]


def gather_state(state: Any) -> Any:
    """Return the state with whole tensors on the CPU of rank zero, else an empty dict.

    All ranks must call it, since each sends its shares.
    """

    def gather(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        full = full_tensor(value.detach())
        return full.cpu() if collectives.is_rank_zero() else None

    gathered = tree_map(gather, state)
    return gathered if collectives.is_rank_zero() else {}


def shard_optimizer_state(
    state: dict[str, Any], optimizer: Optimizer
) -> dict[str, Any]:
    """Return an optimiser's whole state with each moment cut as its parameter is.

    Every rank has read all of it, so nothing is sent.
    """
    parameters = [
        parameter for group in optimizer.param_groups for parameter in group["params"]
    ]

    def share(value: Any, parameter: Tensor) -> Any:
        is_moment = isinstance(value, Tensor) and value.shape == parameter.shape
        if not is_moment or not isinstance(parameter, DTensor):
            return value  # a count of steps
        return distribute_tensor(
            value, parameter.device_mesh, parameter.placements, src_data_rank=None
        )

    moments = {
        i: {name: share(value, parameters[i]) for name, value in by_name.items()}
        for i, by_name in state["state"].items()
    }
    return {**state, "state": moments}
