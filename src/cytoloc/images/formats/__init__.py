"""Multi-channel image files of any microscope, read plane by plane."""

from cytoloc.images.formats.opening import IMAGE_SUFFIXES, open_image
from cytoloc.images.formats.scene import ImageFile, Scene

__all__ = ["IMAGE_SUFFIXES", "ImageFile", "Scene", "open_image"]
