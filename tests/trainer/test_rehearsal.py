import torch

from trainer.rehearsal import memory_of, worst_of


def test_of_all_ranks_the_slowest_seconds_and_the_fullest_memory_count():
    first = {"seconds": 2.0, "data_s": 0.1, "peak_bytes": 9, "left_bytes": 1, "checkpoint_s": 4.0}
    second = {"seconds": 3.0, "data_s": 0.5, "peak_bytes": 5, "left_bytes": 5}
    assert worst_of([first, second]) == {
        "seconds": 3.0,
        "data_s": 0.5,
        "peak_bytes": 9,
        "left_bytes": 1,
        "checkpoint_s": 4.0,
    }


def test_the_peak_of_a_process_on_cpus_is_more_than_it_holds_now():
    held = torch.ones(2**22)  # 16 MiB
    found = memory_of(torch.device("cpu"))
    assert found["peak_bytes"] > held.numel() * 4
    assert found["left_bytes"] > 0
