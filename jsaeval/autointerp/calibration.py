"""From what a simulator says to activations: the best non-decreasing map, fitted on examples of its own.

A simulator's unit means nothing: a language model says 0 to 10, a rule gives what it saw in training. Bills et al. 2023
fit a line, or match percentiles; a line with a negative slope turns a simulation that is wrong into one that is right,
and percentiles are not defined where values are tied. A non-decreasing map keeps the order that the simulator gave and
needs no parameter (Barlow et al. 1972, "Statistical Inference under Order Restrictions", §1.2).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing map: linear between its knots, constant outside of them."""

    simulated: Float[np.ndarray, " knot"]
    activations: Float[np.ndarray, " knot"]

    def __call__(self, simulated: Float[np.ndarray, " token"]) -> Float[np.ndarray, " token"]:
        """Simulated values in the unit of the activations."""
        return np.interp(np.asarray(simulated, np.float64), self.simulated, self.activations)


def calibrate(
    simulated: Float[np.ndarray, " token"],
    activations: Float[np.ndarray, " token"],
    weights: Float[np.ndarray, " token"] | None = None,
) -> Calibration:
    """The non-decreasing map with the least weighted squared error, by pooling adjacent violators.

    Tokens with the same simulated value are one knot, at their mean activation: so a constant simulation is mapped to
    the mean of all activations.

    Args:
        simulated: what the simulator said, in any unit; at least one.
        activations: of the latent at the same tokens.
        weights: positive; default all alike.

    Raises:
        ValueError: there are no tokens.
    """
    if not len(simulated):
        raise ValueError("no tokens to calibrate on")
    weights = np.ones(len(simulated)) if weights is None else np.asarray(weights, np.float64)
    knots, index = np.unique(np.asarray(simulated, np.float64), return_inverse=True)
    total = np.bincount(index, weights)
    means = np.bincount(index, weights * np.asarray(activations, np.float64)) / total
    return Calibration(knots, np.asarray(isotonic_regression(means, weights=total).x))
