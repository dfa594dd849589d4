import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.rehearsal import published
from trainer.model.pretrained import WeightsError
from trainer.model.text_encoder import load_t5, open_tokeniser, tiny_t5


def test_captions_become_features_and_a_mask_on_the_host():
    y, mask = tiny_t5(1).encode(["a cat", "", "x" * 5000])
    assert y.shape == (3, 1, 32, 32)
    assert y.dtype == torch.float32
    assert (mask.dtype, mask.device.type) == (torch.int64, "cpu")
    assert mask.sum(1).tolist() == [6, 1, 32]  # bytes and the end token; the last one is cut
    assert torch.equal(y[:, 0].any(-1), mask.bool())


def test_a_captions_features_do_not_depend_on_its_neighbours():
    encoder = tiny_t5(1)
    together, _ = encoder.encode(["a cat", "a rabbit walks"])
    alone, _ = encoder.encode(["a cat"])
    assert torch.equal(alone[0], together[0])


def test_tiny_weights_follow_from_the_seed_and_leave_torchs_draws_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = tiny_t5(1).encode(["a cat"])[0]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, tiny_t5(1).encode(["a cat"])[0])
    assert not torch.equal(first, tiny_t5(2).encode(["a cat"])[0])


def test_cleaning_is_an_option():
    cleaned, raw = tiny_t5(1, clean=True), tiny_t5(1)
    given, clean = "A <b>Cat</b>", "a cat"
    assert torch.equal(cleaned.encode([given])[0], raw.encode([clean])[0])
    assert not torch.equal(raw.encode([given])[0], raw.encode([clean])[0])


def test_a_real_encoder_is_read_from_its_folder(t5_folder):
    from transformers import T5EncoderModel

    written = T5EncoderModel.from_pretrained(t5_folder).eval()
    device = torch.device("cpu")
    encoder = load_t5(t5_folder, dtype=torch.float32, device=device, max_length=4)
    y, mask = encoder.encode(["a cat", "a a a a a a"])
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    with torch.no_grad():
        expected = written(input_ids=torch.tensor([[3, 4, 1]])).last_hidden_state[0]
    torch.testing.assert_close(y[0, 0, :3], expected)
    assert encoder.width == 8

    half = load_t5(t5_folder, dtype=torch.bfloat16, device=device, max_length=4)
    assert half.encode(["a cat"])[0].dtype == torch.bfloat16


def test_a_repository_as_it_is_published_is_read_out_of_the_cache(tmp_path, monkeypatch):
    import sentencepiece

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    captions = ["a grey rabbit walks up the hill", "taxis and a cyclist wait beside the road"]
    folder = published.cached(tmp_path, "owner/t5")
    published.write_t5(folder, captions)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))

    tokeniser, width = open_tokeniser("owner/t5")
    assert width == published.WIDTH
    assert tokeniser(captions[0]).input_ids == [*pieces.encode(captions[0]), pieces.eos_id()]
    assert tokeniser("").input_ids == [pieces.eos_id()]
    encoder = load_t5("owner/t5", dtype=torch.float32, device="cpu", max_length=32)
    parts = [torch.load(file, weights_only=True) for file in sorted(folder.glob("*.bin"))]
    written = {name: tensor for part in parts for name, tensor in part.items()}
    loaded = encoder.state_dict()
    assert len(parts) == 2
    assert loaded.keys() == written.keys()
    assert all(torch.equal(loaded[name], written[name]) for name in written)


def test_a_file_that_lacks_tensors_or_has_others_shapes_is_refused(t5_folder):
    file = t5_folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.final_layer_norm.weight"]
    tensors["shared.weight"] = torch.zeros(5, 4)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        load_t5(t5_folder, dtype=torch.float32, device="cpu", max_length=4)
    assert str(caught.value) == (
        f"{t5_folder} does not fit the model; tensors: 1 missing (encoder.final_layer_norm.weight)"
        "; 1 of another shape (shared.weight is 5x4 and should be 5x8)"
    )


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ValueError, match="holds no T5 encoder with its tokeniser"):
        load_t5(tmp_path, dtype=torch.float32, device=torch.device("cpu"), max_length=4)


def test_a_repository_that_is_not_in_the_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="fetch it once with `hf download owner/t5`"):
        load_t5("owner/t5", dtype=torch.float32, device=torch.device("cpu"), max_length=4)


def test_heavy_libraries_are_loaded_only_when_a_network_is_built():
    code = (
        "import sys, trainer.model.text_encoder, trainer.model.vae; "
        "print({'transformers', 'diffusers', 'ftfy', 'bs4'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
