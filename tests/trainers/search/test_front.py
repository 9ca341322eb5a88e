"""The front, by its definition; halving; and the page in a browser."""

from __future__ import annotations

import itertools
import subprocess

import numpy as np
import pytest

from adapters.target import Target
from tests.browser import WIDTHS, needs_chromium, shown
from trainers.config import TrainConfig
from trainers.search.front import break_even, candidates, layers, noise, recommended, savings
from trainers.search.halving import expected_price, kept_of, rungs_of, survivors
from trainers.search.page import write_page
from trainers.search.pieces import Piece
from trainers.search.result import SearchResult
from trainers.search.space import Point, Refused

OBJECTIVES = ("score", "latency")


def piece_of(name: str, score: float, latency: float = 1.0, *, steps: int = 9, rung: int = 2, spread=0.01, **fields):
    draws = tuple(np.round(score + spread * np.random.default_rng(len(name)).normal(size=200), 5).tolist())
    measures = {"score": score, "latency": latency, "cpu_seconds": 2.0}
    return Piece(name, rung, steps, 9, score, draws, measures, {"label a": score - 0.1, "label b": 0.9}, 1.0, 1.0,
                 **fields)  # fmt: skip


def points_of(*names: str, **settings) -> list[Point]:
    return [Point(name, tuple(settings.get(name, {"seed": str(i)}).items()), TrainConfig()) for i, name in
            enumerate(names)]  # fmt: skip


