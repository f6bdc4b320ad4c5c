"""The part of a Markdown file between two comments, written anew."""

from pathlib import Path

from gnsmall_keras.writing import replacing

# The comments around each part.
RESULTS = (
    "<!-- results: `gnsmall report --readme` writes from here -->",
    "<!-- results: to here -->",
)
NETWORKS = (
    "<!-- networks: `gnsmall report --networks` writes from here -->",
    "<!-- networks: to here -->",
)
BOARD = (
    "<!-- board: `gnsmall benchmark --board` writes from here -->",
    "<!-- board: to here -->",
)


def insert_results(
    text: str,
    results: str,
    *,
    where: Path,
    marks: tuple[str, str] = RESULTS,
) -> str:
    """Returns `text` with `results` between the two comments `marks`.

    Raises:
        ValueError: if each is not there exactly once, in order.
    """
    begin, end = marks
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(
            f"Results go between two comments, each there once. Received: "
            f"{str(where)!r} without. Add the lines {begin} and {end}"
        )
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(
            f"{begin} comes before {end}. Received: {str(where)!r} with them "
            "the other way round. Swap them."
        )
    return f"{before}{begin}\n\n{results}\n\n{end}{after}"


def write_files(files: dict[Path, bytes]) -> list[Path]:
    """Writes files, each complete or as it was; returns their paths."""
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_bytes(content)
    return [*files]
