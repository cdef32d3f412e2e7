"""The files of a published folder: which are taken, which are left out, and which are refused."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Qwen2Tokenizer

from umit_pacs.errors import CheckpointInvalid
from umit_pacs.umit_model.checkpoint import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, read_json, sha256_of
from umit_pacs.umit_model.install import copy_durably
from umit_pacs.umit_model.processor import CHAT_TEMPLATE, load_processor
from umit_pacs.umit_model.weights import INDEX_FILE

_CONFIG_FILES = ("config.json", "generation_config.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")

#: what the hub and ms-swift leave beside a model: documents, and the state of a training that serving has no use for
_LEFT_OUT = (
    *("README*", "LICENSE*", "NOTICE*", ".gitattributes", ".gitignore", "*.png", "*.jpg"),
    *("video_preprocessor_config.json", "configuration.json", "additional_config.json", "*args.json"),
    *("trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state*.pth", "latest"),
    *("logging.jsonl", "zero_to_fp32.py"),
)
#: pickled weights
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
#: longest record of a download
_LONGEST_RECORD_BYTES = 4096


def assert_base_files(folder: Path) -> None:
    """Raise CheckpointInvalid for a file of a full model that is pickled or unknown, or a configuration missing."""
    _assert_known(folder, (*_CONFIG_FILES, *_TOKENIZER_FILES, *_PROCESSOR_FILES, *_TEMPLATE_FILES, INDEX_FILE))


def assert_adapter_files(folder: Path) -> None:
    """Raise CheckpointInvalid for a file of an adapter that is pickled or unknown, or its weights missing."""
    beside = (*_TOKENIZER_FILES, *_PROCESSOR_FILES, *_TEMPLATE_FILES, *_CONFIG_FILES)
    _assert_known(folder, (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, *beside))
    if not (folder / ADAPTER_WEIGHTS_FILE).is_file():
        raise CheckpointInvalid(f"{folder / ADAPTER_WEIGHTS_FILE}: not there")


def _assert_known(folder: Path, known: Sequence[str]) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            raise CheckpointInvalid(f"{path}: a link; copy the files themselves (huggingface-cli download --local-dir)")
        if path.name == ".cache" or path.name in known or _is_one_of(path, _LEFT_OUT):
            continue
        if _is_one_of(path, _PICKLED):
            raise CheckpointInvalid(f"{path}: pickled weights are never read; publish or save them as safetensors")
        if path.suffix == ".safetensors" and ADAPTER_WEIGHTS_FILE not in known:
            continue  # compared with the index where the weights are read
        raise CheckpointInvalid(f"{path}: unexpected")


def _is_one_of(path: Path, patterns: Sequence[str]) -> bool:
    return path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)


def assert_downloaded_whole(folder: Path) -> None:
    """Compare files with the hub's records of their download, where these lie in `.cache/huggingface/download`.

    The second line of a record is the file's hex SHA-256 for a large file, and a git hash for a small one, which is not
    compared. Raises CheckpointInvalid that names a changed file.
    """
    for record in sorted((folder / ".cache" / "huggingface" / "download").glob("*.metadata")):
        file = folder / record.name.removesuffix(".metadata")
        lines = record.read_bytes()[:_LONGEST_RECORD_BYTES].decode(errors="replace").splitlines()
        expected = lines[1].strip() if len(lines) > 1 else ""
        if len(expected) == 64 and file.is_file() and sha256_of(file) != expected:
            raise CheckpointInvalid(f"{file}: changed; its SHA-256 is not that of the download")


def write_processor_files(source: Path, target: Path, *, fallback: Path, pixels: tuple[int, int]) -> None:
    """Write configuration, tokenizer, image processor and chat template of a model into a base folder, and try them.

    source: the model's folder; fallback: the base's, for tokenizer and processor where a task brings none. pixels:
    (least, most) after the image processor.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in _CONFIG_FILES:
        if (source / name).is_file():
            copy_durably(source / name, target / name)
    tokenizer = source if _has_any(source, ("tokenizer.json", "vocab.json")) else fallback
    for name in _TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            copy_durably(tokenizer / name, target / name)
    if not (target / "tokenizer.json").is_file():
        _write_tokenizer(tokenizer, target)
    _write_image_processor(source if _has_any(source, _PROCESSOR_FILES) else fallback, target, pixels)
    template = _chat_template(source) or _chat_template(fallback) or CHAT_TEMPLATE
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    processor = load_processor(target)
    processor.prompt("?", [(1, 4, 4), (1, 4, 4)])


def _has_any(folder: Path, names: Sequence[str]) -> bool:
    return any((folder / name).is_file() for name in names)


def _write_tokenizer(source: Path, target: Path) -> None:
    """tokenizer.json from vocab.json and merges.txt."""
    try:
        Qwen2Tokenizer.from_pretrained(source, local_files_only=True).save_pretrained(target)
    except (OSError, ValueError) as exc:
        raise CheckpointInvalid(f"{source}: no tokenizer can be made of it: {exc}") from exc


def _write_image_processor(source: Path, target: Path, pixels: tuple[int, int]) -> None:
    """preprocessor_config.json with its limits replaced, in the words of transformers 4 and 5."""
    for name in _PROCESSOR_FILES:
        if (source / name).is_file():
            content: dict[str, Any] = read_json(source / name)
            break
    else:
        raise CheckpointInvalid(f"{source / _PROCESSOR_FILES[0]}: not there")
    content = content.get("image_processor", content)
    least, most = pixels
    content |= {"min_pixels": least, "max_pixels": most, "size": {"shortest_edge": least, "longest_edge": most}}
    (target / _PROCESSOR_FILES[0]).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _chat_template(folder: Path) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and isinstance(template := read_json(folder / name).get("chat_template"), str):
            return template
    return ""
