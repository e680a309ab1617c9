"""The loss is the mean over a patch's pixels, then over hidden patches, in float32."""

import torch

from unmask.targets import mean_squared_error


def test_the_loss_is_the_plain_mean_of_squares() -> None:
    pred, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    total = sum(
        sum((pred[b, m, p].item() - target[b, m, p].item()) ** 2 for p in range(4)) / 4
        for b in range(2)
        for m in range(3)
    )
    torch.testing.assert_close(
        mean_squared_error(pred, target).item(), total / 6, rtol=1e-6, atol=0
    )


def test_half_precision_predictions_are_compared_in_float32() -> None:
    pred, target = torch.randn(2, 3, 64).bfloat16(), torch.randn(2, 3, 64)
    loss = mean_squared_error(pred, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, (pred.float() - target).square().mean())
