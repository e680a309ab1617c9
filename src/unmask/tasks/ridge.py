"""A linear classifier on frozen features in closed form: ridge regression.

Cheap and without a recipe, for watching a pretraining. The paper's linear probe (MAE
A.1) is a stage of its own.
"""

import torch
import torch.nn.functional as F

from unmask.tasks.features import LabelledFeatures, top1_accuracy

# of a standardised feature, relative to the number of images
PENALTY = 1e-3


def ridge_accuracy(bank: LabelledFeatures, queries: LabelledFeatures) -> float:
    """Return the top-1 accuracy in per cent of least squares on one-hot labels."""
    num_classes = int(torch.cat([bank.labels_N, queries.labels_N]).max()) + 1
    bank_MD = bank.features_ND.double()
    std_D, mean_D = torch.std_mean(bank_MD, dim=0)
    std_D = std_D.clamp_min(1e-6)
    bank_MD = (bank_MD - mean_D) / std_D
    queries_ND = (queries.features_ND.double() - mean_D) / std_D
    targets_MK = F.one_hot(bank.labels_N, num_classes).double()
    bias_K = targets_MK.mean(dim=0)
    gram_DD = bank_MD.T @ bank_MD
    gram_DD.diagonal().add_(PENALTY * len(bank_MD))
    weights_DK = torch.linalg.solve(gram_DD, bank_MD.T @ (targets_MK - bias_K))
    predicted_N = (queries_ND @ weights_DK + bias_K).argmax(dim=1)
    return top1_accuracy(predicted_N, queries.labels_N)
