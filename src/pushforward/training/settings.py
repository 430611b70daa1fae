"""What a training run can be told. Plain values, no torch: the command line reads its options from here."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pushforward.errors import UserError


@dataclass(frozen=True)
class TrainingSettings:
    """How long, how fast and where to train.

    Args:
        out: the run directory; by default runs/MODEL-DATA, with a number behind where that is taken.
        steps: how many steps. A step is one turn of every player.
        epochs: how many times to see the training set (instead of steps).
        budget: how long to train: "90s", "5m", "1h30m"; loading before and measuring after it come on top. With steps too,
            whichever ends first.
        batch_size: data an update and process; "auto" finds the largest that still pays and fits in memory.
        seed: of the weights, the order of the data and all noise.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32", "bf16" (autocast), or "auto": time both on this hardware and keep the faster.
        resume: go on with the run in `out` (by default the newest of its kind in runs/), exactly where its checkpoint stands.
        learning_rate: of the first player, instead of its own; other players keep their ratio to it.
        clip: largest norm of a player's gradient; 0 leaves it alone.
        accumulate: cut each batch into so many micro-batches, to save memory.
        average_half_life: half-life of the weights' moving average in examples; by default 5 % of the examples seen so far,
            so that it fits runs of any length; 0 keeps the last weights.
        log_every: steps between two lines of history.jsonl.
        checkpoint_every: steps between two checkpoints; by default one a minute.
        validate_every: steps between two validation losses or, where no loss says how a model does (a game), two looks at its
            samples; by default twenty in a run and one at its end, fewer where they would take more than 10 % of the time
            (looks: 5 %) and `patience` does not count them; 0 never.
        patience: stop when the validation loss has not improved for so many validations, and keep the best weights; 0 never
            stops. By default 0, or what the method is known to want.
        picture_every: steps between two sample pictures; by default about six in a run; 0 never.
        tensorboard: also write TensorBoard event files to the run directory.
        wandb: also log to Weights & Biases under this project name (needs the extra `wandb`).
    """

    out: str | None = None
    steps: int | None = None
    epochs: float | None = None
    budget: str | None = None
    batch_size: int | Literal["auto"] | None = None
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    resume: bool = False
    learning_rate: float | None = None
    clip: float = 1.0
    accumulate: int = 1
    average_half_life: int | None = None
    log_every: int = 50
    checkpoint_every: int | None = None
    validate_every: int | None = None
    patience: int | None = None
    picture_every: int | None = None
    tensorboard: bool = True
    wandb: str | None = None

    def __post_init__(self) -> None:
        for name, least in {
            "steps": 1, "epochs": 1e-9, "accumulate": 1, "log_every": 1, "checkpoint_every": 1, "patience": 0,
            "learning_rate": 1e-12, "clip": 0, "average_half_life": 0, "validate_every": 0, "picture_every": 0,
        }.items():  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value >= least:
                wanted = "more than 0" if 0 < least < 1 else f"at least {least}"
                raise UserError(f"{name} = {value} was given; it must be {wanted}.")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise UserError(f"batch_size = {self.batch_size} was given; it must be at least 1, or 'auto'.")
        if isinstance(self.batch_size, str) and self.batch_size != "auto":
            raise UserError(f"batch_size = '{self.batch_size}' was given; it must be a number, or 'auto'.")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise UserError(f"precision = '{self.precision}' was given; it must be auto, fp32 or bf16.")
        if self.budget is not None:
            seconds(self.budget)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for run.yaml."""
        return asdict(self)


def seconds(budget: str | float) -> float:
    """A duration in seconds.

    >>> seconds("90s"), seconds("5m"), seconds("1h30m"), seconds("45")
    (90.0, 300.0, 5400.0, 45.0)
    """
    text = str(budget).strip().lower()
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", text)
    total = sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True)) if parts else 0.0
    if total <= 0:
        raise UserError(f"budget = '{budget}' is not a duration; write it like 90s, 5m or 1h30m.")
    return total
