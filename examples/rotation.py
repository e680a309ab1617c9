"""A task: does the encoder know which way is up? (after Gidaris et al. 2018)

python src/train.py stages=[pretrain,task] task._target_=examples.rotation.Rotation
"""

import torch

from unmask.tasks.own_task import Features


class Rotation:
    """Tell by a linear classifier how many quarter turns an image was rotated."""

    unit = "% of turns recognised"
    higher_is_better = True

    def __init__(self, penalty: float = 1e-3) -> None:
        self.penalty = penalty

    def measure(self, features: Features, seed: int) -> dict[str, float]:
        # by row: all images as they are, then all turned once, and so on
        turned = [features(lambda x, k=k: x.rot90(k, (2, 3))) for k in range(4)]
        train_ND = torch.cat([train.features_ND for train, _ in turned])
        val_ND = torch.cat([val.features_ND for _, val in turned])
        true_N = torch.arange(4).repeat_interleave(len(train_ND) // 4)
        mean_D, std_D = train_ND.mean(0), train_ND.std(0) + 1e-6
        x_ND = (train_ND - mean_D) / std_D
        # ridge regression of the four indicators, in closed form
        wanted_N4 = torch.nn.functional.one_hot(true_N).float() - 0.25
        penalty_DD = self.penalty * len(x_ND) * torch.eye(x_ND.shape[1])
        weights_D4 = torch.linalg.solve(x_ND.T @ x_ND + penalty_DD, x_ND.T @ wanted_N4)
        predicted_N = ((val_ND - mean_D) / std_D @ weights_D4).argmax(1)
        is_right_N = predicted_N == torch.arange(4).repeat_interleave(len(val_ND) // 4)
        return {"turns": 100 * is_right_N.float().mean().item()}
