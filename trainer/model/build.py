"""The three networks that a config names: diffusion model, VAE and caption encoder."""

import torch

from trainer.config import TextEncoderConfig, TrainConfig, VaeConfig
from trainer.model import stdit3, text_encoder, vae
from trainer.settings import ConfigError


def build_model(config: TrainConfig) -> stdit3.STDiT3:
    """STDiT3 with the random weights of `seed`, equal on every rank."""
    torch.manual_seed(config.seed)
    fields = {
        **stdit3.SIZES[config.model.arch],
        "qk_norm": config.model.qk_norm,
        "freeze_y_embedder": config.model.freeze_y_embedder,
        "class_dropout_prob": config.model.caption_dropout,
    }
    model = stdit3.STDiT3(stdit3.STDiT3Config(**fields))
    model.set_grad_checkpoint(config.model.grad_checkpoint, config.model.tokens_at_once)
    return model


def check_captions(config: TrainConfig) -> None:
    """ConfigError if the caption encoder is too wide or too narrow for the diffusion model."""
    given, arch = config.text_encoder, config.model.arch
    width = text_encoder.open_tokeniser(None if given.arch == "smoke" else given.weights)[1]
    takes = stdit3.STDiT3Config(**stdit3.SIZES[arch]).caption_channels
    if width != takes:
        raise ConfigError(
            [
                f"text_encoder makes {width} channels a token; model.arch = '{arch}' takes {takes}:"
                f" change text_encoder.arch = '{given.arch}' or its weights = {given.weights!r}"
            ]
        )


def build_vae(
    config: VaeConfig, seed: int, *, device: torch.device, dtype: torch.dtype, read: bool = True
) -> vae.VideoVAE:
    """The frozen VAE; without `read`, its weights are still to be handed out."""
    torch.manual_seed(seed)
    network = vae.build_vae(config, read=read).to(device, dtype).eval().requires_grad_(False)
    return network.channels_last() if device.type == "cuda" else network


def build_caption_encoder(
    config: TextEncoderConfig,
    seed: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    read: bool = True,
) -> text_encoder.CaptionEncoder:
    """The frozen caption encoder; without `read`, its weights are still to be handed out."""
    length, clean = config.max_length, config.clean_captions
    if config.arch == "smoke" or config.weights is None:
        return text_encoder.tiny_t5(
            seed, dtype=dtype, device=device, max_length=length, clean=clean
        )
    return text_encoder.load_t5(
        config.weights, dtype=dtype, device=device, max_length=length, clean=clean, read=read
    )
