"""Fonts for the pages: one that has the report's script, or a clear word on what to install."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import ImageFont

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class FontFile:
    """One face: a font file, and which of its faces where it holds several."""

    path: Path
    bold_path: Path
    index: int = 0


_NOTO = Path("/usr/share/fonts/opentype/noto")
#: Where distributions install fonts with Chinese glyphs; the face of index 2 is Simplified Chinese.
_CHINESE = (
    FontFile(path=_NOTO / "NotoSansCJK-Regular.ttc", bold_path=_NOTO / "NotoSansCJK-Bold.ttc", index=2),
    FontFile(
        path=Path("/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc"),
        bold_path=Path("/usr/share/fonts/google-noto-cjk/NotoSansCJK-Bold.ttc"),
        index=2,
    ),
    *(
        FontFile(path=path, bold_path=path)
        for path in (
            Path("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc"),
            Path("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc"),
            Path("/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf"),
        )
    ),
)
_LATIN = tuple(
    FontFile(path=Path(folder) / f"{name}{regular}", bold_path=Path(folder) / f"{name}-Bold.ttf")
    for folder, name, regular in (
        ("/usr/share/fonts/truetype/dejavu", "DejaVuSans", ".ttf"),
        ("/usr/share/fonts/truetype/liberation", "LiberationSans", "-Regular.ttf"),
    )
)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Fonts:
    """The faces of one page; None: the small font that Pillow carries, which has Latin letters only."""

    file: FontFile | None

    def regular(self, size_px: int) -> Font:
        return _load(self.file.path, self.file.index, size_px) if self.file else _carried(size_px)

    def bold(self, size_px: int) -> Font:
        return _load(self.file.bold_path, self.file.index, size_px) if self.file else _carried(size_px)


def find_fonts(language: Language, configured: Path | None) -> Fonts:
    """The configured font, else the first installed one that has the language's script.

    Raises InvalidConfiguration when there is none for Chinese, or when the configured one cannot be loaded.
    """
    if configured is not None:
        try:
            _load(configured, 0, 20)
        except OSError as exc:
            raise InvalidConfiguration(f"compose.font: {configured} cannot be loaded as a font") from exc
        return Fonts(FontFile(path=configured, bold_path=configured))
    candidates = _CHINESE if language is Language.CHINESE else (*_CHINESE, *_LATIN)
    for file in candidates:
        if file.path.is_file():
            bold = file.bold_path if file.bold_path.is_file() else file.path
            return Fonts(FontFile(path=file.path, bold_path=bold, index=file.index))
    if language is Language.CHINESE:
        raise InvalidConfiguration(
            "No font with Chinese glyphs is installed, so Chinese drafts cannot be drawn: "
            "install the package fonts-noto-cjk or set compose.font"
        )
    return Fonts(None)


@cache
def _load(path: Path, index: int, size_px: int) -> Font:
    return ImageFont.truetype(str(path), size_px, index=index)


@cache
def _carried(size_px: int) -> Font:
    return ImageFont.load_default(size_px)
