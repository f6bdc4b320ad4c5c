"""The locks of the two README commands hold what pyproject.toml asks for.

And `make` installs the package anew when the file with its version changes.
"""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gnsmall_keras

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]


def requirements_of(extra: str) -> list[Requirement]:
    """Returns what an extra needs, with the extras it is made of."""
    found = [Requirement(each) for each in PROJECT["dependencies"]]
    extras, seen = [extra], set()
    while extras:
        name = extras.pop()
        seen.add(name)
        for line in PROJECT["optional-dependencies"][name]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:
                extras.extend(requirement.extras - seen)
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("extra", ["export", "dev"])
def test_a_lock_has_each_requirement_with_its_hashes(extra):
    lines = (ROOT / f"requirements/{extra}.txt").read_text()
    locked = re.findall(
        r"^([\w.\-]+)==(\S+)( ; .*)? \\((?:\n    --hash=sha256:\w+(?: \\)?)+)",
        lines,
        re.MULTILINE,
    )
    assert len(locked) == len(re.findall(r"^[^\s#]", lines, re.MULTILINE))
    versions = {}
    for name, version, _, _ in locked:
        versions.setdefault(name.lower().replace("_", "-"), []).append(version)
    for requirement in requirements_of(extra):
        name = requirement.name.lower().replace("_", "-")
        assert name in versions, f"{requirement}: run `make lock`"
        for version in versions[name]:
            assert requirement.specifier.contains(version, prereleases=True), (
                f"{requirement} but {version} in the lock: run `make lock`"
            )


def test_the_version_is_in_the_file_that_an_installation_reads():
    path = SETTINGS["tool"]["hatch"]["version"]["path"]
    version = gnsmall_keras.__version__
    assert f'\n__version__ = "{version}"\n' in (ROOT / path).read_text()
    make = (ROOT / "Makefile").read_text()
    assert f"SOURCES := pyproject.toml {path}\n" in make
