import pytest
import torch
from transformers import T5Config, T5EncoderModel

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def encoder():
    sizes = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 3, "num_heads": 8}
    config = T5Config(vocab_size=1000, feed_forward_proj="gated-gelu", **sizes)
    torch.manual_seed(0)
    encoder = T5EncoderModel(config).eval().requires_grad_(False).to("cuda")
    layer = encoder.encoder.block[0].layer[0].SelfAttention
    torch.nn.init.normal_(layer.relative_attention_bias.weight)
    return encoder


def captions(*lengths):
    return [torch.randint(1000, (length,)) for length in lengths]


def test_features_equal_the_librarys(encoder):
    from trainer.model.kernels.t5 import PackedT5  # needs Triton

    given = captions(1, 300, 64, 65, 130, 299, 200, 2, 128)
    expected = [encoder(input_ids=ids[None].to("cuda")).last_hidden_state[0] for ids in given]
    found = PackedT5(encoder, 300)(given)
    half = PackedT5(encoder.bfloat16(), 300)(given)
    encoder.float()
    for plain, ours, rounded in zip(expected, found, half, strict=True):
        assert (ours - plain).norm() / plain.norm() < 1e-3
        assert (rounded - plain).norm() / plain.norm() < 0.03


def test_not_one_bit_depends_on_neighbours_or_on_the_place(encoder):
    from trainer.model.kernels.t5 import PackedT5  # needs Triton

    encode = PackedT5(encoder.bfloat16(), 300)
    given = captions(300, 7, 64, 211, 130, 300)
    together, backwards = encode(given), encode(given[::-1])[::-1]
    alone = [encode([ids])[0] for ids in given]
    encoder.float()
    assert all(map(torch.equal, together, backwards))
    assert all(map(torch.equal, together, alone))
