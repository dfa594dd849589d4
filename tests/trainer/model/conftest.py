import json

import pytest
from safetensors.torch import load_file

from trainer.model.stdit3 import STDiT3, STDiT3Config


@pytest.fixture(scope="module")
def facts(golden):
    return json.loads((golden / "stdit3_tiny_a.json").read_text())


@pytest.fixture(scope="module")
def cases(golden):
    return load_file(golden / "stdit3_tiny_a.cases.safetensors")


@pytest.fixture
def model(golden, facts):
    model = STDiT3(STDiT3Config(**facts["config"])).eval()
    state = load_file(golden / "stdit3_tiny_a.state.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model
