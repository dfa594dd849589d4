import pytest

from soractl.diagnosis.signatures import ERRORS, KERNEL, LOGS, CauseKind, Role, matching, xid_of

# What programs print, by the cause that it means.
SAYINGS = {
    "the memory of a GPU ran out": [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 79.11 GiB of which 1.06 GiB is free.",
        "RuntimeError: CUDA error: out of memory",
        "DistBackendError: NCCL error: unhandled cuda error, NCCL version 2.28.9 "
        "ncclUnhandledCudaError: Last error: Cuda failure 'out of memory'",
    ],
    "a disk is full": [
        "OSError: [Errno 28] No space left on device: '/data/x'",
        "OSError: [Errno 122] Disk quota exceeded",
    ],
    "a GPU failed": [
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "RuntimeError: Unable to determine the device handle for GPU: GPU is lost.",
    ],
    "a program's fault on a GPU": [
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "RuntimeError: CUDA error: device-side assert triggered",
    ],
    "a GPU gave an error that says no more": [
        "torch.AcceleratorError: CUDA error: unspecified launch failure",
        "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
    ],
    "no GPU can be used on the node": [
        "RuntimeError: No CUDA GPUs are available",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet "
        "initialized",
    ],
    "the file system failed": [
        "OSError: [Errno 116] Stale file handle: '/shared/clips/1.mp4'",
        "OSError: [Errno 5] Input/output error",
    ],
    "the node's memory ran out": [
        "MemoryError: ",
        "OSError: [Errno 12] Cannot allocate memory",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 17179869184 bytes.",
    ],
    "a limit of the system was reached": [
        "OSError: [Errno 24] Too many open files: '/data/clips/5.mp4'",
        "RuntimeError: can't start new thread",
    ],
    "a server could not be reached": [
        "ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443): Max retries "
        "exceeded with url: /x (Caused by NewConnectionError('Connection refused'))",
    ],
    "ranks could not meet at the start": [
        "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 2/3 "
        "clients joined.",
        "RendezvousTimeoutError: ",
    ],
    "a package is missing or does not fit": ["ModuleNotFoundError: No module named 'av'"],
    "access was refused": [
        "GatedRepoError: 401 Client Error. Cannot access gated repo",
        "PermissionError: [Errno 13] Permission denied: '/weights'",
    ],
    "a file of weights is cut off or damaged": [
        "SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central "
        "directory",
    ],
    "processes that read clips ended": [
        "RuntimeError: a process that reads clips does not start: exit code -9",
    ],
    "NCCL could not use the network": [
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled "
        "system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9 ncclSystemError",
    ],
    "a collective timed out": [
        "torch.distributed.DistBackendError: [Rank 1] Watchdog caught collective operation "
        "timeout: WorkNCCL(SeqNum=5, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600010 ms",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed "
        "out waiting 120000ms for recv operation to complete",
        "DistBackendError: [Rank 0] Timed out after 600 s",
    ],
    "a connection to another rank broke": [
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection "
        "closed by peer [10.77.0.12]:41234",
        "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a "
        "network error, NCCL version 2.28.9 ncclRemoteError",
        "DistNetworkError: failed to recv, got 0 bytes",
    ],
}
CASCADES = {"a collective timed out", "a connection to another rank broke"}
KERNEL_SAYINGS = {
    "the kernel killed a process, since the node's memory ran out": [
        "Out of memory: Killed process 4711 (python) total-vm:99kB, anon-rss:9kB",
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=python,pid=4711,uid=1000",
        "Memory cgroup out of memory: Killed process 4711 (python)",
    ],
    "the file server does not answer": ["nfs: server fs1 not responding, still trying"],
    "a disk gives errors": ["I/O error, dev nvme0n1, sector 1 op 0x0:(READ)"],
    "a network port lost its link": ["mlx5_core 0000:3b:00.0 eth2: link is down"],
}


@pytest.mark.parametrize(
    ("cause", "words"), [(cause, words) for cause, found in SAYINGS.items() for words in found]
)
def test_what_a_rank_says_means_one_cause(cause, words):
    first = next(matching(words, ERRORS))
    assert first.cause == cause
    assert (first.role is Role.CASCADE) == (cause in CASCADES)
    assert bool(first.advice) == (first.role is Role.ROOT)


def test_every_signature_has_words_that_carry_it():
    assert [one.cause for one in ERRORS] == list(SAYINGS)
    assert [one.cause for one in KERNEL] == list(KERNEL_SAYINGS)


@pytest.mark.parametrize(
    ("cause", "words"), [(c, words) for c, found in KERNEL_SAYINGS.items() for words in found]
)
def test_what_the_kernel_says_means_one_cause(cause, words):
    assert [one.cause for one in matching(words, KERNEL)] == [cause]


@pytest.mark.parametrize(
    "words",
    [
        "ValueError: boom",
        "FloatingPointError: loss is nan at step 5280",
        "RuntimeError: shape '[28, 5]' is invalid for input of size 116",
        "KeyError: 'text'",
        "GpuMemoryError: 2 clips do not fit",
        "RuntimeError: Trying to backward through the graph a second time",
    ],
)
def test_other_words_carry_none(words):
    assert list(matching(words, ERRORS)) == []


@pytest.mark.parametrize(
    ("line", "number", "kind"),
    [
        ("NVRM: Xid (PCI:0000:06:00): 79, pid=1, GPU has fallen off the bus.", 79, "hardware"),
        ("NVRM: Xid (PCI:0000:06:00): 94, Contained: SM (0x1). RST: No", 94, "hardware"),
        ("NVRM: Xid (PCI:0000:06:00): 119, pid=7, Timeout waiting for RPC", 119, "hardware"),
        ("NVRM: Xid (PCI:0000:06:00 GPU-I:03): 31, pid=7, name=python, MMU Fault", 31, "program"),
        ("NVRM: Xid (PCI:0000:06:00): 45, pid=7, name=python, Ch 00000008", 45, "unknown"),
        ("NVRM: Xid (PCI:0000:06:00): 63, pid=7, Row Remapper: New row marked", 63, None),
    ],
)
def test_an_xid_has_the_class_of_its_number(line, number, kind):
    found, xid = xid_of(line)
    assert (found, xid.kind if xid else None) == (number, CauseKind(kind) if kind else None)


def test_other_messages_of_the_driver_are_no_xid():
    assert xid_of("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.159.04") is None


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "RuntimeError: EADDRINUSE, message: address already in use",
            "torchrun was refused its port",
        ),
        ("bash: colossalai: command not found", "a program is missing on the node"),
        ("ModuleNotFoundError: No module named 'torch'", "a package is missing or does not fit"),
        ("torch...RendezvousConnectionError: The connection", "ranks could not meet at the start"),
        (
            "12:00 rank 0: checkpoint epoch0-global_step5 given up, training goes on: [Errno 28]",
            "a checkpoint could not be written",
        ),
    ],
)
def test_a_log_carries_what_happens_before_there_are_ranks(line, cause):
    assert [one.cause for one in matching(line, LOGS)] == [cause]
