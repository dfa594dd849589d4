import json

import pytest

from trainer.model.stdit3 import STDiT3Config

PUBLISHED = {
    "architectures": ["STDiT3"],
    "auto_map": {"AutoModel": "configuration_stdit3.STDiT3"},
    "caption_channels": 4096,
    "class_dropout_prob": 0.1,
    "depth": 28,
    "drop_path": 0.0,
    "enable_flash_attn": True,
    "enable_layernorm_kernel": True,
    "enable_sequence_parallelism": False,
    "freeze_y_embedder": True,
    "hidden_size": 1152,
    "in_channels": 4,
    "input_size": [None, None, None],
    "input_sq_size": 512,
    "mlp_ratio": 4.0,
    "model_max_length": 300,
    "model_type": "STDiT3",
    "num_heads": 16,
    "only_train_temporal": False,
    "patch_size": [1, 2, 2],
    "pred_sigma": True,
    "qk_norm": True,
    "skip_y_embedder": False,
    "torch_dtype": "float32",
    "transformers_version": "4.36.2",
}


def test_a_published_config_json_is_taken_as_it_is():
    found = STDiT3Config.published(json.loads(json.dumps(PUBLISHED)))
    assert found == STDiT3Config(freeze_y_embedder=True)


def test_a_key_that_nobody_knows_is_named():
    with pytest.raises(ValueError, match=r"no setting of STDiT3: depht, rope_base"):
        STDiT3Config.published({**PUBLISHED, "rope_base": 1, "depht": 28})
