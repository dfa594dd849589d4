"""A contact sheet as a picture and as a page of HTML without other files."""

import base64
import html
import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.data.report import printable
from soractl.data.sheet import Clip, Group, Sheet
from soractl.errors import SoractlError
from soractl.files import output as data_output
from soractl.terminal import text
from soractl.terminal.table import Table

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH, MARGIN, ROW, TITLE = 1500, 14, 150, 44  # pixels
SHOWN = 132  # of a picture's height
CAPTION_LINES, LETTER = 6, 7.4
PAPER, INK, QUIET, CUT = "#ffffff", "#1b1f24", "#68737f", (217, 72, 15)

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; color: #1b1f24; margin: 24px; }}
h2 {{ font-size: 16px; margin: 28px 0 8px; border-top: 1px solid #d6dbe0; padding-top: 12px; }}
.clip {{ display: flex; gap: 8px; margin: 8px 0; align-items: flex-start; }}
.clip img {{ height: {shown}px; }}
.whole {{ position: relative; }}
.whole div {{ position: absolute; background: rgba(217, 72, 15, .55); }}
.clip p {{ margin: 0; max-width: 42em; overflow-wrap: anywhere; }}
small {{ color: #68737f; display: block; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def check_output(page: Path) -> None:
    """SoractlError if the page cannot be written there; for use before the work."""
    if page.suffix != ".html":
        raise SoractlError(f"{page}: the name of a page ends in .html")
    data_output.check_file(page)


def write(sheet: Sheet, page: Path) -> tuple[Path, Path]:
    """The page, and the picture beside it."""
    picture = page.with_suffix(".png")
    with data_output.aside(page) as draft:
        draft.write_text(as_html(sheet))
    with data_output.aside(picture) as draft:
        as_picture(sheet).save(draft, format="PNG")
    return page, picture


def as_html(sheet: Sheet) -> str:
    """Captions and paths are escaped; pictures stand in the page itself."""
    parts = [f"<h2>{html.escape(_title(group))}</h2>{_rows(group)}" for group in sheet.groups]
    return _PAGE.format(title=html.escape(_heading(sheet)), body="\n".join(parts), shown=SHOWN)


def as_picture(sheet: Sheet) -> "Image":
    """A row a clip: the whole frame with what is cut off, the crops, the caption."""
    from PIL import Image, ImageDraw, ImageFont

    rows = sum(len(group.clips) for group in sheet.groups)
    height = 2 * MARGIN + TITLE * (1 + len(sheet.groups)) + ROW * rows
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(20), ImageFont.load_default(14)
    draw.text((MARGIN, MARGIN), _heading(sheet), INK, large)
    top = MARGIN + TITLE
    for group in sheet.groups:
        draw.line((MARGIN, top, WIDTH - MARGIN, top), "#d6dbe0")
        draw.text((MARGIN, top + 10), _title(group), INK, large)
        top += TITLE
        for clip in group.clips:
            left = _paste(picture, clip, top)
            draw.text((left, top), _words(clip, WIDTH - MARGIN - left), INK, small, spacing=3)
            top += ROW
    return picture


def _paste(picture: "Image", clip: Clip, top: int) -> int:
    """Draw a clip's pictures; returns where there is room behind them."""
    from PIL import Image, ImageDraw

    left = MARGIN
    for number, data in enumerate((clip.whole, *clip.crops)):
        if not data:
            continue
        own = Image.open(io.BytesIO(data)).convert("RGB")
        if number == 0 and clip.kept:
            shade = Image.new("RGB", own.size, CUT)
            mask = Image.new("L", own.size, 140)
            ImageDraw.Draw(mask).rectangle(_box(clip.kept, own.size), 0)
            own.paste(shade, mask=mask)
        if left + own.width > WIDTH - 260:
            break
        picture.paste(own, (left, top))
        left += own.width + 8
    return left + 6


def _box(kept: tuple[float, ...], size: tuple[int, int]) -> tuple[float, ...]:
    top, left, bottom, right = kept
    return left * size[0], top * size[1], right * size[0] - 1, bottom * size[1] - 1


def _words(clip: Clip, room: int) -> str:
    columns = max(16, int(room / LETTER))
    caption = textwrap.wrap(clip.caption or "(no caption)", columns)
    if len(caption) > CAPTION_LINES:
        caption = [*caption[: CAPTION_LINES - 1], f"{caption[CAPTION_LINES - 1][: columns - 1]}…"]
    return "\n".join([*textwrap.wrap(_facts(clip), columns), *caption])


def _rows(group: Group) -> str:
    return "".join(_row(clip) for clip in group.clips)


def _row(clip: Clip) -> str:
    crops = "".join(f'<img src="{_data(one)}" alt="">' for one in clip.crops)
    whole = ""
    if clip.whole:
        whole = f'<div class="whole"><img src="{_data(clip.whole)}" alt="">{_shades(clip)}</div>'
    facts, caption = html.escape(_facts(clip)), html.escape(clip.caption or "(no caption)")
    return f'<div class="clip">{whole}{crops}<p><small>{facts}</small>{caption}</p></div>'


def _shades(clip: Clip) -> str:
    """Parts that are cut off at the four sides."""
    if clip.kept is None:
        return ""
    top, left, bottom, right = clip.kept
    sides = [(0, 0, top, 1), (bottom, 0, 1, 1), (top, 0, bottom, left), (top, right, bottom, 1)]
    return "".join(
        f'<div style="top:{a:.2%};left:{b:.2%};height:{c - a:.2%};width:{d - b:.2%}"></div>'
        for a, b, c, d in sides
        if c - a > 0 and d - b > 0
    )


def _data(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _heading(sheet: Sheet) -> str:
    return f"{sheet.stage}, first epoch of {sheet.table.name}: clips as the model sees them"


def _title(group: Group) -> str:
    return f"{group.title} ({text.count(group.count, 'clip')}, {len(group.clips)} shown)"


def _facts(clip: Clip) -> str:
    height, width = clip.source
    parts = [Path(clip.path).name, f"{height} x {width}", text.count(clip.num_frames, "frame")]
    if clip.frames:
        parts.append(f"trained on {clip.start} to {clip.start + clip.frames - 1}")
        parts.append(f"{clip.cut_off:.0%} cut off")
    return ", ".join([*parts, *([f"not read: {clip.fault}"] if clip.fault else [])])


def lines(sheet: Sheet, files: tuple[Path, Path]) -> list[str | Table]:
    """A row a group, and the files."""
    rows = [(group.title, group.count, len(group.clips)) for group in sheet.groups]
    faults = [clip for group in sheet.groups for clip in group.clips if clip.fault]
    return [
        Table(("GROUP", "CLIPS", "SHOWN"), rows),
        "",
        *(f"{printable(clip.path)}: {clip.fault}" for clip in faults),
        f"written: {', '.join(map(str, files))}",
    ]


def as_json(sheet: Sheet, page: Path, picture: Path) -> dict[str, Any]:
    """Groups and their clips for programs, without pictures."""
    groups = [
        {
            "title": group.title,
            "clips": group.count,
            "shown": [
                {
                    "row": clip.row,
                    "path": clip.path,
                    "start": clip.start,
                    "frames": clip.frames,
                    "cut_off": clip.cut_off,
                    "fault": clip.fault,
                }
                for clip in group.clips
            ],
        }
        for group in sheet.groups
    ]
    return {"stage": sheet.stage, "page": str(page), "picture": str(picture), "groups": groups}
