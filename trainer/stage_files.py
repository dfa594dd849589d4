"""The files of stages: a folder `configs/` of one's own, then the ones that come with soractl."""

from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parent
OWN_FOLDER = Path("configs")  # of the working folder
PARTS = "parts"


def folders() -> tuple[Path, ...]:
    """`configs/` here if there is one, then the shipped folder; a file in the first comes first."""
    own, shipped = OWN_FOLDER, shipped_folder()
    if not own.is_dir():
        return (shipped,)
    return (own,) if own.samefile(shipped) else (own, shipped)


def shipped_folder() -> Path:
    """The stages that come with soractl: in the package, or at the top of a checkout."""
    packed = _HERE / "configs"
    return packed if packed.is_dir() else _HERE.parent / "configs"


def stage_files(searched: Sequence[Path]) -> dict[str, Path]:
    """The file of each stage that can be launched, by name."""
    files = {
        file.stem: file for folder in reversed(searched) for file in folder.glob("*.toml")
    }  # the first folder's overwrite the others'
    return dict(sorted(files.items()))


def find_part(name: str, searched: Sequence[Path]) -> Path | None:
    """The file of a part, which a stage names in `extends`."""
    candidates = [folder / PARTS / f"{name}.toml" for folder in searched]
    return next((file for file in candidates if file.is_file()), None)
