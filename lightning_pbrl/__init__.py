"""lightning-pbrl: teach a policy from feedback instead of a reward function.

Names are imported when they are first used, so that ``import lightning_pbrl`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_pbrl.callbacks.ask_teacher import AskTeacher as AskTeacher
    from lightning_pbrl.callbacks.query_coverage import QueryCoverage as QueryCoverage
    from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards as RelabelRewards
    from lightning_pbrl.datamodules.d4rl import D4RLDataModule as D4RLDataModule
    from lightning_pbrl.datamodules.lire import LiREDataModule as LiREDataModule
    from lightning_pbrl.datamodules.metaworld import MetaWorldDataModule as MetaWorldDataModule
    from lightning_pbrl.datamodules.metaworld_comparisons import MetaWorldComparisonsDataModule as MetaWorldComparisonsDataModule
    from lightning_pbrl.datamodules.minari import MinariDataModule as MinariDataModule
    from lightning_pbrl.datamodules.online import OnlineDataModule as OnlineDataModule
    from lightning_pbrl.datamodules.preference_npz import PreferenceNPZDataModule as PreferenceNPZDataModule
    from lightning_pbrl.datamodules.robomimic import RobomimicDataModule as RobomimicDataModule
    from lightning_pbrl.errors import UserError as UserError
    from lightning_pbrl.methods.bc import BC as BC
    from lightning_pbrl.methods.clarify import CLARIFY as CLARIFY
    from lightning_pbrl.methods.cpl import CPL as CPL
    from lightning_pbrl.methods.ipl import IPL as IPL
    from lightning_pbrl.methods.iql import IQL as IQL
    from lightning_pbrl.methods.loading import load_method as load_method
    from lightning_pbrl.methods.mr_iql import MRIQL as MRIQL
    from lightning_pbrl.methods.mrn import MRN as MRN
    from lightning_pbrl.methods.nmr import NMR as NMR
    from lightning_pbrl.methods.pebble import PEBBLE as PEBBLE
    from lightning_pbrl.methods.preference_transformer import PreferenceTransformer as PreferenceTransformer
    from lightning_pbrl.methods.qpa import QPA as QPA
    from lightning_pbrl.methods.reward_ensemble import RewardEnsemble as RewardEnsemble
    from lightning_pbrl.methods.rune import RUNE as RUNE
    from lightning_pbrl.methods.sac import SAC as SAC
    from lightning_pbrl.methods.sft import SFT as SFT
    from lightning_pbrl.methods.surf import SURF as SURF
    from lightning_pbrl.methods.td3_bc import TD3BC as TD3BC
    from lightning_pbrl.queries.disagreement import DisagreementQuery as DisagreementQuery
    from lightning_pbrl.queries.embedding import EmbeddingQuery as EmbeddingQuery
    from lightning_pbrl.queries.policy_aligned import PolicyAlignedQuery as PolicyAlignedQuery
    from lightning_pbrl.queries.ranked_list import RankedListQuery as RankedListQuery
    from lightning_pbrl.queries.uniform import UniformQuery as UniformQuery
    from lightning_pbrl.teachers.simulated import SimulatedTeacher as SimulatedTeacher
    from lightning_pbrl.teachers.skip import SkipTeacher as SkipTeacher

__version__ = "0.1.0"

_HOME = {
    "AskTeacher": "callbacks.ask_teacher",
    "QueryCoverage": "callbacks.query_coverage",
    "RelabelRewards": "callbacks.relabel_rewards",
    "D4RLDataModule": "datamodules.d4rl",
    "LiREDataModule": "datamodules.lire",
    "MetaWorldDataModule": "datamodules.metaworld",
    "MetaWorldComparisonsDataModule": "datamodules.metaworld_comparisons",
    "MinariDataModule": "datamodules.minari",
    "OnlineDataModule": "datamodules.online",
    "PreferenceNPZDataModule": "datamodules.preference_npz",
    "RobomimicDataModule": "datamodules.robomimic",
    "UserError": "errors",
    "BC": "methods.bc",
    "CLARIFY": "methods.clarify",
    "CPL": "methods.cpl",
    "IPL": "methods.ipl",
    "IQL": "methods.iql",
    "load_method": "methods.loading",
    "MRIQL": "methods.mr_iql",
    "MRN": "methods.mrn",
    "NMR": "methods.nmr",
    "PEBBLE": "methods.pebble",
    "PreferenceTransformer": "methods.preference_transformer",
    "QPA": "methods.qpa",
    "RewardEnsemble": "methods.reward_ensemble",
    "RUNE": "methods.rune",
    "SAC": "methods.sac",
    "SFT": "methods.sft",
    "SURF": "methods.surf",
    "TD3BC": "methods.td3_bc",
    "DisagreementQuery": "queries.disagreement",
    "EmbeddingQuery": "queries.embedding",
    "PolicyAlignedQuery": "queries.policy_aligned",
    "RankedListQuery": "queries.ranked_list",
    "UniformQuery": "queries.uniform",
    "SimulatedTeacher": "teachers.simulated",
    "SkipTeacher": "teachers.skip",
}
__all__ = sorted(_HOME)  # noqa: PLE0605 - a list of names, computed


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lightning_pbrl.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lightning_pbrl' has no attribute {name!r}")
