"""Values that settings take: numbers, words, lists of interfaces.

Source: NCCL's env.rst of 2.32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from soractl.nccl.names import Version


@dataclass(frozen=True)
class Kind:
    """Kind of a value; words by the first version that knows them, where that is documented."""

    low: int | None = None
    high: int | None = None
    words: Mapping[str, Version | None] = field(default_factory=dict)
    exact_case: bool = False
    many: bool = False  # a list of words
    legacy_digits: bool = False
    is_list: bool = False  # of interfaces or cards

    @property
    def text(self) -> str:
        """`a number from 0 to 7`."""
        if (self.low, self.high) == (0, 1):
            return "0 or 1"
        return f"a number from {self.low} to {self.high}" if self.high else "a number that fits"

    @property
    def upper(self) -> dict[str, str]:
        """The words by their capitals."""
        return {word.upper(): word for word in self.words}


def kind_of(name: str) -> Kind | None:
    """The kind of a setting's value, None where any will do."""
    if name in _KINDS:
        return _KINDS[name]
    is_switch = name.removeprefix("NCCL_") in _SWITCHES.split()
    return _SWITCH if is_switch or name == "CUDA_LAUNCH_BLOCKING" else None


def _known(words: str, **since: Version) -> dict[str, Version | None]:
    return {word: since.get(word) for word in words.split()}


_SWITCH = Kind(0, 1)
_SWITCHES = """
    P2P_DISABLE P2P_DIRECT_DISABLE SHM_DISABLE IB_DISABLE IB_SPLIT_DATA_ON_QPS IB_ADAPTIVE_ROUTING
    IB_ECE_ENABLE IB_MERGE_NICS IB_RETURN_ASYNC_EVENTS COLLNET_ENABLE CUMEM_ENABLE
    CUMEM_HOST_ENABLE CHECK_POINTERS DMABUF_ENABLE GDRCOPY_ENABLE GRAPH_REGISTER LOCAL_REGISTER
    IGNORE_CPU_AFFINITY LAUNCH_ORDER_IMPLICIT NET_GDR_READ NET_GDR_C2C NET_SHARED_BUFFERS
    NET_SHARED_COMMS NVB_DISABLE PXN_DISABLE PXN_C2C RAS_ENABLE RUNTIME_CONNECT SET_STACK_SIZE
    SET_THREAD_NAME WIN_ENABLE OOB_NET_ENABLE COMM_BLOCKING
"""
_LEVEL = Kind(
    # The parser knows more than the page: NVB, C2C, P2C, PXN.
    words=_known("LOC NVL NVB C2C PIX PXB P2C PXN PHB SYS"),
    exact_case=True,
    legacy_digits=True,
)
_LOG = _known("VERSION WARN ATTN INFO ABORT TRACE", ATTN=(2, 32))
_SUBSYSTEMS = """INIT COLL P2P SHM NET GRAPH TUNING ENV ALLOC ALLOC_HOST CALL PROXY NVLS BOOTSTRAP
    REG PROFILE RAS DESTROY ALL"""
_ALGORITHMS = "RING TREE COLLNET COLLNETCHAIN COLLNETDIRECT NVLS NVLSTREE PAT"
_KINDS = {
    "NCCL_IB_HCA": Kind(is_list=True),
    "NCCL_SOCKET_IFNAME": Kind(is_list=True),
    "NCCL_OOB_NET_IFNAME": Kind(is_list=True),
    "NCCL_P2P_LEVEL": _LEVEL,
    "NCCL_NET_GDR_LEVEL": _LEVEL,
    "NCCL_NET_MERGE_LEVEL": _LEVEL,
    "NCCL_DEBUG": Kind(words=_LOG),
    "NCCL_DEBUG_LEVELS": Kind(words={**_LOG, "ALL": None}, many=True),
    "NCCL_DEBUG_SUBSYS": Kind(words=_known(_SUBSYSTEMS), many=True),
    "NCCL_ALGO": Kind(words=_known(_ALGORITHMS, PAT=(2, 23)), many=True),
    "NCCL_PROTO": Kind(words=_known("LL LL128 SIMPLE"), many=True),
    "NCCL_SOCKET_FAMILY": Kind(words=_known("AF_INET AF_INET6"), exact_case=True),
    "NCCL_IB_ADDR_FAMILY": Kind(words=_known("AF_INET AF_INET6"), exact_case=True),
    "NCCL_LAUNCH_MODE": Kind(words=_known("PARALLEL GROUP")),
    "NCCL_CHECK_MODE": Kind(words=_known("DEFAULT DEBUG_LOCAL DEBUG_GLOBAL")),
    "TORCH_DISTRIBUTED_DEBUG": Kind(words=_known("OFF INFO DETAIL")),
    "NCCL_IB_TIMEOUT": Kind(0, 31),
    "NCCL_IB_RETRY_CNT": Kind(0, 7),
    "NCCL_IB_GID_INDEX": Kind(-1, 255),
    "NCCL_IB_SL": Kind(0, 15),
    "NCCL_IB_TC": Kind(0, 255),
    "NCCL_IB_FIFO_TC": Kind(0, 255),
    "NCCL_IB_PKEY": Kind(0, 65535),
    "NCCL_IB_QPS_PER_CONNECTION": Kind(1, 128),
    "NCCL_IB_PCI_RELAXED_ORDERING": Kind(0, 2),
    "NCCL_CROSS_NIC": Kind(0, 2),
    "NCCL_NVLS_ENABLE": Kind(0, 2),
    "NCCL_MNNVL_ENABLE": Kind(0, 2),
    "NCCL_P2P_PXN_LEVEL": Kind(0, 2),
    "NCCL_SOCKET_NTHREADS": Kind(1, 16),
    "NCCL_NSOCKS_PERTHREAD": Kind(1, 64),
    "NCCL_MIN_CTAS": Kind(1, 64),
    "NCCL_MAX_CTAS": Kind(1, 64),
    "NCCL_MIN_NCHANNELS": Kind(1, 64),
    "NCCL_MAX_NCHANNELS": Kind(1, 64),
    "NCCL_BUFFSIZE": Kind(1),
    "NCCL_P2P_NET_CHUNKSIZE": Kind(1),
    "NCCL_NTHREADS": Kind(words=_known("64 128 256 512")),
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": Kind(0, 3),
    "TORCH_NCCL_TRACE_BUFFER_SIZE": Kind(0),
    "TORCH_FR_BUFFER_SIZE": Kind(0),
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": Kind(1),
    "OMP_NUM_THREADS": Kind(1, 1024),
    "CUDA_DEVICE_MAX_CONNECTIONS": Kind(1, 32),
}
