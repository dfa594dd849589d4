"""Lines and JSON of `exec`."""

from collections.abc import Sequence
from typing import Any

from soractl.cluster.execute import Answers
from soractl.errors import FaultKind
from soractl.remote.folding import differences, group
from soractl.remote.requests import NodeResult
from soractl.terminal.lines import Verbatim


def lines(results: Sequence[NodeResult], *, diff: bool) -> Sequence[str]:
    """Each answer once, under the names of the nodes that gave it."""
    groups = group(results)
    if diff and len(groups) > 1:
        return [Verbatim(line) for line in differences(groups)]
    shown: list[str] = []
    for found in groups:
        output = found.lines
        if len(output) <= 1:
            shown.append(f"{found.title}: {''.join(output)}".rstrip())
        else:
            shown += [f"{found.title}:", *(Verbatim(f"  {line}") for line in output)]
    return shown


def as_json(results: Sequence[NodeResult]) -> dict[str, Any]:
    """Every node's own answer."""
    return {
        "nodes": [
            {
                "node": result.node.name,
                "exit_code": result.exit_code,
                "stdout": result.stdout,
                "stderr": result.stderr,
                "error": str(result.fault) if result.fault else None,
                "elapsed_s": result.elapsed_s,
            }
            for result in results
        ]
    }


def count(answers: Answers) -> str:
    """`hostfiles/nodes.txt: 22 ok, 1 failed, 1 unreachable in 1.8 s`."""
    kinds = [result.fault.kind for result in answers.results if result.fault]
    unreachable = kinds.count(FaultKind.UNREACHABLE)
    ok = sum(result.ok for result in answers.results)
    failed = len(answers.results) - ok - unreachable
    parts = [f"{ok} ok"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{unreachable} unreachable"] if unreachable else []
    return f"{answers.source.origin}: {', '.join(parts)} in {answers.elapsed_s:.1f} s"
