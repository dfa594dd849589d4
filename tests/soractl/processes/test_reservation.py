import json
import subprocess

from soractl.processes.reservation import Reservation


def test_a_nodes_python_is_asked_with_the_places_and_the_script_as_json(tmp_path):
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\nprintf "%s" "$2"\ncat > /dev/null\n')
    python.chmod(0o755)
    places = Reservation(run="/a 'b'/$c", attempt=2, ranks=1, gpus=("7",), port=29500)
    path = f"{tmp_path}:/bin"
    asked = [
        json.loads(
            subprocess.run(["sh", "-s"], input=program, capture_output=True, text=True).stdout
        )
        for program in (places.look(path), places.start(path, "/x y.sh"))
    ]
    values = {"run": "/a 'b'/$c", "attempt": 2, "ranks": 1, "gpus": ["7"], "port": 29500}
    assert asked == [{**values, "script": None}, {**values, "script": "/x y.sh"}]
