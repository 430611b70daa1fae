"""The options of `load_data` as one value, checked once. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from pushforward.errors import UserError, nearest

ARRAY_KINDS = ("image", "point", "field", "tokens")
IMAGE_MODES = ("L", "LA", "RGB", "RGBA", "I;16")
IMAGE_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif"]
)
PART_NAMES = {  # what people call the parts of a data set
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Options:
    """What was asked of `load_data`; its `Args` explain each."""

    kind: str | None = None
    label: str | bool | None = None
    attributes: str | None = None
    caption: str | None = None
    image: str | None = None
    target_image: str | None = None
    size: int | str | None = None
    crop: bool = True
    mode: str | None = None
    columns: str | None = None
    categories: str | None = None
    numbers: str | None = None
    series: int | None = None
    context: int | None = None
    tokenizer: str = "characters"
    vocabulary_size: int = 1024
    test_source: str | None = None
    validation: float = 0.1
    test: float = 0.2
    limit: int | None = None
    strict: bool = False
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} was given; it is a fraction of the data, 0 to below 1.")
        if self.validation + self.test >= 1:
            raise UserError(
                f"validation={self.validation} and test={self.test} leave nothing to train on; give less than 1 in all."
            )
        for name, least in (("limit", 2), ("n", 2), ("series", 2), ("context", 2), ("vocabulary_size", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value} was given; it must be at least {least}.")
        if self.mode is not None and self.mode not in IMAGE_MODES:
            raise UserError(f"mode={self.mode!r} is not a colour mode known here; valid: {', '.join(IMAGE_MODES)}.")
        if self.kind is not None and self.kind not in ARRAY_KINDS:
            raise UserError(f"kind={self.kind!r} is unknown; an array can be read as {', '.join(ARRAY_KINDS)}.")
        if self.tokenizer not in ("characters", "bpe"):
            raise UserError(f"tokenizer={self.tokenizer!r} is unknown; {nearest(self.tokenizer, ('characters', 'bpe'))}")
        self.height_width  # noqa: B018  (its check)
        asked = [name for name in ("attributes", "caption", "target_image") if getattr(self, name) is not None]
        asked += ["label"] if self.named_label is not None else []
        if len(asked) > 1:
            raise UserError(f"{' and '.join(asked)} were given together; a datum has one condition, so give one of them.")

    @property
    def height_width(self) -> tuple[int, int] | None:
        """`size` as (height, width).

        >>> Options(size="64").height_width, Options(size="64x48").height_width
        ((64, 64), (64, 48))
        """
        if self.size is None:
            return None
        parts = str(self.size).lower().split("x")
        try:
            sides = [int(part) for part in parts]
        except ValueError:
            sides = []
        if len(sides) not in (1, 2) or min(sides) < 1:
            raise UserError(
                f"size={self.size!r} was given; it is a side like 64, or HEIGHTxWIDTH like 64x48, of at least 1 pixel."
            )
        return sides[0], sides[-1]

    @property
    def named_label(self) -> str | None:
        """The label that was asked for by name."""
        return self.label if isinstance(self.label, str) and self.label.lower() not in ("none", "false") else None

    @property
    def no_label(self) -> bool:
        """Whether a label that is there is to be ignored: asked so, or because another condition was asked for."""
        refused = self.label is not None and self.named_label is None
        return refused or any(value is not None for value in (self.attributes, self.caption, self.target_image))

    def forbid(self, what: str, *names: str) -> None:
        """An option that means nothing for such data is an error, not silence."""
        defaults = Options.__dataclass_fields__
        for name in names:
            if getattr(self, name) != defaults[name].default:
                raise UserError(f"{name}={getattr(self, name)!r} means nothing for {what}; leave it out.")

    def listed(self, name: str) -> list[str]:
        """A comma-separated option as a list."""
        return [part.strip() for part in (getattr(self, name) or "").split(",") if part.strip()]
