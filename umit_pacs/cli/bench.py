"""`umit-pacs bench receive|infer|path|compose`: figures, with the machine and the commit they were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import psutil
import typer

from umit_pacs import __version__
from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json, settings_from

bench_app = typer.Typer(no_args_is_help=True, help="Measure; each figure is a ratio within one run.")


def register(app: typer.Typer) -> None:
    app.add_typer(bench_app, name="bench", rich_help_panel="Find out")


def machine() -> dict[str, str]:
    """The machine and the commit that a figure belongs to; no host name."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processor": _processor_name(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "version": f"{__version__}, commit {commit.stdout.strip() or 'unknown'}",
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@bench_app.command("receive")
def receive(
    as_json: JSONOption = False,
    images: Annotated[int, typer.Option(min=10, help="CT slices of 512x512 in each run.")] = 600,
    associations: Annotated[str, typer.Option(help="How many associations at once, with commas.")] = "1,4,8",
    repetitions: Annotated[int, typer.Option(min=1, help="Runs of each; the median is shown.")] = 3,
    processes: Annotated[int, typer.Option(min=1, help="Receiving processes of this node that share the port.")] = 1,
    folder: Annotated[
        Path | None, typer.Option(help="Where to write; default: the folder for temporary files.")
    ] = None,
    long_run: Annotated[
        int, typer.Option(min=0, help="Instead: so many small images to this node, and its memory on the way.")
    ] = 0,
) -> None:
    """Images per second, CPU and response times of this node beside Orthanc and DCMTK's storescp."""
    if long_run:
        _long_run(long_run, folder, as_json=as_json)
        return
    from umit_pacs.cli.bench_receive import bench_receive, receive_table

    counts = [int(count) for count in associations.split(",")]
    rows = bench_receive(
        images=images, associations=counts, repetitions=repetitions, processes=processes, folder=folder
    )
    if as_json:
        print_json({"machine": machine(), "rows": [asdict(row) for row in rows]})
    else:
        console.print(receive_table(rows))
        console.print(", ".join(machine().values()))


def _long_run(images: int, folder: Path | None, *, as_json: bool) -> None:
    from umit_pacs.cli.bench_long import bench_long_run, long_run_table

    run = bench_long_run(images=images, folder=folder)
    if as_json:
        print_json({"machine": machine(), "run": asdict(run)})
    else:
        console.print(long_run_table(run))
        console.print(", ".join(machine().values()))


@bench_app.command("path")
def path(
    as_json: JSONOption = False,
    runs: Annotated[int, typer.Option(min=1, help="Studies of each kind.")] = 3,
) -> None:
    """From the study being complete to its last result confirmed, over the bare model time."""
    from umit_pacs.cli.bench_path import bench_path, path_table

    rows = bench_path(runs=runs)
    if as_json:
        print_json({"machine": machine(), "rows": rows})
    else:
        console.print(path_table(rows))
        console.print(", ".join(machine().values()))


@bench_app.command("compose")
def compose(
    as_json: JSONOption = False,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 5,
) -> None:
    """Every kind of object of a CT of 133 and of 1,000 slices, composed and checked: time and memory."""
    from umit_pacs.cli.bench_compose import bench_compose, compose_table

    rows = bench_compose(runs=runs)
    if as_json:
        print_json({"machine": machine(), "rows": [asdict(row) for row in rows]})
    else:
        console.print(compose_table(rows))
        console.print(", ".join(machine().values()))


@bench_app.command("infer")
def infer(
    config: ConfigOption = None,
    as_json: JSONOption = False,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 5,
    studies: Annotated[int, typer.Option(min=1, help="Most radiographs answered at once.")] = 8,
) -> None:
    """The whole task set on a radiograph and a CT, beside the same model called task by task with plain generate."""
    from umit_pacs.cli.bench_infer import bench_infer, infer_tables

    times = bench_infer(settings_from(config), runs=runs, most_studies=studies)
    if as_json:
        print_json({"machine": machine(), "row": asdict(times)})
    else:
        for table in infer_tables(times):
            console.print(table)
        console.print(", ".join(machine().values()))
