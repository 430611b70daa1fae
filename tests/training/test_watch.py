"""Watched games: collapse, oscillation and overfitting critics are seen, the best checkpoint is kept, and all within bounds."""

import json
import math
import re
import time

import numpy as np
import pytest
import torch
from small import Denoiser, Game, points
from torch import nn

from pushforward.comparison.report import write_report
from pushforward.data.batches import ArraySplit, Data, take
from pushforward.data.loading import load_data
from pushforward.data.spec import Column, DataSpec
from pushforward.data.toys import mode_centres, toy
from pushforward.data.units import units
from pushforward.errors import UserError
from pushforward.evaluation.evaluate import evaluate
from pushforward.models.contract import Judges, Loss, Player
from pushforward.randomness import SampleRng, as_rng, mix
from pushforward.training import health
from pushforward.training.checkpoints import STATE, read_tensors, write_tensors
from pushforward.training.log import Display
from pushforward.training.opening import load
from pushforward.training.records import BEST
from pushforward.training.train import build, train
from pushforward.training.watch import SEED, Kinds, Watch, _mixture_kinds

QUICK = {"tensorboard": False, "precision": "fp32", "picture_every": 0, "batch_size": 32}


class Actor(nn.Module):
    """A game whose generator is a law: (n, rng, updates so far) -> codes (n, ...)."""

    def __init__(self, spec, law):
        super().__init__()
        self.spec, self.law, self.name, self.settings = spec, law, "actor", {}
        self.critic, self.generator = nn.Linear(1, 1), nn.Linear(1, 1)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def players(self):
        def loss(network):
            return lambda batch, rng: Loss((network(batch.x.new_ones(1, 1)) - 1).square().sum())

        def count(keep, moment):
            self.updates += 1

        makers = Player("generator", self.generator, loss(self.generator), after_update=count)
        return [Player("critic", self.critic, loss(self.critic)), makers]

    def sample(self, n, *, condition=None, generator=None):
        return units(self.spec).to_model(self.law(n, as_rng(generator), int(self.updates)))


class Judge(Actor):
    """With a critic's opinion: x (B, ...) -> logits (B,)."""

    def __init__(self, spec, law, opinion):
        super().__init__(spec, law)
        self.opinion = opinion

    def judge(self, x, *, condition=None):
        return self.opinion(x)


def ring(n, rng, updates=0):
    uniform = rng.rand(n, 3, dtype=torch.float64).clamp(1e-9, 1 - 1e-9).numpy()
    return torch.from_numpy(toy("ring8").make(uniform)).float()


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """No pictures at the end of a run; the same first weights for all."""
    monkeypatch.setattr("pushforward.training.train.draw_run", lambda run: None)
    torch.manual_seed(0)


def watched(run):
    return [row for row in run.history if "watch/distance" in row]


@pytest.fixture(scope="module")
def ring8():
    return load_data("ring8")


def test_a_perfect_sampler_is_healthy(tmp_path, ring8):
    run = train(Actor(ring8.spec, ring), ring8, steps=20, out=str(tmp_path / "a"), validate_every=5, **QUICK)
    rows = watched(run)
    assert [row["step"] for row in rows] == [5, 10, 15, 20] and run.result["notes"] == []
    # Two draws of 1,000 are as far apart as the floor, 0.04 to 0.05 in standardised units (W2 ~ n^(-1/2)).
    assert rows[-1]["watch/modes"] == 8 and rows[-1]["watch/distance"] < 0.15
    assert 0.8 < rows[-1]["watch/diversity"] < 1.25
    assert "watch/critic gap" not in rows[-1], "nobody judges"


