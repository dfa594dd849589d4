import json

import pytest

from trainer.config import load_stage
from trainer.settings import dump, settings
from trainer.stage_files import shipped_folder, stage_files

STAGES = [f"stage{number}" for number in range(1, 8)]
FRAMES = (1, 51, 102, 204, 408)

# The reference's bucket sets, a cell for each of FRAMES: keep (and keep at this length): clips.
LOW = """
144p  1.0:475  1.0:51   1.0,0.33:27   1.0,0.1:13   1.0,0.1:6
256   0.4:297  0.5:20   0.5,0.33:10   0.5,0.1:5    0.5,0.1:2
240p  0.3:297  0.4:20   0.4,0.33:10   0.4,0.1:5    0.4,0.1:2
360p  0.2:141  0.15:8   0.15,0.33:4   0.15,0.1:2   0.15,0.1:1
512   0.1:141
480p  0.1:89
720p  0.05:36
1024  0.05:36
1080p 0.1:5
2048  0.1:5
"""
MIDDLE = """
144p  1.0:475  1.0:51   1.0,0.33:27   1.0,0.1:13   1.0,0.1:6
256   0.4:297  0.5:20   0.5,0.33:10   0.5,1.0:5    0.5,1.0:2
240p  0.3:297  0.4:20   0.4,0.33:10   0.4,1.0:5    0.4,1.0:2
360p  0.5:141  0.15:8   0.3,0.5:4     0.3,1.0:2    0.5,0.5:1
512   0.4:141  0.15:8   0.2,0.4:4     0.2,1.0:2    0.4,0.5:1
480p  0.5:89   0.2:5    0.2:2         0.1:1
720p  0.1:36   0.03:1
1024  0.1:36   0.02:1
1080p 0.01:5
2048  0.01:5
"""
HIGH = """
144p  1.0:475  1.0:51   1.0:27        1.0:13       1.0:6
256   1.0:297  0.5:20   0.5:10        0.5:5        0.5,0.5:2
240p  1.0:297  0.5:20   0.5:10        0.5:5        0.5,0.4:2
360p  1.0:141  0.5:8    0.5:4         0.5:2        0.5,0.3:1
512   1.0:141  0.5:8    0.5:4         0.5:2        0.5,0.2:1
480p  1.0:89   0.5:5    0.5:3         0.5,0.5:1    0.0:None
720p  0.3:36   0.2:2    0.1:1         0.0:None
1024  0.3:36   0.1:2    0.1:1         0.0:None
1080p 0.1:5
2048  0.05:5
"""
BUCKETS = [LOW, MIDDLE, HIGH, LOW, MIDDLE, HIGH, HIGH]

MASKS = {
    "stage1": [0.05, 0.005, 0.005, 0.005, 0.005, 0.005, 0.025, 0.05, 0.025, 0.025],
    "stage2": [0.005, 0.002, 0.007, 0.002, 0.002, 0.002, 0.0, 0.22, 0.005, 0.005],
    "stage3": [0.01, 0.002, 0.002, 0.002, 0.002, 0.002, 0.0, 0.22, 0.005, 0.005],
}
MASK_KINDS = [
    *("random", "interpolate", "quarter_random", "quarter_head", "quarter_tail"),
    *("quarter_head_tail", "image_random", "image_head", "image_tail", "image_head_tail"),
]

