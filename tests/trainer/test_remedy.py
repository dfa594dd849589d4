import pickle
from pathlib import Path

import pytest

from trainer.remedy import Remedy, remedy_of, with_remedy
from trainer.settings import ConfigError


@pytest.mark.parametrize(
    ("remedy", "values"),
    [
        (Remedy(), {}),
        (Remedy(checkpoint=Path("a/b")), {"checkpoint": "a/b"}),
        (Remedy(reset_data=True), {"reset_data": True}),
        (Remedy(settings={"optim.lr": 5e-5}), {"settings": {"optim.lr": 5e-5}}),
        (Remedy(encode_features=Path("f")), {"encode_features": "f"}),
    ],
)
def test_a_remedy_is_written_as_the_options_that_it_names(remedy, values):
    assert remedy.as_json() == values


def test_an_error_keeps_its_remedy_on_the_way_to_another_process():
    remedy = Remedy(reset_data=True)
    error = with_remedy(ConfigError(["other clips"]), remedy)
    arrived = pickle.loads(pickle.dumps(error))
    assert (str(arrived), remedy_of(arrived)) == ("other clips", remedy)
    assert remedy_of(ConfigError(["other clips"])) is None
