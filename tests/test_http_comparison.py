"""examples/README.md, "HTTP adapters compared": each cell of ours has its test."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
EXAMPLES = TESTS.parent / "examples"


def defined():
    """Return the names of all functions in the tests of the HTTP adapters."""
    names = set()
    for path in [*TESTS.glob("*http*.py"), *TESTS.glob("lab/*http*.py"),
                 *TESTS.glob("test_*_auth.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        names |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    return names


def table():
    text = (EXAMPLES / "README.md").read_text("utf-8")
    text = text.partition("# HTTP adapters compared")[2].partition("\n# ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def test_every_row_names_tests_that_exist():
    rows, known = table(), defined()
    assert len(rows) > 20 and {len(row) for row in rows} == {9}
    for what, *_, tests in rows:
        named = re.findall("`(\\w+)`", tests)
        assert named or "all but" in tests, what
        assert set(named) <= known, what


STANDARD = {
    "argparse", "asyncio", "concurrent", "contextlib", "functools", "getpass", "io",
    "sys", "threading", "uuid", "typing", "weakref", "__future__",
}


@pytest.mark.parametrize("name, library", [
    ("httpx_auth", {"httpx", "anyio"}), ("aiohttp_auth", {"aiohttp", "yarl"})])
def test_no_package_is_needed(name, library):
    """anyio comes with httpx, yarl with aiohttp; sspi_client has the library alone."""
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text("utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.partition(".")[0])
    assert modules <= STANDARD | library | {"sspi_client"}
