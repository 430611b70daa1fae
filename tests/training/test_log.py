"""What is said beside a terminal: the first line at once, then few, and the last one; and the classes of a picture."""

from pushforward.data.spec import Condition
from pushforward.training.gallery import in_proportion
from pushforward.training.log import Display


def test_a_short_run_is_not_silent(capsys):
    display = Display("vae on digits", 100, None)
    for step in (1, 40, 80):
        display.show(step, step / 100, 10.0, 1.0, {"vae/loss": 2.5})
    display.close()
    display.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("/100")[0] for line in lines] == ["vae on digits: step 1", "vae on digits: step 80"]
    display = Display("vae on digits", 1, None)
    display.show(1, 1.0, 10.0, 1.0, {})
    display.close()
    assert len(capsys.readouterr().err.splitlines()) == 1
    Display("x", 1, None, quiet=True).show(1, 1.0, 1.0, 1.0, {})
    assert capsys.readouterr().err == ""


def test_classes_of_a_picture_are_as_frequent_as_in_the_data():
    given = Condition("class", 3, frequencies=(0.5, 0.0, 0.5))
    assert in_proportion(given, 2000).bincount(minlength=3).tolist() == [1000, 0, 1000]
    assert in_proportion(Condition("class", 4), 6).bincount(minlength=4).sum() == 6
