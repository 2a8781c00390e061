"""What the LM makes of x̂ in place of x: later blocks and the next-token distribution. Tier 3, faithfulness."""

from typing import Any

from jsaeval.metrics.metric import Metric, Totals


def _metric(id: str, unit: str, direction, formula: str, source: str, value, needs: str = "loss", **rest) -> Metric:
    return Metric(
        id=id,
        axis="faithfulness",
        tier=3,
        unit=unit,
        direction=direction,
        differentiable=id not in ("ce_clean", "top1_agreement"),
        formula=formula,
        source=source,
        needs=needs,
        value=value,
        **rest,
    )


def _downstream_reconstruction(t: Totals) -> Any:
    return (_after_hook(t, "downstream_sse") / t["n"][..., None]).mean(-1)


def _downstream_fvu(t: Totals) -> Any:
    return (_after_hook(t, "downstream_sse") / _after_hook(t, "resid_sst")).mean(-1)


def _after_hook(t: Totals, name: str) -> Any:
    blocks = t[name][..., t.first_block :]
    if not blocks.shape[-1]:
        raise KeyError("there is no block after the hook")
    return blocks


METRICS = (
    _metric(
        "downstream_reconstruction",
        "activation²",
        "lower",
        "mean over blocks k after the hook of mean_t ‖a_t^k − â_t^k‖²",
        "Braun et al. 2024 (arXiv 2405.12241), §2",
        _downstream_reconstruction,
        needs="curve",
    ),
    _metric(
        "downstream_fvu",
        "share",
        "lower",
        "mean over blocks k after the hook of Σ_t ‖a_t^k − â_t^k‖² / Σ_t ‖a_t^k − mean a^k‖²",
        "jsaeval; downstream_reconstruction as a share of the variance of each block",
        _downstream_fvu,
        needs="curve",
    ),
    _metric(
        "downstream_loss",
        "nats",
        "lower",
        "mean_t KL(p_t ‖ q_t), clean first",
        "Braun et al. 2024 (arXiv 2405.12241), code; Gao et al. 2024 (arXiv 2406.04093)",
        lambda t: t["kl"] / t["n"],
        by_position=True,
    ),
    _metric(
        "ce_clean",
        "nats",
        "neither",
        "mean_t −log p_t(next token)",
        "the LM's own loss",
        lambda t: t["ce_clean"] / t["n_ce"],
        count="n_ce",
    ),
    _metric(
        "ce_spliced",
        "nats",
        "lower",
        "mean_t −log q_t(next token)",
        "Bricken et al. 2023",
        lambda t: t["ce"] / t["n_ce"],
        count="n_ce",
    ),
    _metric(
        "ce_increase",
        "nats",
        "lower",
        "ce_spliced − ce_clean",
        "Braun et al. 2024 (arXiv 2405.12241)",
        lambda t: (t["ce"] - t["ce_clean"]) / t["n_ce"],
        count="n_ce",
    ),
    _metric(
        "ce_recovered_zero",
        "share",
        "higher",
        "(CE_zero − CE_spliced) / (CE_zero − CE_clean), ratio of means",
        "Bricken et al. 2023; SAEBench `ce_loss_score`",
        lambda t: (t["ce_zero"] - t["ce"]) / (t["ce_zero"] - t["ce_clean"]),
        count="n_ce",
    ),
    _metric(
        "kl_recovered_zero",
        "share",
        "higher",
        "(KL_zero − KL) / KL_zero",
        "SAEBench `kl_div_score`",
        lambda t: 1 - t["kl"] / t["kl_zero"],
    ),
    _metric(
        "ce_recovered_mean",
        "share",
        "higher",
        "(CE_mean − CE_spliced) / (CE_mean − CE_clean), mean ablation at the spliced tokens; on the control rows",
        "jsaeval; Bricken et al. 2023 with the fairer baseline",
        lambda t: (t["ce_mean"] - t["ce"]) / (t["ce_mean"] - t["ce_clean"]),
        needs="controls",
        count="n_ce",
    ),
    _metric(
        "kl_vs_random_error",
        "ratio",
        "lower",
        "KL(x̂) / KL(x + ε·u), u a random direction, ‖ε·u_t‖ = ‖x_t − x̂_t‖; on the control rows",
        "Gurnee 2024; 1: the error is as harmless as noise",
        lambda t: t["kl"] / t["kl_random_error"],
        needs="controls",
    ),
    _metric(
        "top1_agreement",
        "share",
        "higher",
        "P(argmax p_t = argmax q_t)",
        "jsaeval",
        lambda t: t["top1"] / t["n"],
    ),
    _metric(
        "total_variation",
        "share",
        "lower",
        "mean_t ½ Σ_v |p_t(v) − q_t(v)|",
        "Braun et al. 2024 (arXiv 2405.12241), code",
        lambda t: t["total_variation"] / t["n"],
    ),
)
