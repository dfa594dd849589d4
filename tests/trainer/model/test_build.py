from dataclasses import replace

import pytest

from trainer.config import CAPTION_TOKENS, TextEncoderConfig, load_stage
from trainer.model import build as networks
from trainer.model.stdit3 import SIZES, STDiT3Config
from trainer.settings import ConfigError


def test_a_caption_has_as_many_tokens_as_the_null_caption_has_rows():
    rows = {arch: STDiT3Config(**size).model_max_length for arch, size in SIZES.items()}
    assert rows == CAPTION_TOKENS


def test_a_caption_encoder_of_another_width_is_refused_before_it_is_loaded(t5_folder):
    (t5_folder / "model.safetensors").unlink()
    smoke = load_stage("smoke").config
    networks.check_captions(smoke)
    given = TextEncoderConfig(
        arch="t5-v1_1-xxl", max_length=32, clean_captions=False, weights=str(t5_folder)
    )
    with pytest.raises(ConfigError) as caught:
        networks.check_captions(replace(smoke, text_encoder=given))
    assert str(caught.value) == (
        "text_encoder makes 8 channels a token; model.arch = 'STDiT3-smoke' takes 32: "
        f"change text_encoder.arch = 't5-v1_1-xxl' or its weights = '{t5_folder}'"
    )
