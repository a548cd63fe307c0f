"""Sheet of pictures: what was asked, first, middle and last frame of each segment, with the label and who answered."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_pbrl.clips.base import ClipRenderer, Frames
from lightning_pbrl.data import kinds
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.jsonl import starts
from lightning_pbrl.data.kinds.pair import SIDES
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats.records import Given, Key, Record, key_of, told

SIDE, GAP, LINE = 128, 8, 20
"""Sizes in the sheet, pixels: a frame, the space around frames, a line of text."""
PAPER, INK, BETTER = (255, 255, 255), (30, 30, 30), (31, 78, 140)
"""Colours: background, text, and the border of the preferred segment."""


class Entry(NamedTuple):
    """One question of a sheet.

    Attributes:
        title: name of the question, and its label.
        answers: answers of all persons; "" for none.
        strips: first, middle and last frame of each segment side by side, (H, 3 H, 3), uint8; none where nothing is drawn.
        better: index of the preferred segment; None without one.
        problem: sentence where nothing can be drawn.
    """

    title: str
    answers: str
    strips: tuple[Frames, ...] = ()
    better: int | None = None
    problem: str = ""


def spread(records: Sequence[Record], count: int) -> list[Record]:
    """Return at most ``count`` records, evenly spread over all, first and last included."""
    if len(records) <= count:
        return list(records)
    return [records[int(place)] for place in np.linspace(0, len(records) - 1, count).round()]


def entries(
    records: Sequence[Record], answers: Sequence[Given], renderer: ClipRenderer, name: Callable[[Record, int], int]
) -> Iterator[Entry]:
    """Draw questions.

    Args:
        records: the questions.
        answers: answers of persons, about these and others.
        renderer: draws their segments.
        name: name of a question's segment 0, 1 ... for the renderer, see :func:`~lightning_pbrl.labelling.films.drawn_by`.
    """
    by: dict[Key, list[Given]] = {}
    for each in answers:
        by.setdefault(each.key, []).append(each)
    for row in records:
        given = "; ".join(f"{each.person}: {_answer(each.kind, each.value, each.status)}" for each in by.get(key_of(row), ()))
        title = f"{told(key_of(row))}: {_answer(row['kind'], row['value'], Status(row['status']))}"
        better = None if row["value"] is None else kinds.of(row["kind"]).better(row["value"])
        try:
            strips = tuple(_strip(renderer.frames(name(row, which), row["length"])) for which in range(len(starts(row))))
        except UserError as error:
            yield Entry(title, given, problem=str(error), better=better)
        else:
            yield Entry(title, given, strips, better)


def write(path: Path, found: Iterator[Entry]) -> int:
    """Write a sheet as a picture (.png) or as a page without other files (.html), and return its number of questions.

    Raises:
        UserError: for another ending, without any question, or if the file cannot be written.
    """
    if path.suffix not in (".png", ".html"):
        raise UserError(f"A sheet of pictures is a .png or .html file, not {path.name}: name it so.")
    every = list(found)
    if not every:
        raise UserError(f"{path} would be empty: the label store has no such question.")
    with replacing(path) as part:
        part.write_bytes(_png(_drawn(every)) if path.suffix == ".png" else _page(every).encode())
    return len(every)


def _answer(kind: str, value: float | None, status: Status) -> str:
    """Return an answer in words."""
    if status in (Status.PENDING, Status.SKIPPED) or value is None:
        return {Status.PENDING: "open"}.get(status, "cannot tell")
    axis = kinds.axis_of(kind)
    return kinds.of(kind).words(value) + (f" in {axis}" if axis else "")


def _strip(frames: Frames) -> Frames:
    """Return first, middle and last frame side by side, (SIDE, 3 SIDE, 3), uint8."""
    chosen = [frames[place] for place in (0, len(frames) // 2, len(frames) - 1)]
    return np.concatenate([np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BOX)) for each in chosen], 1)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _drawn(every: Sequence[Entry]) -> Image.Image:
    """Return all entries in one picture, one below the other."""
    font = ImageFont.load_default(13)
    width = GAP + (3 * SIDE + GAP) * max(1, *(len(each.strips) for each in every))
    heights = [GAP + 2 * LINE + (SIDE if each.strips else LINE) for each in every]
    sheet = Image.new("RGB", (max(width, 640), sum(heights) + GAP), PAPER)
    draw, top = ImageDraw.Draw(sheet), 0
    for each, height in zip(every, heights, strict=True):
        for line, text in enumerate((each.title, each.answers)):
            draw.text((GAP, top + GAP + line * LINE), text, INK, font)
        if each.problem:
            draw.text((GAP, top + GAP + 2 * LINE), each.problem, INK, font)
        for which, strip in enumerate(each.strips):
            left, high = GAP + which * (3 * SIDE + GAP), top + GAP + 2 * LINE
            sheet.paste(Image.fromarray(strip), (left, high))
            if which == each.better:
                draw.rectangle((left - 3, high - 3, left + 3 * SIDE + 2, high + SIDE + 2), outline=BETTER, width=3)
        top += height
    return sheet


STYLE = """body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem; color: #1e1e1e; background: #fff; }
section { margin-bottom: 1.5rem; } h2 { font-size: 1rem; margin: 0; } p { margin: 0 0 .3rem; }
img { border: 3px solid transparent; vertical-align: top; } img.better { border-color: #1f4e8c; }"""


def _page(every: Sequence[Entry]) -> str:
    """Return all entries as a page that needs no other file."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Questions and answers</title>',
        f"<style>{STYLE}</style>",
    ]
    for each in every:
        parts.append(f"<section><h2>{html.escape(each.title)}</h2><p>{html.escape(each.answers)}</p>")
        parts.append(f"<p>{html.escape(each.problem)}</p>" if each.problem else "")
        for which, strip in enumerate(each.strips):
            name = f"{SIDES[which] if which < len(SIDES) else which + 1} segment: first, middle and last frame"
            data = base64.b64encode(_png(Image.fromarray(strip))).decode()
            better = ' class="better"' if which == each.better else ""
            parts.append(f'<img src="data:image/png;base64,{data}" alt="{name}"{better}>')
        parts.append("</section>")
    return "\n".join(parts) + "</html>\n"
