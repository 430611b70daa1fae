"""Runs of older versions, whose records do not say what was no setting yet."""

import pytest
import torch

import pushforward as pf
from pushforward.artefacts import read_yaml, write_yaml


def test_a_record_without_a_setting_says_which_where_the_weights_do_not_fit(tmp_path):
    """GPT had learned positions only; today's default has none."""
    (tmp_path / "play.txt").write_text("ROMEO: wherefore art thou?\n" * 20)
    data = pf.load_data(tmp_path / "play.txt", context=8)
    torch.manual_seed(0)
    model = pf.create("gpt", data.spec, depth=1, heads=1, width=8, positions="learned")
    quick = {"batch_size": 2, "tensorboard": False, "picture_every": 0, "precision": "fp32"}
    run = pf.train(model, data, out=tmp_path / "run", steps=1, **quick)
    record = read_yaml(tmp_path / "run" / "run.yaml")
    del record["model"]["settings"]["positions"]
    write_yaml(tmp_path / "run" / "run.yaml", record)
    with pytest.raises(pf.UserError, match=r"does not say positions, .*pf\.load\(path, positions=\.\.\.\)"):
        pf.load(tmp_path / "run")
    again = pf.load(tmp_path / "run", positions="learned")
    assert again.sample(2, seed=0) == run.sample(2, seed=0)
    with pytest.raises(pf.UserError, match="settings that they were trained with") as wrong:
        pf.load(tmp_path / "run", positions="learned", width=16)
    assert "does not say" not in str(wrong.value), "where all is said"
