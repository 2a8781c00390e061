"""Evidence made by hand, of tokens and activations alone."""

import numpy as np

from jsaeval.autointerp.evidence import Evidence, Example, Statistics, TokenTable


def example(tokens, activations=None, kind="top", interval=1, focus=None, document=0):
    tokens = np.array(tokens, np.int32)
    values = np.zeros(len(tokens), np.float32) if activations is None else np.array(activations, np.float32)
    at = int(values.argmax()) if focus is None else focus
    return Example(kind, interval, document, 0, 0, np.zeros(0, np.int32), tokens, values, at, True)


def evidence(latent=0, explain=(), calibrate=(), score=(), problem=None):
    statistics = Statistics(1000, 10, 2.0, 1.0, np.linspace(0, 2, 11), np.ones(10, int))
    table = TokenTable(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), np.zeros(0), 0.0, 0)
    examples = {"explain": tuple(explain), "calibrate": tuple(calibrate), "score": tuple(score)}
    return Evidence(latent, statistics, table, examples, problem=problem)
