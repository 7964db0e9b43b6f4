"""What the benchmarks, which no other test runs, import from the package and from the scripts is there."""

import ast
import importlib

import pytest
from conftest import PROJECT


@pytest.mark.parametrize("path", sorted((PROJECT / "benchmark").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(path):
    ours = {"matpretrain", *(script.stem for script in (PROJECT / "workflow/scripts").glob("*.py"))}
    ours |= {script.stem for script in (PROJECT / "tests").glob("*.py")}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ours:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
