"""`compare`: several models on the same data under one budget, measured alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushforward import zoo
from pushforward.comparison.report import write_comparison, write_report
from pushforward.data.batches import Data
from pushforward.data.loading import load_data
from pushforward.errors import UserError
from pushforward.evaluation.evaluate import evaluate
from pushforward.evaluation.records import WIDE, Evaluation, as_text, figure, figures_table, longest_word
from pushforward.measures.measure import Measure
from pushforward.training.runs import Run
from pushforward.training.train import build, train

if TYPE_CHECKING:
    from rich.console import Group
    from torch import nn

SHORT = 0.25  # of the steps that a model has by default: what is said to be too few to compare by
GAP = 3  # characters between two columns


@dataclass
class Comparison:
    """What `compare` returns: a run and an evaluation for each model, and the page that shows them."""

    directory: Path
    runs: dict[str, Run] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    page: Path | None = None

    def __str__(self) -> str:
        return "\n".join([as_text(self.table()), *self.notes()])

    def notes(self) -> list[str]:
        """What to know before the figures are compared: that models were cut short."""
        shares = {}
        for label, run in self.runs.items():
            name = run.record["model"]["name"]
            usual = zoo.ZOO[name].training.get("steps") if name in zoo.ZOO else None
            if usual and (share := run.result.get("steps", 0) / usual) < SHORT:
                shares[label] = f"{label} {100 * share:.0f} %"
        if not shares:
            return []
        return [
            f"Of its usual steps {', '.join(shares.values())} were made: these figures say which model learns "
            "fastest, not which is best. A longer --budget, or none, says that."
        ]

    def table(self, width: int = 120) -> Group:
        """Models as columns, measures as rows, for a terminal of `width` characters.

        Models that find no room beside each other follow in further tables, each with the column of real data.
        """
        from rich.console import Group

        rows: dict[str, list[Measure]] = {}  # likelihoods of different kinds are not set beside each other
        columns: dict[str, dict[str, str]] = {}
        for model, evaluation in self.evaluations.items():
            columns[model] = {measure.titled: figure(measure.value) for measure in evaluation.measures}
            for measure in evaluation.measures:
                rows.setdefault(measure.titled, []).append(measure)
        # By groups, which a measure that only a later model has would break; `sorted` keeps the order within them.
        groups = list(dict.fromkeys(measures[0].group for measures in rows.values()))
        rows = dict(sorted(rows.items(), key=lambda row: groups.index(row[1][0].group)))
        titles = {row: " ".join(filter(None, (measures[0].arrow, row))) for row, measures in rows.items()}
        floors = {row: figure(next((m.floor for m in measures if m.floor is not None), None)) for row, measures in rows.items()}
        heading = "real against real" if width >= WIDE else "real data"
        widths = {model: max(map(len, [model, *cells.values()])) + GAP for model, cells in columns.items()}
        # The column of names may wrap between words, down to its longest word; not much further than it has to.
        names = max(longest_word(titles.values()), min(24, max(map(len, titles.values()), default=0)))
        room = width - names - max(map(len, [heading, *floors.values()])) - 2 * GAP
        tables = []
        for number, models in enumerate(_packed(widths, room)):
            table = figures_table(None if number else str(self.directory))
            table.add_column("measure", min_width=longest_word(titles.values()))
            for model in models:
                table.add_column(model, justify="right", no_wrap=True)
            table.add_column(heading, justify="right", no_wrap=True)
            group = None
            for row, measures in rows.items():
                if group not in (None, measures[0].group):
                    table.add_section()
                group = measures[0].group
                table.add_row(titles[row], *(columns[model].get(row, "") for model in models), floors[row])
            tables.append(table)
        return Group(*tables)


def _packed(widths: dict[str, int], room: int) -> list[list[str]]:
    """Names in rows, each as many as there is room for (at least one).

    >>> _packed({"gmm": 10, "vae": 10, "gan": 10}, 25)
    [['gmm', 'vae'], ['gan']]
    """
    rows: list[list[str]] = []
    left = 0
    for name, width in widths.items():
        if not rows or width > left:
            rows.append([])
            left = room
        rows[-1].append(name)
        left -= width
    return rows


def labels(names: Sequence[str]) -> list[str]:
    """A label of its own for each entry: a name that comes again is numbered.

    >>> labels(["gaussian", "vae", "gaussian", "gaussian"])
    ['gaussian', 'vae', 'gaussian-2', 'gaussian-3']
    """
    given: list[str] = []
    for name in names:
        label, number = name, 1
        while label in given or (number > 1 and label in names):
            number += 1
            label = f"{name}-{number}"
        given.append(label)
    return given


def compare(
    models: Sequence[str | nn.Module],
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

    models: names, or modules (of `pf.create`, with settings of their own). A name may come again: its entries are labelled
    "vae", "vae-2", ... and trained with the seeds `seed`, `seed` + 1, ..., which shows how much of a difference is luck.
    Neither budget nor steps given: each model's own default length. Models that cannot learn the data are refused before any
    is trained.
    """
    if isinstance(models, str) or len(models) < 1:
        raise UserError(f"compare takes a list of model names; {models!r} was given.")
    if len({id(model) for model in models if not isinstance(model, str)}) < sum(not isinstance(m, str) for m in models):
        raise UserError("the same module was given twice and would be trained twice; create another one.")
    data = data if isinstance(data, Data) else load_data(data)
    names = [model if isinstance(model, str) else str(getattr(model, "name", type(model).__name__)) for model in models]
    built: dict[str, tuple[nn.Module, int]] = {}
    for place, (label, model) in enumerate(zip(labels(names), models, strict=True)):
        if isinstance(model, str):
            own = seed + list(models[:place]).count(model)
            built[label] = build(model, data.spec, {}, own), own
        else:
            built[label] = model, seed
    directory = Path(out) if out else _free(Path("runs") / f"compare-{data.spec.name}")
    found = Comparison(directory)
    for name, (model, own) in built.items():
        run = train(model, data, budget=budget, steps=steps, out=str(directory / name), seed=own, device=device)
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
        found.notes(),
    )
    return found


def _free(first: Path) -> Path:
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path
