"""Multi-channel image files of any microscope, read plane by plane."""

from cytoloc.images.formats.opening import IMAGE_SUFFIXES, missing_chunks, open_image
from cytoloc.images.formats.scene import ImageFile, Scene
from cytoloc.images.formats.stack import open_stack

__all__ = ["IMAGE_SUFFIXES", "ImageFile", "Scene", "missing_chunks", "open_image", "open_stack"]
