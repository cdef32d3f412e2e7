"""Where `umit-pacs rules` takes rules from, and the names that they may use on this node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from umit_pacs.cli.options import error_console
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.result_objects.profiles import profile_names
from umit_pacs.routing.rules import Known, RuleSet
from umit_pacs.routing.rules_text import default_rules_text, parse_rules, read_rules
from umit_pacs.settings import Settings
from umit_pacs.store.database import Catalogue, open_catalogue
from umit_pacs.store.peers import peers
from umit_pacs.store.rules import PublishedRules, RulesVersionUnknown, current_rules, rules_version
from umit_pacs.vocabulary import load_templates


@contextmanager
def opened(settings: Settings) -> Iterator[Catalogue]:
    """The node's catalogue, closed afterwards. Raises InvalidConfiguration when there is none."""
    catalogue = open_catalogue(settings.catalogue_url)
    try:
        yield catalogue
    finally:
        catalogue.close()


def rules_of(settings: Settings, file: Path | None, catalogue: Catalogue | None = None) -> tuple[RuleSet, int]:
    """The rules of `file` (version 0), else those in force, else the shipped ones (version 0)."""
    if file is not None:
        return parse_rules(read_rules(file), known_names(settings), source=str(file)), 0
    published = current_rules(catalogue) if catalogue is not None else _published(settings)
    if published is None:
        error_console.print("No rules are published yet: these are the shipped ones.")
        return parse_rules(default_rules_text()), 0
    return parse_rules(published.text, source=f"version {published.version}"), published.version


def _published(settings: Settings) -> PublishedRules | None:
    try:
        with opened(settings) as catalogue:
            return current_rules(catalogue)
    except InvalidConfiguration as exc:
        error_console.print(exc.detail, markup=False, soft_wrap=True)
        return None


def version_of(catalogue: Catalogue, version: int) -> PublishedRules:
    """An earlier version. Raises InvalidConfiguration when there is none of this number."""
    try:
        return rules_version(catalogue, version)
    except RulesVersionUnknown as exc:
        raise InvalidConfiguration(f"there is no version {version}; see `umit-pacs rules history`") from exc


def known_names(settings: Settings) -> Known:
    """The names that rules may use on this node; peers are not checked where there is no catalogue yet."""
    shipped = Path(str(resources.files("umit_pacs.umit_model"))) / "checkpoints"
    folders = [folder for folder in (settings.checkpoints_folder, shipped) if folder.is_dir()]
    checkpoints = frozenset(path.name for folder in folders for path in folder.iterdir() if path.is_dir())
    templates = load_templates(settings.compose.templates_folder)
    profiles = frozenset(profile_names(settings.compose.profiles))
    try:
        with opened(settings) as catalogue:
            destinations = frozenset(peer.name for peer in peers(catalogue) if peer.receives_results)
    except InvalidConfiguration as exc:
        error_console.print(f"Names of peers are not checked: {exc.detail}", markup=False, soft_wrap=True)
        return Known(templates=templates, checkpoints=checkpoints, profiles=profiles)
    return Known(templates=templates, destinations=destinations, checkpoints=checkpoints, profiles=profiles)
