"""The chances of a pixel, from evidence of which every term is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from vggt_ros.pipeline.depth_confidence import WEIGHTS, Evidence, chances, features

SHAPE = (60, 80)


def full(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def evidence(**changes) -> Evidence:
    """A plane at one depth that three of the others see, one of them through it."""
    plain = Evidence(
        q=full(0.5),
        unit=0.01,
        sigma=full(0.15),
        score=full(0.9),
        margin=full(0.25),
        agree=full(3),
        conflict=full(1),
        difference=full(0.01),
    )
    return dataclasses.replace(plain, **changes)


def test_terms_of_an_even_surface_are_known():
    expected = {
        "constant": 1.0,
        "consensus": 0.3,
        "first": 1.0,
        "second": 1.0,
        "third": 1.0,
        "conflict": 1.0,
        "difference": 0.0,
        "sigma": 0.0,  # 0.15 of a step of 2 % of the depth is the 0.3 % that counts as zero
        "unit": 0.0,
        "margin": 0.5,
        "score": 0.9,
        "near": 0.3,
        "wide": 0.3,
        "dense": 0.3,
        "rough": math.log(0.05),
        "spread": 0.0,
    }
    found = features(evidence())
    assert list(found) == list(WEIGHTS)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-5, err_msg=name)
    right, not_far_off = chances(evidence())
    for chance, which in ((not_far_off, 1), (right, 0)):
        x = sum(WEIGHTS[name][which] * value for name, value in expected.items())
        np.testing.assert_allclose(chance, 1 / (1 + math.exp(-x)), rtol=1e-4)


def test_holes_have_no_chance_and_right_is_never_likelier_than_not_far_off():
    rng = np.random.default_rng(0)
    q = (0.5 + 0.2 * rng.random(SHAPE)).astype(np.float32)
    q[rng.random(SHAPE) < 0.4] = np.nan
    found = evidence(
        q=q,
        agree=rng.integers(0, 4, SHAPE).astype(np.float32),
        score=rng.random(SHAPE).astype(np.float32),
        difference=rng.random(SHAPE).astype(np.float32),
    )
    right, not_far_off = chances(found)
    assert (right[np.isnan(q)] == 0).all()
    assert (not_far_off[np.isnan(q)] == 0).all()
    assert (right <= not_far_off).all()
    assert right[np.isfinite(q)].min() > 0
    assert not_far_off.max() < 1
    nothing = chances(evidence(q=full(np.nan)))
    assert (nothing[0] == 0).all()


@pytest.mark.parametrize("factor", [0.05, 40.0])
def test_unit_of_length_does_not_matter(factor):
    scaled = chances(evidence(q=full(0.5 / factor), unit=0.01 / factor))
    for one, other in zip(chances(evidence()), scaled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize(
    "worse",
    [
        {"agree": full(2)},
        {"agree": full(0)},
        {"difference": full(0.04)},
        {"sigma": full(1.5)},
        {"unit": 0.04, "sigma": full(0.0375)},
    ],
)
def test_worse_evidence_is_less_sure(worse):
    for better, less in zip(chances(evidence()), chances(evidence(**worse)), strict=True):
        assert (less < better).all()


def test_pixel_off_its_neighbours_and_among_holes_is_less_sure():
    q = full(0.5)
    q[30, 40] = 0.56
    for chance in chances(evidence(q=q)):
        odds = chance / (1 - chance)
        assert odds[30, 40] < 0.5 * odds[10, 10]
    sparse = full(np.nan)
    sparse[::2, ::2] = 0.5
    for dense, thin in zip(chances(evidence()), chances(evidence(q=sparse)), strict=True):
        assert thin[30, 40] < dense[30, 40]
