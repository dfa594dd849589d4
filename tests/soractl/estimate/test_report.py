import json

import pytest


def test_the_command_says_hours_and_what_they_rest_on(workplace, table):
    asked = ("estimate", "stage1", str(table), "--ranks", "2", "--gpu", "h200", "--price", "3")
    printed = workplace.soractl(*asked).stdout
    assert "BUCKET" in printed
    assert "GPU-hours, " in printed
    assert "rates: one and two H200" in printed
    found = json.loads(workplace.soractl(*asked, "--json").stdout)
    assert found["cost"]["cached"] == pytest.approx(3 * found["gpu_hours"]["cached"])
    everything = workplace.soractl("estimate", "all", str(table), "--ranks", "2").stdout
    assert [line.split()[0] for line in everything.splitlines()[1:8]] == [
        f"stage{number}" for number in range(1, 8)
    ]
