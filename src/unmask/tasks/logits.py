"""From logits to answers: which class comes first, and whether there is one at all."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def refuse_nonfinite(outputs_BD: Float[Tensor, "B D"], name: str) -> None:
    """Raise FloatingPointError where a number is NaN or infinite.

    Of such logits argmax and topk would make accuracies. name: what they are.
    """
    bad_B = ~outputs_BD.isfinite().all(dim=1)
    if bad_B.any():
        raise FloatingPointError(
            f"{int(bad_B.sum())} of {len(bad_B)} images have {name} that are not"
            f" finite ({outputs_BD[bad_B].sum():g}), so nothing was measured; look at"
            " the weights and at these images, or train with a lower base_lr or a"
            " longer warmup_epochs"
        )


def best_guesses(
    logits_BK: Float[Tensor, "B K"], labels_B: Int[Tensor, "B"], count: int
) -> Int[Tensor, "B"]:
    """Return the label where it is among the `count` first classes, else the first.

    Equal logits are ordered by class, as argmax orders them, and topk does not: so a
    label that comes first is always among the first five.
    """
    own_B1 = logits_BK.gather(1, labels_B[:, None])
    classes_K = torch.arange(logits_BK.shape[1], device=logits_BK.device)
    is_earlier_BK = classes_K < labels_B[:, None]
    ahead_BK = (logits_BK > own_B1) | ((logits_BK == own_B1) & is_earlier_BK)
    is_among_B = ahead_BK.sum(dim=1) < count
    return torch.where(is_among_B, labels_B, logits_BK.argmax(dim=1))
