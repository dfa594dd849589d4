"""The environment of a node's ranks: what travels, what may not, which NCCL names look wrong."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from soractl.errors import SoractlError

RUN_ID = "SORACTL_RUN_ID"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FROM_THE_NODE = ("HOME", "USER", "LANG")  # as they are there, not as they are here
FROM_THE_OPERATOR = ("WANDB_MODE",)
FROM_THE_OPERATOR_HERE = ("WANDB_MODE", "CUDA_VISIBLE_DEVICES")  # when this machine is all there is
SECRET = re.compile(r"(_KEY|_TOKEN|_SECRET|PASSWORD)$")

# `colossalai run` exports every value as NAME="value" through a shell, and prints it on a failure.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNSAFE = re.compile(r"""["$`\\]|[^ -~]""")

# What NCCL 2.28 and torch 2.13 read.
_KNOWN = """
NCCL_ALGO NCCL_ALLOC_P2P_NET_LL_BUFFERS NCCL_BUFFSIZE NCCL_CHECKS_DISABLE NCCL_CHECK_POINTERS
NCCL_COLLNET_ENABLE NCCL_COLLNET_NODE_THRESHOLD NCCL_COMM_BLOCKING NCCL_COMM_ID NCCL_CONF_FILE
NCCL_CREATE_THREAD_CONTEXT NCCL_CROSS_NIC NCCL_CTA_POLICY NCCL_CUMEM_ENABLE NCCL_CUMEM_HOST_ENABLE
NCCL_DEBUG NCCL_DEBUG_FILE NCCL_DEBUG_SUBSYS NCCL_DEBUG_TIMESTAMP_FORMAT
NCCL_DEBUG_TIMESTAMP_LEVELS NCCL_DMABUF_ENABLE NCCL_GDRCOPY_ENABLE NCCL_GIN_ENABLE
NCCL_GRAPH_DUMP_FILE NCCL_GRAPH_FILE NCCL_GRAPH_MIXING_SUPPORT NCCL_GRAPH_REGISTER NCCL_HOSTID
NCCL_IB_ADAPTIVE_ROUTING NCCL_IB_ADDR_FAMILY NCCL_IB_ADDR_RANGE NCCL_IB_AR_THRESHOLD
NCCL_IB_CUDA_SUPPORT NCCL_IB_DATA_DIRECT NCCL_IB_DISABLE NCCL_IB_ECE_ENABLE NCCL_IB_FIFO_TC
NCCL_IB_GID_INDEX NCCL_IB_HCA NCCL_IB_MERGE_NICS NCCL_IB_MERGE_VFS NCCL_IB_PCI_RELAXED_ORDERING
NCCL_IB_PKEY NCCL_IB_QPS_PER_CONNECTION NCCL_IB_RETRY_CNT NCCL_IB_RETURN_ASYNC_EVENTS
NCCL_IB_ROCE_VERSION_NUM NCCL_IB_SL NCCL_IB_SPLIT_DATA_ON_QPS NCCL_IB_TC NCCL_IB_TIMEOUT
NCCL_IB_USE_INLINE NCCL_IGNORE_CPU_AFFINITY NCCL_LAUNCH_MODE NCCL_LAUNCH_ORDER_IMPLICIT
NCCL_LL128_BUFFSIZE NCCL_LL_BUFFSIZE NCCL_LOCAL_REGISTER NCCL_MAX_CTAS NCCL_MAX_NCHANNELS
NCCL_MAX_NRINGS NCCL_MAX_P2P_NCHANNELS NCCL_MIN_CTAS NCCL_MIN_NCHANNELS NCCL_MIN_NRINGS
NCCL_MIN_P2P_NCHANNELS NCCL_MNNVL_CLIQUE_ID NCCL_MNNVL_ENABLE NCCL_MNNVL_UUID
NCCL_NCHANNELS_PER_NET_PEER NCCL_NET NCCL_NETDEVS_POLICY NCCL_NET_DISABLE_INTRA
NCCL_NET_FORCE_FLUSH NCCL_NET_FORCE_MERGE NCCL_NET_GDR_C2C NCCL_NET_GDR_LEVEL NCCL_NET_GDR_READ
NCCL_NET_MERGE_LEVEL NCCL_NET_OVERHEAD NCCL_NET_PLUGIN NCCL_NET_SHARED_BUFFERS
NCCL_NET_SHARED_COMMS NCCL_NSOCKS_PERTHREAD NCCL_NTHREADS NCCL_NVB_DISABLE NCCL_NVLS_CHUNKSIZE
NCCL_NVLS_ENABLE NCCL_NVLS_NCHANNELS NCCL_OOB_NET_ENABLE NCCL_OOB_NET_IFNAME
NCCL_P2P_DIRECT_DISABLE NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_P2P_LL_THRESHOLD
NCCL_P2P_NET_CHUNKSIZE NCCL_P2P_NVL_CHUNKSIZE NCCL_P2P_PCI_CHUNKSIZE NCCL_P2P_PXN_LEVEL
NCCL_P2P_READ_ENABLE NCCL_P2P_USE_CUDA_MEMCPY NCCL_PROFILER_PLUGIN NCCL_PROGRESS_APPENDOP_FREQ
NCCL_PROTO NCCL_PXN_C2C NCCL_PXN_DISABLE NCCL_RAS_ADDR NCCL_RAS_ENABLE NCCL_RAS_TIMEOUT_FACTOR
NCCL_RUNTIME_CONNECT NCCL_SET_STACK_SIZE NCCL_SET_THREAD_NAME NCCL_SHM_DISABLE NCCL_SHM_LOCALITY
NCCL_SHM_USE_CUDA_MEMCPY NCCL_SINGLE_PROC_MEM_REG_ENABLE NCCL_SINGLE_RING_THRESHOLD
NCCL_SOCKET_FAMILY NCCL_SOCKET_IFNAME NCCL_SOCKET_NTHREADS NCCL_SOCKET_POLL_TIMEOUT_MSEC
NCCL_SOCKET_RETRY_CNT NCCL_SOCKET_RETRY_SLEEP_MSEC NCCL_SYM_GIN_KERNELS_ENABLE
NCCL_THREAD_THRESHOLDS NCCL_TOPO_DUMP_FILE NCCL_TOPO_DUMP_FILE_RANK NCCL_TOPO_FILE
NCCL_TUNER_CONFIG_FILE NCCL_TUNER_PLUGIN NCCL_WARN_ENABLE_DEBUG_INFO NCCL_WIN_ENABLE
NCCL_WORK_ARGS_BYTES NCCL_WORK_FIFO_BYTES TORCH_NCCL_ASYNC_ERROR_HANDLING
TORCH_NCCL_AVOID_RECORD_STREAMS TORCH_NCCL_BLOCKING_WAIT TORCH_NCCL_COORD_CHECK_MILSEC
TORCH_NCCL_CUDA_EVENT_CACHE TORCH_NCCL_DEBUG_INFO_PIPE_FILE TORCH_NCCL_DEBUG_INFO_TEMP_FILE
TORCH_NCCL_DESYNC_DEBUG TORCH_NCCL_DUMP_ON_TIMEOUT TORCH_NCCL_ENABLE_MONITORING
TORCH_NCCL_ENABLE_TIMING TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC TORCH_NCCL_HIGH_PRIORITY
TORCH_NCCL_LOG_CPP_STACK_ON_UNCLEAN_SHUTDOWN TORCH_NCCL_NAN_CHECK TORCH_NCCL_PROPAGATE_ERROR
TORCH_NCCL_RANKS_PER_ROOT TORCH_NCCL_RETHROW_CUDA_ERRORS
TORCH_NCCL_SHOW_EAGER_INIT_P2P_SERIALIZATION_WARNING TORCH_NCCL_TRACE_BUFFER_SIZE
TORCH_NCCL_TRACE_CPP_STACK TORCH_NCCL_USE_COMM_NONBLOCKING
TORCH_NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC
"""
KNOWN = tuple(_KNOWN.split())


