"""Planted hangs on two GPUs with NCCL: is the guilty rank named, and does RAS say the same?

    python benchmarks/nccl_hang.py [--hangs 10] [--seed 0] [--out DIR]

Two ranks train a toy on two GPUs in the trainer's manner: NCCL for gradients, gloo for the vote
after each step and for a thread that saves. A fault is planted before a random collective of a
random rank; the ranks are looked at twice as `soractl diagnose` does it, NCCL RAS is asked twice,
and the GPUs' power is sampled. Printed: a line a hang, and right/total. Without GPUs (`--cpu`) the
same over gloo, to see that it runs. It needs torch, no other package.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from soractl.cluster import nccl_ras  # noqa: E402 - after the path
from soractl.diagnosis.culprit import Verdict, VerdictKind  # noqa: E402 - after the path
from soractl.diagnosis.examination import Examination, examine  # noqa: E402 - after the path
from soractl.diagnosis.second_sign import PowerSample, frozen, power_flat  # noqa: E402 - after the path
from soractl.remote.nodes import Node  # noqa: E402 - after the path
from soractl.remote.requests import NodeResult, Request  # noqa: E402 - after the path
from soractl.remote.scripts import script  # noqa: E402 - after the path
from soractl.remote.ssh_command import SshOptions  # noqa: E402 - after the path
from soractl.runs.record import AttemptRecord  # noqa: E402 - after the path
from trainer.run_dir import AttemptDir  # noqa: E402 - after the path

KINDS = ("sleep", "gc", "read", "stop", "thread", "spin", "gil")
HANG_S = 36
NODE = Node("here", local=True)
TRAIN = """
import os, sys, time, threading
sys.path[0] = {repository!r}
from trainer import rank_trace
rank_trace.answer_signals(sys.argv[1])
from datetime import timedelta
import torch, torch.distributed as dist
rank, gpu = int(os.environ["RANK"]), {gpu}
device = torch.device("cuda", rank) if gpu else torch.device("cpu")
if gpu: torch.cuda.set_device(device)
dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(minutes=9))
limit = timedelta(minutes=9)
consensus = dist.new_group(backend="gloo", timeout=limit, group_desc="consensus")
saving = dist.new_group(backend="gloo", timeout=limit, group_desc="save")
size = 4096 if gpu else 128
x = torch.ones(size, size, device=device) / size
step, saver, vote = 0, None, None
def save():
    dist.all_reduce(torch.ones(1), group=saving)
    dist.all_gather_object([None, None], rank, group=saving)
