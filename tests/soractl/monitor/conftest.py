import os
import socket

import pytest

GPU_LINE = "612.04, 99, 61, 1755, 71234, 0x0000000000000004, 0, 0, 700.00, 81559, NVIDIA H100"


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """An nvidia-smi in PATH that prints two GPUs again and again."""
    folder = tmp_path / "with-gpus"
    folder.mkdir()
    lines = " ".join(f'"{index}, {GPU_LINE}"' for index in (0, 1))
    text = f'#!/bin/sh\nwhile :; do printf "%s\\n" {lines}; sleep 0.2; done\n'
    (folder / "nvidia-smi").write_text(text)
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
