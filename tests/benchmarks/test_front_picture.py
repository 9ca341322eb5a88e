"""The picture of a front: every point once, the front as its own kind, and axes that say what they are."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from benchmarks.front_picture import Spot, picture

SVG = "{http://www.w3.org/2000/svg}"


def test_a_picture_has_every_point_and_joins_the_front():
    spots = [Spot(2e6, 0.8, True), Spot(8e6, 0.9, True), Spot(8e6, 0.7, False)]
    root = ET.fromstring(picture(spots, "topics: 3 points"))
    circles = root.findall(f"{SVG}circle")
    assert [circle.get("class") for circle in circles] == ["point", "front", "front"]
    line = root.find(f"{SVG}polyline")
    assert line is not None
    assert {(f"{c.get('cx')},{c.get('cy')}") for c in circles[1:]} == set(line.get("points", "").split())
    low, high = circles[1], circles[2]
    assert float(low.get("cx", 0)) < float(high.get("cx", 0))
    assert float(low.get("cy", 0)) > float(high.get("cy", 0)), "a better score lies higher"
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert "8 MFLOP a prediction" in texts


def test_one_point_lies_in_the_middle_and_none_is_refused():
    root = ET.fromstring(picture([Spot(2e6, 0.8, True)], "one"))
    assert len(root.findall(f"{SVG}circle")) == 1
    with pytest.raises(ValueError, match="needs a point"):
        picture([], "none")
