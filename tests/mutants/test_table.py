"""Each seeded fault finds its place."""

import pytest
from mutants.table import MUTANTS
from support import ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_has_one_place_and_tests(mutant):
    text = (ROOT / "gnsmall_keras" / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    # What is no Python is noticed without any test.
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
    for file in mutant.tests:
        assert (ROOT / "tests" / file).is_file()
