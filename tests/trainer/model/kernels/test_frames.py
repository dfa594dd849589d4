import pytest
import torch
import torch.nn.functional as F

WIDTH = 72


def relative(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def normal(x, weight):
    """With a mean square of 1 in each head, times weights."""
    return F.rms_norm(x, (WIDTH,), weight)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 2, 920), (2, 1, 460), (1, 1, 1590), (1, 1, 3600)])
@pytest.mark.parametrize("weight", [1.0, 4.0])  # of 4, scores may reach 196
def test_attention_in_frames_and_its_gradients_equal_those_in_double_precision(shape, weight):
    from trainer.model.kernels.frames import AttendInFrames, takes

    torch.manual_seed(0)
    weights = torch.full((2, WIDTH), weight, device="cuda", dtype=torch.bfloat16)
    qkv = torch.randn(*shape, 3, 2, WIDTH, device="cuda")
    q, k = (
        normal(part, own.float()).bfloat16()
        for part, own in zip(qkv.unbind(-3)[:2], weights, strict=True)
    )
    v = qkv.bfloat16()[..., 2, :, :]  # as it lies between queries and keys
    given = [q.contiguous().requires_grad_(), k.contiguous().requires_grad_(), v.requires_grad_()]
    assert takes(given[0])
    grad = torch.randn_like(q)
    out = AttendInFrames.apply(*given, *weights)
    found = (out, *torch.autograd.grad(out, given, grad))

    exact = [part.detach().double().transpose(2, 3).requires_grad_() for part in given]
    scores = exact[0] @ exact[1].mT * WIDTH**-0.5
    expected = (scores.softmax(-1) @ exact[2]).transpose(2, 3)
    expected = (expected, *torch.autograd.grad(expected, exact, grad.double()))
    for one, other in zip(found, expected, strict=True):
        other = other if other.shape == one.shape else other.transpose(2, 3)
        assert relative(one, other) < 0.02