while not os.path.exists(sys.argv[1] + "/stop") or step % 50:
    step += 1
    for _ in range(20 if gpu else 1): y = x @ x
    flat = y.flatten()[: 2 * (y.numel() // 2)].contiguous()
    mine = flat.new_empty(flat.numel() // 2)
    dist.reduce_scatter_tensor(mine, flat)
    dist.all_reduce(y[0].clone())
    dist.all_gather_into_tensor(flat, mine)
    if vote: vote.wait()
    vote = dist.all_reduce(torch.zeros(1), group=consensus, async_op=True)
    if step % 10 == 0:
        if saver: saver.join()
        saver = threading.Thread(target=save, name="checkpoint_0"); saver.start()
    if gpu: torch.cuda.synchronize()
    time.sleep(0.02)
    if rank == 0 and step % 20 == 0: open(sys.argv[1] + "/step", "w").write(str(step))
"""


def here(node: Node, request: Request, deadline_s: float) -> NodeResult:
    """A request to this machine, by its shell."""
    done = subprocess.run(
        request.argv, input=request.stdin, capture_output=True, text=True, timeout=60
    )
    return NodeResult(node, stdout=done.stdout, stderr=done.stderr, exit_code=done.returncode)


def ask_ras() -> tuple[str, tuple[nccl_ras.Communicator, ...] | None]:
    text = "address=127.0.0.1:28028\n" + script("soractl.cluster", "nccl_ras.sh")
    answer = subprocess.run(["bash", "-s"], input=text, capture_output=True, text=True).stdout
    return answer, nccl_ras.parse(answer)


def sample_power() -> list[PowerSample]:
    query = "--query-gpu=index,power.draw,power.limit,utilization.gpu"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        rows = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        return []
    return [
        PowerSample(index, time.monotonic(), *(float(value) for value in values))
        for index, *values in (row.split(", ") for row in rows)
    ]


class Run:
    """Two ranks below a folder."""

    def __init__(self, folder: Path, *, gpu: bool) -> None:
        self.folder, self.attempt = folder, AttemptDir(folder / "attempts/1")
        self.attempt.path.mkdir(parents=True)
        program = folder / "train.py"
        program.write_text(TRAIN.format(repository=str(REPOSITORY), gpu=gpu))
        self.record = AttemptRecord(str(folder), (NODE,), (2,), SshOptions(), time.time())
        environment = {
            **os.environ,
            "SORACTL_RUN_ID": str(folder),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29533",
            "PLANT_FOLDER": str(folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{REPOSITORY / 'tests/planter/hook'}:{REPOSITORY}",
        }
        self.ranks = [
            subprocess.Popen(
                [sys.executable, str(program), str(folder)],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]

    @property
    def step(self) -> int:
        path = self.folder / "step"
        return int(path.read_text() or 0) if path.exists() else 0

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or any(rank.poll() is not None for rank in self.ranks):
                raise SystemExit("the ranks have ended, or do not move")
            time.sleep(0.05)

    def close(self) -> None:
        (self.folder / "stop").touch()
        for rank in self.ranks:
            try:
                rank.wait(20)
            except subprocess.TimeoutExpired:
                rank.kill()


def is_right(verdict: Verdict, truth: dict) -> bool:
    """Rank, group and number are those of the planted fault."""
    if verdict.ranks != (truth["rank"],) or not verdict.names_somebody:
        return False
    found = verdict.collective
    if verdict.kind is VerdictKind.SILENT and truth["kind"] not in ("gil", "stop"):
        return False
    return (
        found is not None
        and found.description == truth["description"]
        and found.number in truth["numbers"]
    )


def one_hang(run: Run, draw: random.Random, number: int, out: Path) -> bool:
    """Plant one, examine it, and wait until training goes on."""
    rank, kind = draw.randrange(2), KINDS[number % len(KINDS)]
    plan = {"kind": kind, "seconds": HANG_S, "after": draw.randrange(12), "thread": "main"}
    if number % 5 == 4:
        plan["thread"] = "side"
    truth_file = run.folder / f"truth-{rank}.json"
    truth_file.unlink(missing_ok=True)
    draft = run.folder / "plant.draft"
    draft.write_text(json.dumps(plan))
    draft.replace(run.folder / f"plant-{rank}.json")
    run.wait(truth_file.exists, 60)
    began = time.monotonic()
    time.sleep(3)
    power, reports = sample_power(), [ask_ras()]
    examination: Examination = examine(run.attempt, run.record, here)
    named_s = time.monotonic() - began
    looks = [examination.first, examination.second]
    while time.monotonic() - began < 27:
        power += sample_power()
        time.sleep(2)
    last = examine(run.attempt, run.record, here, most_looks=2).second
    reports.append(ask_ras())
    power += sample_power()
    truth = json.loads(truth_file.read_text())
    right = is_right(examination.verdict, truth)
    parsed = [report for _, report in reports if report]
    ras = [one.rank for found in parsed[-1:] for c in found for one in c.lagging]
    sys.stdout.write(
        f"{'right' if right else 'WRONG'}  {kind} in rank {rank} ({plan['thread']} thread, before "
        f"{truth['call']} {truth['numbers']} of {truth['description']}), verdict after "
        f"{named_s:.1f} s: {examination.verdict}; frozen {frozen([*looks, last])}, power flat "
        f"{power_flat(power)}, RAS frozen {nccl_ras.frozen(parsed)}, RAS lagging {ras}\n"
    )
    sys.stdout.flush()
    keep = out / f"{number:02d}-{kind}"
    keep.mkdir(parents=True, exist_ok=True)
    for name, found in zip(("first", "second"), looks, strict=True):
        (keep / f"{name}.json").write_text(json.dumps(found.raw))
    (keep / "truth.json").write_text(json.dumps(truth))
    (keep / "power.csv").write_text("".join(f"{vars(one)}\n" for one in power))
    for index, (answer, _) in enumerate(reports):
        (keep / f"ras-{index}.json").write_text(answer)
    step = run.step
    run.wait(lambda: run.step > step + 20, 90)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hangs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    run = Run(folder, gpu=not arguments.cpu)
    draw = random.Random(arguments.seed)
    try:
        run.wait(lambda: run.step > 40, 180)
        out = arguments.out or folder / "out"
        results = [one_hang(run, draw, number, out) for number in range(arguments.hangs)]
    finally:
        run.close()
    sys.stdout.write(f"{sum(results)} of {len(results)} right; outputs in {out}\n")


if __name__ == "__main__":
    main()
