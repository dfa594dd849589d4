"""Another user of this machine, for whom processes and files of root are not to be seen."""

import subprocess

from soractl.remote.requests import NodeResult

NOBODY = 65534


def ask_as_nobody(node, request, deadline_s):
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    done = subprocess.run(
        [*as_nobody, *request.argv], input=request.stdin, capture_output=True, text=True
    )
    return NodeResult(node, done.stdout, done.stderr, done.returncode)
