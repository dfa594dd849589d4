from soractl.cluster.nccl_names import doubtful_names


def test_a_misspelt_nccl_name_is_doubted_and_others_are_not():
    names = ["NCCL_IB_HAC", "NCCL_DEBUG", "OMP_NUM_THREADS", "NCCL_QQQQ"]
    assert doubtful_names(names) == [
        "nothing is known to read NCCL_IB_HAC; did you mean NCCL_IB_HCA?",
        "nothing is known to read NCCL_QQQQ",
    ]