def beaten(vectors, i) -> bool:
    """Pareto's definition, spelled out."""
    return any(
        all(x <= y for x, y in zip(other, vectors[i], strict=True)) and any(x < y for x, y in
                                                                         zip(other, vectors[i], strict=True))
        for other in vectors
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_layers_are_pareto_fronts_one_after_another(seed):
    vectors = [tuple(row) for row in np.random.default_rng(seed).integers(0, 6, (25, 3)).tolist()]
    left = set(range(25))
    for layer in layers(vectors):
        inside = [vectors[i] for i in sorted(left)]
        expected = {i for place, i in enumerate(sorted(left)) if not beaten(inside, place)}
        assert set(layer) == expected
        left -= expected
    assert not left


def test_a_dominated_point_names_what_beats_it():
    pieces = [
        piece_of("aa", 0.9, 1.0),
        piece_of("b", 0.8, 2.0),
        piece_of("cccc", 0.95, 3.0),
        piece_of("d", 0.5, 1, steps=3),
    ]
    front = {one.id: one for one in candidates(points_of("aa", "b", "cccc", "d"), pieces, OBJECTIVES, Target())}
    assert [name for name in front if front[name].front] == ["cccc", "aa"]
    assert front["b"].dominated_by == "aa"
    assert "score 0.9 against 0.8 (beyond the noise" in front["b"].reason
    assert "latency 1 against 2" in front["b"].reason
    assert "given up after 33% of its training" in front["d"].reason
    assert (front["aa"].worst_slice, front["aa"].worst_score) == ("label a", pytest.approx(0.8))
    assert recommended(list(front.values()), OBJECTIVES) == "cccc"


def test_a_broken_limit_keeps_a_point_off_the_front():
    pieces = [piece_of("a", 0.9, 1.0), piece_of("b", 0.95, 5.0)]
    front = candidates(points_of("a", "b"), pieces, OBJECTIVES, Target(max_latency_ms=2.0))
    assert [one.id for one in front if one.front] == ["a"]
    assert "latency 5 breaks target.max_latency_ms=2" in front[0].reason


def test_a_lost_point_is_not_on_the_front_and_beats_nothing():
    """A budget may end a search after the rung before, where all others are compared too."""
    pieces = [piece_of(name, score, steps=3) for name, score in (("a", 0.95), ("b", 0.9))]
    front = {one.id: one for one in candidates(points_of("a", "b"), pieces, OBJECTIVES, Target(), lost=("a",))}
    assert (front["a"].front, front["a"].reason) == (False, "lost after 33%: the disk was full")
    assert (front["b"].front, front["b"].dominated_by) == (True, "")
    assert recommended(list(front.values()), OBJECTIVES) == "b"


def test_brittleness_is_spread_over_seeds_and_loss_at_neighbours():
    settings = {
        "a": {"adapter.rank": "2", "seed": "0"}, "b": {"adapter.rank": "2", "seed": "1"},
        "c": {"adapter.rank": "4", "seed": "0"}, "d": {"adapter.rank": "4", "seed": "1"},
    }  # fmt: skip
    pieces = [piece_of("a", 0.9), piece_of("b", 0.8), piece_of("c", 0.75), piece_of("d", 0.99)]
    front = {one.id: one for one in candidates(points_of(*"abcd", **settings), pieces, ("score",), Target())}
    assert front["a"].seeds == pytest.approx(np.std([0.9, 0.8], ddof=1))
    assert front["a"].neighbours == pytest.approx(0.9 - 0.75)


def test_a_third_survives_and_those_within_noise_of_the_cut():
    sure = [piece_of("x" * i, 0.5 + 0.04 * i, spread=0.0) for i in range(1, 10)]
    assert survivors(sure, ("score",)) == ("x" * 9, "x" * 8, "x" * 7)
    unsure = [piece_of("x" * i, 0.5 + 0.001 * i, spread=0.05) for i in range(1, 10)]
    kept = survivors(unsure, ("score",))
    assert len(kept) == 5
    assert kept[:3] == ("x" * 9, "x" * 8, "x" * 7)
    assert survivors(unsure[::-1], ("score",)) == kept, "the order of the pieces decides nothing"


def test_a_cheap_point_survives_where_its_cost_counts():
    pieces = [piece_of("x" * i, 0.9 + 0.01 * i, 10.0 * i, spread=0.0) for i in range(1, 4)] + [
        piece_of("cheap", 0.2, 0.1)
    ]
    assert "cheap" not in survivors(pieces, ("score",))
    assert set(survivors([*pieces, piece_of("worse", 0.1, 50.0)], OBJECTIVES)) <= {"cheap", "x", "xx", "xxx"}


def test_the_noise_of_a_point_with_itself_is_zero():
    assert noise(piece_of("a", 0.9), piece_of("a", 0.9)) == 0
    assert noise(piece_of("a", 0.9), piece_of("bb", 0.9)) > 0


def test_rungs_and_prices():
    assert rungs_of(90) == (10, 30, 90)
    assert rungs_of(1) == (1, 1, 1)
    assert [kept_of(n) for n in (1, 3, 4, 9)] == [1, 1, 2, 3]
    assert expected_price([9.0], 0.5) == pytest.approx(9.0 + 1.5), "one point is trained whole"
    prices = [expected_price([9.0] * n, 0.5) for n in range(1, 60)]
    assert all(a < b for a, b in itertools.pairwise(prices))


def test_savings_pay_for_a_search():
    points = points_of("a", "b")
    pieces = [
        piece_of("a", 0.9, 1.0, prediction_cpu_seconds=2e-3),
        piece_of("b", 0.95, 2.0, prediction_cpu_seconds=5e-3),
    ]
    b, a = candidates(points, pieces, OBJECTIVES, Target())
    assert savings(a, b) == pytest.approx(3000.0)
    assert break_even(600.0, savings(a, b)) == pytest.approx(0.2)
    assert break_even(600.0, savings(b, a)) is None
    assert savings(b, a) == pytest.approx(-3000.0)


@pytest.fixture
def result(tmp_path) -> SearchResult:
    pieces = [
        piece_of("aaaa1111", 0.9, 1.0, prediction_cpu_seconds=2e-3),
        piece_of("bbbb2222", 0.8, 2.0),
        piece_of("cccc3333", 0.95, 3.0, prediction_cpu_seconds=5e-3),
        piece_of("dddd4444", 0.5, 1, steps=3),
    ]
    settings = {"aaaa1111": {"head.pooling": "<b>mean</b>"}}
    front = candidates(
        points_of("aaaa1111", "bbbb2222", "cccc3333", "dddd4444", **settings), pieces, OBJECTIVES, Target()
    )
    return SearchResult(
        str(tmp_path), "task", "accuracy", OBJECTIVES, "cccc3333", front, ({"seed": "9"},),
        (Refused((("adapter.rank", "0"),), "rank: must be positive"),), {"train": "x"}, 1, 10, 100.0, 90.0, 0.0, "",
        str(tmp_path / "search.html"), "cpu",
    )  # fmt: skip


def browsed(page, folder, width: int, *, script: str = "") -> str:
    """The document after its script and `script` have run, at a width in pixels."""
    target = page
    if script:
        target = page.with_name(f"clicked-{width}.html")
        target.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    common = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
              f"--user-data-dir={folder / f'profile-{width}'}", f"--window-size={width},1400"]  # fmt: skip
    dump = subprocess.run([*common, "--dump-dom", target.as_uri()], check=True, capture_output=True, timeout=60)
    return dump.stdout.decode()


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_answers_clicks_in_a_browser(result, tmp_path, width):
    page = write_page(result)
    dom = browsed(page, tmp_path, width)
    assert "http" not in page.read_text().replace("http://www.w3.org", ""), "the page needs no network"
    assert dom.count('<circle data-id="') - 1 == 4 == dom.count('<tr data-id="') - 1, "and the one in the script"
    assert "<b>cccc3333</b> on the front" in dom
    assert "&lt;b&gt;mean" in dom, "settings are text"
    assert "seed=9" in dom
    assert "adapter.rank=0: rank: must be positive" in dom
    wide = "document.body.dataset.wide = document.documentElement.scrollWidth <= innerWidth;"
    click = "document.querySelector('tr[data-id=bbbb2222]').click(); document.getElementById('front').click();"
    clicked = browsed(page, tmp_path, width, script=click + wide)
    assert "<b>bbbb2222</b> not on the front: aaaa1111 is nowhere worse" in clicked
    assert clicked.count('<tr data-id="') - 1 == 2, "the front alone"
    assert 'data-wide="true"' in clicked, "the page itself never scrolls sideways"
    shown(page.as_uri(), tmp_path, width, "search")
