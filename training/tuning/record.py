"""What a run was made from, written beside its result: configuration, data, base, commit, seed and versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

from training.tuning.config import TuneConfig
from training.tuning.sources import SampleFile, data_sha256
from training.tuning.states import write_durably
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.umit_model.checkpoint import sha256_of
from umit_pacs.umit_model.families import family_of
from umit_pacs.umit_model.weights import weight_files

RECORD_FILE = "run.json"
#: fields that say where and how fast, not what
_WITHOUT_EFFECT = ("result", "machine", "saving")
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers", "numpy", "pillow")


def record_run(config: TuneConfig, files: list[SampleFile], *, processes: int, device: str) -> dict[str, Any]:
    """Write run.json of a new run, or add this start to it.

    Raises InvalidConfiguration when the folder holds a run of another configuration, base or data.
    """
    made_from = {
        "config": _meaning(config),
        "seed": config.seed,
        "data_sha256": data_sha256(files),
        "base_sha256": {path.name: sha256_of(path) for path in weight_files(config.base)},
        "base_family": family_of(config.base).name,
        "profile": config.import_profile().model_dump(mode="json"),
        "samples": {file.name: dict(sorted(file.counts.items())) for file in files},
    }
    path = config.run / RECORD_FILE
    starts = _earlier_starts(path, made_from)
    starts.append(
        {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "processes": processes,
            "device": device,
            "machine": config.machine.model_dump(mode="json"),
        }
    )
    record = made_from | {"starts": starts}
    write_durably(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def _earlier_starts(path: Path, made_from: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    written = json.loads(path.read_text(encoding="utf-8"))
    for name, value in json.loads(json.dumps(made_from)).items():
        if written.get(name) != value:
            raise InvalidConfiguration(f"{path.parent} holds a run of another {name}; remove it or choose another run")
    return list(written["starts"])


def _meaning(config: TuneConfig) -> dict[str, Any]:
    """The configuration without what may change between two starts; folders by their names."""
    content = config.model_dump(mode="json", exclude=set(_WITHOUT_EFFECT))
    content |= {name: Path(content[name]).name for name in ("base", "run", "profile")}
    for file in content["data"]["files"]:
        file["path"] = Path(file["path"]).name
    return content


def commit() -> str:
    """The commit of the working tree, "+" behind it when files differ from it, "unknown" outside of one."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return result.stdout.strip() or "unknown"
