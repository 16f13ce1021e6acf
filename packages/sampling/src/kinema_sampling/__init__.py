"""Noise laws, samplers and guidance; every sampler works with every law."""

from kinema_sampling.guidance import ClassifierFreeGuidance
from kinema_sampling.laws.ddpm import DDPMLaw
from kinema_sampling.laws.edm import EDMLaw
from kinema_sampling.laws.flow import FlowLaw
from kinema_sampling.laws.preconditioned import PreconditionedLaw, noise_level
from kinema_sampling.predictions import Prediction, convert
from kinema_sampling.samplers.ddim import DDIMSampler
from kinema_sampling.samplers.ddpm import DDPMSampler
from kinema_sampling.samplers.dpmpp_2m import DPMpp2MSampler
from kinema_sampling.samplers.edm import EDMSampler
from kinema_sampling.samplers.euler import EulerSampler
from kinema_sampling.samplers.sdedit import SDEditSampler
from kinema_sampling.samplers.steps import SingleStepSampler
from kinema_sampling.schedules import karras, shifted, trailing, uniform

__all__ = [
    "ClassifierFreeGuidance",
    "DDIMSampler",
    "DDPMLaw",
    "DDPMSampler",
    "DPMpp2MSampler",
    "EDMLaw",
    "EDMSampler",
    "EulerSampler",
    "FlowLaw",
    "Prediction",
    "PreconditionedLaw",
    "SDEditSampler",
    "SingleStepSampler",
    "convert",
    "karras",
    "noise_level",
    "shifted",
    "trailing",
    "uniform",
]
