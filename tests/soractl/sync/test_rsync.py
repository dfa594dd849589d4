import os
import shutil
from pathlib import Path

import pytest

from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.sync.locations import Location
from soractl.sync.rsync import Link, RsyncJob, SourceGone, bytes_so_far, of_description, run

HERE, THERE = Node("here", local=True), Node("n1")
ENDED = "rsync error: some files/attrs were not transferred (see previous errors) (code 23)\n"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a program in the place of rsync: it prints `stderr` after what the real one does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    real = shutil.which("rsync")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(stderr, code, *, works=False):
        (folder / "stderr").write_text(stderr)
        work = f'{real} "$@"' if works else ":"
        text = f"#!/bin/sh\n{work}\ncat {folder}/stderr >&2\nexit {code}\n"
        (folder / "rsync").write_text(text)
        (folder / "rsync").chmod(0o755)

    return make


def job(tmp_path, node=HERE):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir(exist_ok=True)
    (source / "run.json").write_text("{}")
    return RsyncJob(Location(node, source), Location(HERE, copy), of_description())


def fault_of(job):
    with pytest.raises(SoractlError) as caught:
        run(job, Link(SshOptions()), lambda _: None)
    return caught.value.message, caught.value.hint, caught.value.exit_code


def test_rsyncs_progress_is_read_from_any_piece_of_it():
    printed = (
        b"\r         32,768   0%    0.00kB/s    0:00:00  \r      65536   1%  1.25MB/s    0:00:02  "
    )
    assert bytes_so_far(printed) == 65536
    assert bytes_so_far(b" (xfr#1, to-chk=0/3)\n") is None


@pytest.mark.parametrize(
    "stderr",
    [  # printed by rsync 3.5.0 under `strace -e inject`, by 3.1.3 as its source has it
        'rsync: [generator] failed to set permissions on "/b/d": Operation not permitted (1)\n',
        'rsync: [receiver] failed to set times on "/b/.x.QLZYHg": Function not implemented (38)\n',
        'rsync: chown "/b/x" failed: Operation not permitted (1)\n',
        'a login banner\nrsync: [receiver] chgrp "/b/x" failed: Operation not permitted (1)\n',
    ],
)
def test_a_destination_that_refuses_owners_rights_or_times_has_the_copy(tmp_path, stand_in, stderr):
    stand_in(stderr + ENDED, 23, works=True)
    wanted = job(tmp_path)
    link = Link(SshOptions())
    assert run(wanted, link, lambda _: None) == link
    assert (tmp_path / "copy/run.json").read_text() == "{}"


@pytest.mark.parametrize(
    "stderr",
    [
        "",
        'rsync: [sender] send_files failed to open "/a/x": Permission denied (13)\n',
        'rsync: [receiver] failed to set times on "/b/x": Function not implemented (38)\n'
        'rsync: [receiver] mkstemp "/b/.x.foJZJ4" failed: Operation not permitted (1)\n',
    ],
)
def test_contents_that_did_not_arrive_are_no_small_matter(tmp_path, stand_in, stderr):
    stand_in(stderr + ENDED, 23)
    with pytest.raises(SourceGone):
        run(job(tmp_path), Link(SshOptions()), lambda _: None)


@pytest.mark.parametrize(
    ("node", "stderr", "code", "message"),
    [
        (HERE, "rsync: unrecognized option `--info=progress2'\n", 1, "this machine is too old, or"),
        (HERE, "rsync: --info=progress2: unknown option\n", 1, "this machine is too old, or"),
        (THERE, "rsync: on remote machine: --info=progress2: unknown option\n", 1, "n1 is too old"),
        (THERE, "sh: 1: rsync: not found\n", 127, "no rsync on n1"),
    ],
)
def test_an_rsync_that_is_missing_too_old_or_openrsync_is_one_sentence(
    tmp_path, stand_in, node, stderr, code, message
):
    """Stand-ins: what those programs print, as their sources have it."""
    stand_in(stderr, code)
    shown, hint, exit_code = fault_of(job(tmp_path, node))
    assert (message in shown, hint, exit_code) == (True, "install rsync 3.1 or newer", 1)


def test_no_rsync_here_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    shown, hint, exit_code = fault_of(job(tmp_path))
    assert shown.startswith("no rsync on this machine: ")
    assert (hint, exit_code, Path(tmp_path / "copy").exists()) == (
        "install rsync 3.1 or newer",
        1,
        False,
    )
