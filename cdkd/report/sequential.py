"""Seeds added until planned comparisons are decided: a group-sequential paired t test.

Looking at the results after every few seeds, and stopping once p < 0.05, finds differences that do not exist:
each look is another chance. Here every look tests at one smaller level (Pocock 1977), chosen so that all
looks together keep the stated one. With few seeds the usual tables of it, made for normal variables, are
wrong. The level is computed for Student's t itself: without a difference, R_n = sum / sqrt(sum of squares) of
n normal differences is a Markov chain, as the direction of a normal vector does not depend on its length:

    R_{n+1} = R_n cos(a) + sin(a),  density of the angle a: proportional to cos(a)^(n-1)

and t_n is a function of R_n. Integrating backwards over the angles gives the probability that any look
rejects, exactly up to rounding.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

GRID, NODES = 301, 24  # states of the chain, and angles from each in every part of its range
REACH = 7.0  # angles beyond so many standard deviations are left out
SMALLEST = 1e-6  # below it the sum of the looks' levels is used, which is never too small


@cache
def any_look(looks: tuple[int, ...], level: float) -> float:
    """The probability that, without a difference, a two-sided t test at `level` rejects at one look or more.

    looks: the numbers of pairs at which is tested, rising
    """
    if level < SMALLEST or len(looks) == 1:
        return min(1.0, level * len(looks))
    psi = np.linspace(0, math.pi / 2, GRID)  # |R_n| = sqrt(n) sin(psi)
    later = np.zeros(GRID)  # the probability of rejecting at a later look, by psi
    for n in range(looks[-1] - 1, 0, -1):
        bound = _bound(n + 1, level) if n + 1 in looks else math.sqrt(n + 1)
        r = math.sqrt(n) * np.sin(psi)
        kept, carried = _step(n, r, bound, psi, later)
        later = carried + (1 - kept if n + 1 in looks else 0)
    return float(min(1.0, max(later[-1], level)))  # R_1 = 1


def _step(
    n: int, r: np.ndarray, bound: float, psi: np.ndarray, later: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """From each R_n = r: the probability that |R_{n+1}| <= bound, and the mean of `later` where it is."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    size, phase = np.hypot(1, r), np.arctan(r)  # R_{n+1} = size * sin(a + phase)
    inner, reach = np.arcsin(np.minimum(1, bound / size)), min(math.pi / 2, REACH / math.sqrt(n))
    kept, carried = np.zeros_like(r), np.zeros_like(r)
    far = np.full_like(r, 2 * math.pi)
    scale = math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(math.pi)
    for low, high in ((-far, inner - math.pi), (-inner, inner), (math.pi - inner, far)):
        low, high = np.maximum(low, phase - reach), np.minimum(high, phase + reach)
        half = np.maximum(0, high - low) / 2
        angle = low[:, None] + half[:, None] * (1 + nodes)
        mass = half[:, None] * weights * scale * np.cos(angle - phase[:, None]) ** (n - 1)
        sine = np.abs(size[:, None] * np.sin(angle)) / math.sqrt(n + 1)
        kept += mass.sum(1)
        carried += (mass * np.interp(np.arcsin(np.minimum(1, sine)), psi, later)).sum(1)
    return kept, carried


def _bound(n: int, level: float) -> float:
    """|R_n| at which a two-sided t test of n pairs just rejects."""
    t = critical(n, level)
    return math.sqrt(n) * t / math.sqrt(n - 1 + t * t)


@cache
def critical(n: int, level: float) -> float:
    """|t| of n pairs at which a two-sided test just rejects."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - level / 2))


@cache
def each_look(looks: tuple[int, ...], level: float) -> float:
    """The level of every single look with which all together have `level`: Pocock's constant, for t."""
    each = level / len(looks)
    for _ in range(20):
        all_looks = any_look(looks, each)
        each *= level / all_looks
        if abs(all_looks / level - 1) < 1e-7:
            break
    return each


def corrected(looks: tuple[int, ...], p: float) -> float:
    """p as all looks together have it: the chance, without a difference, that any look has so small a p.

    It holds wherever the looks ended, for whatever reason; without looks p itself.
    """
    if not looks or p >= 1:
        return p
    if p < SMALLEST:
        return p * len(looks)
    return float(np.exp(np.interp(math.log(p), *_curve(looks))))


@cache
def _curve(looks: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of some levels, and of `any_look` at each."""
    levels = np.geomspace(SMALLEST, 1, 16).tolist()
    return np.log(levels), np.log([any_look(looks, level) for level in levels])
