"""Text encoders of Kinema, and the CLIP that text encoders and metrics share."""

from kinema_text.clip_text import OpenClipText
from kinema_text.image_text import OpenClipImageText
from kinema_text.t5 import T5Text, load_t5
from kinema_text.tiny import TinyText

__all__ = ["OpenClipImageText", "OpenClipText", "T5Text", "TinyText", "load_t5"]
