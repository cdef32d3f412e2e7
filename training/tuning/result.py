"""What comes out of a run: a base in Hugging Face layout, or a peft adapter, as `umit-pacs models install` takes them.

The merger belongs to the base, and a LoRA of stage 2 is added into it: only an adapter on the language model alone can
be exchanged while the node runs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from training.tuning.config import TuneConfig
from training.tuning.network import add_lora, freeze, load_base, put_trained, trained
from training.tuning.states import write_durably
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.umit_model.checkpoint import ADAPTER_CONFIG_FILE

#: installing leaves it out by this name
RESULT_RECORD_FILE = "tune_args.json"
_OF_NETWORK = ("config.json", "generation_config.json")


def assert_may_be_written(result: Path) -> None:
    """Raise InvalidConfiguration for a folder that holds anything else than an earlier result of ours."""
    if result.exists() and any(result.iterdir()) and not (result / RESULT_RECORD_FILE).is_file():
        raise InvalidConfiguration(f"result: {result} is there and no result of training; choose another folder")


def write_result(
    config: TuneConfig, network: Any, adapted: PeftModel | None, processor: Path, record: dict[str, Any]
) -> None:
    """Write the result folder as a whole, in the place of an earlier one."""
    unfinished = config.result.with_name(config.result.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if config.stage == "adapter":
        assert adapted is not None, "an adapter is a LoRA"
        _write_adapter(adapted, config, unfinished)
    else:
        _write_base(network, config, unfinished)
        for path in sorted(processor.iterdir()):
            if path.name not in _OF_NETWORK:
                shutil.copyfile(path, unfinished / path.name)
    write_durably(unfinished / RESULT_RECORD_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(config.result, ignore_errors=True)
    unfinished.replace(config.result)


def _write_base(network: Any, config: TuneConfig, target: Path) -> None:
    """The base as it was, with what was trained put in; from full weights even where training saw them in NF4."""
    values = {name: parameter.detach().cpu() for name, parameter in trained(network)}
    whole = load_base(config.base, dtype=torch.float32)
    adapted = add_lora(whole, config) if config.method.kind != "full" else None
    freeze(whole, config)
    put_trained(whole, values)
    if adapted is not None:
        whole = adapted.merge_and_unload()
    whole.to(torch.bfloat16 if config.machine.weights == "bfloat16" else torch.float32)
    whole.save_pretrained(target)


def _write_adapter(adapted: PeftModel, config: TuneConfig, target: Path) -> None:
    adapted.save_pretrained(str(target), save_embedding_layers=False)
    (target / "README.md").unlink(missing_ok=True)
    path = target / ADAPTER_CONFIG_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    # peft writes where the base lay on the machine that trained.
    content["base_model_name_or_path"] = config.base.name
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
