import struct

from wandb.proto.wandb_internal_pb2 import Record

from trainer.metrics.wandb_files import media_in, records


def record(**values):
    found = Record()
    for key, value in values.items():
        item = found.history.item.add()
        item.nested_key.extend(key.split("|"))
        item.value_json = value
    return found.SerializeToString()


def in_blocks(*contents):
    """The format's pieces: header, then blocks of 32 KiB."""
    out = b":W&B\xe1\xbe\x00"
    for content in contents:
        first = True
        while content or first:
            left = 32768 - len(out) % 32768
            if left < 7:
                out += b"\0" * left
                continue
            piece, content = content[: left - 7], content[left - 7 :]
            kind = (1 if first else 4) if not content else (2 if first else 3)
            out += struct.pack("<IHB", 0, len(piece), kind) + piece
            first = False
    return out


VIDEO = {
    "eval_low4s/cat|_type": '"video-file"',
    "eval_low4s/cat|path": '"media/x.mp4"',
    "eval_low4s/global_step": "100",
}


def write(folder, content):
    path = folder / "offline-run-1-x" / "run-x.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return folder


def test_records_that_span_blocks_are_put_together():
    long = {"note": '"' + "x" * 70_000 + '"'}
    found = list(records(in_blocks(record(**long), record(loss="0.5"))))
    assert [len(one.history.item[0].value_json) for one in found] == [70_002, 3]


def test_videos_are_found_with_the_step_of_their_axis(tmp_path):
    folder = write(tmp_path, in_blocks(record(loss="0.5", global_step="7"), record(**VIDEO)))
    assert media_in(folder) == {("eval_low4s/cat", 100)}


def test_a_half_written_end_and_an_empty_file_hold_no_more(tmp_path):
    whole = in_blocks(record(loss="0.5"), record(**VIDEO))
    assert media_in(write(tmp_path / "half", whole[:-3])) == set()
    assert media_in(write(tmp_path / "empty", b"")) == set()
    assert media_in(tmp_path / "none") == set()
