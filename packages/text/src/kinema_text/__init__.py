"""Text encoders of Kinema, and the CLIP that text encoders and metrics share."""

from kinema_text.clip_text import OpenClipText
from kinema_text.image_text import OpenClipImageText
from kinema_text.tiny import TinyText

__all__ = ["OpenClipImageText", "OpenClipText", "TinyText"]
