"""`soractl health --dcgm`: NVIDIA's own diagnostics of every idle node that has `dcgmi`.

It loads the GPUs, so it is never started beside a process that uses one. Its answer has no
published schema (https://docs.nvidia.com/datacenter/dcgm/latest/reference/diagnostics/errors.html);
both forms that are known are read: of DCGM 4, and of DCGM 2 and 3.
"""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from soractl.cluster import settings as cluster
from soractl.errors import Fault, FaultKind
from soractl.health.checks_gpu import DCGM
from soractl.health.examine import Health, NodeAnswer, judge_nodes, silences
from soractl.health.facts import Facts
from soractl.remote.connections import Connections
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import find_nodes
from soractl.remote.requests import NodeResult, Request
from soractl.remote.scripts import script, sections

# Levels take seconds, two minutes, a quarter of an hour, and longer, by NVIDIA's reference.
LIMIT_S = {1: 300.0, 2: 900.0, 3: 3600.0, 4: 10800.0}
ROOTS = ("DCGM Diagnostic", "DCGM GPU Diagnostic")  # of DCGM 4, of older ones
MONITOR, CONFIG = 1, 5  # severities of what does not keep a GPU from work
TIMEOUT = 124


def diagnose(hosts: str | None, level: int, environ: Mapping[str, str]) -> Health:
    """One run on all nodes at once."""
    source = find_nodes(hosts, environ=environ)
    settings = cluster.load(source.hostfile)[0]
    muted, notes = silences(settings.health.silence, date.today())
    limit_s = LIMIT_S[level]
    request = Request(
        ("sh", "-s", "--", str(level), f"{limit_s:g}"), script("soractl.doctor", "dcgm.sh")
    )
    deadline_s = limit_s + 60
    began = time.monotonic()
    with Connections(settings.ssh) as remote:
        answers = everywhere(
            source.nodes,
            lambda node: answer_of(remote(node, request, deadline_s)),
            lambda node, fault: NodeAnswer(node, fault=fault),
            deadline_s=deadline_s,
        )
    rows = judge_nodes(answers, DCGM, muted)
    return Health(source, tuple(rows), DCGM, notes, time.monotonic() - began)


def answer_of(result: NodeResult) -> NodeAnswer:
    """Facts of a node: a status and a reason for each test of each GPU, or why there are none."""
    found = sections(result.stdout)
    items = dict(tests_of(found["dcgm"][0])) if "dcgm" in found else {}
    if items:
        return NodeAnswer(result.node, Facts({"dcgm": items}), elapsed_s=result.elapsed_s)
    if reason := _why_none(found):
        facts = Facts(missing={"dcgm": reason})
        return NodeAnswer(result.node, facts, elapsed_s=result.elapsed_s)
    fault = result.problem or Fault(FaultKind.FAILED, "the node's shell printed no answer")
    return NodeAnswer(result.node, fault=fault, elapsed_s=result.elapsed_s)


def _why_none(found: Mapping[str, tuple[str, int]]) -> str:
    """Reason for which nothing is known of a node that answered; empty where it did not."""
    if "absent" in found:
        return "there is no dcgmi"
    if "used" in found:
        text, code = found["used"]
        used = ", ".join(line.strip() for line in text.strip().splitlines())[:120]
        return f"its GPUs are in use by {used}" if code == 0 else f"nvidia-smi: {used or code}"
    if "dcgm" not in found:
        return ""
    text, code = found["dcgm"]
    if code == TIMEOUT:
        return "dcgmi diag took too long and was ended"
    error = str(_root(text).get("runtime_error") or " ".join(text.split()))
    return f"dcgmi diag ran no test: {error[:160] or f'exit code {code}'}"


def tests_of(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Names of tests with their GPUs, and `status` (pass, warn, fail) and `reason` of each.

    What DCGM left out says nothing of a GPU, and is left out. Nothing for what is no answer of it.

    >>> list(tests_of('''log {"DCGM Diagnostic": {"test_categories": [{"tests": [
    ...     {"name": "pcie", "results": [{"entity_group": "GPU", "entity_id": 3, "status": "Pass"}]}
    ... ]}]}}'''))
    [('pcie of GPU 3', {'status': 'pass', 'reason': 'Pass'})]
    """
    for category in _listed(_root(text), "test_categories"):
        for test in _listed(category, "tests"):
            for result in _listed(test, "results"):
                name = f"{test.get('name', '?')} of {_entity(result)}"
                if fields := _fields(result):
                    yield name, fields


def _root(text: str) -> dict[str, Any]:
    """The object below the name that DCGM gives it; lines of a log may stand before it."""
    try:
        whole, _ = json.JSONDecoder().raw_decode(text[max(text.find("{"), 0) :])
    except ValueError:
        return {}
    if not isinstance(whole, dict):  # a line of a log may begin with a number
        return {}
    found: Any = next((whole[name] for name in ROOTS if name in whole), {})
    return found if isinstance(found, dict) else {}


def _listed(of: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The objects in a list of an object; older forms have `null` between them."""
    listed = of.get(name)
    yield from (one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()


def _entity(result: Mapping[str, Any]) -> str:
    if "entity_id" in result:
        return f"{result.get('entity_group', 'GPU')} {result['entity_id']}"
    return f"GPU {result.get('gpu_ids', result.get('gpu_id', '?'))}"


def _fields(result: Mapping[str, Any]) -> dict[str, str] | None:
    status = str(result.get("status", "")).lower()
    found = result.get("warnings") or []
    warnings = found if isinstance(found, list) else [found]
    listed = [one if isinstance(one, dict) else {"warning": str(one)} for one in warnings]
    if status.startswith(("skip", "not run")):
        return None
    if (
        status == "fail"
        and listed
        and all(one.get("error_severity") in (MONITOR, CONFIG) for one in listed)
    ):
        status = "warn"
    reasons = "; ".join(str(one.get("warning", "")) for one in listed)
    return {"status": status, "reason": reasons[:200] or str(result.get("status", "?"))}
