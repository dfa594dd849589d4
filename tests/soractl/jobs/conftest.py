import os

import pytest

STAND_INS = {
    "sbatch": 'echo "$*" >> "$BIN/submitted"\n'
    'cat > "$BIN/script.$1"\ncase $1 in --test-only) echo "sbatch: fine" >&2 ;; '
    "*) echo $((10 + $(wc -l < $BIN/submitted))) ;; esac",
    "squeue": 'cat "$BIN/queue" 2> /dev/null',
    "sinfo": 'cat "$BIN/nodes" 2> /dev/null || true',
    "scancel": 'echo "$*" >> "$BIN/scancelled"',
    "scontrol": 'case $* in requeue*) echo "$*" >> "$BIN/scontrolled" ;; '
    '"show config") cat "$BIN/config" 2> /dev/null || true ;; '
    '*) cat "$BIN/job" 2> /dev/null || true ;; esac',
    "srun": "while [[ $1 == --* ]]; do shift; done\n"
    'for node in n1 n2; do SLURMD_NODENAME=$node "$@" & done\nwait',
}


@pytest.fixture
def slurm_here(workplace, monkeypatch):
    """A workplace whose Slurm is a few shell scripts; `bin/queue` is what squeue answers."""
    for name, code in STAND_INS.items():
        path = workplace.write(f"bin/{name}", f"#!/bin/bash\nBIN={workplace.bin}\n{code}\n")
        path.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace.folder / "cache"))
    monkeypatch.setenv("PATH", f"{workplace.bin}:{os.environ['PATH']}")
    workplace.write(
        "hostfiles/slurm.toml",
        f'environment = "{workplace.bin}"\n[slurm]\nnodes = 2\ngpus_per_node = 2\n',
    )
    return workplace
