import numpy as np
from PIL import Image

from trainer.data.crops import SHOWN, pictures


def test_a_wide_picture_loses_its_sides(tmp_path):
    pixels = np.zeros((100, 400, 3), np.uint8)
    pixels[:, 100:300] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    task = {"path": str(tmp_path / "wide.png"), "start": 0, "frames": 1, "source": [100, 400]}
    found = pictures({**task, "height": 100, "width": 200, "out": str(tmp_path / "0")})
    assert found["kept"] == [0.0, 0.25, 1.0, 0.75]
    (crop,) = found["crops"]
    with Image.open(crop) as shown:
        assert shown.size == (2 * SHOWN, SHOWN)
        assert np.asarray(shown).mean() > 240
    none = pictures({**task, "height": None, "width": None, "out": str(tmp_path / "1")})
    assert none["crops"] == []
