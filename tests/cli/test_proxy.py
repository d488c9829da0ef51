"""The authority that `farebox proxy --ca` keeps in the state folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from farebox.cli.proxy import kept_authority
from farebox.core.errors import ConfigError


def test_it_is_made_once_for_its_owner_alone_and_then_the_same(tmp_path: Path) -> None:
    first, second = kept_authority(tmp_path, ()), kept_authority(tmp_path, ())
    assert first.certificate == second.certificate
    assert first.certificate_pem() == (tmp_path / "proxy-ca.pem").read_text()
    assert "PRIVATE" not in first.certificate_pem()
    assert 0o600 == (tmp_path / "proxy-ca.key").stat().st_mode & 0o777


def test_one_for_some_domains_is_not_taken_for_one_for_others(tmp_path: Path) -> None:
    assert ("shop.test",) == kept_authority(tmp_path, ("*.Shop.test.",)).domains
    assert ("shop.test",) == kept_authority(tmp_path, ("shop.test",)).domains
    for domains in ((), ("other.test",), ("shop.test", "other.test")):
        with pytest.raises(ConfigError, match=r"is for shop\.test"):
            kept_authority(tmp_path, domains)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    kept_authority(tmp_path, ())
    (tmp_path / "proxy-ca.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        kept_authority(tmp_path, ())


def test_a_file_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "proxy-ca.key").write_text("mine")
    (tmp_path / "proxy-ca.key").chmod(0o600)
    with pytest.raises(ConfigError, match="no authority"):
        kept_authority(tmp_path, ())
    assert "mine" == (tmp_path / "proxy-ca.key").read_text()
