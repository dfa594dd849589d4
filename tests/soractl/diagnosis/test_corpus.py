"""Ends of attempts with known causes: `why` is right in nearly all of them, wrong in none."""

import json
import tomllib
from pathlib import Path

import pytest

from soractl.diagnosis.culprit import verdict
from soractl.diagnosis.evidence import verdict_json
from soractl.diagnosis.signatures import ERRORS, KERNEL, LOGS, XIDS, Source, matching, xid_of
from soractl.diagnosis.why import UNKNOWN, CaseFile, explain
from soractl.runs.events import Event
from soractl.runs.post_mortem import Failure
from tests.nccl_hangs import look, unpack

FILE = Path(__file__).parents[2] / "recorded/failures/corpus.toml"
ENDS = tomllib.loads(FILE.read_text())["end"]
PLACES = {
    "training": "/x/trainer/step.py",
    "data": "/x/trainer/data/decode.py",
    "saver": "/x/trainer/checkpoints/saver.py",
    "collective": "/y/torch/distributed/distributed_c10d.py",
}
LEAST_RIGHT = 0.95


def node_of(rank):
    return f"n{rank // 2 + 1}"


def account(number, rank, words, place, remedy):
    trace = f'Traceback\n  File "{PLACES[place]}", line 88, in run\n' if place in PLACES else None
    times = {"time_unix_s": 100.0 + number, "remedy": remedy}
    return {"rank": rank, "node": node_of(rank), "error": words, "traceback": trace, **times}


def case_of(end):
    """What is on disk after such an end."""
    remedy = end.get("remedy")
    accounts = [account(i, *one, remedy) for i, one in enumerate(end.get("errors", ()))]
    node, words, *rank = end.get("failure") or (
        accounts[0]["node"], accounts[0]["error"], accounts[0]["rank"]
    )  # fmt: skip
    found = end.get("verdict")
    watched = end.get("watched")
    return CaseFile(
        failure=Failure(node, words, *rank, stopped=end.get("on_purpose", False)),
        accounts=accounts,
        logs=end.get("logs", {}),
        kernel=end.get("kernel", {}),
        verdict={"verdict": found, "links": found.get("links", ())} if found else None,
        watched=Event(time_unix_s=100.0, by="supervisor", **watched) if watched else None,
        full_disks=end.get("full", {}),
        stopped_by="`soractl kill`" if end.get("stopped") else None,
        stopped_unix_s=99.0 if end.get("stopped") else None,
    )


def judged(end):
    """`right`, `unknown` or `wrong`."""
    found = explain(case_of(end))
    cause = UNKNOWN if found.root is None else found.cause
    if (cause, found.kind) == (end["cause"], end["kind"]):
        return "right"
    return "unknown" if cause == UNKNOWN else f"wrong: {cause} ({found.kind})"


def test_of_all_ends_nearly_every_cause_is_right_and_none_is_wrong():
    results = {end["name"]: judged(end) for end in ENDS}
    wrong = {name: result for name, result in results.items() if result.startswith("wrong")}
    right = sum(result == "right" for result in results.values())
    assert wrong == {}
    assert right >= LEAST_RIGHT * len(ENDS)
    assert len(results) == len(ENDS) >= 40


def test_every_signature_is_in_some_end():
    sources = {
        Source.ERROR: [words for end in ENDS for _, words, _ in end.get("errors", ())],
        Source.LOG: [line for end in ENDS for ls in end.get("logs", {}).values() for line in ls],
        Source.KERNEL: [x for end in ENDS for ls in end.get("kernel", {}).values() for x in ls],
    }
    for signatures in (ERRORS, LOGS, KERNEL):
        used = {
            one.cause
            for words in sources[signatures[0].source]
            for one in matching(words, signatures)
        }
        assert {one.cause for one in signatures} - used == set()
    xids = {found[1] for line in sources[Source.KERNEL] if (found := xid_of(line))}
    assert {*XIDS.values()} - xids == set()


@pytest.fixture(scope="module")
def hangs(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("hangs"))


def test_of_ten_hangs_on_real_gpus_each_has_the_rank_that_was_waited_for(hangs):
    for hang in hangs:
        truth = json.loads((hang / "truth.json").read_text())
        seen = verdict(look(hang / "first.json", 0.0), look(hang / "second.json", 2.0))
        evidence = json.loads(json.dumps({"verdict": verdict_json(seen)}))
        event = Event(time_unix_s=5.0, kind="hung", by="supervisor", text="no step for 31 s")
        failure = Failure("n1", "no step for 31 s")
        found = explain(CaseFile(failure, verdict=evidence, watched=event))
        assert (found.cause, found.root.rank) == ("the others waited for one rank", truth["rank"])
        assert found.fingerprint.endswith(f"of the {truth['description']} group")
