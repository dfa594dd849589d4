"""`soractl health --prolog | --epilog | --hcprogram`: what slurm.conf calls on a node.

A node is drained for what is BAD, and a prolog or epilog then ends with 5, also where Slurm does
not answer: no job may begin there. Whatever else breaks here ends with 0: a check that does not
work must not empty a cluster. A program that cannot even begin ends with 1, as Python does, which
is why BAD is another code. All of it takes ten seconds at most; it prints nothing but what broke.
"""

import os
import signal
from collections.abc import Mapping
from datetime import date
from typing import Literal

from soractl.cluster import settings as cluster
from soractl.errors import ExitCode, SoractlError
from soractl.health.check import Context, Level
from soractl.health.examine import NodeHealth, choose, judge_nodes, probe, silences
from soractl.queue.drain import follow_findings
from soractl.queue.slurm import Slurm
from soractl.remote.connections import Connections
from soractl.remote.folding import fold_names
from soractl.remote.nodes import Node, find_nodes
from soractl.terminal import output

Hook = Literal["prolog", "epilog", "hcprogram"]
CONTEXT: Mapping[Hook, Context] = {
    "prolog": "prolog",
    "epilog": "epilog",
    "hcprogram": "periodic",
}
LIMIT_S = 9.0  # with the start of Python below Slurm's patience and our ten seconds
PROBE_S = 6.0


def run_hook(hook: Hook, hosts: str | None, environ: Mapping[str, str]) -> int:
    """Judge this node, drain or undrain it; 5 where a job must not run here, else 0.

    `hosts`: a host file, for the silences in the settings beside it.
    """
    known: list[int] = [ExitCode.OK]  # the last one is what is known so far
    signal.signal(signal.SIGALRM, lambda *_: os._exit(known[-1]))
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        _judge(hook, hosts, environ, known)
    except SoractlError as error:
        output.error(error)
    except Exception as error:  # noqa: BLE001 - fail open, whatever it is
        output.error(SoractlError(f"health --{hook}: {type(error).__name__}: {error}"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return known[-1]


def _judge(hook: Hook, hosts: str | None, environ: Mapping[str, str], known: list[int]) -> None:
    name = environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]
    hostfile = find_nodes(hosts, environ=environ).hostfile if hosts else None
    muted, _ = silences(cluster.load(hostfile)[0].health.silence, date.today())
    checks = choose((), (), CONTEXT[hook])
    with Connections() as remote:
        answers = probe([Node(name, local=True)], remote, deadline_s=PROBE_S)
        [row] = judge_nodes(answers, checks, muted)
        bad = bad_checks(row)
        if bad and hook != "hcprogram":
            known.append(ExitCode.REFUSED)
        if hook == "hcprogram" or bad:
            slurm = Slurm(remote)
            reason = follow_findings(slurm.node(name), bad, good_checks(row))
            if reason or (reason == "" and hook == "hcprogram"):
                slurm.set_drained(name, reason)


def bad_checks(row: NodeHealth) -> dict[str, str]:
    """Details of what is BAD, by check; nothing for a node whose facts could not be read."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in row.findings:
        if one.level is Level.BAD:
            found.setdefault(one.check.id, {}).setdefault(one.reason, []).append(one.item)
    return {
        check: "; ".join(
            f"{fold_names(items)}: {reason}" if any(items) else reason
            for reason, items in details.items()
        )
        for check, details in found.items()
    }


def good_checks(row: NodeHealth) -> set[str]:
    """Checks all of whose verdicts are good: one that is unknown says nothing."""
    ids = {finding.check.id for finding in row.findings}
    return ids - {one.check.id for one in row.findings if one.level is not Level.GOOD}