def test_a_point_mass_is_collapsed(tmp_path, ring8):
    point = mode_centres("ring8")[:1]
    run = train(Actor(ring8.spec, lambda n, rng, k: point.expand(n, 2)), ring8, steps=9, out=str(tmp_path / "a"), **QUICK)
    row = watched(run)[-1]
    assert row["step"] == 9 and row["watch/diversity"] == 0 and row["watch/modes"] == 1
    # W2^2 to a point is the mean squared distance: 2 + |c|^2 in standardised units, over 2 directions.
    centre = (point - torch.tensor([c.mean for c in ring8.spec.columns])) / torch.tensor([c.scale for c in ring8.spec.columns])
    assert row["watch/distance"] == pytest.approx(math.sqrt((2 + centre.square().sum().item()) / 2), rel=0.03)
    (said,) = run.result["notes"]
    assert said.startswith("The samples have collapsed: each has another one at 0 %") and "lack 7 of 8 modes" in said
    # It is said at the end, and again by whoever measures or reads.
    evaluation = evaluate(run, ring8, n=200, progress=False)
    assert said in evaluation.findings
    page = write_report(run.directory).read_text()
    assert page.count("The samples have collapsed") == 2 and page.index("The samples have") < page.index("<h2>Measures")


def test_modes_that_are_left_out_are_counted_and_blobs_are_no_modes(tmp_path, ring8):
    centres = mode_centres("ring8")

    def three(n, rng, updates):
        return centres[rng.randint(3, n)] + 0.01 * rng.randn(n, 2)

    run = train(Actor(ring8.spec, three), ring8, steps=3, out=str(tmp_path / "a"), validate_every=3, **QUICK)
    assert watched(run)[-1]["watch/modes"] == 3 and "lack 5 of 8 modes" in run.result["notes"][0]
    blob = train(Actor(ring8.spec, lambda n, rng, k: 0.3 * rng.randn(n, 2)), ring8, steps=3, out=str(tmp_path / "b"), **QUICK)
    assert watched(blob)[-1]["watch/modes"] == 0


def test_classes_are_recognised(tmp_path):
    """On digits without being told the labels of the samples: five classes left of ten, then all."""
    data = load_data("digits")
    codes, labels = take(data.test)
    low = codes[labels < 5]
    for name, pool in (("five", low), ("ten", codes)):

        def copies(n, rng, updates, pool=pool):
            return pool[rng.randint(len(pool), n)]

        run = train(Actor(data.spec, copies), data, steps=4, out=str(tmp_path / name), validate_every=4, **QUICK)
        modes = watched(run)[-1]["watch/modes"]
        assert modes == (5 if name == "five" else 10)
        assert ("lack 5 of 10 classes" in " ".join(run.result["notes"])) == (name == "five")


def swinging(n, rng, updates):
    """At the data at update 40, ever further before and after."""
    return ring(n, rng) + 0.05 * abs(updates - 40)


def test_the_best_checkpoint_is_kept_though_the_last_is_worse(tmp_path, ring8):
    out = tmp_path / "a"
    run = train(Actor(ring8.spec, swinging), ring8, steps=100, out=str(out), validate_every=10, **QUICK)
    figures = {row["step"]: row["watch/distance"] for row in watched(run)}
    assert min(figures, key=figures.get) == 40 and len(figures) == 10
    assert run.result["best"] == {"figure": figures[40], "step": 40}
    assert run.model.updates == 100, "the last weights are what the run returns"
    best = load(out, model=Actor(ring8.spec, swinging), best=True)
    last = load(out, model=Actor(ring8.spec, swinging))
    assert best.model.updates == 40 and last.model.updates == 100 and best.weights != last.weights
    # The averaged weights of that moment, not those that were being trained.
    torch.manual_seed(0)
    again = train(Actor(ring8.spec, swinging), ring8, steps=100, out=str(tmp_path / "b"), validate_every=40, **QUICK)
    a, b = (read_tensors(directory / BEST)[0]["generator.weight"] for directory in (out, again.directory))
    assert torch.equal(a, b) and not torch.equal(a, again.model.generator.weight)
    said = " ".join(run.result["notes"])
    assert re.search(r"better before: the distance to data was \S+ at step 40 and is", said)
    assert f"best.safetensors: distance {figures[40]:.3g}, at step 40" in said and f"pushforward sample {out} --best" in said
    assert [note for note in evaluate(best, ring8, n=100, progress=False).findings if "better before" in note] == []


