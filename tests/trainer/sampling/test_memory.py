from dataclasses import replace

import pytest

from trainer.config import load_stage
from trainer.sampling.memory import TooLarge, available_bytes, least_bytes, refuse_too_large
from trainer.sampling.sampler import Preset

SMOKE, XL = (load_stage(stage).config for stage in ("smoke", "stage1"))
LONG = Preset(frames=408, height=720, width=1280, fps=24)
MIB = 2**20


def test_the_least_is_what_the_steps_or_the_pixels_take():
    # bf16: 216,000 tokens for 102 frames and both halves of guidance, 9 widths of 1152
    assert least_bytes(XL, replace(LONG, frames=102)) == 216_000 * 9 * 1152 * 2
    # the toy network takes little: decoded values in bf16, then twice in fp32
    a_frame = 720 * 1280 * 3
    assert least_bytes(SMOKE, LONG) == 408 * a_frame * (2 + 2 * 4)
    # a loop begins with the 17 frames with which the one before it ends
    two = replace(LONG, loops=2)
    assert least_bytes(SMOKE, two) == a_frame * (816 * 2 + 799 * 2 * 4)


@pytest.mark.parametrize(
    ("loops", "gb", "advice"),
    [
        (1, 10, "--frames 204 may fit"),
        (4, 20, "--loops 1 may fit"),
        (4, 7, "--loops 1 --frames 204 may fit"),
        (1, 0.01, "not even one frame fits, take a smaller --resolution"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_may(loops, gb, advice):
    with pytest.raises(TooLarge) as caught:
        refuse_too_large(replace(LONG, loops=loops), SMOKE, int(gb * 1e9))
    size_of, _, found = str(caught.value).partition("; ")
    size = {1: "11.3", 4: "44.0"}[loops]
    in_loops = f" in {loops} loops" if loops > 1 else ""
    assert size_of == (
        f"408 frames of 720x1280{in_loops} take at least {size} GB of memory, "
        f"and {gb:.1f} GB are available"
    )
    assert found == advice


def test_what_fits_and_what_nobody_knows_is_not_refused():
    refuse_too_large(LONG, SMOKE, int(11.3e9))
    refuse_too_large(LONG, SMOKE, None)


@pytest.mark.parametrize(
    ("groups", "limits", "available"),
    [
        ("0::/a/b\n", {"a/memory.max": "3145728", "a/b/memory.max": "max"}, 4 * MIB),
        ("9:cpu:/x\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "2097152"}, 3 * MIB),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": str(2**63 - 4096)}, 5 * MIB),
        ("", {}, 5 * MIB),
    ],
)
def test_the_limit_of_a_control_group_counts(tmp_path, groups, limits, available):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(
        "MemTotal: 9999 kB\nMemAvailable:    4096 kB\nSwapFree: 1024 kB\nHugePages_Free: 0\n"
    )
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, limit in limits.items():
        file = tmp_path / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    assert available_bytes(tmp_path) == available


def test_a_machine_without_numbers_has_none(tmp_path):
    assert available_bytes(tmp_path) is None
