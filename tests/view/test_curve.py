"""The learning curve."""

from pathlib import Path

import pytest
from builders import make_run

from lzero.config import load_config
from lzero.errors import StoreError
from lzero.store import RunDirectory
from lzero.view.curve import draw_curve, read_curves


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run")


def test_the_curve_is_drawn_as_png_and_svg(run: RunDirectory) -> None:
    for update in range(3):
        run.append_metrics({"rollout/score": update / 3, "rollout/score_1_hops": 0.5}, phase="train", update=update)
    run.append_metrics({"score": 0.3, "score_1_hops": 0.4, "score_2_hops": 0.2}, phase="eval", update=0)
    run.append_metrics({"score": 0.9, "score_1_hops": 1.0, "score_2_hops": 0.8}, phase="eval", update=3)
    png = draw_curve(run.path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in png.with_suffix(".svg").read_text()


def test_the_curve_names_what_the_score_is(tmp_path: Path) -> None:
    for function, label in (("", "exact match"), ("mine:judge", "score by mine:judge")):
        config = load_config(None, [f'run.dir="{tmp_path / (function or "own")}"', f'reward.function="{function}"'])
        directory = RunDirectory.create(config)
        directory.append_metrics({"score": 0.3}, phase="eval", update=0)
        draw_curve(directory.path)
        assert f"<!-- {label} -->" in (directory.path / "learning-curve.svg").read_text()


def test_the_points_of_the_curve_are_those_of_the_metrics() -> None:
    whole, by_hops = read_curves(
        [
            {"phase": "eval", "update": 0, "score": 0.25, "score_3_hops": 0.0},
            {"phase": "train", "update": 0, "rollout/score": 0.5},
            {"phase": "sampled", "update": 0, "score": 0.75},
            {"phase": "eval", "update": 1, "score": 1, "score_3_hops": 0.5},
        ]
    )
    assert whole.held_out == ((0, 0.25), (1, 1.0))
    assert whole.training == ((0, 0.5),)
    assert by_hops.keys() == {3}
    assert by_hops[3].held_out == ((0, 0.0), (1, 0.5))


def test_a_run_without_a_score_has_no_curve(run: RunDirectory) -> None:
    with pytest.raises(StoreError, match="holds no score to draw yet"):
        draw_curve(run.path)
