import threading

import pytest

from soractl.checkpoints.verification import (
    TransferAborted,
    TransferEvent,
    broken_after_transfer,
    broken_files,
    total_bytes,
)
from tests.waiting import wait_for
from trainer.atomic_files import describe_file


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 5)
    return tmp_path


@pytest.fixture
def files(folder):
    return {name: describe_file(folder / name) for name in ("a", "b", "c")}


def test_every_file_that_is_not_as_the_manifest_says_is_named_with_its_fault(folder, files):
    read = []
    assert broken_files(folder, files, read.append) == {}
    assert (sum(read), total_bytes(files)) == (15, 15)
    (folder / "a").write_bytes(b"other")
    (folder / "b").write_bytes(b"b")
    (folder / "c").unlink()
    assert broken_files(folder, files, read.append) == {
        "a": "has another checksum than its manifest",
        "b": "has 1 of 5 bytes",
        "c": "is missing",
    }


def test_without_a_checksum_the_size_has_to_do(folder, files):
    (folder / "a").write_bytes(b"other")
    assert broken_files(folder, {"a": {"bytes": 5}}, lambda count: None) == {}


def test_a_file_is_read_when_it_arrives_and_again_when_it_is_replaced(folder, files):
    last = (folder / "c").rename(folder / "later")
    (folder / "a").write_bytes(b"other")
    transfer, read, results = TransferEvent(), [], []

    def verify():
        results.append(broken_after_transfer(folder, files, transfer, read.append))

    thread = threading.Thread(target=verify)
    thread.start()
    wait_for(lambda: sum(read) == 10)
    (folder / "new").write_bytes(b"aaaaa")
    (folder / "new").rename(folder / "a")
    last.rename(folder / "c")
    transfer.mark_complete()
    thread.join()
    assert (results, sum(read)) == ([{}], 20)


def test_whoever_waits_for_a_transfer_is_freed_when_it_is_aborted(folder, files):
    transfer = TransferEvent()
    transfer.abort()
    with pytest.raises(TransferAborted):
        broken_after_transfer(folder, files, transfer, lambda count: None)
