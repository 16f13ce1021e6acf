"""Noise laws, samplers and guidance; every sampler works with every law."""

from kinema_sampling.guidances.apg import ProjectedGuidance
from kinema_sampling.guidances.cfg import ClassifierFreeGuidance
from kinema_sampling.guidances.interval import IntervalGuidance
from kinema_sampling.guidances.rescale import RescaledGuidance
from kinema_sampling.guidances.zero_star import ZeroStarGuidance
from kinema_sampling.laws.ddpm import DDPMLaw
from kinema_sampling.laws.edm import EDMLaw
from kinema_sampling.laws.flow import FlowLaw
from kinema_sampling.laws.preconditioned import PreconditionedLaw, noise_level
from kinema_sampling.predictions import Prediction, convert
from kinema_sampling.samplers.ddim import DDIMSampler
from kinema_sampling.samplers.ddpm import DDPMSampler
from kinema_sampling.samplers.dpmpp_2m import DPMpp2MSampler, DPMpp2MSDESampler
from kinema_sampling.samplers.edm import EDMSampler
from kinema_sampling.samplers.euler import EulerSampler
from kinema_sampling.samplers.sdedit import SDEditSampler
from kinema_sampling.samplers.steps import SingleStepSampler
from kinema_sampling.samplers.unipc import UniPCSampler
from kinema_sampling.schedules import karras, shifted, trailing, uniform
from kinema_sampling.step_cache import StepCache

__all__ = [
    "ClassifierFreeGuidance",
    "DDIMSampler",
    "DDPMLaw",
    "DDPMSampler",
    "DPMpp2MSDESampler",
    "DPMpp2MSampler",
    "EDMLaw",
    "EDMSampler",
    "EulerSampler",
    "FlowLaw",
    "IntervalGuidance",
    "Prediction",
    "PreconditionedLaw",
    "ProjectedGuidance",
    "RescaledGuidance",
    "SDEditSampler",
    "SingleStepSampler",
    "StepCache",
    "UniPCSampler",
    "ZeroStarGuidance",
    "convert",
    "karras",
    "noise_level",
    "shifted",
    "trailing",
    "uniform",
]
