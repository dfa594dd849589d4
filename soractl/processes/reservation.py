"""Reservation of GPUs, rank slots and a port: what two starts must not both use on a node."""

from dataclasses import asdict, dataclass

from soractl.remote.scripts import python, script

RESERVE = script("soractl.processes", "reserve.py")


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Places of one node that an attempt uses; reserve.py locks them there."""

    run: str
    attempt: int
    ranks: int
    gpus: tuple[str, ...] = ()  # as in CUDA_VISIBLE_DEVICES; none: the first ones
    port: int | None = None  # of the head node

    def look(self, path: str) -> str:
        """Shell lines that fail with a sentence when one of the places is used."""
        return python(RESERVE, {**asdict(self), "script": None}, path)

    def start(self, path: str, script: str) -> str:
        """Shell lines that start a script in a session that holds the places, or fail as `look`."""
        return python(RESERVE, {**asdict(self), "script": script}, path)
