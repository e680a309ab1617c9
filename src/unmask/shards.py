"""One model in shares, each held by one of several processes: weights, gradients and moments (torch's `fully_shard`).

A process has all of a block's weights only while it computes that block. What leaves, such as a checkpoint, is whole.
"""

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from unmask import collectives
from unmask.decoder import Decoder


def shard(model: nn.Module, mesh: DeviceMesh, half: bool) -> None:
    """Cut every parameter along its first axis into one share a process of the mesh, once.

    half: blocks are sent and computed in bfloat16, from float32 shares, and gradients added up in float32. Norms,
    embeddings, tokens and the head stay with the root in float32: what autocast makes of them is then what it makes
    of whole models.
    """
    if isinstance(model, FSDPModule):
        return
    policy = MixedPrecisionPolicy(torch.bfloat16 if half else None, torch.float32, cast_forward_inputs=False)
    for block in _called(model):
        fully_shard([block.attn, block.mlp], mesh=mesh, mp_policy=policy)
    # the root, too, drops what it gathered: else parameters() would be whole tensors after a validation
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _called(model: nn.Module) -> list[Any]:
    """Blocks whose forward runs; a decoder's last one is taken apart (`decoder.last_block`), and nothing would gather
    what it needs.
    """
    apart = {part.blocks[-1] for part in model.modules() if isinstance(part, Decoder)}
    return [part for part in model.modules() if isinstance(part, Block) and part not in apart]


def whole(value: Tensor) -> Tensor:
    """The tensor of all shares; all processes must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gathered(state: Any) -> Any:
    """The state with whole tensors on the CPU, for the process that leads; the others help and get nothing."""

    def gather(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        full = whole(value.detach())
        return full.cpu() if collectives.leads() else None

    found = tree_map(gather, state)
    return found if collectives.leads() else {}


def shared_out(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's whole state with each moment cut as its parameter is; every process has read all of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def share(value: Any, parameter: Tensor) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value  # a count of steps
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    moments = {
        i: {name: share(value, parameters[i]) for name, value in kept.items()} for i, kept in state["state"].items()
    }
    return {**state, "state": moments}
