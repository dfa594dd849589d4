"""The trainer's Python on a node: the command that runs it, in the folder that nodes share."""

import sys
from collections.abc import Mapping
from pathlib import Path

from soractl.cluster.settings import Cluster
from soractl.remote.nodes import Node

_IN_FOLDER = 'cd "$1" && shift && exec "$@"'


def python_on(
    node: Node, cluster: Cluster, *arguments: str, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The command that runs the trainer's Python on a node, in the folder that nodes share.

    >>> cluster = Cluster(environment="/env/bin", workdir="/work")
    >>> python_on(Node("n1"), cluster, "-m", "trainer.encode", environment={"LANG": "C"})[4:]
    ('/work', 'env', 'LANG=C', '/env/bin/python', '-m', 'trainer.encode')
    """
    here = Path(sys.executable)
    python = str(here) if node.local else f"{cluster.environment or here.parent}/python"
    variables = [f"{key}={value}" for key, value in (environment or {}).items()]
    return (
        *("sh", "-c", _IN_FOLDER, "sh", cluster.workdir or str(Path.cwd())),
        *(["env", *variables] if variables else []),
        *(python, *arguments),
    )
