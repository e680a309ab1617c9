"""The kNN classifier on frozen features (Wu et al. 2018, arXiv 1805.01978)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.tasks.features import LabelledFeatures, top1_accuracy

# Queries that are compared with the bank at once: it bounds the similarity matrix.
QUERY_CHUNK = 1024


def knn_accuracy(
    bank: LabelledFeatures, queries: LabelledFeatures, k: int, temperature: float
) -> float:
    """Return the top-1 accuracy of a kNN classifier, in per cent."""
    predicted_N = knn_predictions(bank, queries, k, temperature)
    return top1_accuracy(predicted_N, queries.labels_N)


def knn_predictions(
    bank: LabelledFeatures, queries: LabelledFeatures, k: int, temperature: float
) -> Int[Tensor, "N"]:
    """Return the class of the most votes for each query.

    A bank of fewer than k vectors votes as a whole.
    """
    # A class of the queries may be missing from the bank.
    num_classes = int(torch.cat([bank.labels_N, queries.labels_N]).max()) + 1
    predicted = []
    for chunk_ND in queries.features_ND.split(QUERY_CHUNK):
        scores_NK = knn_scores(bank, chunk_ND, num_classes, k, temperature)
        predicted.append(scores_NK.argmax(dim=1))
    return torch.cat(predicted)


def knn_scores(
    bank: LabelledFeatures,
    queries_ND: Float[Tensor, "N D"],
    num_classes: int,
    k: int,
    temperature: float,
) -> Float[Tensor, "N K"]:
    """Sum, for each class, the votes of the k most similar vectors of the bank.

    A vote weighs exp(cosine / temperature), up to a constant factor (Wu et al. 2018).
    """
    queries_ND = F.normalize(queries_ND, dim=1)
    bank_MD = F.normalize(bank.features_ND, dim=1)
    similarity_NM = queries_ND @ bank_MD.T
    nearest = similarity_NM.topk(min(k, len(bank.labels_N)), dim=1)
    labels_Nk: Int[Tensor, "N k"] = bank.labels_N[nearest.indices]
    # Minus one, the largest cosine, keeps exp within float32 at low temperatures.
    votes_Nk = ((nearest.values - 1) / temperature).exp()
    scores_NK = votes_Nk.new_zeros(len(queries_ND), num_classes)
    return scores_NK.scatter_add_(1, labels_Nk, votes_Nk)
