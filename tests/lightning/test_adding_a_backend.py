"""docs/adding-a-backend.md, followed: its files are written, installed and tested as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from farebox.core.errors import WalletError
from farebox.core.node import Receiver, SpendProbe, Wallet
from farebox.lightning import open_receiver, open_wallet

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "adding-a-backend.md"
FILE: Final = re.compile(r"^\*\*(?P<path>[\w./]+)\*\*\n\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
BACKEND: Final = "farebox_acme.py"
URL: Final = "acme+https://acme.example?key=hunter2"
LOST, UNSENT = "reply.status == 0", "is_unsent(reply)"
BROKEN: Final = {
    "a preimage is called paid": (
        'STATES.get(text(told, "status") or "")',
        'InvoiceState.PAID if text(told, "preimage") else InvoiceState.OPEN',
        "test_an_unpaid_invoice_is_open",
    ),
    "a lost reply is called failed": (UNSENT, LOST, "test_a_lost_reply_is_unresolved"),
    "a proxy's answer is called failed": (
        "return Unresolved(reason=fault_of",
        "return Failed(reason=fault_of",
        "test_a_payment_that_arrived_is_never_called_failed",
    ),
    "a proxy's answer is called unpaid": (
        "if says(reply, 404):",
        "if reply.status != 200:",
        "test_a_paid_invoice_is_never_called_anything_else",
    ),
    "a word is taken for proof": (
        'return proven(told, "preimage", payment_hash, fee=msats(told, "fee_msat"), by="Acme")',
        'return Paid(preimage=Secret(bytes.fromhex(told["preimage"])), fee=msats(told, "fee_msat"))',
        "test_zeros_are_no_proof",
    ),
    "whatever invoice comes is passed on": (
        'read_made(\n            made, "payment_request", amount, ',
        'decode(made["payment_request"]) or read_made(\n            made, "payment_request", amount, ',
        "test_an_invoice_for_another_amount_is_not_passed_on",
    ),
    "a payment in flight is called failed": (
        "return in_flight()",
        'return Failed(reason="pending")',
        "test_a_payment_in_flight",
    ),
    "more than the page is not told of": ("more=told.get", "more=False and told.get", "test_more_than_is_told"),
    "the fee has no limit": ('"max_fee_msat": fee_limit.msat', '"max_fee_msat": 10**9', "test_a_fee_over_the_limit"),
}


def files() -> Mapping[str, str]:
    """What the document says stands in each file."""
    return {match["path"]: match["text"] for match in FILE.finditer(DOCUMENT.read_text(encoding="utf-8"))}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The document's project, and beside it what installing it would have written."""
    for name, text in files().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    declared = tomllib.loads(files()["pyproject.toml"])["project"]
    info = tmp_path / "farebox_acme-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: {declared['version']}\n")
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in each.items())
        for group, each in declared["entry-points"].items()
    )
    (info / "entry_points.txt").write_text(points)
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the package installed."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_suites(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", *arguments)


def test_the_backend_of_the_document_has_less_than_150_lines() -> None:
    assert len(files()[BACKEND].splitlines()) < 150


def test_the_document_carries_every_file_that_it_names() -> None:
    drawn = re.findall(r"[├└]── (\S+)", DOCUMENT.read_text(encoding="utf-8"))
    assert {each.rpartition("/")[2] for each in files()} == {each for each in drawn if not each.endswith("/")}


def test_an_installed_package_is_opened_by_its_url(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WalletError, match="no wallet has the scheme acme"):
        open_receiver(URL)
    monkeypatch.syspath_prepend(project)
    receiver: Receiver = open_receiver(URL)
    wallet: Wallet = open_wallet(URL)
    assert ("acme at acme.example", "acme at acme.example") == (receiver.name, wallet.name)
    assert isinstance(receiver, SpendProbe)
    with pytest.raises(WalletError, match=r"acme\+https://HOST\?key=KEY") as caught:
        open_wallet("acme+https://:hunter2@acme.example")
    assert "hunter2" not in str(caught.value)


@pytest.mark.system
def test_the_doctor_knows_it(project: Path) -> None:
    ran = run(project, "-m", "farebox", "doctor", "node", "--receiver", "acme+http://127.0.0.1:9?key=hunter2")
    assert "Acme did not answer (connection refused)" in ran.stdout
    assert "hunter2" not in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.system
def test_the_suites_accept_the_backend_of_the_document(project: Path) -> None:
    ran = run_suites(project)
    assert ran.returncode == 0, ran.stdout
    assert int(re.search(r"(\d+) passed", ran.stdout)[1]) > 90
    assert re.search(r"skipped|warning", ran.stdout) is None


@pytest.mark.system
@pytest.mark.parametrize("rule", BROKEN)
def test_a_backend_that_breaks_a_rule_is_found_out(project: Path, rule: str) -> None:
    whole, broken, sentence = BROKEN[rule]
    backend = project / BACKEND
    text = backend.read_text(encoding="utf-8")
    assert text.count(whole) == 1
    imports = "from farebox.core.bolt11 import decode\nfrom farebox.core.ports import Paid\n\nFORM: Final"
    backend.write_text(text.replace(whole, broken).replace("FORM: Final", imports), encoding="utf-8")
    ran = run_suites(project, "-k", sentence)
    assert ran.returncode == 1, ran.stdout
    assert re.search(rf"^FAILED \S+::{sentence}", ran.stdout, re.MULTILINE), ran.stdout
