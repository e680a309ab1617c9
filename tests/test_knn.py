"""kNN is the weighted vote of Wu et al. (2018), compared with a plain loop."""

import math

import pytest
import torch

from unmask.tasks import knn
from unmask.tasks.features import LabelledFeatures
from unmask.tasks.knn import knn_accuracy, knn_scores


def random_features(count: int, seed: int) -> LabelledFeatures:
    generator = torch.Generator().manual_seed(seed)
    return LabelledFeatures(
        torch.randn(count, 5, generator=generator),
        torch.randint(0, 4, (count,), generator=generator),
    )


@pytest.fixture
def bank() -> LabelledFeatures:
    return random_features(60, seed=0)


@pytest.fixture
def queries() -> LabelledFeatures:
    return random_features(30, seed=1)


def plain_votes(
    bank: LabelledFeatures, query: torch.Tensor, k: int, temperature: float
) -> list[float]:
    cosines = [
        (query @ row / (query.norm() * row.norm())).item() for row in bank.features_ND
    ]
    votes = [0.0] * 4
    for i in sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]:
        votes[int(bank.labels_N[i])] += math.exp(cosines[i] / temperature)
    return votes


@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (60, 0.5)]
)
def test_votes_and_accuracy_are_those_of_a_plain_loop(
    bank: LabelledFeatures, queries: LabelledFeatures, k: int, temperature: float
) -> None:
    plain = torch.tensor(
        [plain_votes(bank, query, k, temperature) for query in queries.features_ND]
    )
    ours = knn_scores(bank, queries.features_ND, 4, k, temperature)
    torch.testing.assert_close(
        ours / ours.sum(1, True), plain / plain.sum(1, True), rtol=1e-3, atol=1e-5
    )
    expected = 100 * (plain.argmax(1) == queries.labels_N).double().mean().item()
    assert knn_accuracy(bank, queries, k, temperature) == pytest.approx(expected)


def test_an_image_is_its_own_nearest_neighbour(bank: LabelledFeatures) -> None:
    assert knn_accuracy(bank, bank, k=1, temperature=0.07) == 100


def test_length_of_a_vector_does_not_matter_and_k_is_cut_to_the_bank(
    bank: LabelledFeatures, queries: LabelledFeatures
) -> None:
    longer = LabelledFeatures(queries.features_ND * 7, queries.labels_N)
    assert knn_accuracy(bank, longer, 60, 0.07) == knn_accuracy(
        bank, queries, 1_000, 0.07
    )


def test_chunks_do_not_change_the_result(
    bank: LabelledFeatures, queries: LabelledFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = knn_accuracy(bank, queries, 20, 0.07)
    monkeypatch.setattr(knn, "QUERY_CHUNK", 7)
    assert knn_accuracy(bank, queries, 20, 0.07) == whole
