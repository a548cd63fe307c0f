"""Static pages: elements whose text is always escaped, tables, and the head with style and security policy."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --sheet: #fff; --ink: #1b1f24; --quiet: #545d68; --line: #d3d8df;
  --main: #1f4e8c; --warn-ground: #fff1e3; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --sheet: #1e2329; --ink: #e8ebef; --quiet: #a7b0bb;
  --line: #3b434d; --main: #8ab8f5; --warn-ground: #3a2512; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 1rem/1.55 system-ui, "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 48rem; }
a { color: var(--main); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; margin: 1rem 0 0; }
nav a { display: inline-block; padding: .3rem 0; }
.quiet { color: var(--quiet); font-size: .9rem; }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; }
.figures div { background: var(--sheet); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; }
.figures dt { color: var(--quiet); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; background: var(--sheet); }
:focus-visible { outline: 3px solid var(--main); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .45rem .8rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 600; font-size: .85rem; }
th:first-child { position: sticky; left: 0; background: var(--sheet); }
.words { text-align: left; }
tbody th { font-weight: 600; }
td.words { white-space: normal; overflow-wrap: break-word; min-width: 6rem; max-width: 22rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; margin: 1rem 0;
  align-items: start; }
figure { margin: 0; min-width: 0; background: var(--sheet); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem; }
figure img, figure video { display: block; width: 100%; height: auto; max-height: 34rem; object-fit: contain; }
figcaption { color: var(--quiet); font-size: .9rem; padding: .3rem .4rem 0; overflow-wrap: anywhere; }
details { margin: .75rem 0; }
summary { cursor: pointer; padding: .35rem 0; color: var(--main); }
.warn { background: var(--warn-ground); border-radius: .5rem; padding: .5rem .9rem; max-width: none; }
code { font: .88em/1.5 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--sheet); border: 1px solid var(--line); border-radius: .5rem;
  padding: .6rem .8rem; margin: .3rem 0; }
footer { padding-top: 2rem; padding-bottom: 2rem; }
@media (max-width: 40rem) { header, main, footer { padding-left: .8rem; padding-right: .8rem; } header { padding-top: 1rem; }
  h1 { font-size: 1.45rem; } th, td { padding: .4rem .55rem; } table { font-size: .88rem; }
  .figures div { padding: .35rem .7rem; }
  th:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; max-width: 9rem; } }
@media print { nav { display: none; } body { background: #fff; } }
"""


NOTHING_ELSE = "base-uri 'none'; form-action 'none'"
"""Rest of the security policy: no form is sent, and no address read from elsewhere."""


class Html(str):
    """Markup; any other text is escaped where it enters an element."""

    __slots__ = ()


def el(tag: str, *inner: str | None, **attributes: str | None) -> Html:
    """Return an element.

    Args:
        tag: its name.
        inner: its content; :class:`Html` as it is, other text escaped, None left out.
        attributes: its attributes, escaped; a trailing underscore is cut off (``class_``), others are hyphens. None is left out,
            and an empty text is an attribute without a value.
    """
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + (f'="{html.escape(value)}"' if value else "")
        for name, value in attributes.items()
        if value is not None
    )
    if tag in ("img", "source", "meta"):
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{joined(inner)}</{tag}>")


def joined(parts: Iterable[str | None]) -> Html:
    """Return parts one after the other; texts that are not markup are escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts if part is not None))


def table(label: str, header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Html:
    """Return a table that scrolls within its own box; the first cell of a row is its header.

    Args:
        label: what the table shows, for screen readers.
        header: names of the columns.
        rows: cells by row.
        words: number of columns from the left that hold words, which wrap; the others hold numbers.
    """
    kinds = ["words" if place < words else None for place in range(len(header))]
    head = el("tr", *(el("th", name, scope="col", class_=kind) for name, kind in zip(header, kinds, strict=True)))
    body = []
    for row in rows:
        cells = (el("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True))
        body.append(el("tr", el("th", row[0], scope="row", class_=kinds[0]), *cells))
    whole = el("table", el("thead", head), el("tbody", *body))
    return el("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def document(title: str, *body: str) -> str:
    """Return a page that loads nothing and runs nothing; pictures and films lie in it as data.

    Args:
        title: title of the page.
        body: content of the body.
    """
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("style", Html(STYLE)),
    )
    return f"<!doctype html>\n{el('html', head, el('body', *body), lang='en')}\n"
