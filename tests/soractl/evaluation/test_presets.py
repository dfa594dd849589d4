import pytest

from soractl.errors import SoractlError
from soractl.evaluation.presets import PRESETS, Preset, find_preset
from trainer.settings import ConfigError


def test_known_presets_are_those_of_the_tutorial():
    assert find_preset("low16s") == ("low16s", PRESETS["low16s"])
    assert PRESETS["high4s"] == Preset(frames="4s", resolution="720p", ratio="9:16")


def test_a_preset_of_ones_own_is_a_toml_file(tmp_path):
    path = tmp_path / "wide.toml"
    path.write_text('frames = "2s"\nresolution = "240p"\nratio = "16:9"\nsteps = 10\n')
    own = Preset(frames="2s", resolution="240p", ratio="16:9", steps=10)
    assert find_preset(str(path)) == ("wide", own)


def test_a_wrong_preset_is_one_sentence(tmp_path):
    with pytest.raises(SoractlError) as caught:
        find_preset("low8s")
    assert str(caught.value) == "no preset 'low8s'"
    assert caught.value.hint.startswith("low4s, low16s, high4s, or a .toml file with frames, ")
    path = tmp_path / "x.toml"
    path.write_text('frames = "2s"\nresolution = "240p"\nratio = "16:9"\nstep = 10\n')
    with pytest.raises(ConfigError, match="did you mean steps"):
        find_preset(str(path))
