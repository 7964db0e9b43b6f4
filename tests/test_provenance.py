import ast
import json

import pytest
from conftest import PROJECT

from matpretrain import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package: b imports a, c stands alone."""
    (tmp_path / "a.py").write_text('"""Doc."""\nX = 1\n')
    (tmp_path / "b.py").write_text(f"from {tmp_path.name}.a import X\n\n\ndef f():\n    return X  # why\n")
    (tmp_path / "c.py").write_text("Y = 2\n")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)

    def prints():
        provenance.fingerprint.cache_clear()
        provenance._parsed.cache_clear()
        return provenance.fingerprint("b"), provenance.fingerprint("c")

    yield tmp_path, prints
    monkeypatch.undo()
    provenance.fingerprint.cache_clear()
    provenance._parsed.cache_clear()


def test_comments_and_docstrings_do_not_count(package):
    folder, prints = package
    before = prints()
    (folder / "a.py").write_text('"""Another text,\nlonger."""\nX = 1  # a remark\n')
    (folder / "b.py").write_text(f'from {folder.name}.a import X\n\n\ndef f():\n    """New."""\n    return X\n')
    assert prints() == before


def test_a_change_reaches_what_imports_it_and_nothing_else(package):
    folder, prints = package
    before = prints()
    (folder / "a.py").write_text("X = 1.5\n")
    after = prints()
    assert after[0] != before[0] and after[1] == before[1]


def test_roost_depends_on_its_attention_and_magpie_does_not():
    assert {"roost", "attention"} <= provenance._closure(["roost"])
    assert "attention" not in provenance._closure(["magpie", "data", "statistics"])


@pytest.mark.parametrize("script", ["finetune", "finetune_together"])
def test_both_scripts_that_train_folds_depend_on_what_those_do(script):
    assert {"folds", "supervised", "outputs", "training", "cohort", "objectives"} <= provenance._closure([script])


def test_no_script_imports_another_whose_changes_its_fingerprint_would_miss():
    scripts = {path.stem: ast.parse(path.read_text()) for path in (PROJECT / "workflow/scripts").glob("*.py")}
    assert len(scripts) > 40
    for name, tree in scripts.items():
        nodes = list(ast.walk(tree))
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert not imported & scripts.keys(), name


def test_json_is_written_whole(tmp_path):
    provenance.write_json({"a": 1}, tmp_path / "x" / "record.json")
    assert json.loads((tmp_path / "x" / "record.json").read_text()) == {"a": 1}
    assert "torch" in provenance.environment() and provenance.processor()
    assert (PROJECT / "workflow/scripts/matpretrain").samefile(provenance.PACKAGE)
