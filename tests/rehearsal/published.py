"""What a real stage starts from, at toy width: files as they are published."""

import io
import json
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from trainer.config import VaeConfig
from trainer.model.stdit3 import SIZES, STDiT3, STDiT3Config
from trainer.model.vae import build_vae

WIDTH = 32  # channels of a caption's token
NARROW_T5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 2 * WIDTH, "num_layers": 2, "num_heads": 4}
_EXTRA_TOKENS = [f"<extra_id_{number}>" for number in range(100)]
_NOT_IN_PIXART = re.compile(r"rope\.|fps_embedder\.|temporal_blocks\.|.*\.[qk]_norm\.")


def write_pixart(path: Path, size: str = "STDiT3-smoke") -> None:
    """A PixArt-Sigma `.pth`: image blocks, a table of positions, patches without time."""
    torch.manual_seed(1)
    config = STDiT3Config(**SIZES[size])
    weights: dict[str, Tensor] = {"pos_embed": torch.zeros(1, 64, config.hidden_size)}
    for name, tensor in STDiT3(config).state_dict().items():
        if not _NOT_IN_PIXART.match(name):
            weights[name.replace("spatial_blocks.", "blocks.")] = tensor.clone()
    weights["x_embedder.proj.weight"] = weights["x_embedder.proj.weight"].squeeze(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights}, path)


def write_vae(folder: Path) -> None:
    """The video VAE's repository: one safetensors file with both parts, and its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    vae = build_vae(VaeConfig(arch="smoke", micro_frame_size=17, micro_batch_size=4))
    tensors = {name: tensor.contiguous() for name, tensor in vae.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "model_type": "VideoAutoencoderPipeline",
        "architectures": ["VideoAutoencoderPipeline"],
        "micro_frame_size": 17,
        "scale": vae.scale.flatten().tolist(),
        "shift": vae.shift.flatten().tolist(),
    }
    _write_json(folder / "config.json", settings)


def write_t5(
    folder: Path,
    sentences: Iterable[str],
    files: int = 2,
    sizes: Mapping[str, int] = NARROW_T5,
) -> None:
    """A T5 encoder in `files` pickled parts with an index, and a tokeniser trained on `sentences`.

    There is no `tokenizer.json`, as in the published repository. Its weights are random, drawn on
    torch's default device and of its default type.
    """
    from transformers import T5Config, T5EncoderModel

    folder.mkdir(parents=True, exist_ok=True)
    pieces = _train_tokeniser(folder / "spiece.model", sentences)
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    special = {**special, "additional_special_tokens": _EXTRA_TOKENS}
    _write_json(folder / "special_tokens_map.json", special)
    tokeniser = {**special, "extra_ids": 100, "model_max_length": 512, "sp_model_kwargs": {}}
    _write_json(folder / "tokenizer_config.json", {**tokeniser, "tokenizer_class": "T5Tokenizer"})

    torch.manual_seed(2)
    config = T5Config(
        vocab_size=pieces + len(_EXTRA_TOKENS),
        **sizes,
        feed_forward_proj="gated-gelu",
        architectures=["T5EncoderModel"],
    )
    config.to_json_file(str(folder / "config.json"))
    _write_parts(folder, T5EncoderModel(config).state_dict(), files)


def cached(cache: Path, repository: str) -> Path:
    """The empty folder of a repository `owner/name` in a Hugging Face cache."""
    commit = f"{random.Random(repository).getrandbits(160):040x}"
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    folder = home / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


def write_reference_checkpoint(
    folder: Path, weights: dict[str, Tensor], averages: dict[str, Tensor]
) -> None:
    """A checkpoint as the reference's training code writes it, after step 300."""
    (folder / "model").mkdir(parents=True)
    _write_parts(folder / "model", weights, 2, file="pytorch_model-{number:05d}.bin")
    _write_json(folder / "model" / "config.json", {"architectures": ["STDiT3"]})
    (folder / "optimizer").mkdir()
    _write_json(folder / "optimizer" / "pytorch_optim.bin.index.json", {"weight_map": {}})
    torch.save({"last_epoch": 300}, folder / "lr_scheduler")
    position = {"epoch": 1, "step": 100, "global_step": 300, "batch_size": None}
    _write_json(folder / "running_states.json", position)
    torch.save(averages, folder / "ema.pt")
    torch.save({"seed": 42, "epoch": 1}, folder / "sampler")


def _train_tokeniser(path: Path, sentences: Iterable[str]) -> int:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=200,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        pad_id=0,  # these four are T5's
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    path.write_bytes(model.getvalue())
    reader = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return int(reader.get_piece_size())


def _write_parts(
    folder: Path,
    weights: dict[str, Tensor],
    files: int,
    file: str = "pytorch_model-{number:05d}-of-{files:05d}.bin",
) -> None:
    names = list(weights)
    size = -(-len(names) // files)
    places: dict[str, str] = {}
    for number in range(files):
        part = names[number * size : (number + 1) * size]
        written = file.format(number=number + 1, files=files)
        torch.save({name: weights[name].cpu().clone() for name in part}, folder / written)
        places |= dict.fromkeys(part, written)
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    _write_json(folder / "pytorch_model.bin.index.json", index)


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
