import pytest
import torch


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [576, 3599, 3600])
def test_one_wide_head_equals_attention_in_double_precision(tokens, monkeypatch):
    from trainer.model.kernels import one_head  # needs Triton

    q, k, v = (torch.randn(2, tokens, 512, device="cuda").bfloat16() for _ in range(3))
    scores = q.double() @ k.double().mT * 512**-0.5
    expected = scores.softmax(-1) @ v.double()
    found = one_head.attend(q, k, v)
    assert (found.double() - expected).norm() / expected.norm() < 0.01
    monkeypatch.setattr(one_head, "_MOST_SCORES", 2 * 512 * tokens)  # in several parts
    in_parts = one_head.attend(q, k, v)
    assert (in_parts.double() - expected).norm() / expected.norm() < 0.01
