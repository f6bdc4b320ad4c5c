"""Links in an archive, as the files that they lead to."""

import collections
from collections.abc import Iterable, Mapping

from gnsmall_keras.data.files.listing import check_count, shown

MAX_HOPS = 40  # of links to links, as Linux has it


def resolve(
    files: Iterable[str], links: Mapping[str, str], where: str
) -> dict[str, str]:
    """Returns of every file's name, and every link's, the file that it is.

    Args:
        files: names with slashes.
        links: name -> what it leads to, a file, a folder or another link.
        where: names the archive, for errors.

    Raises:
        ValueError: if a link leads nowhere, or into itself.
    """
    known = {name: name for name in files}
    inside = collections.defaultdict(list)  # folder -> names below it
    for name in known:
        _enter(inside, name)
    left = dict(links)
    # How many links are below a folder that are not followed yet.
    waiting = collections.Counter(
        folder for name in left for folder in _folders(name)
    )
    for _ in range(MAX_HOPS):
        followed = [
            name
            for name, target in left.items()
            if not waiting[target] and _follow(name, target, known, inside)
        ]
        for name in followed:
            del left[name]
            waiting.subtract(_folders(name))
        if not followed:
            break
    if left:
        name, target = next(iter(left.items()))
        raise ValueError(
            "A link must lead to a file or folder of its archive, not to "
            f"itself. {shown(name)} in {where} leads to {shown(target)!r}. "
            "Remove it or pack the files themselves (tar --dereference)."
        )
    return known


def _follow(name, target, known, inside):
    if target in known:
        new = {name: known[target]}
    elif target in inside and not f"{name}/".startswith(f"{target}/"):
        new = {
            name + below[len(target) :]: known[below]
            for below in inside[target]
        }
    else:
        return False
    check_count(len(known) + len(new))
    for added, file in new.items():
        if added not in known:
            known[added] = file
            _enter(inside, added)
    return True


def _enter(inside, name):
    for folder in _folders(name):
        inside[folder].append(name)


def _folders(name):
    """The folders that a name is in, the outermost first."""
    at = name.find("/")
    while at >= 0:
        yield name[:at]
        at = name.find("/", at + 1)