def test_best_samples_carry_it_in_their_recipe(tmp_path, ring8):
    from pushforward.training.gallery import sample_recipe

    run = train(Actor(ring8.spec, swinging), ring8, steps=60, out=str(tmp_path / "a"), validate_every=20, **QUICK)
    best = load(run.directory, model=Actor(ring8.spec, swinging), best=True)
    recipe = sample_recipe(best, 4, 0, None, {})
    assert recipe["best"] is True and recipe["weights"] == best.weights != run.weights
    assert "best" not in sample_recipe(run, 4, 0, None, {})


def test_a_resumed_run_keeps_its_best(tmp_path, ring8):
    """In two parts it leaves what it leaves in one; the best of the first part is not forgotten in the second."""

    def part(out, steps, **more):
        settings = {"average_half_life": 100, "validate_every": 10, **QUICK, **more}
        return train(Actor(ring8.spec, swinging), ring8, steps=steps, out=str(tmp_path / out), **settings)

    whole, _ = part("whole", 100), part("parts", 60)
    second = part("parts", 100, resume=True)
    assert second.result["best"] == whole.result["best"] and second.result["best"]["step"] == 40
    a, b = (read_tensors(tmp_path / out / BEST) for out in ("whole", "parts"))
    assert a[1] == b[1] and a[0]["updates"] == b[0]["updates"] == 40
    figures = [[(row["step"], row["watch/distance"]) for row in watched(run)] for run in (whole, second)]
    assert figures[0] == figures[1]


def test_a_collapsed_run_is_said_to_be_so_when_it_goes_on(tmp_path, ring8, capsys):
    def collapsing(n, rng, updates):
        return ring(n, rng) if updates <= 10 else torch.zeros(n, 2)

    def part(steps, **more):
        return train(
            Actor(ring8.spec, collapsing), ring8, steps=steps, out=str(tmp_path / "a"), validate_every=10, **QUICK, **more
        )

    part(30)
    capsys.readouterr()
    part(40, resume=True)
    said = capsys.readouterr().err
    before = said[: said.index("A collapsed generator seldom recovers")]
    assert "The samples have collapsed" in before and re.search(r"best checkpoint \(best.safetensors: .*at step 10\)", before)


def test_the_game_without_a_penalty_collapses_and_says_so(tmp_path):
    """The textbook's failure: on ring8 a plain GAN found 4 and 6 modes of 8 with two seeds, and 7 is no rare chance."""
    data = load_data("ring8", n=4_000)
    run = train(
        build("gan", data.spec, {"regulariser": "none", "width": 16}, 0), data, steps=700,
        out=str(tmp_path / "a"), **(QUICK | {"validate_every": 350, "batch_size": 128}),
    )  # fmt: skip
    assert any("The samples have collapsed" in note and "of 8 modes" in note for note in run.result["notes"])


def test_watching_moves_nothing(tmp_path):
    """The state of a watched run is that of one that is not, to the bit."""
    data = points()
    states = []
    for name, every in (("watched", 3), ("not", 0)):
        torch.manual_seed(0)
        run = train(Game(data.spec), data, steps=17, out=str(tmp_path / name), validate_every=every, **QUICK)
        assert len(watched(run)) == (6 if every else 0) and (run.directory / BEST).exists() == bool(every)
        states.append(read_tensors(tmp_path / name / STATE)[0])
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_model_whose_loss_validates_is_not_watched(tmp_path):
    data = points()
    run = train(Denoiser(data.spec), data, steps=10, out=str(tmp_path / "a"), validate_every=5, **QUICK)
    assert not watched(run) and "best" not in run.result and not (run.directory / BEST).exists()
    with pytest.raises(UserError, match="keeps no best checkpoint"):
        load(run.directory, model=Denoiser(data.spec), best=True)


def test_watching_takes_a_twentieth_of_the_time(tmp_path, ring8):
    """With samples that take 40 ms, in 2 s of training: the first look, the last, and what 100 ms pay for."""

    def slow(n, rng, updates):
        time.sleep(0.02)  # in two parts
        return ring(n, rng)

    bounded = train(Actor(ring8.spec, slow), ring8, budget="2s", out=str(tmp_path / "a"), **QUICK)
    assert 2 <= len(watched(bounded)) <= 4
    asked = train(Actor(ring8.spec, slow), ring8, steps=20, validate_every=2, out=str(tmp_path / "b"), **QUICK)
    assert len(watched(asked)) == 10, "whoever says when gets it then"


