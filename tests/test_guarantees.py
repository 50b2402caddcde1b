"""What the documents say of tests is true: each test that they name is there."""

import re

import pytest

from tests.conftest import ROOT

DOCUMENTS = ["docs/guarantees.md", "docs/bugs.md", "docs/testing.md", "ARCHITECTURE.md", "docs/corruption.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_tests_that_exist(document: str) -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    defined = {name for text in sources.values() for name in re.findall(r"^def (test_\w+)\(", text, re.M)}
    named = set(re.findall(r"`(?:tests/)?(test_\w+(?:\.py)?)", (ROOT / document).read_text()))
    missing = sorted(name for name in named if name not in defined and name not in sources)
    assert not missing


def test_every_promise_names_a_test() -> None:
    rows = re.findall(r"^\| (P\d+) \|.*\| (.*) \|$", (ROOT / "docs/guarantees.md").read_text(), re.M)
    assert [promise for promise, _ in rows] == [f"P{number}" for number in range(1, 13)]
    for promise, tests in rows:
        assert "`test_" in tests or promise == "P9", promise
