"""Environments: what is installed, and what every rule imports."""

import ast
import re
import sys
from importlib.metadata import distributions, packages_distributions, requires

import pytest
from conftest import PROJECT, load
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical


def pins():
    """{package: version} of requirements.txt."""
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if "==" in line and not line.startswith("#")]
    return {canonical(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


def needs(package, extra="", **where):
    """What an installed package requires, for one of its extras, where the keys of markers have other values than here."""
    wanted = map(Requirement, requires(package) or ())
    return [need for need in wanted if not need.marker or need.marker.evaluate({**where, "extra": extra})]


ENVIRONMENTS = sorted(path.stem for path in (PROJECT / "envs").glob("*.yaml"))


def environment(name):
    """{package: version} of a conda environment, with what is installed after it."""
    lines = [
        line
        for item in load(f"envs/{name}.yaml")["dependencies"]
        for line in (item["pip"] if isinstance(item, dict) else [item])
    ]
    found = dict(re.fullmatch(r"([\w.-]+?)==?([\w.]+)", line).groups() for line in lines if line not in ("pip", "c-compiler"))
    after = PROJECT / f"envs/{name}.post-deploy.sh"
    found |= dict(re.findall(r"([\w-]+)==([\w.]+)", after.read_text())) if after.exists() else {}
    assert found.pop("python") == "3.11"
    return {{"matplotlib-base": "matplotlib"}.get(package, package).lower(): version for package, version in found.items()}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_conda_environments_hold_the_versions_of_requirements(name):
    packages, known = environment(name), pins()
    assert packages and all(known[package] == version for package, version in packages.items())


def test_every_rule_names_an_environment_that_exists():
    for rules in (PROJECT / "workflow/rules").glob("*.smk"):
        for name in re.findall(r'"\.\./\.\./(envs/\w+\.yaml)"', rules.read_text()):
            assert (PROJECT / name).is_file(), name
        blocks = re.split(r"^rule ", rules.read_text(), flags=re.MULTILINE)[1:]
        for block in blocks:
            if "script:" in block:
                assert "conda:" in block and "log:" in block, block.splitlines()[0]


def test_requirements_pin_everything_that_is_installed():
    ours = {canonical(d.metadata["Name"]): d.version.split("+")[0] for d in distributions()}
    known = pins()
    # torch pins its own CUDA packages exactly; which of them a machine gets depends on its wheel
    free = ("pip", "wheel", "matpretrain", "nvidia", "cuda", "triton")
    missing = {n: v for n, v in ours.items() if known.get(n) != v and not n.startswith(free)}
    assert not missing


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", [("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64")])
def test_requirements_are_complete(system, python):
    """They are installed without resolving dependencies, on these systems, as far as the packages of this one tell."""
    where = dict(zip(("sys_platform", "platform_system", "platform_machine"), system, strict=True))
    where |= {"python_version": python, "python_full_version": f"{python}.5"}
    known = pins()
    missing, done = [], {("torch", "")}  # torch is installed with what it asks for
    todo = [(package, "") for package in known]
    while todo:
        package, extra = todo.pop()
        if (package, extra) in done:
            continue
        done.add((package, extra))
        for need in needs(package, extra, **where):
            pinned = known.get(canonical(need.name))
            todo += [(need.name, more) for more in need.extras if pinned]
            # matbench names packages of 2022, and works with these
            if not pinned or not (package == "matbench" or need.specifier.contains(pinned, prereleases=True)):
                missing.append(f"{package} needs {need}, which is {pinned} here")
    assert not missing


def test_containers_install_as_ci_does():
    docker = (PROJECT / "containers/Dockerfile").read_text()
    apptainer = (PROJECT / "containers/apptainer.def").read_text()
    rule = re.search(r"^\.venv/installed: (.*)\n", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    needed = {"Makefile", "workflow/scripts", *rule[1].split()}
    copied = {name for line in re.findall(r"^COPY (.*)", docker, re.MULTILINE) for name in line.split()[:-1]}
    files = re.search(r"%files\n(.*?)\n\n", apptainer, re.DOTALL)[1].split()
    assert copied == needed == set(files[::2])
    assert all(target == f"/opt/matpretrain/{name}" for name, target in zip(files[::2], files[1::2], strict=True))
    for text in (docker, apptainer):
        assert "make .venv/installed" in text and "python:3.11" in text
    assert re.search("apt-get.*", docker)[0] == re.search("apt-get.*", apptainer)[0]


def imported(path, encoders):
    """Names of the packages that a script or module needs when it is loaded; `encoders` where it loads those by name."""
    text, found = path.read_text(), set()
    modules = [path.parent / "matpretrain" / f"{name}.py" for name in encoders] if "import_module" in text else []
    for node in ast.parse(text).body:
        names = [alias.name for alias in getattr(node, "names", [])]
        if isinstance(node, ast.Import):
            found.update(name.split(".")[0] for name in names)
        elif isinstance(node, ast.ImportFrom) and (script := PROJECT / f"workflow/scripts/{node.module}.py").is_file():
            modules.append(script)
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] != "matpretrain":
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            below = node.module.split(".")[1:] or names
            modules += [PROJECT / "workflow/scripts/matpretrain" / f"{name}.py" for name in below]
    return found.union(*(imported(module, ()) for module in modules if module.is_file())) - set(sys.stdlib_module_names)


def with_dependencies(names):
    """Names of installed distributions and of all that they require."""
    found, todo = set(), list(names)
    while todo:
        name = canonical(todo.pop())
        if name not in found:
            found.add(name)
            todo += [need.name for need in needs(name)]
    return found


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_hold_what_their_rules_import(name):
    holds, sources = with_dependencies(environment(name)), packages_distributions()
    encoders = {entry["encoder"] for entry in load("config/models.yaml")["models"].values() if "encoder" in entry}
    rules = "".join(path.read_text() for path in (PROJECT / "workflow/rules").glob("*.smk"))
    blocks = [block for block in re.split(r"^rule ", rules, flags=re.MULTILINE) if f"envs/{name}.yaml" in block]
    assert blocks
    for block in blocks:
        script = PROJECT / "workflow/scripts" / re.search(r"scripts/(\w+\.py)", block)[1]
        for package in imported(script, encoders) - {"triton"}:  # which torch brings where it is built for GPUs
            assert set(map(canonical, sources[package])) & holds, f"{script.name} imports {package}"
