import itertools
import subprocess
import sys

from trainer.seeds import derive_seed

KNOWN = {
    (42, 0, "window", 7): 6967278851016521740,
    (42,): 3484694647126919093,
    ("a prompt",): 3702628619804088931,
}


def test_a_key_has_the_same_seed_on_every_machine_and_in_every_process():
    code = (
        f"from trainer.seeds import derive_seed; print([derive_seed(*key) for key in {[*KNOWN]}])"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
        ).stdout
        for env in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    ]
    assert printed == [f"{[*KNOWN.values()]}\n"] * 2


def test_seeds_are_63_bits_for_every_generator_to_take():
    seeds = [derive_seed(42, number) for number in range(10_000)]
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


def test_neighbouring_keys_and_keys_of_other_kinds_never_share_a_seed():
    keys = [
        *itertools.product(range(10), range(10), range(100), ("window", "frame_mask")),
        *itertools.product(range(100), range(100)),
        *((number,) for number in range(1000)),
        *((str(number),) for number in range(1000)),
        *[(1, "2"), ("1", 2), ("1", "2"), ("12",), ("1 2",), (-1,), (), ("",), ("", "")],
    ]
    keys = list(dict.fromkeys(keys))
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_the_bits_of_consecutive_seeds_are_even():
    seeds = [derive_seed(42, 0, row, "caption_dropout") for row in range(20_000)]
    for bit in range(63):
        ones = sum(seed >> bit & 1 for seed in seeds)
        assert abs(ones - 10_000) < 5 * 71, bit  # five standard deviations
