"""Runs: a trained model, kept in a directory, is asked for samples, densities and codes in the data's own units."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.data import conditions
from pushforward.data.batches import Data
from pushforward.data.conditions import parse_condition
from pushforward.data.spec import DataSpec
from pushforward.data.units import Units, units
from pushforward.errors import UserError, nearest
from pushforward.models.contract import (
    Completes,
    Corrupts,
    Decodes,
    Density,
    Encodes,
    Extends,
    LogProb,
    Samples,
    Trajectories,
    Translates,
    device_of,
    takes_condition,
)
from pushforward.randomness import SampleRng
from pushforward.training import checkpoints
from pushforward.training.log import read_history
from pushforward.training.precision import autocast
from pushforward.training.records import BEST


class Run:
    """A trained model with its data contract: what `pf.train` and `pf.load` return.

    model: the network with averaged weights, in eval mode. directory: where it is kept. record: what run.yaml says.
    history: the rows of history.jsonl. data: what it was trained on, or what loads that when it is asked for. best: whether the
    weights are those of best.safetensors instead of the last ones.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: DataSpec,
        directory: Path,
        record: dict[str, Any],
        data: Data | Callable[[], Data] | None = None,
        best: bool = False,
    ):
        self.model, self.spec, self.directory, self.record = model, spec, Path(directory), record
        self._data, self.best = data, best

    def __repr__(self) -> str:
        result = self.record.get("result", {})
        return f"Run({self.record['model']['name']} on {self.spec.name}, {result.get('steps', 0)} steps, {self.directory})"

    @property
    def units(self) -> Units:
        """Between the data's own units and the model's."""
        return units(self.spec)

    @property
    def result(self) -> dict[str, Any]:
        """How the training ended: status, steps, examples, seconds."""
        return self.record.get("result", {})

    @property
    def history(self) -> list[dict[str, Any]]:
        path = self.directory / "history.jsonl"
        return read_history(path) if path.exists() else []

    @property
    def weights(self) -> str:
        """Fingerprint of the weights that this run samples with."""
        last = checkpoints.weights_file(self.directory, self.result.get("status"))
        return checkpoints.fingerprint(self.directory / BEST if self.best else last)

    @property
    def data(self) -> Data | None:
        """The data, where they can be had: None for a run loaded from its directory that was trained on data in memory."""
        try:
            return self.load_data()
        except UserError:
            return None

    def load_data(self) -> Data:
        """The data that the run was trained on, loaded again from where they came."""
        if self._data is None:
            raise UserError(f"the run in {self.directory} was trained on data in memory; give the data again.")
        if not isinstance(self._data, Data):
            self._data = self._data()
        return self._data

    def sample(
        self, n: int, *, condition: Any = None, seed: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """n samples in the data's own units: images (n, C, H, W) in their levels, a DataFrame, an array, strings.

        condition: a class (name or number) for all of them, or one each; attributes as a dict of names, or a row each;
        texts; paired images in their levels.
        seed: sample i is a function of (seed, i), whatever n and the batch size; None: fresh ones. options: the model's own
        (steps, guidance, temperature, ...); an unknown one is an error that names them.
        """
        return self.units.present(self.sample_codes(n, condition=condition, seed=seed, batch_size=batch_size, **options))

    def sample_codes(
        self, n: int, *, condition: Any = None, seed: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Tensor:
        """As `sample`, but as codes (n, ...): levels, token ids, table rows with category numbers."""
        model = self._able(Samples, "sample")
        self._check_options("sample", options)
        return self._drawn(model.sample, n, condition, seed, batch_size, options)

    def trajectory(
        self,
        n: int,
        *,
        frames: int = 8,
        condition: Any = None,
        seed: int | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Tensor:
        """How n samples come about, from noise (first) to data (last), as codes (frames, n, ...). Arguments as of `sample`."""
        if frames < 2:
            raise UserError(f"frames = {frames} was given; a trajectory has at least 2, its beginning and its end.")
        model = self._able(Trajectories, "show how its samples come about")
        self._check_options("trajectory", options)
        return self._drawn(model.trajectory, n, condition, seed, batch_size, {"frames": frames, **options}, axis=1)

    def _drawn(
        self,
        draw: Callable[..., Tensor],
        n: int,
        condition: Any,
        seed: int | None,
        batch_size: int | None,
        options: dict[str, Any],
        axis: int = 0,
    ) -> Tensor:
        """Codes of what the model draws, part by part along `axis`."""
        if n < 1:
            raise UserError(f"n = {n} samples were asked for; it must be at least 1.")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size = {batch_size} was given; it must be at least 1.")
        if condition is not None and self.spec.condition is not None and not takes_condition(self.model, self.spec):
            name = self.record["model"]["name"]
            raise UserError(
                f"condition = {str(condition)[:40]} was asked of '{name}', which makes data without one; leave it away."
            )
        options = {name: value.model if isinstance(value, Run) else value for name, value in options.items()}
        guide = options.get("classifier")  # whose conditions are those of a run that was trained without
        spec = self.spec if guide is None or self.spec.condition is not None else guide.spec
        seed, wanted = _seed(seed), parse_condition(spec, condition, n)
        size = batch_size or max(1, min(1024, 2**22 // max(1, self.spec.dimensions)))
        parts = []
        with torch.no_grad(), self._pace():  # not inference_mode: some samplers differentiate on their way
            for start in range(0, n, size):
                count = min(size, n - start)
                given = self._condition(wanted, slice(start, start + count))
                x = draw(count, condition=given, generator=self._rng(seed, start), **options)
                flat = x.flatten(0, axis)  # units know one axis of rows
                parts.append(self.units.to_codes(flat).cpu().unflatten(0, x.shape[: axis + 1]))
        return torch.cat(parts, axis)

    def given(self, codes: Tensor) -> Tensor:
        """Of data, as codes, what is to be translated: of a model that was trained on corrupted images these, else the data."""
        if not isinstance(self.model, Corrupts):
            return codes
        with torch.no_grad():
            x = self.units.to_model(codes.to(device_of(self.model)))
            return self.units.to_codes(self.model.corrupted(x)).cpu().to(codes.dtype)

    def translate(self, x: Any, *, condition: Any = None, seed: int | None = None, **options: Any) -> Any:
        """Images x of one domain as images of another, both in their levels; what is random is a function of (seed, row).

        Where the data are pairs (an image given an image), x are images of the kind that the data are conditioned on.
        """
        model = self._able(Translates, "translate")
        self._check_options("translate", options)
        paired = self.spec.condition is not None and self.spec.condition.kind == "image"
        if paired:
            if condition is not None:
                raise UserError("x is all that this model is conditioned on; leave the condition away.")
            rows = 1 if torch.as_tensor(x).dim() < 4 else len(x)
            source, wanted = self._condition(parse_condition(self.spec, x, rows)), None
            assert source is not None
        else:
            source, wanted = self._model_input(x, condition)
        with torch.no_grad():
            made = model.translate(source, condition=wanted, generator=self._rng(_seed(seed)), **options)
        return self.units.present(self.units.to_codes(made).cpu())

    def extend(
        self,
        prefix: Any,
        length: int = 100,
        *,
        condition: Any = None,
        seed: int | None = None,
        watch: Callable[[int, Tensor], object] | None = None,
        **options: Any,
    ) -> Any:
        """Texts (or token ids) that begin with `prefix` and go on for `length` tokens. One text or several, of any lengths.

        Row i is a function of (seed, i, prefix i). watch: called after each token with the number of the first row that is
        being drawn and its ids so far (rows, p + 1 .. p + length): of texts one row after another. options: the model's own
        (temperature, top_k, top_p).
        """
        model = self._able(Extends, "continue texts")
        self._check_options("extend", options if watch is None else {**options, "watch": watch})
        texts = [prefix] if isinstance(prefix, str) else prefix
        if len(texts) == 0:
            raise UserError("no prefix was given; give a text, or several.")
        one_by_one = isinstance(texts[0], str)  # they may have different lengths
        parts = [self.units.parse([text]).long() for text in texts] if one_by_one else [self.units.parse(texts)]
        wanted = parse_condition(self.spec, condition, sum(map(len, parts)))
        seed, first, made = _seed(seed), 0, []
        for part in parts:
            rows = slice(first, first + len(part))
            given = self._condition(wanted, rows)
            x = part.to(device_of(self.model))
            if watch is not None:
                options["watch"] = functools.partial(watch, first)
            with torch.no_grad():
                made.append(model.extend(x, length, condition=given, generator=self._rng(seed, first), **options))
            first = rows.stop
        if one_by_one:
            return [text for codes in made for text in self.units.present(codes.cpu())]
        return self.units.present(made[0].cpu())

    def complete(self, x: Any, known: Any, *, condition: Any = None, seed: int | None = None, **options: Any) -> Any:
        """Data x of which only a part is known, with the rest drawn. known: true where x is to be kept, of x's shape (n, ...)
        in the model's layout (images (n, C, H, W)), or (H, W) or one datum's shape for all."""
        model = self._able(Completes, "complete data")
        self._check_options("complete", options)
        x, wanted = self._model_input(x, condition)
        mask = torch.as_tensor(known).to(x.device).bool()
        try:
            mask = mask.expand_as(x)
        except RuntimeError:
            raise UserError(f"known of shape {tuple(mask.shape)} does not fit data of shape {tuple(x.shape)}.") from None
        with torch.no_grad():
            made = model.complete(x, mask, condition=wanted, generator=self._rng(_seed(seed)), **options)
        return self.units.present(self.units.to_codes(made).cpu())

    def log_prob(self, x: Any, *, condition: Any = None, **options: Any) -> LogProb:
        """Log-density of data in nats per datum, in the data's own units: for integer data the log-probability.

        A model that reads grey levels as the probabilities of black and white pixels (`binarised`: likelihood="bernoulli" on
        more than two levels) gives the log-probability of such black and white images, on average or of one of each, instead:
        no distribution of the grey ones, over which its exponential does not add up to 1. options: the model's own (draws,
        steps, ...), and those of `log_prob_codes`; an unknown one is an error that names them.
        """
        codes = self.units.parse(x)
        return self.log_prob_codes(codes, condition=parse_condition(self.spec, condition, len(codes)), **options)

    def log_prob_codes(
        self, codes: Tensor, *, condition: Tensor | None = None, batch_size: int = 256, noise_draws: int = 8, **options: Any
    ) -> LogProb:
        """As `log_prob`, of codes. Without a condition it is the density of all data together.

        Levels, integers, categories and gaps have no density: they are dequantised, which makes an exact log-density a bound
        on the log-probability, the mean over `noise_draws` draws (one for a costly estimate) that are the same for all data, so
        that it is a function of the datum alone. Models of the levels themselves (`mass`) need none of this.
        """
        model = self._able(Density, "say how likely data are")
        self._check_options("log_prob", options)
        if batch_size < 1 or noise_draws < 1:
            raise UserError(f"batch_size = {batch_size} and noise_draws = {noise_draws} were given; both must be at least 1.")
        noisy = self.units.discrete and not getattr(self.model, "mass", False)
        device, draws, kind = device_of(self.model), [], "exact"
        for draw in range(noise_draws if noisy else 1):
            values, errors = [], []
            for start in range(0, len(codes), batch_size):
                part = codes[start : start + batch_size].to(device)
                rng = SampleRng(0xDE, first=draw, device=device, alike=True) if noisy else None
                asked = self._condition(condition, slice(start, start + batch_size))
                with torch.no_grad():
                    found = model.log_prob(self.units.to_model(part, rng), condition=asked, **options)
                values.append((found.value + self.units.log_dets(part)).cpu())
                errors.append(torch.zeros(len(part)) if found.stderr is None else found.stderr.cpu())
                kind = found.kind
            draws.append(torch.cat(values))
            if kind == "estimate":
                break
        if kind == "exact" and noisy:
            kind = "bound"
        return LogProb(torch.stack(draws).mean(0), kind, torch.cat(errors) if kind == "estimate" else None)  # type: ignore[arg-type]

    def encode(self, x: Any, *, condition: Any = None, **options: Any) -> Tensor:
        """Codes z (n, ...) of data in their own units."""
        model = self._able(Encodes, "encode")
        with torch.no_grad():
            x, wanted = self._model_input(x, condition)
            return model.encode(x, condition=wanted, **options).cpu()

    def decode(self, z: Tensor, *, condition: Any = None, **options: Any) -> Any:
        """Data, in their own units, of codes z (n, ...)."""
        model = self._able(Decodes, "decode")
        wanted = parse_condition(self.spec, condition, len(z))
        device = device_of(self.model)
        with torch.no_grad():
            x = model.decode(z.to(device), condition=self._condition(wanted), **options)
        return self.units.present(self.units.to_codes(x).cpu())

    def reconstruct(self, x: Any, *, condition: Any = None) -> Any:
        """decode(encode(x))."""
        return self.decode(self.encode(x, condition=condition), condition=condition)

    def _model_input(self, x: Any, condition: Any) -> tuple[Tensor, Tensor | None]:
        codes, device = self.units.parse(x), device_of(self.model)
        wanted = parse_condition(self.spec, condition, len(codes))
        return self.units.to_model(codes.to(device)), self._condition(wanted)

    def _condition(self, codes: Tensor | None, rows: slice = slice(None)) -> Tensor | None:
        """Conditions as the model sees them, on its device."""
        if codes is None:
            return None
        return conditions.to_model(self.spec.condition, codes[rows].to(device_of(self.model)))

    def _pace(self) -> Any:
        """The precision of training, bf16 where that was faster, if the model says that its samples are as good in it."""
        stands = getattr(self.model, "samples_in_half", False)
        return autocast(device_of(self.model), self.record.get("training", {}).get("precision", "fp32") if stands else "fp32")

    def _rng(self, seed: int, first: int = 0) -> SampleRng:
        return SampleRng(seed, first=first, device=device_of(self.model))

    def _check_options(self, method: str, options: dict[str, Any]) -> None:
        """Refuses an option that the model's method does not have."""
        valid = sampling_options(type(self.model), method)
        for name in options:
            if name not in valid:
                kind = "sampling option" if method == "sample" else f"option for {method}"
                raise UserError(f"'{self.record['model']['name']}' has no {kind} '{name}'; {nearest(name, valid)}")

    def _able(self, protocol: Any, verb: str) -> Any:
        if not isinstance(self.model, protocol):
            raise UserError(f"'{self.record['model']['name']}' cannot {verb}; `pushforward models` lists who can.")
        return self.model


def _seed(seed: int | None) -> int:
    """The seed as given, or a fresh one."""
    return int(torch.randint(2**62, ()).item()) if seed is None else seed


ARGUMENTS = {
    "sample": ["n"],
    "trajectory": ["n", "frames"],
    "translate": ["x"],
    "extend": ["prefix", "length"],
    "complete": ["x", "known"],
    "log_prob": ["x"],
}


def sampling_options(model_class: type, method: str = "sample") -> list[str]:
    """The names of a model's own options of `sample` (or another method that draws), beside those of the contract."""
    common = {"self", "condition", "generator", *ARGUMENTS[method]}
    parameters = inspect.signature(getattr(model_class, method)).parameters
    passed_on = sampling_options(model_class) if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else []
    return [name for name, p in parameters.items() if name not in common and p.kind is not p.VAR_KEYWORD] + passed_on
