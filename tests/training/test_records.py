"""What is said of a run directory that is not there."""

import pytest

from pushforward.errors import UserError
from pushforward.training.records import read_record


def test_a_run_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"there is no run directory .*none; there are no runs here yet"):
        read_record(tmp_path / "runs" / "none")
    (tmp_path / "runs" / "vae-1").mkdir(parents=True)
    (tmp_path / "runs" / "vae-1" / "run.yaml").touch()
    with pytest.raises(UserError, match=r"did you mean vae-1\?$"):
        read_record(tmp_path / "runs" / "vae-2")