def build(
    cluster_env: Mapping[str, str | int],
    *,
    run: Path,
    bin_folder: Path,
    operator: Mapping[str, str],
) -> dict[str, str]:
    """What ranks get beside their node's HOME, USER and LANG; SoractlError names a bad value."""
    own = {key: str(value) for key, value in cluster_env.items()}
    environment = {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **operator,
        **own,
        "PATH": f"{bin_folder}:{own.get('PATH', SYSTEM_PATH)}",
        RUN_ID: str(run),
    }
    check(environment)
    return environment


def carried(environ: Mapping[str, str], *, alone: bool) -> dict[str, str]:
    """What the operator's own environment gives to the ranks."""
    names = FROM_THE_OPERATOR_HERE if alone else FROM_THE_OPERATOR
    return {name: environ[name] for name in names if environ.get(name)}


def check(environment: Mapping[str, str]) -> None:
    """SoractlError for the first name or value that would not arrive as it is."""
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            raise SoractlError(
                f"{name!r} cannot be the name of an environment variable",
                hint="letters, digits and _ only; it stands under [env] of the cluster's file",
            )
        if SECRET.search(name):
            raise SoractlError(
                f"{name} looks like a secret; the environment of a run is written to its logs",
                hint="`wandb login` and `hf auth login` keep theirs in a file of the user's home",
            )
        if not value or (bad := _UNSAFE.search(value)):
            seen = f"{value!r} holds {bad.group()!r}" if value and bad else "it is empty"
            raise SoractlError(
                f"{name} cannot travel to the nodes: {seen}",
                hint='a value is plain text without ", $, `, \\ and line breaks',
            )


def doubtful_names(names: Sequence[str]) -> list[str]:
    """One sentence for each NCCL name that nobody reads."""
    unknown = [n for n in names if n.startswith(("NCCL_", "TORCH_NCCL_")) and n not in KNOWN]
    return [f"nothing is known to read {name}{_meant(name)}" for name in unknown]


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, KNOWN, 1)
    return f"; did you mean {near[0]}?" if near else ""
