"""Secrets from files: made once at a first start, read by the settings of both services, with faults that say what to do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.allocator.settings import Settings as AllocatorSettings
from services.kit.configuration import faults, listed
from services.kit.first_start import main
from services.prior_api.settings import Settings as PriorSettings

ALLOCATOR = "ROLLOUT_BUDGET_ALLOCATOR_"
PRIOR = "ROLLOUT_BUDGET_PRIOR_"


def fault(settings: type[AllocatorSettings | PriorSettings]) -> str:
    """Return the line that a start would end with."""
    with pytest.raises(ValidationError) as refused:
        settings()
    return faults(refused.value)


def test_a_first_start_makes_secrets_and_a_second_keeps_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file gets a secret of its own, nobody may write to it, and nothing of it is printed."""
    files = [tmp_path / "a" / "password", tmp_path / "b" / "key"]
    assert main([str(file) for file in files]) == 0
    first = [file.read_text() for file in files]
    assert main([str(file) for file in files]) == 0
    assert [file.read_text() for file in files] == first
    assert len(set(first)) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o444}
    printed = capsys.readouterr()
    assert printed.err.count("made") == printed.err.count("kept") == 2
    assert not any(secret.strip() in printed.err + printed.out for secret in first)


def test_a_first_start_refuses_an_empty_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that somebody emptied would let in whoever shows no key."""
    (tmp_path / "key").touch()
    assert main([str(tmp_path / "key")]) == 2
    assert "holds no token" in capsys.readouterr().err


def test_both_services_take_their_secrets_from_what_a_first_start_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production mode, with the password in the database's URL, and one key that one service shows and one expects."""
    names = ("password", "pepper", "admin", "service")
    assert main([str(tmp_path / name) for name in names]) == 0
    password, pepper, admin, service = ((tmp_path / name).read_text().strip() for name in names)
    for prefix in (ALLOCATOR, PRIOR):
        monkeypatch.setenv(f"{prefix}MODE", "production")
        monkeypatch.setenv(f"{prefix}DATABASE_URL", "postgresql://owner@postgres/books")
        monkeypatch.setenv(f"{prefix}DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv(f"{ALLOCATOR}PEPPER_FILE", str(tmp_path / "pepper"))
    monkeypatch.setenv(f"{ALLOCATOR}ADMIN_KEY_FILE", str(tmp_path / "admin"))
    monkeypatch.setenv(f"{ALLOCATOR}PRIOR_URL", "http://prior:8101")
    monkeypatch.setenv(f"{ALLOCATOR}PRIOR_KEY_FILE", str(tmp_path / "service"))
    monkeypatch.setenv(f"{PRIOR}SERVICE_KEYS_FILE", str(tmp_path / "service"))
    allocator, prior = AllocatorSettings(), PriorSettings()
    assert allocator.url == prior.database == f"postgresql://owner:{password}@postgres/books"
    secrets = (allocator.pepper, allocator.admin_key, allocator.prior_key, *prior.service_keys)
    assert [secret.get_secret_value() for secret in secrets if secret] == [pepper, admin, service, service]


def test_lists_and_tables_of_keys_come_from_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key a line, or JSON as in the variable."""
    (tmp_path / "lines").write_text("service-key-number-1\nservice-key-number-2\n")
    (tmp_path / "table").write_text('{"vision": "team-key-of-vision"}')
    monkeypatch.setenv(f"{PRIOR}SERVICE_KEYS_FILE", str(tmp_path / "lines"))
    monkeypatch.setenv(f"{PRIOR}KEYS_FILE", str(tmp_path / "table"))
    settings = PriorSettings()
    assert [key.get_secret_value() for key in settings.service_keys] == ["service-key-number-1", "service-key-number-2"]
    assert settings.keys["vision"].get_secret_value() == "team-key-of-vision"
    (tmp_path / "table").write_text("vision: team-key-of-vision")
    assert "which is no JSON" in fault(PriorSettings)
    assert "team-key-of-vision" not in fault(PriorSettings)


def test_a_password_with_any_character_is_one_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would end a URL's part is written so that it does not."""
    (tmp_path / "password").write_text("p@ss/w:rd#?%")
    monkeypatch.setenv(f"{ALLOCATOR}DATABASE_URL", "postgresql://owner@db:5433/books?sslmode=require")
    monkeypatch.setenv(f"{ALLOCATOR}DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    assert AllocatorSettings().url == "postgresql://owner:p%40ss%2Fw%3Ard%23%3F%25@db:5433/books?sslmode=require"
    monkeypatch.setenv(f"{ALLOCATOR}DATABASE_URL", "postgresql://owner:other@db/books")
    with pytest.raises(ValueError, match="without a password"):
        _ = AllocatorSettings().url


def test_faults_say_which_file_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there, empty, twice, and a file for what is no secret."""
    variable = f"{ALLOCATOR}PEPPER_FILE"
    monkeypatch.setenv(variable, str(tmp_path / "pepper"))
    assert "PEPPER_FILE names" in fault(AllocatorSettings)
    assert "No such file or directory; write the secret there" in fault(AllocatorSettings)
    (tmp_path / "pepper").write_text("\n")
    assert "which is empty" in fault(AllocatorSettings)
    monkeypatch.setenv(f"{ALLOCATOR}PEPPER", "x" * 32)
    assert "are both set; keep one of them" in fault(AllocatorSettings)
    monkeypatch.delenv(variable)
    monkeypatch.setenv(f"{ALLOCATOR}PORT_FILE", str(tmp_path / "pepper"))
    assert "PORT_FILE is no setting" in fault(AllocatorSettings)


def test_help_says_which_settings_may_stand_in_files() -> None:
    """Secrets, and nothing else."""
    offered = {line.rsplit(" ", 1)[1] for line in listed(AllocatorSettings).splitlines() if "or a file:" in line}
    names = ("DATABASE_PASSWORD", "DATABASE_URL", "PEPPER", "ADMIN_KEY", "PRIOR_KEY")
    assert offered == {f"{ALLOCATOR}{name}_FILE" for name in names}
