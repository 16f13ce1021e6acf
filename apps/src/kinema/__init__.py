"""Kinema: trains and runs latent video diffusion transformers from packages that are combined by config."""
