"""Reproducible knowledge-distillation experiments.

Your own code imports these names from here. Each is loaded on first use. `load` reads params.yaml;
`read_runs` and `read_epochs` read the store into pandas; `Loss`, `GroupLoss`, `Features`, `Needs`, `Batch`,
`Arrays` and `register_network` are for losses, networks and data sources; the others are the losses as
functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdkd.config.params import load as load
    from cdkd.core.batch import Batch as Batch
    from cdkd.core.batch import DataInfo as DataInfo
    from cdkd.core.features import Features as Features
    from cdkd.core.features import Outputs as Outputs
    from cdkd.core.needs import Needs as Needs
    from cdkd.data.arrays import Arrays as Arrays
    from cdkd.losses.ab import activation_boundaries as activation_boundaries
    from cdkd.losses.at import attention_transfer as attention_transfer
    from cdkd.losses.base import GroupLoss as GroupLoss
    from cdkd.losses.base import Loss as Loss
    from cdkd.losses.base import at_least_float32 as at_least_float32
    from cdkd.losses.cc import correlation_congruence as correlation_congruence
    from cdkd.losses.cd import channel_distillation as channel_distillation
    from cdkd.losses.ce import cross_entropy as cross_entropy
    from cdkd.losses.crd import contrastive_representation as contrastive_representation
    from cdkd.losses.css import channel_self_supervision as channel_self_supervision
    from cdkd.losses.cwd import channel_wise_kl as channel_wise_kl
    from cdkd.losses.dkd import decoupled_kd as decoupled_kd
    from cdkd.losses.fsp import flow_of_solution as flow_of_solution
    from cdkd.losses.ft import factor_transfer as factor_transfer
    from cdkd.losses.gkd import guided_kd as guided_kd
    from cdkd.losses.hint import hint as hint
    from cdkd.losses.ickd import inter_channel_correlation as inter_channel_correlation
    from cdkd.losses.kd import kd as kd
    from cdkd.losses.logit_match import logit_match as logit_match
    from cdkd.losses.logits import softened_kl as softened_kl
    from cdkd.losses.mutual import mutual as mutual
    from cdkd.losses.nst import neuron_selectivity as neuron_selectivity
    from cdkd.losses.okddip import diverse_peers as diverse_peers
    from cdkd.losses.one import native_ensemble as native_ensemble
    from cdkd.losses.pcl import peer_collaboration as peer_collaboration
    from cdkd.losses.pkt import probabilistic_transfer as probabilistic_transfer
    from cdkd.losses.reviewkd import hierarchical_context as hierarchical_context
    from cdkd.losses.rkd import relational_kd as relational_kd
    from cdkd.losses.sp import similarity_preserving as similarity_preserving
    from cdkd.losses.srrl import regressed_representation as regressed_representation
    from cdkd.losses.vid import variational_information as variational_information
    from cdkd.models.names import register_network as register_network
    from cdkd.report.frames import read_epochs as read_epochs
    from cdkd.report.frames import read_runs as read_runs

PLACES = {
    "load": "config.params",
    "read_runs": "report.frames",
    "read_epochs": "report.frames",
    "Batch": "core.batch",
    "DataInfo": "core.batch",
    "Features": "core.features",
    "Outputs": "core.features",
    "Needs": "core.needs",
    "Arrays": "data.arrays",
    "GroupLoss": "losses.base",
    "Loss": "losses.base",
    "at_least_float32": "losses.base",
    "register_network": "models.names",
    "activation_boundaries": "losses.ab",
    "attention_transfer": "losses.at",
    "channel_distillation": "losses.cd",
    "channel_self_supervision": "losses.css",
    "channel_wise_kl": "losses.cwd",
    "contrastive_representation": "losses.crd",
    "correlation_congruence": "losses.cc",
    "cross_entropy": "losses.ce",
    "decoupled_kd": "losses.dkd",
    "diverse_peers": "losses.okddip",
    "factor_transfer": "losses.ft",
    "flow_of_solution": "losses.fsp",
    "guided_kd": "losses.gkd",
    "hierarchical_context": "losses.reviewkd",
    "hint": "losses.hint",
    "inter_channel_correlation": "losses.ickd",
    "kd": "losses.kd",
    "logit_match": "losses.logit_match",
    "mutual": "losses.mutual",
    "native_ensemble": "losses.one",
    "neuron_selectivity": "losses.nst",
    "peer_collaboration": "losses.pcl",
    "probabilistic_transfer": "losses.pkt",
    "regressed_representation": "losses.srrl",
    "relational_kd": "losses.rkd",
    "similarity_preserving": "losses.sp",
    "softened_kl": "losses.logits",
    "variational_information": "losses.vid",
}
__all__ = sorted(PLACES)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'cdkd' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"cdkd.{PLACES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return __all__
