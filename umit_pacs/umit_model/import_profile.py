"""What a published folder does not say about itself: which task each of its parts is for, and how it sees and answers.

Written in TOML; `import_profiles/` holds the two that are taken when none is given, to copy and change:

    umit.toml    UMIT-B and five task checkpoints, as UMIT publishes them
    plain.toml   a base model alone, asked as it comes
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.requirements import ImageRequirements
from umit_pacs.umit_model.checkpoint import Record, TaskProfile
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame

SHIPPED_PROFILES = Path(__file__).parent / "import_profiles"

#: UMIT's repositories have capitals and underscores.
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Look(Record):
    """How series of some modalities are shown to the model: the pixel budget of all tasks about them."""

    modalities: tuple[str, ...] = Field(min_length=1)
    pixels: ImageRequirements


class TaskSource(Record):
    """One task about series that look some way."""

    task: Task
    #: names of `looks`
    looks: tuple[str, ...] = Field(min_length=1)
    #: folder of the task's checkpoint; "": the base model itself
    folder: FolderName | Literal[""] = ""
    #: a word of `coordinate_frames`; "": the family's own
    frame: str = ""
    maximum_images: int = Field(1, ge=1, le=64)
    maximum_new_tokens: int = Field(64, ge=1, le=4096)

    @field_validator("frame")
    @classmethod
    def _frame_is_known(cls, frame: str) -> str:
        if frame:
            CoordinateFrame.parse(frame)
        return frame


class ImportProfile(Record):
    """A whole profile; `name` "": made from the folder's."""

    name: str = Field("", pattern=r"^([a-z0-9][a-z0-9._-]{0,63})?$")
    version: str = Field(min_length=1, max_length=64)
    #: folder of the base model; "": the folder itself
    base: FolderName | Literal[""] = ""
    languages: tuple[Language, ...] = (Language.ENGLISH, Language.CHINESE)
    quantisation: Literal["none", "int8", "nf4"] = "none"
    #: None: that of the weights
    compute_format: Literal["float32", "bfloat16"] | None = None
    #: limits of the image processor; an image outside them is resized by it
    minimum_pixels: int = Field(56 * 56, ge=1)
    maximum_pixels: int = Field(ge=1)
    licence: str = Field(min_length=1)
    data_licence: str = Field(min_length=1)
    intended_use: str = Field(min_length=1)
    looks: dict[str, Look] = Field(min_length=1)
    tasks: tuple[TaskSource, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _looks_are_there(self) -> ImportProfile:
        for source in self.tasks:
            for look in source.looks:
                if look not in self.looks:
                    raise ValueError(f"{source.task} wants the look {look!r}, which is not there")
        return self

    @property
    def folders(self) -> tuple[str, ...]:
        """The task checkpoints' folders, each once."""
        return tuple(dict.fromkeys(source.folder for source in self.tasks if source.folder))

    def task_profiles(self, folders: set[str], adapters: dict[str, str], own_frame: str) -> tuple[TaskProfile, ...]:
        """The manifest's profiles of the tasks whose checkpoints lie in `folders`.

        adapters: adapter's name by folder, none for full weights. own_frame: the family's.
        """
        return tuple(
            TaskProfile(
                task=source.task,
                modalities=self.looks[look].modalities,
                image=self.looks[look].pixels,
                frame=source.frame or own_frame,
                maximum_images=source.maximum_images,
                maximum_new_tokens=source.maximum_new_tokens,
                adapter=adapters.get(source.folder, ""),
            )
            for source in self.tasks
            if source.folder in folders
            for look in source.looks
        )


def read_profile(path: Path) -> ImportProfile:
    """Raises InvalidConfiguration that names the file and each wrong key."""
    try:
        return ImportProfile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidConfiguration(f"{path}: {exc}") from exc
    except ValidationError as exc:
        lines = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
        raise InvalidConfiguration(f"{path}: " + "; ".join(lines)) from exc
