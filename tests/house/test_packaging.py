"""What pyproject.toml and the scripts promise."""

import importlib
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest


def project(root: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_entry_point_leads_to_something(root: Path) -> None:
    declared = project(root)["project"]
    points = {**declared["scripts"], **declared["entry-points"]["farebox.lightning"]}
    for target in points.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_dependency_is_given_a_reason(root: Path) -> None:
    requirement = re.compile(r'"[A-Za-z0-9_.-]+(?:>=|==|~=)')
    lines = (root / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    requirements = [
        line.strip() for line in lines if requirement.search(line) and not line.startswith("requires-python")
    ]
    assert len(requirements) > 10
    assert [line for line in requirements if "#" not in line] == []


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/demo", "scripts/test", ".ci/run"])
def test_a_script_can_be_run_and_is_whole(root: Path, script: str) -> None:
    assert os.access(root / script, os.X_OK)
    subprocess.run(["bash", "-n", root / script], check=True)


def test_continuous_integration_runs_what_a_developer_runs(root: Path) -> None:
    assert (root / ".ci/run").read_text().splitlines()[-1] == "./scripts/test && ./scripts/test --lightning"


@pytest.mark.parametrize(("script", "argument"), [("scripts/test", "-k"), ("scripts/setup", "everything")])
def test_a_script_refuses_what_it_does_not_know_in_one_line(
    root: Path, tmp_path: Path, script: str, argument: str
) -> None:
    ran = subprocess.run([root / script, argument], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
