"""Train a diffusion transformer on cached latents in a Trainer of your own: python own_trainer.py CACHE."""

import sys

import lightning.pytorch as pl
from kinema.training import BudgetDataModule, DiTModule, LatentBatch, pixels
from kinema_core import diffusions, dits, text_encoders
from kinema_data import CachedLatents

cache = CachedLatents(sys.argv[1])
text = text_encoders.build({"name": "tiny", "width": 64})
widths = {"latent_channels": len(cache[0].latent), "text_widths": [text.width], "pooled_widths": [text.pooled_width]}
dit = dits.build({"name": "video_dit", "width": 64, "depth": 2, "num_heads": 4}, **widths)
module = DiTModule(dit, [text], diffusions.build({"name": "flow"}))
data = BudgetDataModule(cache, pixels, budget=200_000, assemble=LatentBatch.of)
trainer = pl.Trainer(max_steps=5, accelerator="cpu", use_distributed_sampler=False, logger=False)
trainer.fit(module, data)
print(f"trained {trainer.global_step} steps, loss {trainer.callback_metrics['train/loss']:.3f}")
