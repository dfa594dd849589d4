import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.model.test_vae import facts_of, state_of, temporal_config
from trainer.model.vae_temporal import TemporalVae


@pytest.mark.parametrize("case", ["t17", "t4", "t6_pads", "t1"])
def test_the_temporal_part_equals_the_references(golden, case):
    facts = facts_of(golden, "vae_temporal_a")
    cases = load_file(golden / "vae_temporal_a.cases.safetensors")
    vae = TemporalVae(temporal_config(facts["config"])).eval()
    vae.load_state_dict(state_of(golden, "vae_temporal_a"))
    posterior = vae.encode(cases[f"{case}.x"])
    found = {
        "mean": posterior.mean,
        "logvar": posterior.logvar,
        "std": posterior.std,
        "decoded": vae.decode(cases[f"{case}.z"], facts["cases"][case]["num_frames"]),
    }
    expected = {name: cases[f"{case}.{name}"] for name in found}
    torch.testing.assert_close(found, expected, **facts["tolerance"])
