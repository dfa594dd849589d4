"""Choice between paramiko and the system's ssh for each node, by what `ssh -G` answers; or srun."""

import math
import threading
import time
from dataclasses import replace

from soractl.errors import SoractlError
from soractl.remote.captured import Captured
from soractl.remote.deadline import Deadline, DeadlinePassed
from soractl.remote.local import Processes
from soractl.remote.nodes import Node, parse_node_list
from soractl.remote.openssh import OpensshClient, OpensshConnection
from soractl.remote.requests import Request
from soractl.remote.ssh import SshClient, SshConnection
from soractl.remote.ssh_answer import Answer, Route, configuration, defaults, need_ssh, route
from soractl.remote.ssh_command import NotServed, SshFailure, SshOptions
from soractl.terminal.text import span

MY_JOBS = ("squeue", "--me", "--noheader", "--states=RUNNING", "--format=%i|%N")
JOBS_AGE_S = 30.0  # for so long squeue's answer counts: a chain's next job may have the node
# A step beside those that run, which sees their GPUs. Of the variables here it gets what a login
# gives, and none with a secret.
STEP = (
    *("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--quiet"),
    "--export=HOME,USER,LOGNAME,PATH",
)


class StepConnection(OpensshConnection):
    """Steps of one job, as long as it is known to run."""

    def __init__(self, argv: list[str], processes: Processes, until_s: float) -> None:
        super().__init__(argv, processes, None)
        self._until_s = until_s

    @property
    def alive(self) -> bool:
        """The job need not be looked for again; else another may have the node by now."""
        return time.monotonic() < self._until_s


class _Jobs:
    """Jobs of ours that run, by node: squeue is asked once in a while, not once a node."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._by_node: dict[str, str] = {}
        self._fault = ""
        self._until_s = -math.inf

    def on(self, node: Node, deadline: Deadline) -> tuple[str | None, float]:
        """The job that runs on a node, and until when by the monotonic clock that counts.

        SshFailure with squeue's words where it refuses.
        """
        with self._lock:
            if time.monotonic() >= self._until_s:
                try:
                    self._by_node, self._fault = self._running(deadline), ""
                except SshFailure as failure:  # one node's question is enough for all
                    self._fault = str(failure)
                self._until_s = time.monotonic() + JOBS_AGE_S
            if self._fault:
                raise SshFailure(self._fault)
            return self._by_node.get(node.name), self._until_s

    def _running(self, deadline: Deadline) -> dict[str, str]:
        captured = Captured()
        self._processes.run(Request(MY_JOBS), captured, deadline)
        if captured.exit_code != 0:
            raise SshFailure(captured.stderr.text.strip() or "squeue does not answer")
        lines = (line.partition("|") for line in captured.stdout.text.splitlines())
        return {node.name: job for job, _, nodes in lines for node in parse_node_list(nodes)}


class Clients:
    """Opens connections. paramiko goes where it can do what ssh would; elsewhere ssh itself."""

    def __init__(self, options: SshOptions, processes: Processes) -> None:
        if options.client != "srun":
            need_ssh()
        self._options = options
        self._processes = processes
        self._lock = threading.Lock()
        self._usual: Answer | None = None
        self._paramiko = SshClient(self._find_route, processes.start_proxy)
        self._openssh = OpensshClient(options, processes)
        self._jobs = _Jobs(processes)

    def connect(self, node: Node, deadline: Deadline) -> SshConnection | OpensshConnection:
        """An authenticated connection to a node; SshFailure says why there is none."""
        try:
            if self._options.client == "srun":
                return self._by_srun(node, deadline)
            answer = configuration(node, self._options, self._processes, deadline)
            if self._options.client == "openssh":
                return self._by_ssh(node, answer, deadline)
            return self._by_paramiko(node, answer, deadline)
        except DeadlinePassed:
            raise SshFailure(f"no answer within {span(deadline.seconds)}") from None
        except SshFailure:
            raise
        except SoractlError as error:
            raise SshFailure(str(error)) from None
        except Exception as error:  # whatever one node answers is its row
            raise SshFailure(f"odd answer: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Ends what belongs to no single node: jump hosts' connections, the sockets' folder."""
        self._paramiko.close()
        self._openssh.close()

    def _by_paramiko(
        self, node: Node, answer: Answer, deadline: Deadline
    ) -> SshConnection | OpensshConnection:
        only = self._options.client == "paramiko"
        try:
            found = self._served(node, answer, deadline)
        except NotServed as reason:
            if only:
                raise SshFailure(f"client = paramiko does not do: {reason}") from None
            return self._by_ssh(node, answer, deadline)
        if not only and (living := self._openssh.living(node, answer, deadline)):
            return living
        try:
            return self._paramiko.connect(found, deadline)
        except NotServed as failure:
            if only:
                raise
            return self._instead(node, answer, deadline, failure)

    def _instead(
        self, node: Node, answer: Answer, deadline: Deadline, failure: NotServed
    ) -> OpensshConnection:
        """ssh where paramiko lacks something; if it fails too, why paramiko did says more."""
        try:
            return self._openssh.connect(node, answer, deadline)
        except SshFailure as other:
            raise (other if str(other).startswith("host key") else failure) from None
        except DeadlinePassed:
            raise failure from None

    def _by_ssh(self, node: Node, answer: Answer, deadline: Deadline) -> OpensshConnection:
        living = self._openssh.living(node, answer, deadline)
        return living or self._openssh.connect(node, answer, deadline)

    def _by_srun(self, node: Node, deadline: Deadline) -> StepConnection:
        """Steps of a job; a connection is nothing but the words before each command."""
        job, until_s = self._jobs.on(node, deadline)
        if job is None:
            raise SshFailure("no job of yours runs there, and client = srun reaches no other node")
        where = (f"--jobid={job}", f"--nodelist={node.name}")
        return StepConnection([*STEP, *where, "/bin/sh", "-c"], self._processes, until_s)

    def _find_route(self, node: Node, deadline: Deadline) -> Route:
        """The route of a jump host, to which the cluster's user and port do not apply."""
        options = replace(self._options, user=None, port=None)
        return self._served(node, configuration(node, options, self._processes, deadline), deadline)

    def _served(self, node: Node, answer: Answer, deadline: Deadline) -> Route:
        """The route of a node; NotServed where paramiko would not go it as ssh does."""
        with self._lock:
            if self._usual is None:
                self._usual = defaults(self._processes, deadline)
        found = route(node, answer, self._usual, self._options)
        if self._paramiko.has_authority(found):
            raise NotServed("host certificates")
        return found
