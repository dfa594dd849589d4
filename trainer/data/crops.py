"""`python -m trainer.data.crops`: pictures of clips as the model sees them, for a contact sheet.

Reads a task a line, `{"path", "start", "frames", "height", "width", "source", "out"}`, and answers
each with a line: `{"crops": [FILE, ...], "whole": FILE, "kept": [top, left, bottom, right]}` in
shares of the whole frame, or `{"fault": ...}`. Without height and width there is no crop.
"""

import json
import sys
from pathlib import Path
from typing import Any

from trainer import packages

with packages.needed():
    import torch
    from PIL import Image
    from torch import Tensor

    from trainer.data.decode import DecodeError, read_frames
    from trainer.data.transforms import resize_crop

SHOWN = 132  # pixels of a picture's height in the sheet


def main() -> None:
    """Answer every task; a clip that cannot be read is a fault of its own."""
    for line in sys.stdin:
        task = json.loads(line)
        try:
            answer = pictures(task)
        except DecodeError as error:
            answer = {"fault": error.reason}
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def pictures(task: dict[str, Any]) -> dict[str, Any]:
    """The first, middle and last frame of the window, and the whole first one."""
    path, start, source = task["path"], int(task["start"]), tuple(task["source"])
    whole = _frame(path, start, (SHOWN, max(1, round(SHOWN * source[1] / source[0]))))
    answer: dict[str, Any] = {"whole": _save(whole, task["out"], "whole"), "crops": []}
    if not task["height"]:
        return answer
    target = int(task["height"]), int(task["width"])
    plan = resize_crop(source, target)
    top, left = (excess // 2 for excess in plan.excess)
    answer["kept"] = [
        *(top / plan.scaled[0], left / plan.scaled[1]),
        *((top + target[0]) / plan.scaled[0], (left + target[1]) / plan.scaled[1]),
    ]
    last = int(task["frames"]) - 1
    for number in sorted({0, last // 2, last}):
        crop = _frame(path, start + number, target)
        answer["crops"].append(_save(crop, task["out"], str(number)))
    return answer


def _frame(path: str, number: int, target: tuple[int, int]) -> Tensor:
    """uint8 [H, W, 3] of a video's frame or a picture."""
    frames, _ = read_frames(path, number, 1, *target)
    return ((frames[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)


def _save(frame: Tensor, out: str, name: str) -> str:
    picture = Image.fromarray(frame.numpy())
    size = round(picture.width * SHOWN / picture.height), SHOWN
    file = Path(f"{out}-{name}.jpg")
    picture.resize(size, Image.Resampling.LANCZOS).save(file, quality=88)
    return str(file)


if __name__ == "__main__":
    main()
