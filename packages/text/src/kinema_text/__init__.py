"""Text encoders of Kinema, an image encoder, and the CLIP that text encoders and metrics share."""

from kinema_text.clip_text import OpenClipText
from kinema_text.clip_vision import ClipVision, load_clip_vision
from kinema_text.image_text import OpenClipImageText
from kinema_text.t5 import T5Text, load_t5
from kinema_text.tiny import TinyText

__all__ = ["ClipVision", "OpenClipImageText", "OpenClipText", "T5Text", "TinyText", "load_clip_vision", "load_t5"]
