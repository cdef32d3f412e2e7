"""Installing a folder that was published elsewhere: UMIT's base and task checkpoints, or a plain Qwen-VL folder.

    UMIT/
      UMIT-B/                  Hugging Face layout: config.json, safetensors (one or sharded), tokenizer, processor
      Classification/          full weights in the same layout, or a peft adapter; names as transformers 4 or 5 has them
      VQA/  Report_Generation/  Disease_Detection/  Landmark_Detection/

Base and adapters become one checkpoint. Our format holds one base, so a task that was published as full weights
becomes a checkpoint of its own, `<name>-<task folder>`, with these weights as its base.

Nothing is taken on trust: pickled weights are never read; every file must be known; every weight must be there in its
shape and none else; an adapter or full weights that change nothing are refused; where the hub's own download records
lie beside the files, their hashes must hold. Weight files are copied byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from umit_pacs.errors import CheckpointInvalid, InvalidConfiguration
from umit_pacs.umit_model.adapters import rewrite_adapter
from umit_pacs.umit_model.checkpoint import (
    ADAPTER_CONFIG_FILE,
    ADAPTERS_FOLDER,
    BASE_FOLDER,
    Manifest,
    write_manifest,
)
from umit_pacs.umit_model.families import Family, empty_network, family_of
from umit_pacs.umit_model.import_profile import SHIPPED_PROFILES, ImportProfile, read_profile
from umit_pacs.umit_model.install import assert_name_is_free, copy_durably, flush_files, put_in_place, workplace
from umit_pacs.umit_model.published_files import (
    assert_adapter_files,
    assert_base_files,
    assert_downloaded_whole,
    write_processor_files,
)
from umit_pacs.umit_model.weights import (
    INDEX_FILE,
    StoredTensor,
    assert_not_the_same,
    assert_weights_fit,
    stored_tensors,
    weight_files,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """A folder of full weights that was found to be whole."""

    folder: Path
    family: Family
    #: on the meta device
    network: Any
    tensors: Mapping[str, StoredTensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """One checkpoint to be made."""

    name: str
    model: _Model
    #: the task folders that it answers for; "" is the base itself
    folders: set[str]
    #: adapter's name by folder
    adapters: dict[str, str] = field(default_factory=dict)


def install_published(
    source: Path,
    checkpoints_folder: Path,
    *,
    profile: ImportProfile | None = None,
    name: str = "",
    replace: bool = False,
) -> tuple[Manifest, ...]:
    """Make checkpoints of a published folder and install them, all or none.

    profile: what the folder does not say; None: the shipped one for its layout. name: instead of the profile's.
    Raises CheckpointInvalid that names the file and the key.
    """
    profile = profile or read_profile(SHIPPED_PROFILES / ("plain.toml" if _is_model(source) else "umit.toml"))
    plans = _plans(source, profile, name or profile.name or _name_from(source.resolve().name))
    _assert_names(plans)
    for plan in plans:
        assert_name_is_free(plan.name, checkpoints_folder, replace=replace)
    with workplace(checkpoints_folder) as place:
        manifests = tuple(_make(plan, source, profile, place / plan.name) for plan in plans)
        flush_files(place)
        for plan in plans:
            put_in_place(place / plan.name, checkpoints_folder)
    return manifests


def _plans(source: Path, profile: ImportProfile, name: str) -> list[_Plan]:
    if not _is_model(source / profile.base):
        raise CheckpointInvalid(f"{source / profile.base}: no config.json, so there is no base model")
    base = _read_model(source / profile.base)
    missing = [folder for folder in profile.folders if not (source / folder).is_dir()]
    if missing:
        raise CheckpointInvalid(f"{source / missing[0]}: the profile wants it and it is not there")
    _assert_nothing_else(source, profile)
    adapters = {folder: _adapter_name(folder) for folder in profile.folders if _is_adapter(source / folder)}
    of_base = {task.folder for task in profile.tasks if not task.folder}
    plans = [_Plan(name=name, model=base, folders=of_base | set(adapters), adapters=adapters)]
    for folder in profile.folders:
        if folder not in adapters:
            model = _read_model(source / folder)
            if model.family is not base.family:
                raise CheckpointInvalid(f"{source / folder}: {model.family.name}, the base is {base.family.name}")
            assert_not_the_same(base.tensors, model.tensors, model.folder)
            plans.append(_Plan(name=f"{name}-{_name_from(folder)}", model=model, folders={folder}))
    return [plan for plan in plans if plan.folders]


def _read_model(folder: Path) -> _Model:
    assert_base_files(folder)
    assert_downloaded_whole(folder)
    family = family_of(folder)
    network, tensors = empty_network(folder, family), stored_tensors(folder)
    assert_weights_fit(tensors, network, folder)
    return _Model(folder=folder, family=family, network=network, tensors=tensors)


def _make(plan: _Plan, source: Path, profile: ImportProfile, target: Path) -> Manifest:
    # What may be refused comes before gigabytes are copied.
    for folder, adapter in plan.adapters.items():
        assert_adapter_files(source / folder)
        assert_downloaded_whole(source / folder)
        rewrite_adapter(source / folder, target / ADAPTERS_FOLDER / adapter, plan.model.network)
    base = target / BASE_FOLDER
    write_processor_files(
        plan.model.folder,
        base,
        fallback=source / profile.base,
        pixels=(profile.minimum_pixels, profile.maximum_pixels),
    )
    for path in (*weight_files(plan.model.folder), plan.model.folder / INDEX_FILE):
        if path.is_file():
            copy_durably(path, base / path.name)
    return write_manifest(target, _manifest(plan, profile))


def _manifest(plan: _Plan, profile: ImportProfile) -> Manifest:
    try:
        return Manifest(
            name=plan.name,
            version=profile.version,
            base_family=plan.model.family.name,
            languages=profile.languages,
            profiles=profile.task_profiles(plan.folders, plan.adapters, plan.model.family.frame),
            quantisation=profile.quantisation,
            compute_format=profile.compute_format or _compute_format(plan.model),
            licence=profile.licence,
            data_licence=profile.data_licence,
            intended_use=profile.intended_use,
        )
    except ValidationError as exc:
        # Two profiles for one question, or a modality shown in two ways.
        raise InvalidConfiguration("the profile: " + "; ".join(error["msg"] for error in exc.errors())) from exc


def _compute_format(model: _Model) -> Literal["float32", "bfloat16"]:
    formats = {tensor.number_format for tensor in model.tensors.values()}
    if formats == {"BF16"}:
        return "bfloat16"
    if "F16" in formats:
        # Neither of our formats holds every float16 model: bfloat16 rounds it, float32 doubles it.
        raise CheckpointInvalid(f"{model.folder}: weights in float16; say compute_format in the profile")
    return "float32"


def _assert_nothing_else(source: Path, profile: ImportProfile) -> None:
    if not profile.base:
        return
    known = {profile.base, *profile.folders}
    for path in sorted(source.iterdir()):
        if path.name not in known and path.is_dir() and not path.name.startswith("."):
            raise CheckpointInvalid(f"{path}: unexpected; the profile knows {', '.join(sorted(known))}")


def _assert_names(plans: list[_Plan]) -> None:
    for plan in plans:
        if not _NAME.fullmatch(plan.name):
            raise InvalidConfiguration(f"{plan.name!r}: names are of a-z, 0-9, dots and dashes, up to 64; see --name")


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _is_adapter(folder: Path) -> bool:
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        return True
    if _is_model(folder):
        return False
    raise CheckpointInvalid(f"{folder}: neither {ADAPTER_CONFIG_FILE} (adapter) nor config.json (full weights)")


def _name_from(text: str) -> str:
    """A checkpoint's name from a folder's."""
    return re.sub(r"[^a-z0-9.-]+", "-", text.lower()).strip("-.")[:64] or "published"


def _adapter_name(folder: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", folder.lower())