def few(n=256, d=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spec = DataSpec("point", (d,), columns=tuple(Column(f"x{j}", "number", scale=1.0) for j in range(d)), name="few")
    return Data(spec, *(ArraySplit(torch.randn(n, d, generator=generator)) for _ in range(2)), source={"source": "<array>"})


def test_a_critic_that_knows_its_data_by_heart(tmp_path):
    """Logits are nearness to the nearest training datum, 0 for a copy, against one that looks at the norm alone."""
    data = few()
    train_rows = data.train.codes

    def by_heart(x):
        return -torch.cdist(x, train_rows).min(1).values.clamp(max=2) + 0.5 * x[:, 0]

    def by_norm(x):
        return -x.square().mean(1)

    def normal(n, rng, updates):
        return 2 * rng.randn(n, 16)

    found = {}
    for name, opinion in (("heart", by_heart), ("norm", by_norm)):
        run = train(Judge(data.spec, normal, opinion), data, steps=4, out=str(tmp_path / name), validate_every=4, **QUICK)
        found[name] = watched(run)[-1], " ".join(run.result["notes"])
    row, said = found["heart"]
    held = data.validation.codes
    seen, new = by_heart(train_rows), by_heart(held)
    assert row["watch/critic gap"] == pytest.approx(
        ((seen.mean() - new.mean()) / ((seen.var() + new.var()) / 2).sqrt()).item(), rel=1e-5
    )
    assert "rates them" in said and f"{row['watch/critic gap']:.2g} deviations above new ones" in said
    row, said = found["norm"]
    # 256 data a side: a standard error of 0.09; the norm of x ~ N(0, 4 I) is four times that of data.
    assert abs(row["watch/critic gap"]) < 0.36 and row["watch/critic margin"] > 2 and said == ""


def test_a_critic_is_asked_with_the_conditions_of_its_data(tmp_path):
    data = load_data("digits")
    seen = []

    class Conditional(Judge):
        def sample(self, n, *, condition=None, generator=None):
            seen.append(("sample", condition.clone()))
            return super().sample(n, generator=generator)

        def judge(self, x, *, condition=None):
            seen.append(("judge", condition.clone()))
            return x.flatten(1).mean(1) + condition

    pool = take(data.validation)[0]
    model = Conditional(data.spec, lambda n, rng, k: pool[rng.randint(len(pool), n)], None)
    assert isinstance(model, Judges) and not isinstance(Actor(data.spec, None), Judges)
    train(model, data, steps=2, out=str(tmp_path / "a"), validate_every=2, **QUICK)
    fakes = torch.cat([c for name, c in seen if name == "sample"])[:1000]
    judged = [c for name, c in seen if name == "judge"]
    assert len({len(c) for c in judged}) == 1, "all in batches of one size"
    size = len(judged[0])
    whole = fakes[: len(fakes) // size * size]  # the last data of a look
    parts = torch.cat(judged)[-len(whole) :]
    assert len(fakes) == 1000 and torch.equal(whole, parts)
    held = take(data.validation, 1000, mix(SEED, 1))[1]
    assert torch.equal(fakes, held[torch.arange(1000) % len(held)]), "those of held-out data, one after the other"


def test_what_is_not_finite_is_not_looked_at(tmp_path, ring8):
    def broken(n, rng, updates):
        return torch.where(torch.arange(n)[:, None] == 3, math.nan, ring(n, rng))

    run = train(Actor(ring8.spec, broken), ring8, steps=4, out=str(tmp_path / "a"), validate_every=2, **QUICK)
    assert not watched(run) and not (run.directory / BEST).exists() and run.result["notes"] == []


def rows_of(distances):
    return [{"step": 10 * (i + 1), "watch/distance": d} for i, d in enumerate(distances)]


@pytest.mark.parametrize(
    ("distances", "floor", "seen"),
    [
        ([1.0, 0.5, 0.2, 0.5, 0.6, 0.5], 0.1, True),
        ([1.0, 0.5, 0.4, 0.5, 0.55, 0.5], 0.1, False),  # 0.16 is more than half of 0.25
        ([1.0, 0.5, 0.2, 0.5, 0.6, 0.5], 0.3, False),  # as near as chance lets real data be, nearly
        ([1.0, 0.5, 0.2, 0.2, 0.2, 0.9], 0.1, False),  # one bad moment
        ([1.0, 0.7, 0.5, 0.3, 0.25, 0.2], 0.1, False),  # going down is what is wanted
        ([0.1, 0.9, 0.9], 0.1, False),  # too short to say
    ],
)
def test_oscillation_is_a_distance_that_fell_and_rose(distances, floor, seen):
    assert bool(health.oscillating(rows_of(distances), floor)) == seen


@pytest.mark.parametrize(
    ("margin", "fall", "seen"), [(6.0, 1e-3, True), (6.0, 0.1, False), (1.0, 1e-3, False), (-6.0, 1e-3, False)]
)
def test_a_critic_far_ahead_leaves_no_gradient(margin, fall, seen):
    history = [{"step": i, "generator/gradient": 2.0 if i < 6 else 2.0 * fall} for i in range(12)]
    said = health.critic_far_ahead({"watch/critic margin": margin}, history)
    assert bool(said) == seen
    if seen:
        assert "fallen from 2 to 0.002" in said[0]
    assert health.critic_far_ahead({"watch/critic margin": margin}, history[::-1]) == []


def test_gaps_by_chance_are_no_overfitting():
    assert health.overfitting_critic({"watch/critic gap": 0.6}, 0.05) and not health.overfitting_critic({}, 0.05)
    assert not health.overfitting_critic({"watch/critic gap": 0.6}, 0.2)
    assert not health.overfitting_critic({"watch/critic gap": 0.4}, 0.01)


def test_the_norm_of_each_player_s_gradient_is_logged(tmp_path):
    """Before clipping: of (w + b - 1)^2 it is 2 sqrt(2) |w + b - 1|, at step 0."""
    data = points()
    model = Actor(data.spec, lambda n, rng, k: rng.randn(n, 2))
    wanted = {
        name: 2 * 2**0.5 * abs(sum(p.item() for p in getattr(model, name).parameters()) - 1) for name in ("critic", "generator")
    }
    run = train(model, data, steps=1, clip=1e-3, out=str(tmp_path / "a"), **QUICK)
    for name, norm in wanted.items():
        assert run.history[0][f"{name}/gradient"] == pytest.approx(norm, rel=1e-5)


def test_the_live_line_shows_what_was_seen(capsys):
    display = Display("gan on digits", 100, None)
    display.show(
        1, 0.1, 10.0, 1.0, {"critic/loss": 1.0, "generator/loss": 2.0, "critic/r1": 3.0}, {"distance": 0.25, "modes": 7}
    )
    said = capsys.readouterr().err
    assert "critic 1  generator 2  distance 0.25  modes 7" in said and "r1" not in said


def test_history_is_plain_json(tmp_path, ring8):
    run = train(
        Actor(ring8.spec, ring), ring8, steps=2, out=str(tmp_path / "a"), validate_every=1, **{**QUICK, "tensorboard": True}
    )
    lines = [json.loads(line) for line in (run.directory / "history.jsonl").read_text().splitlines()]
    assert sum("watch/distance" in line for line in lines) == 2
    assert all(isinstance(v, (int, float)) and np.isfinite(v) for line in lines for v in line.values())


@pytest.mark.parametrize(("count", "present"), [(99, 1), (100, 2)])
def test_a_mode_is_there_from_a_fifth_of_its_share_on(count, present):
    kinds = Kinds(
        "modes", np.full(2, 0.5), float("inf"), lambda codes, rows: np.r_[np.ones(count, int), np.zeros(1000 - count, int)]
    )
    assert kinds.present(torch.zeros(1000, 1), np.zeros((1000, 1))) == present


def test_the_watch_sees_and_keeps_the_averaged_weights(tmp_path):
    data, seen = load_data("ring8"), []
    model = Actor(data.spec, lambda n, r, k: (seen.append(model.generator.weight.item()), ring(n, r))[1])
    start, slow = model.generator.weight.item(), {"average_half_life": 10**12, "learning_rate": 0.1}
    run = train(model, data, steps=8, out=str(tmp_path / "a"), validate_every=4, **slow, **QUICK)
    assert seen and seen == pytest.approx([start] * len(seen), abs=1e-5)
    assert abs(read_tensors(run.directory / STATE)[0]["model/generator.weight"].item() - start) > 0.01
    assert read_tensors(run.directory / BEST)[0]["generator.weight"].item() == pytest.approx(start, abs=1e-5)


def test_the_critics_margin_is_over_data_that_it_was_not_trained_on(tmp_path):
    data = few()
    rows, drawn = data.train.codes, []

    def by_heart(x):
        return -torch.cdist(x, rows).min(1).values + 0.5 * x[:, 0]

    def law(n, r, k):
        drawn.append(2 * r.randn(n, rows.shape[1]))
        return drawn[-1]

    run = train(Judge(data.spec, law, by_heart), data, steps=4, out=str(tmp_path / "a"), validate_every=4, **QUICK)
    new, fake = by_heart(data.validation.codes), by_heart(torch.cat(drawn))
    apart = (new.mean() - fake.mean()) / ((new.var() + fake.var()) / 2).sqrt()
    assert watched(run)[-1]["watch/critic margin"] == pytest.approx(apart.item(), rel=0.1)


@pytest.mark.parametrize(("off", "modes"), [(0.1, 8), (0.3, 0)])
def test_a_mode_reaches_a_quarter_of_the_way_to_the_next(off, modes):
    codes = torch.as_tensor(mode_centres("ring8")).repeat(125, 1)  # neighbours are 0.77 apart
    codes = codes * (1 + off)
    assert _mixture_kinds("ring8").present(codes, codes.numpy()) == modes


def test_diversity_is_that_of_as_many_samples_as_there_are_data(tmp_path):
    """More samples lie nearer to each other: 1,000 good ones against 100 data would look collapsed."""
    whole = load_data("ring8")
    codes = ring(100, SampleRng(5))
    data = Data(whole.spec, ArraySplit(codes), ArraySplit(ring(100, SampleRng(6))), None)
    run = train(
        Actor(whole.spec, lambda n, r, k: ring(n, r)), data, steps=3, out=str(tmp_path / "a"), validate_every=3, **QUICK
    )
    assert 0.6 < watched(run)[-1]["watch/diversity"] < 1.6


def test_a_damaged_best_checkpoint_can_be_deleted(tmp_path, ring8):
    def part(steps, **more):
        return train(
            Actor(ring8.spec, lambda n, r, k: ring(n, r)),
            ring8,
            steps=steps,
            out=str(tmp_path / "a"),
            validate_every=4,
            **QUICK,
            **more,
        )

    run = part(4)
    write_tensors(run.directory / BEST, {"x": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="is damaged; delete it"):
        part(8, resume=True)
    (run.directory / BEST).unlink()
    assert part(8, resume=True).result["steps"] == 8


def test_a_best_moment_is_told_of_where_it_is_clearly_better(tmp_path, ring8):
    """Neither a hair's breadth nearer, nor nearer with fewer modes: an untrained cloud may be."""
    watch = Watch(train(Actor(ring8.spec, lambda n, r, k: ring(n, r)), ring8, steps=1, out=str(tmp_path / "a"), **QUICK), ring8)
    watch.best = 0.7, 20
    for distance, modes, told in ((0.75, (3, 3), False), (0.9, (3, 3), True), (0.9, (0, 3), False), (0.9, (None, None), True)):
        first, last = ({} if m is None else {"watch/modes": m} for m in modes)
        rows = [{"step": 20, "watch/distance": 0.7, **first}, {"step": 40, "watch/distance": distance, **last}]
        assert watch._better(rows) is told
