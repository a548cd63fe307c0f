"""Where results are written, and the blocks of the README that commands keep up to date."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"


def rewrite(marker: str, text: str, path: Path = README) -> None:
    """Replace what stands between the comment ``marker`` and the next ``end`` comment.

    Args:
        marker: what the comment that opens the block says.
        text: the new block.
        path: of the Markdown file.
    """
    head, rest = path.read_text().split(f"<!-- {marker} -->")
    tail = rest.split("<!-- end -->", 1)[1]
    path.write_text(f"{head}<!-- {marker} -->\n\n{text}\n\n<!-- end -->{tail}")
