"""lightning-pbrl: teach a policy from feedback instead of a reward function.

Names are imported when they are first used, so that ``import lightning_pbrl`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_pbrl import later as later
from lightning_pbrl import moved as moved

if TYPE_CHECKING:
    from lightning_pbrl.callbacks.ask_teacher import AskTeacher as AskTeacher
    from lightning_pbrl.callbacks.feedback_diagnostics import FeedbackDiagnostics as FeedbackDiagnostics
    from lightning_pbrl.callbacks.query_coverage import QueryCoverage as QueryCoverage
    from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards as RelabelRewards
    from lightning_pbrl.datamodules.base import FeedbackDataModule as FeedbackDataModule
    from lightning_pbrl.datamodules.collected import CollectedDataModule as CollectedDataModule
    from lightning_pbrl.datamodules.d3rlpy import D3RLPyDataModule as D3RLPyDataModule
    from lightning_pbrl.datamodules.d4rl import D4RLDataModule as D4RLDataModule
    from lightning_pbrl.datamodules.examples import ExamplesDataModule as ExamplesDataModule
    from lightning_pbrl.datamodules.features import FeaturesDataModule as FeaturesDataModule
    from lightning_pbrl.datamodules.imitation import ImitationDataModule as ImitationDataModule
    from lightning_pbrl.datamodules.interventions import InterventionsDataModule as InterventionsDataModule
    from lightning_pbrl.datamodules.lerobot import LeRobotDataModule as LeRobotDataModule
    from lightning_pbrl.datamodules.lire import LiREDataModule as LiREDataModule
    from lightning_pbrl.datamodules.metaworld import MetaWorldDataModule as MetaWorldDataModule
    from lightning_pbrl.datamodules.metaworld_comparisons import MetaWorldComparisonsDataModule as MetaWorldComparisonsDataModule
    from lightning_pbrl.datamodules.minari import MinariDataModule as MinariDataModule
    from lightning_pbrl.datamodules.ogbench import OGBenchDataModule as OGBenchDataModule
    from lightning_pbrl.datamodules.online import OnlineDataModule as OnlineDataModule
    from lightning_pbrl.datamodules.preference_npz import PreferenceNPZDataModule as PreferenceNPZDataModule
    from lightning_pbrl.datamodules.replay import ReplayDataModule as ReplayDataModule
    from lightning_pbrl.datamodules.robomimic import RobomimicDataModule as RobomimicDataModule
    from lightning_pbrl.datamodules.uni_rlhf import UniRLHFDataModule as UniRLHFDataModule
    from lightning_pbrl.envs.make import make as make
    from lightning_pbrl.errors import UserError as UserError
    from lightning_pbrl.label_cli import label as label
    from lightning_pbrl.learned_reward.vector import LearnedRewardVecWrapper as LearnedRewardVecWrapper
    from lightning_pbrl.learned_reward.wrapper import LearnedRewardWrapper as LearnedRewardWrapper
    from lightning_pbrl.methods.active_rlhf import ActiveRLHF as ActiveRLHF
    from lightning_pbrl.methods.active_sac import ActiveSAC as ActiveSAC
    from lightning_pbrl.methods.bc import BC as BC
    from lightning_pbrl.methods.clarify import CLARIFY as CLARIFY
    from lightning_pbrl.methods.cpl import CPL as CPL
    from lightning_pbrl.methods.gcbc import GCBC as GCBC
    from lightning_pbrl.methods.ipl import IPL as IPL
    from lightning_pbrl.methods.iql import IQL as IQL
    from lightning_pbrl.methods.laeo import LAEO as LAEO
    from lightning_pbrl.methods.learn_reward import NMR as NMR
    from lightning_pbrl.methods.learn_reward import LearnReward as LearnReward
    from lightning_pbrl.methods.learn_reward import PreferenceTransformer as PreferenceTransformer
    from lightning_pbrl.methods.learn_reward import RewardEnsemble as RewardEnsemble
    from lightning_pbrl.methods.learn_reward import UnifiedReward as UnifiedReward
    from lightning_pbrl.methods.learn_reward_from_examples import ORIL as ORIL
    from lightning_pbrl.methods.learn_reward_from_examples import PURL as PURL
    from lightning_pbrl.methods.learn_reward_from_examples import VICE as VICE
    from lightning_pbrl.methods.loading import load as load
    from lightning_pbrl.methods.loading import load_method as load_method
    from lightning_pbrl.methods.mr_iql import MRIQL as MRIQL
    from lightning_pbrl.methods.mrn import MRN as MRN
    from lightning_pbrl.methods.pebble import PEBBLE as PEBBLE
    from lightning_pbrl.methods.ppo import PPO as PPO
    from lightning_pbrl.methods.pref_ppo import PrefPPO as PrefPPO
    from lightning_pbrl.methods.qpa import QPA as QPA
    from lightning_pbrl.methods.rce import RCE as RCE
    from lightning_pbrl.methods.rune import RUNE as RUNE
    from lightning_pbrl.methods.sac import SAC as SAC
    from lightning_pbrl.methods.sft import SFT as SFT
    from lightning_pbrl.methods.sqil import SQIL as SQIL
    from lightning_pbrl.methods.surf import SURF as SURF
    from lightning_pbrl.methods.td3_bc import TD3BC as TD3BC
    from lightning_pbrl.queries.axes import AxesQuery as AxesQuery
    from lightning_pbrl.queries.bald import BALDQuery as BALDQuery
    from lightning_pbrl.queries.best_of import BestOfQuery as BestOfQuery
    from lightning_pbrl.queries.corrections import CorrectionQuery as CorrectionQuery
    from lightning_pbrl.queries.disagreement import DisagreementQuery as DisagreementQuery
    from lightning_pbrl.queries.embedding import EmbeddingQuery as EmbeddingQuery
    from lightning_pbrl.queries.entropy import EntropyQuery as EntropyQuery
    from lightning_pbrl.queries.graded import GradedQuery as GradedQuery
    from lightning_pbrl.queries.kcenter import KCenterDisagreementQuery as KCenterDisagreementQuery
    from lightning_pbrl.queries.kcenter import KCenterEntropyQuery as KCenterEntropyQuery
    from lightning_pbrl.queries.kcenter import KCenterQuery as KCenterQuery
    from lightning_pbrl.queries.mixed import MixedQuery as MixedQuery
    from lightning_pbrl.queries.policy_aligned import PolicyAlignedQuery as PolicyAlignedQuery
    from lightning_pbrl.queries.ranked_list import RankedListQuery as RankedListQuery
    from lightning_pbrl.queries.seq_rank import SeqRankQuery as SeqRankQuery
    from lightning_pbrl.queries.uniform import UniformQuery as UniformQuery
    from lightning_pbrl.teachers.axes import AxesTeacher as AxesTeacher
    from lightning_pbrl.teachers.best_of import BestOfTeacher as BestOfTeacher
    from lightning_pbrl.teachers.correcting import CorrectingTeacher as CorrectingTeacher
    from lightning_pbrl.teachers.function import FunctionTeacher as FunctionTeacher
    from lightning_pbrl.teachers.graded import GradedTeacher as GradedTeacher
    from lightning_pbrl.teachers.human import HumanTeacher as HumanTeacher
    from lightning_pbrl.teachers.mixed import MixedTeacher as MixedTeacher
    from lightning_pbrl.teachers.person import Person as Person
    from lightning_pbrl.teachers.rating import RatingTeacher as RatingTeacher
    from lightning_pbrl.teachers.router import RouterTeacher as RouterTeacher
    from lightning_pbrl.teachers.simulated import SimulatedTeacher as SimulatedTeacher
    from lightning_pbrl.teachers.skip import SkipTeacher as SkipTeacher
    from lightning_pbrl.teachers.tie import TieTeacher as TieTeacher
    from lightning_pbrl.teachers.vision import VisionTeacher as VisionTeacher
    from lightning_pbrl.trainer import Trainer as Trainer

__version__ = "0.1.0"

_HOME = {
    "AskTeacher": "callbacks.ask_teacher",
    "FeedbackDiagnostics": "callbacks.feedback_diagnostics",
    "QueryCoverage": "callbacks.query_coverage",
    "RelabelRewards": "callbacks.relabel_rewards",
    "FeedbackDataModule": "datamodules.base",
    "CollectedDataModule": "datamodules.collected",
    "D3RLPyDataModule": "datamodules.d3rlpy",
    "D4RLDataModule": "datamodules.d4rl",
    "ExamplesDataModule": "datamodules.examples",
    "FeaturesDataModule": "datamodules.features",
    "ImitationDataModule": "datamodules.imitation",
    "InterventionsDataModule": "datamodules.interventions",
    "LeRobotDataModule": "datamodules.lerobot",
    "LiREDataModule": "datamodules.lire",
    "MetaWorldDataModule": "datamodules.metaworld",
    "MetaWorldComparisonsDataModule": "datamodules.metaworld_comparisons",
    "MinariDataModule": "datamodules.minari",
    "OGBenchDataModule": "datamodules.ogbench",
    "OnlineDataModule": "datamodules.online",
    "PreferenceNPZDataModule": "datamodules.preference_npz",
    "ReplayDataModule": "datamodules.replay",
    "RobomimicDataModule": "datamodules.robomimic",
    "UniRLHFDataModule": "datamodules.uni_rlhf",
    "make": "envs.make",
    "UserError": "errors",
    "label": "label_cli",
    "LearnedRewardVecWrapper": "learned_reward.vector",
    "LearnedRewardWrapper": "learned_reward.wrapper",
    "ActiveRLHF": "methods.active_rlhf",
    "ActiveSAC": "methods.active_sac",
    "BC": "methods.bc",
    "CLARIFY": "methods.clarify",
    "CPL": "methods.cpl",
    "GCBC": "methods.gcbc",
    "IPL": "methods.ipl",
    "IQL": "methods.iql",
    "LAEO": "methods.laeo",
    "LearnReward": "methods.learn_reward",
    "NMR": "methods.learn_reward",
    "PreferenceTransformer": "methods.learn_reward",
    "RewardEnsemble": "methods.learn_reward",
    "UnifiedReward": "methods.learn_reward",
    "ORIL": "methods.learn_reward_from_examples",
    "PURL": "methods.learn_reward_from_examples",
    "VICE": "methods.learn_reward_from_examples",
    "load": "methods.loading",
    "load_method": "methods.loading",
    "MRIQL": "methods.mr_iql",
    "MRN": "methods.mrn",
    "PEBBLE": "methods.pebble",
    "PPO": "methods.ppo",
    "PrefPPO": "methods.pref_ppo",
    "QPA": "methods.qpa",
    "RCE": "methods.rce",
    "RUNE": "methods.rune",
    "SAC": "methods.sac",
    "SFT": "methods.sft",
    "SQIL": "methods.sqil",
    "SURF": "methods.surf",
    "TD3BC": "methods.td3_bc",
    "AxesQuery": "queries.axes",
    "BALDQuery": "queries.bald",
    "BestOfQuery": "queries.best_of",
    "CorrectionQuery": "queries.corrections",
    "DisagreementQuery": "queries.disagreement",
    "EmbeddingQuery": "queries.embedding",
    "EntropyQuery": "queries.entropy",
    "GradedQuery": "queries.graded",
    "KCenterDisagreementQuery": "queries.kcenter",
    "KCenterEntropyQuery": "queries.kcenter",
    "KCenterQuery": "queries.kcenter",
    "MixedQuery": "queries.mixed",
    "PolicyAlignedQuery": "queries.policy_aligned",
    "RankedListQuery": "queries.ranked_list",
    "SeqRankQuery": "queries.seq_rank",
    "UniformQuery": "queries.uniform",
    "AxesTeacher": "teachers.axes",
    "BestOfTeacher": "teachers.best_of",
    "CorrectingTeacher": "teachers.correcting",
    "FunctionTeacher": "teachers.function",
    "GradedTeacher": "teachers.graded",
    "HumanTeacher": "teachers.human",
    "MixedTeacher": "teachers.mixed",
    "Person": "teachers.person",
    "RatingTeacher": "teachers.rating",
    "RouterTeacher": "teachers.router",
    "SimulatedTeacher": "teachers.simulated",
    "SkipTeacher": "teachers.skip",
    "TieTeacher": "teachers.tie",
    "VisionTeacher": "teachers.vision",
    "Trainer": "trainer",
}
__all__ = sorted(_HOME)  # noqa: PLE0605 - a list of names, computed


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lightning_pbrl.{_HOME[name]}"), name)
    if name == "rewards":  # of which ``rewards.load`` is part of the front door
        return importlib.import_module("lightning_pbrl.rewards")
    raise AttributeError(f"module 'lightning_pbrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
