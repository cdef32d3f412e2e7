"""`umit-pacs doctor`: checks every thing that can be wrong, and says what to do."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json, settings_from


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Find out")(doctor)


def doctor(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Check configuration, store, catalogue, port, peers, rules, checkpoint and accelerator; exit status 0 or 1."""
    from umit_pacs.cli.checks import Finding, examine

    settings = settings_from(config)
    findings = [Finding(check="configuration", is_ok=True, detail="every key is known and in range")]
    findings += examine(settings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        for finding in findings:
            sign = "[green]✓[/]" if finding.is_ok else "[bold red]✗[/]"
            way_out = f"\n[bold]→ {escape(finding.way_out)}[/]" if finding.way_out else ""
            table.add_row(sign, finding.check, escape(finding.detail) + way_out)
        console.print(table)
    raise typer.Exit(0 if all(finding.is_ok for finding in findings) else 1)
