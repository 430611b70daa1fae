"""`compare`: several models on the same data under one budget, measured alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pushforward.comparison.report import write_comparison, write_report
from pushforward.data.batches import Data
from pushforward.data.loading import load_data
from pushforward.errors import UserError
from pushforward.evaluation.evaluate import evaluate
from pushforward.evaluation.records import Evaluation, as_text
from pushforward.training.runs import Run
from pushforward.training.train import build, train


@dataclass
class Comparison:
    """What `compare` returns: a run and an evaluation for each model, and the page that shows them."""

    directory: Path
    runs: dict[str, Run] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    page: Path | None = None

    def __str__(self) -> str:
        return as_text(self.table())

    def table(self) -> Any:
        """Models as columns, measures as rows, for a terminal."""
        from rich.table import Table

        names = list(self.runs)
        out = Table("measure", "better", *names, "real against real", title=str(self.directory))
        rows: dict[str, str] = {}
        for evaluation in self.evaluations.values():
            for measure in evaluation.measures:
                rows.setdefault(measure.name, measure.better)
        for row, better in rows.items():
            cells, floor = [], ""
            for name in names:
                evaluation = self.evaluations[name]
                if row not in evaluation:
                    cells.append("")
                    continue
                measure = evaluation[row]
                cells.append(f"{measure.value:.4g}" + (f" ({measure.kind})" if measure.kind else ""))
                floor = f"{measure.floor:.4g}" if measure.floor is not None else floor
            out.add_row(row, better, *cells, floor)
        return out


def compare(
    models: Sequence[str],
    data: Any = "digits",
    *,
    budget: str | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Comparison:
    """Trains each model for the same time (`budget`, such as "60s") or number of steps on the same data, and measures all
    of them with the same samples' number, features and floor.

    Neither given: each model's own default length. Models that cannot learn the data are refused before any is trained.
    """
    if isinstance(models, str) or len(models) < 1:
        raise UserError(f"compare takes a list of model names; {models!r} was given.")
    data = data if isinstance(data, Data) else load_data(data)
    built = {name: build(name, data.spec, {}, seed) for name in models}
    directory = Path(out) if out else _free(Path("runs") / f"compare-{data.spec.name}")
    found = Comparison(directory)
    for name, model in built.items():
        run = train(model, data, budget=budget, steps=steps, out=str(directory / name), seed=seed, device=device)
        found.runs[name] = run
        found.evaluations[name] = evaluate(run, data, seed=seed)
        write_report(run.directory)
    found.page = write_comparison(
        directory,
        [
            {
                "name": name,
                "directory": str(run.directory),
                "metrics": found.evaluations[name].to_dict(),
                "samples": str(run.directory / "samples.png"),
                "result": run.result,
            }
            for name, run in found.runs.items()
        ],
    )
    return found


def _free(first: Path) -> Path:
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path
