"""Settings: the file, the environment, and clear refusals."""

import tomllib
from pathlib import Path

import pytest

from umit_pacs.cli.node import commented_configuration
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.settings import Settings, load_settings


def write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_listen_on_loopback_only(tmp_path):
    settings = load_settings(write(tmp_path, ""))
    assert settings.listener.host == "127.0.0.1"


def test_the_store_folder_is_relative_to_the_file(tmp_path):
    settings = load_settings(write(tmp_path, '[store]\nfolder = "payload"\n'))
    assert settings.store.folder == tmp_path / "payload"
    assert settings.catalogue_url == f"sqlite:///{tmp_path}/payload/catalogue.sqlite"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[listener]\nprot = 104\n", "listener.prot"),
        ("[listener]\nport = 99999\n", "listener.port"),
        ('[listener]\nae_title = "MUCH TOO LONG A TITLE"\n', "listener.ae_title"),
        ("[assemble]\nquiet_period_s = -1\n", "assemble.quiet_period_s"),
        ("[peers]\n", "peers"),
        ("[store\n", "node.toml"),
    ],
)
def test_a_wrong_or_unknown_key_is_named(tmp_path, text, named):
    with pytest.raises(InvalidConfiguration) as caught:
        load_settings(write(tmp_path, text))
    assert named in caught.value.detail


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(InvalidConfiguration, match="umit-pacs init"):
        load_settings(tmp_path / "none.toml")


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("UMIT_PACS__LISTENER__PORT", "4711")
    settings = load_settings(write(tmp_path, '[listener]\nport = 104\nae_title = "NODE"\n'))
    assert (settings.listener.port, settings.listener.ae_title) == (4711, "NODE")


def test_the_written_configuration_names_every_setting_and_loads(tmp_path):
    text = commented_configuration()
    settings = load_settings(write(tmp_path, text))
    written = tomllib.loads(text)
    for name, field in Settings.model_fields.items():
        for key, inner in type(field.default).model_fields.items():
            assert inner.description, f"{name}.{key} has no description"
            assert inner.description in text
            assert key in written[name] or f"# {key} = " in text
    assert settings.listener.ae_title == "UMIT"


def test_a_postgresql_catalogue_also_keeps_the_durable_work(tmp_path):
    settings = load_settings(write(tmp_path, '[store]\ncatalogue_url = "postgresql+psycopg://host/umit"\n'))
    assert settings.workflow_url == "postgresql+psycopg://host/umit"
