"""k-nearest-neighbour classification on cosine similarity (Wu et al. 2018, arXiv 1805.01978, Sec. 3.4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.tasks.features import LabelledFeatures

CHUNK = 1024  # queries at once, to bound the similarity matrix


def knn_accuracy(bank: LabelledFeatures, queries: LabelledFeatures, k: int, temperature: float) -> float:
    """Top-1 accuracy in per cent; k is cut to the size of the bank."""
    num_classes = int(torch.cat([bank.labels_N, queries.labels_N]).max()) + 1
    predicted = [
        knn_scores(bank, chunk, num_classes, k, temperature).argmax(dim=1)
        for chunk in queries.features_ND.split(CHUNK)
    ]  # fmt: skip
    return 100 * (torch.cat(predicted) == queries.labels_N).double().mean().item()


def knn_scores(
    bank: LabelledFeatures, queries_ND: Float[Tensor, "N D"], num_classes: int, k: int, temperature: float
) -> Float[Tensor, "N K"]:
    """Votes of the k most similar bank vectors, each weighted by exp(cosine / temperature)."""
    similarity_NM = F.normalize(queries_ND, dim=1) @ F.normalize(bank.features_ND, dim=1).T
    nearest = similarity_NM.topk(min(k, len(bank.labels_N)), dim=1)
    labels_Nk: Int[Tensor, "N k"] = bank.labels_N[nearest.indices]
    votes_Nk = ((nearest.values - 1) / temperature).exp()  # less one: exp stays within float32
    return votes_Nk.new_zeros(len(queries_ND), num_classes).scatter_add_(1, labels_Nk, votes_Nk)
