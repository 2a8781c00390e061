"""Every column of the statistics table for one row and SAE, in float64 numpy, straight from METRICS.md."""

import numpy as np

from jsaeval.forward.sums import BUCKETS
from tests.lm import oracle as lm_oracle
from tests.sae.test_sae import oracle as sae_oracle


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def buckets(values):
    return np.array([values[a:b].sum() for a, b in BUCKETS])


def spliced_logits(config, tensors, tokens, hook, replacement, mask):
    """Activations and logits when the hook's activation is replaced where the mask is set."""

    def splice(name, x):
        return np.where(mask[:, None], replacement, x) if name == f"blocks.{hook.block}.{hook.site}" else x

    return lm_oracle.run(config, tensors, tokens, splice=splice)


def line(config, tensors, sae, tokens, hook, masks, mean, replace=sae_oracle):
    """(columns of the row, columns of the row and SAE) of one row; masks are those of the row.

    `replace`: from the SAE and what it reads to z and x̂.
    """
    valid, metric, splice = masks
    seen, logits = lm_oracle.run(config, tensors, tokens)
    read, x = (seen[f"blocks.{hook.block}.{site}"] for site in (hook.reads or hook.site, hook.site))
    z, xhat = replace(sae, read)
    later, q_logits = spliced_logits(config, tensors, tokens, hook, xhat, splice)
    _, zero_logits = spliced_logits(config, tensors, tokens, hook, np.zeros_like(x), splice)
    p, q, zero = log_softmax(logits), log_softmax(q_logits), log_softmax(zero_logits)

    t = metric.astype(float)
    counted = metric.copy()
    counted[:-1] &= valid[1:]
    counted[-1] = False
    index = np.arange(len(tokens) - 1)
    target = tokens[1:]

    def ce(logp):
        return -(logp[index, target] * counted[:-1]).sum()

    def kl(logq):
        return (np.exp(p) * (p - logq)).sum(-1)

    r = x - xhat
    sse, x_sq, out_sq = (r**2).sum(1), (x**2).sum(1), (xhat**2).sum(1)
    dot = (x * xhat).sum(1)
    blocks = [f"blocks.{k}.hook_resid_post" for k in range(config.n_blocks)]
    first = hook.prefix_stop
    row = {
        "n": buckets(t),
        "n_ce": counted.sum(),
        "x_norm": (t * np.sqrt(x_sq)).sum(),
        "x_sq": (t * x_sq).sum(),
        "x_dev_sq": buckets(t * ((x - mean) ** 2).sum(1)),
        "ce_clean": ce(p),
        "ce_zero": ce(zero),
        "kl_zero": (t * kl(zero)).sum(),
        "resid_sq": np.array([(t * (seen[b] ** 2).sum(1)).sum() if k >= first else 0.0 for k, b in enumerate(blocks)]),
        "resid_sum_sq": np.array([((t @ seen[b]) ** 2).sum() if k >= first else 0.0 for k, b in enumerate(blocks)]),
    }
    per_sae = {
        "l0": buckets(t * (z != 0).sum(1)),
        "l1": (t * np.abs(z).sum(1)).sum(),
        "l1_scaled": (t * (np.abs(z) @ np.linalg.norm(np.asarray(sae.W_dec, np.float64), axis=1))).sum(),
        "sse": buckets(t * sse),
        "xhat_norm": (t * np.sqrt(out_sq)).sum(),
        "xhat_sq": (t * out_sq).sum(),
        "x_xhat": (t * dot).sum(),
        "cosine": (t * dot / np.sqrt(x_sq * out_sq)).sum(),
        "l2_ratio": (t * np.sqrt(out_sq / x_sq)).sum(),
        "legacy": (t * sse / ((x - mean) ** 2).sum(1)).sum(),
        "ce": ce(q),
        "kl": buckets(t * kl(q)),
        "top1": (t * (p.argmax(1) == q.argmax(1))).sum(),
        "total_variation": (t * np.abs(np.exp(p) - np.exp(q)).sum(1) / 2).sum(),
        "downstream_sse": np.array(
            [(t * ((seen[b] - later[b]) ** 2).sum(1)).sum() if k >= first else 0.0 for k, b in enumerate(blocks)]
        ),
    }
    vectors = {
        "x_dev": np.stack([(t[a:b, None] * (x - mean)[a:b]).sum(0) for a, b in BUCKETS]),
        "resid": np.stack(
            [(t[:, None] * seen[b]).sum(0) if k >= first else np.zeros(config.d_model) for k, b in enumerate(blocks)]
        ),
    }
    return row, per_sae, vectors
