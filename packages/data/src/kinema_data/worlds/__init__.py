"""Made worlds: captioned clips whose every attribute is known exactly."""

from kinema_data.worlds.captions import STYLE_WORDS, turning_into
from kinema_data.worlds.dataset import ShapesDataset
from kinema_data.worlds.look import Look
from kinema_data.worlds.render import render, render_frames
from kinema_data.worlds.scenes import EVENT_SIZES, FRAME_RATES, TRAIN_SIZES, Scene, draw_scene, prompts
from kinema_data.worlds.world import EVENTS, STYLES, EventLaws, Laws, World
from kinema_data.worlds.write import make_prompts, make_world

__all__ = [
    "EVENTS",
    "EVENT_SIZES",
    "FRAME_RATES",
    "STYLES",
    "STYLE_WORDS",
    "TRAIN_SIZES",
    "EventLaws",
    "Laws",
    "Look",
    "Scene",
    "ShapesDataset",
    "World",
    "draw_scene",
    "make_prompts",
    "make_world",
    "prompts",
    "render",
    "render_frames",
    "turning_into",
]