WARMUP = ("warmup", 400, 0, None, None, None)
BUMP = ("one_cycle", 400, 400, 1.6e-5, 6.4e-4, "cos")
LOWER_BUMP = ("one_cycle", 400, 400, 1.6e-5, 3.2e-4, "cos")
OPENVID, BOTH = "data/OpenVid1M.csv", "data/OpenVid1M-MiraData330k.csv"
PIXART = "pretrained_models/PixArt-Sigma-XL-2-2K-MS.pth"
# lr, schedule, epochs, data, after, init_from
RECIPES = {
    "stage1": (1.6e-4, WARMUP, 5, OPENVID, None, PIXART),
    "stage2": (1.6e-4, WARMUP, 5, OPENVID, "stage1", None),
    "stage3": (2e-4, ("warmup", 1000, 0, None, None, None), 5, BOTH, "stage2", None),
    "stage4": (1.6e-4, BUMP, 3, BOTH, "stage3", None),
    "stage5": (1.6e-4, BUMP, 1, BOTH, "stage4", None),
    "stage6": (0.8e-4, LOWER_BUMP, 1, BOTH, "stage5", None),
    "stage7": (0.8e-4, LOWER_BUMP, 3, BOTH, "stage6", None),
}
COMMON = {
    "seed": 42,
    "model.arch": "STDiT3-XL/2",
    "model.qk_norm": True,
    "model.freeze_y_embedder": True,
    "model.caption_dropout": 0.1,
    "model.grad_checkpoint": "every_block",
    "vae.arch": "OpenSoraVAE_V1_2",
    "vae.weights": "hpcai-tech/OpenSora-VAE-v1.2",
    "vae.micro_frame_size": 17,
    "vae.micro_batch_size": 4,
    "text_encoder.arch": "t5-v1_1-xxl",
    "text_encoder.weights": "DeepFloyd/t5-v1_1-xxl",
    "text_encoder.max_length": 300,
    "text_encoder.clean_captions": False,
    "flow.num_timesteps": 1000,
    "flow.sample_method": "logit-normal",
    "flow.use_discrete_timesteps": False,
    "flow.loc": 0.0,
    "flow.scale": 1.0,
    "flow.use_timestep_transform": True,
    "flow.transform_scale": 1.0,
    "flow.sampling_steps": 30,
    "flow.cfg_scale": 7.0,
    "data.workers": 8,
    "optim.weight_decay": 0.01,
    "optim.betas": (0.9, 0.999),
    "optim.eps": 1e-15,
    "optim.grad_clip": 1.0,
    "optim.ema_decay": 0.99,
    "trainer.dtype": "bf16",
    "checkpoint.every_steps": 100,
    "log.every_steps": 10,
    "log.wandb": True,
    "log.wandb_project": "sora_speedrun",
}


def bucket_table(text):
    table = {}
    for line in text.strip().splitlines():
        resolution, *cells = line.split()
        table[resolution] = [cell.split(":") for cell in cells]
    return {
        resolution: [
            (tuple(float(chance) for chance in keep.split(",")), json.loads(size.lower()))
            if size != "None"
            else ((0.0,), None)
            for keep, size in cells
        ]
        for resolution, cells in table.items()
    }


def buckets_of(stage):
    buckets = stage.config.buckets
    assert buckets.frames == FRAMES
    table = {}
    for resolution, row in buckets.keep.items():
        keeps = [keep if isinstance(keep, tuple) else (keep,) for keep in row]
        sizes = [*buckets.batch_size[resolution], *[None] * len(row)]
        table[resolution] = [
            (keep, size if keep[0] else None) for keep, size in zip(keeps, sizes, strict=False)
        ]
    return table


@pytest.mark.parametrize(("name", "table"), [*zip(STAGES, BUCKETS, strict=True)])
def test_buckets_are_the_references(name, table):
    assert buckets_of(load_stage(name)) == bucket_table(table)


@pytest.mark.parametrize("name", STAGES)
def test_masks_are_the_references(name):
    shares = MASKS.get(name, [0.0] * len(MASK_KINDS))
    expected = {**dict(zip(MASK_KINDS, shares, strict=True)), "identity": None}
    assert dump(load_stage(name).config.masks) == expected


@pytest.mark.parametrize("name", STAGES)
def test_recipes_are_the_references(name):
    stage = load_stage(name).config
    optim = stage.optim
    schedule = (
        *(optim.schedule, optim.warmup_steps, optim.cooldown_steps),
        *(optim.min_lr, optim.max_lr, optim.anneal),
    )
    recipe = (optim.lr, schedule, stage.epochs, stage.data.path, stage.after, stage.init_from)
    assert recipe == RECIPES[name]


@pytest.mark.parametrize("name", STAGES)
def test_what_all_stages_share_is_the_references(name):
    values = settings(load_stage(name).config)
    assert {key: values[key] for key in COMMON} == COMMON


def test_there_are_seven_stages_and_two_of_toy_size():
    names = list(stage_files([shipped_folder()]))
    assert names == ["smoke", "smoke-overfit", *STAGES]
